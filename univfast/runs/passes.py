"""One pass over activations: what it is, and how much is read at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from torch import Tensor

from univfast.inputs.layers import Activations, Layer
from univfast.inputs.sparse import SparseLayer

__all__ = [
    "LEAST_TOKENS",
    "READ_BYTES",
    "Pass",
    "Range",
    "aligned",
    "at_least",
    "opened",
    "prepare",
]

# First token and last token + 1.
Range = tuple[int, int]

READ_BYTES = 64 << 20
"""Read from each model at a time: far above what a call costs, far below any machine's memory."""
LEAST_TOKENS = 4096
"""But no fewer, so that several threads have work in a slice. (How a file is cut shows in the last
bits, so it does not depend on their number.)"""


# That a slice of sparse features takes, which is made dense.
_DENSE_BYTES = 256 << 20


class Pass(Protocol):
    """Sums over some layers, taken slice by slice."""

    @property
    def step(self) -> int:
        """Tokens of a slice."""

    @property
    def models(self) -> Sequence[Activations]:
        """Those that are read."""

    def update(self, part: Range, following: Range | None, keep: Tensor | None) -> None:
        """Takes in the tokens of a slice that ``keep`` has true, and has the next one brought."""

    def states(self) -> list[dict[str, Any]]:
        """What `load` needs to go on from here; not to be written to."""

    def load(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Goes on from states that were saved."""

    def reduce(self) -> None:
        """Moves the tokens of all processes into process 0."""


@contextmanager
def opened(models: Iterable[Activations]) -> Iterator[None]:
    """A block in which some models are read: those that are made to be read are made at its start.

    And given back at its end.
    """
    with ExitStack() as stack:
        for model in models:
            if model.begin is not None:
                model.begin()
            if model.end is not None:
                stack.callback(model.end)
        yield


def prepare(layers: Sequence[Layer], part: Range) -> None:
    """Has tokens brought that are read next."""
    for layer in layers:
        layer.prepare(*part)


def at_least(tokens: int, layers: Iterable[Layer]) -> int:
    """So many tokens of a slice, or fewer where wide sparse features are made dense for it."""
    row = sum(x.neurons * x.dtype.itemsize for x in layers if isinstance(x, SparseLayer))
    return max(1, min(tokens, _DENSE_BYTES // max(row, 1)))


def aligned(tokens: int, models: Sequence[Activations]) -> int:
    """About so many tokens: whole windows of each model, and no more than each gives at a time."""
    most = min((model.most for model in models if model.most is not None), default=tokens)
    window = math.lcm(*(model.window for model in models))
    return max(1, min(tokens, most) // window) * window
