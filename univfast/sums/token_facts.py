"""What is known of the tokens of a run: their samples, blocks, positions, and groups of their ids.

All of it goes by a token's number, so that any split of the stream gives the same.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from univfast.checks import as_integer
from univfast.errors import InputError
from univfast.native import UsedTokens
from univfast.native.place import numbers

__all__ = ["BLOCKS", "FREQUENT", "TokenFacts", "token_groups"]

# Blocks that r is measured without, one at a time: enough for a steady error, and few enough to be
# long beside what hangs together.
BLOCKS = 32
# Ids that have a group of their own; all others are in one.
FREQUENT = 4096
# Positions that have a group of their own, in samples that are no longer: bounds memory.
_POSITIONS = 8192


def token_groups(ids: Tensor) -> Tensor:
    """Groups of tokens by their id, int64 ``[tokens]``.

    Group 0 is the most frequent id and so on (of equally frequent ones the lower id first); all
    behind the 4,096th are in group 4,096.
    """
    if ids.dtype.is_floating_point or ids.dtype.is_complex or ids.dtype == torch.bool:
        raise InputError(f"token ids: got {ids.dtype}, expected integers")
    _, inverse, counts = torch.unique(ids.reshape(-1), return_inverse=True, return_counts=True)
    rank = torch.empty_like(counts)
    order = counts.argsort(descending=True, stable=True)
    rank[order] = numbers(len(counts), device=ids.device)
    return rank.clamp(max=FREQUENT)[inverse]


@dataclass(frozen=True)
class TokenFacts:
    """What is known of the tokens of a run.

    Attributes:
        tokens: of the run, those that a mask leaves out too.
        window: tokens of a sample (a text); 1 where it is not known.
        groups: of their ids, int64 ``[tokens]``, as `token_groups` gives them; None: not known.
    """

    tokens: int
    window: int = 1
    groups: Tensor | None = None

    def __post_init__(self) -> None:
        as_integer("tokens", self.tokens, 1)
        as_integer("window", self.window, 1)
        if self.groups is None:
            return
        if self.groups.dtype != torch.int64 or self.groups.shape != (self.tokens,):
            raise InputError(
                f"groups: got {self.groups.dtype} of shape {list(self.groups.shape)}, expected"
                f" int64, one for each of {self.tokens} tokens"
            )
        low, high = self.groups.aminmax()
        if low < 0 or high > FREQUENT:
            raise InputError(f"groups: expected 0 to {FREQUENT}, as token_groups gives them")

    @property
    def samples(self) -> int:
        return -(-self.tokens // self.window)

    @property
    def positions(self) -> int | None:
        """How many a sample has; None where they are not known, or mean nothing.

        They mean nothing where no two tokens have the same; and in samples of more than 8,192
        tokens they are not told apart.
        """
        return self.window if 1 < self.window <= _POSITIONS and self.samples > 1 else None

    @cached_property
    def group_count(self) -> int | None:
        return None if self.groups is None else int(self.groups.max()) + 1

    @cached_property
    def block_starts(self) -> Tensor:
        """The first token of each block, and the number of tokens: int64 ``[blocks + 1]``.

        A block is as many whole samples as another, or one more: sample s is in block
        ``blocks * s // samples``.
        """
        samples = self.samples
        blocks = min(BLOCKS, samples)
        first = -(-numbers(blocks + 1) * samples // blocks)
        return (first * self.window).clamp(max=self.tokens)

    def used(self, tokens: int, rows: Tensor | None, first_token: int) -> tuple[UsedTokens, slice]:
        """The tokens of a batch that are used, and the blocks that they are of."""
        starts = self.block_starts - first_token
        first = max(int(torch.searchsorted(starts, 0, right=True)) - 1, 0)
        last = int(torch.searchsorted(starts, tokens))
        ends = starts[first + 1 : last + 1].clamp(0, tokens)
        if rows is not None:
            ends = torch.searchsorted(rows, ends.to(rows.device)).cpu()
        return UsedTokens(rows, ends.contiguous(), first_token), slice(first, last)

    def plain(self) -> dict[str, object]:
        """As the options of a state have it."""
        groups = self.groups
        return {
            "stream_tokens": self.tokens,
            "window": self.window,
            "token_groups": None if groups is None else digest(groups),
        }


def digest(numbers: Tensor) -> str:
    """A short text that differs for other numbers, int64."""
    raw = numbers.cpu().contiguous().numpy().astype("<i8").tobytes()
    return hashlib.blake2b(raw, digest_size=8).hexdigest()
