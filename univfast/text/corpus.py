"""The tokens of a file: of a text, or of tokens."""

from __future__ import annotations

import array
import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from univfast.errors import InputError
from univfast.inputs.formats import in_words, read_array, suffixes
from univfast.inputs.stored import Stored
from univfast.machine.reading import open_file
from univfast.text.vocabulary import Vocabulary
from univfast.text.windows import TokenWindows

__all__ = ["CONTEXT", "CorpusOptions", "holds_tokens", "read_corpus"]

CONTEXT = 512
"""Tokens of a window, unless the models can read fewer only."""

Ids = NDArray[np.int64]

# Of a text, in bytes, and of a file of tokens, in tokens: what is held beside the result.
_BLOCK = 1 << 20
# Byte-level tokenizers join nothing across one (runs of white space, they do join). Those of
# SentencePiece's kind may begin a block as they begin a text, so that its first token differs.
_LINE_END = re.compile(r"(?<=\S)\n(?=\S)")


@dataclass(frozen=True)
class CorpusOptions:
    """How a file is read.

    Attributes:
        context: tokens of a window; None for 512, or what the models can read if that is less.
        bos: put the token that begins a text at the start of each window.
        max_tokens: take so many of the file, at most; None for all.
    """

    context: int | None = None
    bos: bool = False
    max_tokens: int | None = None


def read_corpus(
    path: str, vocabulary: Vocabulary, known: int, longest: int | None, options: CorpusOptions
) -> TokenWindows:
    """The tokens of a file, in windows.

    A text is tokenised in blocks of 1 MiB, cut at line ends; a shorter one, whole. Memory holds 4
    bytes a token, while reading too; each filter adds one (`kept_tokens`, `padding`).

    Args:
        path: a text in UTF-8; or, told by its name, a file of one array of integers: ``[tokens]``,
            which is cut into windows, or ``[samples, sequence]``, where each sample is a window.
        vocabulary: of the models.
        known: token ids that the models know: 0 to this, exclusive.
        longest: tokens of the longest window that the models can read; None for any.
        options: how to read it.

    Raises:
        InputError: the file cannot be read or is no such file, a token is unknown to the models,
            there is none, or the options do not fit.
    """
    samples = None
    if holds_tokens(path):
        found = _open_tokens(path)
        samples = found.data.shape[1] if found.data.ndim == 2 else None
        blocks = _blocks(found)
    else:
        blocks = _encoded(path, vocabulary)
    window = _window(path, samples, longest, options)
    blocks = _checked(_limited(blocks, options.max_tokens), path, known)
    if options.bos:
        blocks = _with_bos(blocks, _bos(vocabulary), window)
    ids = array.array("i")
    for block in blocks:
        ids.frombytes(block.astype(np.int32).tobytes())
    if not ids:
        raise InputError(f"{path}: holds no tokens; give a file that does")
    return TokenWindows(path, torch.frombuffer(ids, dtype=torch.int32), window, samples is not None)


def holds_tokens(path: str) -> bool:
    """Whether a file is one of tokens, by its name."""
    return path.lower().endswith(suffixes())


def _window(path: str, samples: int | None, longest: int | None, options: CorpusOptions) -> int:
    if samples is not None:
        for name, given in (("context", options.context is not None), ("bos", options.bos)):
            if given:
                raise InputError(
                    f"{name}: the windows of {path} are its samples of {samples} tokens; leave it "
                    "out, or save the tokens flat"
                )
        asked, where = samples, f"{path}: has samples"
    elif options.context is None:
        return CONTEXT if longest is None else min(CONTEXT, longest)
    else:
        asked, where = options.context, "context: got windows"
    least = 2 if options.bos else 1
    if asked < least:
        raise InputError(f"{where} of {asked} tokens, expected at least {least}")
    if longest is not None and asked > longest:
        raise InputError(
            f"{where} of {asked} tokens, the models read {longest} at most; use shorter ones"
        )
    return asked


def _open_tokens(path: str) -> Stored:
    found = read_array(path, "tokens")
    if found.dtype.is_floating_point or found.dtype.is_complex or found.dtype == torch.bool:
        raise InputError(
            f"{path}: holds {str(found.dtype).removeprefix('torch.')}, not tokens; save token ids "
            "as integers"
        )
    if found.data.ndim not in (1, 2):
        raise InputError(
            f"{path}: has shape {list(found.data.shape)}, expected [tokens] or [samples, sequence]"
        )
    return found


def _blocks(found: Stored) -> Iterator[Ids]:
    ids = found.tensor().flatten()
    for start in range(0, len(ids), _BLOCK):
        if found.mapped is not None:
            found.mapped.check()
        yield ids[start : start + _BLOCK].to(torch.int64).numpy()


def _encoded(path: str, vocabulary: Vocabulary) -> Iterator[Ids]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    done, rest = 0, ""
    try:
        with open_file(path, f"give a text, or a file of tokens ({in_words()})") as file:
            data = file.read(_BLOCK)
            while data:
                after = file.read(_BLOCK)
                rest += decoder.decode(data, final=not after)
                done += len(data)
                cut = _cut(rest) if after else len(rest)
                yield vocabulary.encode(rest[:cut])
                data, rest = after, rest[cut:]
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: is not a text in UTF-8 (bytes {done} to {done + _BLOCK}: {error.reason}); "
            f"a file of tokens is {in_words()}"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _cut(text: str) -> int:
    """Where the last block in a text ends."""
    line_ends = [found.end() for found in _LINE_END.finditer(text)]
    if line_ends:
        return line_ends[-1]
    # Or before the last word, as words begin with a space in most vocabularies.
    return text.rfind("\n") + 1 or max(0, text.rfind(" ")) or len(text)


def _limited(blocks: Iterator[Ids], most: int | None) -> Iterator[Ids]:
    left = most
    for block in blocks:
        yield block[:left]
        if left is not None:
            left -= len(block)
            if left <= 0:
                return


def _checked(blocks: Iterator[Ids], path: str, known: int) -> Iterator[Ids]:
    done = 0
    for block in blocks:
        wrong = np.flatnonzero((block < 0) | (block >= known))
        if len(wrong):
            raise InputError(
                f"{path}: token {block[wrong[0]]} at position {done + wrong[0]} is outside of the "
                f"models' vocabulary of {known}; use the tokens of their own tokenizer"
            )
        done += len(block)
        yield block


def _with_bos(blocks: Iterator[Ids], bos: int, window: int) -> Iterator[Ids]:
    """Puts ``bos`` before each ``window - 1`` tokens."""
    done = 0
    for block in blocks:
        places = np.arange(-done % (window - 1), len(block), window - 1)
        done += len(block)
        yield np.insert(block, places, bos)


def _bos(vocabulary: Vocabulary) -> int:
    if vocabulary.bos is None:
        raise InputError(
            f"{vocabulary.directory}: has no token that begins a text (bos_token_id); leave out bos"
        )
    return vocabulary.bos
