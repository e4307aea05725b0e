"""Token ids in the windows that a model reads at a time."""

from __future__ import annotations

import dataclasses
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

__all__ = ["TokenWindows", "Windows"]

# Of a forward pass that finds out widths and dtypes.
_PROBE_TOKENS = 16


class Windows(ABC):
    """What models read, cut into windows that they read at a time, and number by tokens.

    Attributes:
        source: the file.
        window: tokens of a window; the last may be shorter.
        ids: int32 ``[tokens]``; None of what is not made of tokens.
        samples: whether windows are the samples of a file.
        padding: bool ``[tokens]``, true where nothing is to be seen; None where nowhere.
        text: what an id stands for; None where that is not known.
    """

    source: str
    window: int
    ids: Tensor | None
    samples: bool
    padding: Tensor | None
    text: Callable[[int], str] | None

    @property
    @abstractmethod
    def tokens(self) -> int:
        """Of all windows."""

    @property
    @abstractmethod
    def probe(self) -> int:
        """Tokens from the first on for a pass that finds out about layers."""

    @property
    @abstractmethod
    def digest(self) -> bytes:
        """Tells these windows from others."""

    @abstractmethod
    def inputs(self, start: int, stop: int, device: torch.device) -> dict[str, Tensor]:
        """What a model is called with for one of the ``batches``."""

    @abstractmethod
    def whole(self, tokens: int) -> int:
        """So many of the first tokens, or the fewest more that can be had without the others."""

    @abstractmethod
    def taken(self, tokens: Tensor) -> Windows:
        """These tokens ``[n]`` alone, which fill windows."""

    def around(self, start: int, stop: int) -> tuple[int, int]:
        """Where the windows begin and end that tokens ``start`` to ``stop`` are in."""
        begin = start // self.window * self.window
        return begin, min(-(-stop // self.window) * self.window, self.tokens)

    def batches(self, start: int, stop: int, most: int) -> Iterator[tuple[int, int]]:
        """Cuts the windows from ``start`` to ``stop`` into batches of windows of one length.

        Each has at most ``most`` tokens, or one window.
        """
        step = max(1, most // self.window) * self.window
        whole = stop - stop % self.window
        for begin in range(start, whole, step):
            yield begin, min(begin + step, whole)
        if whole < stop:
            yield whole, stop


@dataclass(frozen=True, eq=False)
class TokenWindows(Windows):
    """The tokens of a corpus; a token sees others of its window alone.

    Attributes:
        source: the file.
        ids: int32 ``[tokens]``, at least one. Token t is at position ``t % window`` of window
            ``t // window``; the last window may be shorter.
        window: tokens of a window.
        samples: whether windows are the samples of a file, which may be filled up.
        padding: bool ``[tokens]``, true where a sample is filled up and nothing is to be seen; None
            where nowhere.
        text: what an id stands for; None where that is not known.
    """

    source: str
    ids: Tensor
    window: int
    samples: bool = False
    padding: Tensor | None = None
    text: Callable[[int], str] | None = None

    @property
    def tokens(self) -> int:
        return len(self.ids)

    @property
    def probe(self) -> int:
        return min(_PROBE_TOKENS, self.window, self.tokens)

    def whole(self, tokens: int) -> int:
        return tokens

    def taken(self, tokens: Tensor) -> TokenWindows:
        padding = None if self.padding is None else self.padding[tokens]
        return dataclasses.replace(self, ids=self.ids[tokens], padding=padding)

    @cached_property
    def digest(self) -> bytes:
        digest = hashlib.sha256(repr(self.window).encode())
        for values in (self.ids, self.padding):
            if values is not None:
                digest.update(values.numpy().data)
        return digest.digest()

    def inputs(self, start: int, stop: int, device: torch.device) -> dict[str, Tensor]:
        """What a model is called with for one of the ``batches``: ``[windows, length]`` each.

        A sample is numbered from its first token that is no padding.
        """
        length = min(self.window, stop - start)
        inputs = {"input_ids": self.ids[start:stop].long()}
        if self.padding is not None:
            inputs["attention_mask"] = (~self.padding[start:stop]).long()
        inputs = {name: value.view(-1, length) for name, value in inputs.items()}
        if self.padding is not None:
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
        return {name: value.to(device) for name, value in inputs.items()}
