"""Models that run on the same batches, and what their layers gave for each."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from torch import Tensor

from univfast.feeding import Feed, run_batch
from univfast.hooks import Captured, capture
from univfast.live_networks import Network
from univfast.row_check import RowCheck, rows_of
from univfast.stacks import Tokens, tokens_of

__all__ = ["SideBySide"]


class SideBySide:
    """Networks that run on the same batches, captured within the block that ``stack`` ends."""

    def __init__(self, networks: Sequence[Network], feed: Feed, stack: ExitStack) -> None:
        self._networks, self._feed = networks, feed
        self._captures: list[Captured] = [
            stack.enter_context(capture(x.module, x.hooks, axis=x.axis)) for x in networks
        ]
        self._checks = [RowCheck(x.module, x.name, x.axis) for x in networks]

    def run(self, batch: Any, keep: object) -> tuple[list[dict[str, Tensor]], Tokens]:
        """What each gave for a batch, layers by name, and the tokens that rows are of.

        Raises:
            InputError: rows that are no tokens, or whose mask cannot be told.
        """
        rows = rows_of(batch, keep if self._feed.has_masks else None)
        taken = []
        for network, captured in zip(self._networks, self._captures, strict=True):
            run_batch(captured, network.module, batch, network.name)
        for network, captured, check in zip(
            self._networks, self._captures, self._checks, strict=True
        ):
            again = partial(run_batch, captured, network.module, name=network.name)
            taken.append(check.take(captured, batch, rows, again))
        if self._feed.has_masks:
            return taken, Tokens(keep, self._feed.mask_name, batch)
        shapes = [{name: tuple(x.shape[:-1]) for name, x in layers.items()} for layers in taken]
        modules = [network.module for network in self._networks]
        return taken, tokens_of(batch, list(zip(modules, shapes, strict=True)))
