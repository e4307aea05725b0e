"""The corpora: windows of ASCII tokens for training, and one held-out test set.

A text is cut into three parts that share no character: the first and the second half of its first
80 %, for training, and the last 20 %, for the test set. No window crosses a border. Windows of the
test set share no character either: a character that is read twice is no second token.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from univfast.checks import as_integer, as_seed, check_choice
from univfast.errors import InputError
from univfast.experiment.model import VOCABULARY
from univfast.machine.reading import open_file, reason
from univfast.native.place import numbers

__all__ = [
    "DOCS",
    "HALVES",
    "RANDOM",
    "TEST_SAMPLES",
    "Corpus",
    "Half",
    "RandomCorpus",
    "TextCorpus",
    "default_half",
    "generator",
    "load_corpus",
    "shuffled",
]

Half = Literal["first", "second"]
HALVES: tuple[Half, ...] = ("first", "second")
DOCS = "docs"
RANDOM = "random"
TEST_SAMPLES = 1_000
"""Test samples by default; of 64 tokens, docs holds about 1,170 with Python 3.11."""

# The test text is one part of so many.
_PARTS = 5
_MOST_SAMPLES = 1_000_000
_MOST_TOKENS = 1 << 27  # of a test set, which is held in memory


def default_half(seed: int) -> Half:
    """The half of the training text that a model of this seed reads: odd first, even second."""
    return "first" if seed % 2 else "second"


def generator(purpose: str, seed: int) -> torch.Generator:
    """A CPU generator whose stream is set by both arguments together.

    The seed is hashed because torch's CPU generator uses 32 bits of it only, and because equal
    seeds must not give related streams for different purposes.
    """
    digest = hashlib.sha256(f"{purpose}:{seed}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:4], "little"))


def shuffled(population: int, count: int, rng: torch.Generator) -> Tensor:
    """``count`` indices below ``population``, int64, none twice before all were drawn once."""
    rounds = -(-count // population)
    return torch.cat(
        [
            torch.randperm(population, generator=rng, dtype=torch.int64, device="cpu")
            for _ in range(rounds)
        ]
    )[:count]


class Corpus(ABC):
    """Where samples come from.

    Attributes:
        source: what `load_corpus` needs to load it again, from any working directory.
        name: what a reader is shown; texts of different content have different names.
        sequence: tokens in a sample.
    """

    source: str
    name: str
    sequence: int

    def training(self, half: Half, samples: int, seed: int) -> Tensor:
        """Training samples, int64 ``[samples, sequence + 1]``: the inputs and each next token.

        The samples start at different places of the half, as far as it has enough of them.

        Raises:
            InputError: ``half``, ``samples`` or ``seed`` is out of range.
        """
        check_choice("half", half, HALVES)
        as_seed(seed)
        as_integer("samples", samples, 1, _MOST_SAMPLES)
        return self._draw(half, samples, generator(f"samples:{half}", seed))

    @property
    def most_test_samples(self) -> int:
        """How many test samples there are that share no token."""
        return _MOST_SAMPLES

    def test(self, samples: int = TEST_SAMPLES) -> Tensor:
        """The held-out samples, int64 ``[samples, sequence]``, the same for every model.

        Samples of a text share no character.

        Raises:
            InputError: ``samples`` is out of range, or the text too short for so many.
        """
        as_integer("test_samples", samples, 1, min(_MOST_SAMPLES, _MOST_TOKENS // self.sequence))
        return self._held_out(samples)

    @abstractmethod
    def _draw(self, half: Half, samples: int, rng: torch.Generator) -> Tensor: ...

    @abstractmethod
    def _held_out(self, samples: int) -> Tensor: ...


@dataclass(frozen=True)
class RandomCorpus(Corpus):
    """Independent, uniformly random tokens: nothing in them can be learnt."""

    sequence: int
    source: str = RANDOM
    name: str = RANDOM

    def _draw(self, half: Half, samples: int, rng: torch.Generator) -> Tensor:
        return torch.randint(
            VOCABULARY, (samples, self.sequence + 1), generator=rng, dtype=torch.int64, device="cpu"
        )

    def _held_out(self, samples: int) -> Tensor:
        size = (samples, self.sequence)
        return torch.randint(
            VOCABULARY, size, generator=generator("test", 0), dtype=torch.int64, device="cpu"
        )


@dataclass(frozen=True, eq=False)
class TextCorpus(Corpus):
    """Windows of a text, given as tokens, uint8 ``[characters]``."""

    source: str
    name: str
    sequence: int
    tokens: Tensor

    def __post_init__(self) -> None:
        # A half must hold one training window, and so must the test text, the smallest part.
        self._require(self.sequence + 1, f"a sample of {self.sequence} tokens", "shorter samples")

    def part(self, which: Half | Literal["test"]) -> tuple[int, int]:
        """Offsets ``[begin, end)`` of a part of the text; the parts are disjoint."""
        test = len(self.tokens) - len(self.tokens) // _PARTS
        middle = test // 2
        return {"first": (0, middle), "second": (middle, test), "test": (test, len(self.tokens))}[
            which
        ]

    def training_starts(self, half: Half, samples: int, rng: torch.Generator) -> Tensor:
        """Offsets of the training windows, int64 ``[samples]``."""
        begin, end = self.part(half)
        return begin + shuffled(end - begin - self.sequence, samples, rng)

    @property
    def most_test_samples(self) -> int:
        return len(self.tokens) // _PARTS // self.sequence

    def test_starts(self, samples: int) -> Tensor:
        """Offsets of the test windows, int64 ``[samples]``.

        The windows share no character, and are evenly spread over the test text.
        """
        begin, end = self.part("test")
        last = end - begin - self.sequence
        return begin + numbers(samples) * last // max(samples - 1, 1)

    def _draw(self, half: Half, samples: int, rng: torch.Generator) -> Tensor:
        return self._windows(self.training_starts(half, samples, rng), self.sequence + 1)

    def _held_out(self, samples: int) -> Tensor:
        self._require(
            samples * self.sequence,
            f"{samples} test samples of {self.sequence} tokens, which share no character",
            f"at most {self.most_test_samples} test samples",
        )
        return self._windows(self.test_starts(samples), self.sequence)

    def _windows(self, starts: Tensor, length: int) -> Tensor:
        return self.tokens[starts[:, None] + numbers(length)].long()

    def _require(self, test_text: int, purpose: str, instead: str) -> None:
        if len(self.tokens) // _PARTS < test_text:
            raise InputError(
                f"{self.source}: too short for {purpose}: it has {len(self.tokens)} characters; "
                f"give at least {_PARTS * test_text}, or ask for {instead}"
            )


def load_corpus(source: str, sequence: int) -> Corpus:
    """Open a corpus whose samples have ``sequence`` tokens.

    Args:
        source: ``"docs"`` for the English text of Python's own ``pydoc_data.topics``,
            ``"random"`` for random tokens, or the path of a UTF-8 text file (``"./docs"`` for a
            file of that name). Characters that are not ASCII become ``?``.
        sequence: tokens in a sample.

    Raises:
        InputError: the text is missing, not UTF-8 text, or too short; names the source.
    """
    as_integer("sequence", sequence, 1, _MOST_SAMPLES)
    if source == RANDOM:
        return RandomCorpus(sequence)
    if source == DOCS:
        return TextCorpus(DOCS, DOCS, sequence, _encode(_docs()))
    path = Path(source).absolute()
    text = _read(path)
    # The content is part of the name: test sets of equal names must hold equal text.
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return TextCorpus(str(path), f"{path.name} ({digest})", sequence, _encode(text))


def _docs() -> str:
    """The topics in the order of their keys, each paragraph once.

    Topics quote each other, and as they stand a quarter of what the first half says is said again
    in the second: halves of the repeated text would be disjoint in name only.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise InputError(
            "docs: this Python comes without pydoc_data.topics; give a text file or 'random'"
        ) from error
    paragraphs = (part for key in sorted(topics) for part in topics[key].split("\n\n"))
    return "\n\n".join(dict.fromkeys(paragraphs))


def _read(path: Path) -> str:
    if not os.path.lexists(path):
        raise InputError(f"{path}: no such file; give 'docs', 'random' or the path of a text file")
    try:
        with open_file(path, "give a text file") as file:
            text = file.read().decode("utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({reason(error)}); give a text file") from error
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{path}: is not UTF-8 text; give a text file") from error
    if "\0" in text:
        raise InputError(f"{path}: is not text (it has NUL bytes); give a UTF-8 text file")
    return text


def _encode(text: str) -> Tensor:
    """ASCII codes, uint8 ``[characters]``."""
    codes = bytearray(text.encode("ascii", errors="replace"))
    return (
        torch.frombuffer(codes, dtype=torch.uint8)
        if codes
        else torch.empty(0, dtype=torch.uint8, device="cpu")
    )
