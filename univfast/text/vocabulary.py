"""What token ids stand for: a directory's tokenizer, and its special tokens."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from univfast.errors import InputError
from univfast.text.library import LOCAL, quiet_transformers, silent
from univfast.text.model_places import has_tokenizer

__all__ = ["Vocabulary", "common_vocabulary", "load_vocabulary", "token_text"]

_PROBE = "The 3 quick brown foxes,\n\n\tjumped over 1,024 lazy dogs' naïve “heads”: 日本語.\n"


class Vocabulary:
    """What token ids of a model stand for.

    Attributes:
        directory: of the model.
        bos, pad: id of the token that begins a text, and of the one that fills up samples, or None.
        special: ids of all special tokens.
    """

    def __init__(self, directory: str, tokenizer: Any, config: Any) -> None:
        """``tokenizer`` may be None: special tokens are then those of ``config``."""
        self.directory = directory
        self.tokenizer = tokenizer
        source = config if tokenizer is None else tokenizer
        bos, eos, pad = (
            _ids(getattr(source, f"{name}_token_id", None)) for name in ("bos", "eos", "pad")
        )
        self.bos, self.pad = (ids[0] if ids else None for ids in (bos, pad))
        self.special = sorted({*bos, *eos, *pad, *_special_tokens(tokenizer)})

    def encode(self, text: str) -> NDArray[np.int64]:
        """The tokens of a text, with no special ones put around them.

        Raises:
            InputError: there is no tokenizer, or it fails.
        """
        tokenizer = self._need("text")
        with quiet_transformers(self.directory, "check its tokenizer"):
            found = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return np.asarray(found, dtype=np.int64)

    def with_newline(self, ids: Tensor) -> Tensor:
        """Those of the ids ``[n]`` whose text has a line end.

        Raises:
            InputError: there is no tokenizer.
        """
        tokenizer = self._need("skip: 'newline'")
        with quiet_transformers(self.directory, "check its tokenizer"):
            found = [
                "\n" in tokenizer.decode([token], clean_up_tokenization_spaces=False)
                for token in ids.tolist()
            ]
        return ids[torch.tensor(found, dtype=torch.bool, device="cpu")]

    def text(self) -> Callable[[int], str] | None:
        """What one id stands for; None without a tokenizer."""
        tokenizer = self.tokenizer
        if tokenizer is None:
            return None

        @functools.cache
        def decoded(token: int) -> str:
            if not 0 <= token < len(tokenizer):  # as of padding, -100
                return f"#{token}"
            with silent():
                return str(tokenizer.decode([token], clean_up_tokenization_spaces=False))

        return decoded

    def _need(self, what: str) -> Any:
        if self.tokenizer is None:
            raise InputError(
                f"{self.directory}: has no tokenizer, which {what} needs; save one into the "
                "directory, or give a file of tokens"
            )
        return self.tokenizer


def load_vocabulary(directory: str, config: Any) -> Vocabulary:
    """The tokenizer of a directory, if it has one, and the special tokens.

    Raises:
        InputError: it has one that cannot be loaded.
    """
    tokenizer = None
    if has_tokenizer(directory):
        remedy = "check the files of its tokenizer"
        with quiet_transformers(directory, remedy) as transformers:
            tokenizer = transformers.AutoTokenizer.from_pretrained(directory, **LOCAL)
    return Vocabulary(directory, tokenizer, config)


def token_text(directory: str) -> Callable[[int], str]:
    """What token ids stand for, by the tokenizer of a directory.

    Raises:
        InputError: it has none, or one that cannot be loaded.
    """
    found = load_vocabulary(directory, None).text()
    if found is None:
        raise InputError(f"{directory}: has no tokenizer; name a directory that one was saved to")
    return found


def common_vocabulary(vocabularies: Sequence[Vocabulary], used: bool) -> Vocabulary:
    """The vocabulary to read a text with for several models: of the first that has a tokenizer.

    Args:
        vocabularies: of the models.
        used: whether it is used, so that it must be that of the others too. Tokens beyond the
            smallest vocabulary, as a chat model has, need not be.

    Raises:
        InputError: two tokenizers differ.
    """
    able = [one for one in vocabularies if one.tokenizer is not None]
    if not able:
        return vocabularies[0]
    first = able[0]
    for other in able[1:]:
        if used and not _agree(first, other):
            raise InputError(
                f"{first.directory} and {other.directory}: have different tokenizers, so the same "
                "token would mean different things; compare models of one tokenizer"
            )
    return first


def _agree(a: Vocabulary, b: Vocabulary) -> bool:
    """Whether the ids that both have stand for the same, and both encode alike."""
    ours, theirs = (
        {token: text for text, token in one.tokenizer.get_vocab().items()} for one in (a, b)
    )
    shared = min(max(ours), max(theirs)) + 1
    return all(ours.get(token) == theirs.get(token) for token in range(shared)) and (
        np.array_equal(a.encode(_PROBE), b.encode(_PROBE))
    )


def _ids(value: Any) -> list[int]:
    """Configurations have one id, several, or none."""
    if value is None:
        return []
    return [value] if isinstance(value, int) else list(value)


def _special_tokens(tokenizer: Any) -> list[int]:
    """Those with a name, such as "bos", and those that are just marked as special."""
    if tokenizer is None:
        return []
    marked = [token for token, added in tokenizer.added_tokens_decoder.items() if added.special]
    return [*tokenizer.all_special_ids, *marked]
