"""Which tokens count."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from univfast.checks import check_choice
from univfast.errors import InputError
from univfast.inputs.masks import open_mask
from univfast.text.vocabulary import Vocabulary
from univfast.text.windows import TokenWindows, Windows

__all__ = ["SKIPS", "TokenFilters", "kept_tokens", "padding"]

SKIPS = ("special", "padding", "bos", "newline")
"""Tokens that can be left out."""


# Tokens that are looked at at a time, as what is made of them takes many bytes a token.
_BLOCK = 1 << 20


@dataclass(frozen=True)
class TokenFilters:
    """Which tokens count: those that pass every filter.

    Attributes:
        skip: kinds of tokens to leave out: ``"special"``, all special tokens of the tokenizer;
            ``"bos"``; ``"newline"``, those whose text has a line end; ``"padding"``, the pad tokens
            at the ends of samples, which other tokens do not see either.
        positions: ``"START:STOP"``, of the positions in a window, as Python slices; None for all.
        mask: a file with a flag a token, as `univfast.correlate` takes it; None for all.

    Raises:
        InputError: ``skip`` or ``positions`` is none of these.
    """

    skip: tuple[str, ...] = ()
    positions: str | None = None
    mask: str | None = None

    def __post_init__(self) -> None:
        for kind in self.skip:
            check_choice("skip", kind, SKIPS)
        self.slice()

    def slice(self) -> slice:
        """The positions."""
        if self.positions is None:
            return slice(None)
        found = re.fullmatch(r"(-?\d+)?:(-?\d+)?", self.positions)
        if not found:
            raise InputError(
                f"positions: got {self.positions!r}, expected START:STOP, as in '1:' or ':-1'"
            )
        return slice(*(None if part is None else int(part) for part in found.groups()))


def kept_tokens(
    windows: Windows, vocabulary: Vocabulary | None, filters: TokenFilters
) -> Tensor | None:
    """The tokens that count, as bool ``[tokens]``; None for all of them.

    A mask takes another byte a token while it is joined.

    Args:
        windows: what models read.
        vocabulary: of tokens; None of windows that are not made of them.
        filters: that all pass.

    Raises:
        InputError: a filter needs a token that the vocabulary does not have, the mask is none for
            these tokens, or nothing is left.
    """
    if filters == TokenFilters():
        return None
    keep = _at_positions(windows, filters.slice())
    for kind in filters.skip:
        if vocabulary is None or not isinstance(windows, TokenWindows):
            raise InputError(
                f"skip: {windows.source} holds no tokens that are {kind!r}; leave it out"
            )
        if kind != "padding":
            _leave_out(_ids(kind, windows, vocabulary), windows.ids, keep)
        elif windows.padding is not None:
            keep[windows.padding] = False
    if filters.mask is not None:
        shape: tuple[int, ...] = (windows.tokens,)
        if windows.samples and windows.tokens % windows.window == 0:
            shape = (windows.tokens // windows.window, windows.window)
        keep &= open_mask(filters.mask, shape).cpu()
    if not bool(keep.any()):
        raise InputError(f"{windows.source}: the filters leave no token; leave one of them out")
    return keep


def padding(windows: TokenWindows, vocabulary: Vocabulary) -> Tensor:
    """The pad tokens at both ends of samples, bool ``[tokens]``.

    Where a text begins with the same token, the last of those at the beginning is no padding.

    Raises:
        InputError: the vocabulary has no pad token.
    """
    if vocabulary.pad is None:
        raise _missing("padding", vocabulary)
    found = torch.empty(windows.tokens, dtype=torch.bool, device="cpu")
    step = max(1, _BLOCK // windows.window) * windows.window
    for start in range(0, windows.tokens, step):
        block = slice(start, start + step)
        found[block] = _ends(windows.ids[block], windows.window, vocabulary)
    return found


def _ends(ids: Tensor, window: int, vocabulary: Vocabulary) -> Tensor:
    """The pad tokens at both ends of some samples, bool ``[tokens]``."""
    assert vocabulary.pad is not None
    short = -len(ids) % window  # tokens that the last sample lacks
    filled = torch.nn.functional.pad(ids, (0, short), value=vocabulary.pad)
    pad = (filled.view(-1, window) == vocabulary.pad).to(torch.uint8)
    before = pad.cumprod(1, dtype=torch.uint8).bool()
    if vocabulary.pad == vocabulary.bos:
        before = before & torch.nn.functional.pad(before[:, 1:], (0, 1))
    after = pad.flip(1).cumprod(1, dtype=torch.uint8).flip(1).bool()
    return (before | after).flatten()[: len(ids)]


def _at_positions(windows: Windows, positions: slice) -> Tensor:
    keep = torch.zeros(windows.tokens, dtype=torch.bool, device="cpu")
    whole = windows.tokens - windows.tokens % windows.window
    keep[:whole].view(-1, windows.window)[:, positions] = True
    keep[whole:][positions] = True  # from the end means from the end of a shorter window, too
    return keep


def _ids(kind: str, windows: TokenWindows, vocabulary: Vocabulary) -> Tensor:
    """The token ids of a kind, as found in the windows or in the vocabulary."""
    if kind == "newline":
        found = torch.zeros(int(windows.ids.max()) + 1, dtype=torch.bool, device="cpu")
        for start in range(0, windows.tokens, _BLOCK):
            found[windows.ids[start : start + _BLOCK].long()] = True
        return vocabulary.with_newline(found.nonzero().flatten())
    ids = vocabulary.special if kind == "special" else [vocabulary.bos]
    if not ids or None in ids:
        raise _missing(kind, vocabulary)
    return torch.tensor(ids, dtype=torch.int32, device="cpu")


def _leave_out(unwanted: Tensor, ids: Tensor, keep: Tensor) -> None:
    for start in range(0, len(ids), _BLOCK):
        block = slice(start, start + _BLOCK)
        keep[block] &= ~torch.isin(ids[block], unwanted)


def _missing(kind: str, vocabulary: Vocabulary) -> InputError:
    where = "config.json" if vocabulary.tokenizer is None else "tokenizer"
    return InputError(
        f"{vocabulary.directory}: its {where} names no token to skip as {kind!r}; leave it out"
    )
