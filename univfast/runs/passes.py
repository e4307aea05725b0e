"""One pass over activations: which layers are read together, and which sums they go into."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from univfast.all_pairs import AllPairsCorrelation
from univfast.inputs.layers import Activations, Layer
from univfast.inputs.layout import Layout
from univfast.native import place
from univfast.options import CorrelateOptions, PairedOptions, SumsOptions, select
from univfast.paired import PairedCorrelation
from univfast.runs.layer_pairs import LayerPairs
from univfast.search.partners import LayerCorrelation
from univfast.sums.batches import PairOrigin
from univfast.sums.co_moments import CoMoments, chunk_tokens
from univfast.sums.transfer import Uploads

__all__ = ["IndexPass", "Job", "PairsPass", "Pass", "Range"]

# First token and last token + 1.
Range = tuple[int, int]

# Bytes read from each model at a time: far above what a call costs, far below any machine's memory.
_READ_BYTES = 64 << 20
# But no fewer tokens, so that several threads have work in a slice. (How a file is cut shows in the
# last bits, so it does not depend on their number.)
_LEAST_TOKENS = 4096


class Pass(Protocol):
    """Sums over some layers, taken slice by slice."""

    @property
    def step(self) -> int:
        """Tokens of a slice."""

    def update(self, part: Range, following: Range | None, keep: Tensor | None) -> None:
        """Takes in the tokens of a slice that ``keep`` has true, and has the next one brought."""

    def states(self) -> list[dict[str, Any]]:
        """What `load` needs to go on from here; not to be written to."""

    def load(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Goes on from states that were saved."""

    def reduce(self) -> None:
        """Moves the tokens of all processes into process 0."""


class IndexPass:
    """Layers of A beside those of the same name in each other model.

    Args:
        pairs: of each other model, the layers of A, the same for all, and their partners.
        models: A and the others.
        options: how sums are taken.
        device: where.
    """

    def __init__(
        self,
        pairs: Sequence[Sequence[tuple[Layer, Layer]]],
        models: Sequence[Activations],
        options: CorrelateOptions,
        device: torch.device,
    ) -> None:
        self._names = [model.name for model in models]
        # Of each layer of A: it, and its partner in each other model.
        self._rows = [
            [ours, *(found[i][1] for found in pairs)] for i, (ours, _) in enumerate(pairs[0])
        ]
        ours = Layout.of([x for x, _ in pairs[0]])
        paired = select(PairedOptions, {**options, "device": device})
        self._sums = [LayerPairs(ours, Layout.of([x for _, x in found]), paired) for found in pairs]
        self._uploads = Uploads(device) if place.on_cuda(device) else None
        widest = max(x.neurons * x.dtype.itemsize for layers in self._rows for x in layers)
        self.step = _aligned(max(_LEAST_TOKENS, _READ_BYTES // widest), models)

    def update(self, part: Range, following: Range | None, keep: Tensor | None) -> None:
        for i, layers in enumerate(self._rows):
            if i + 1 < len(self._rows):
                _prepare(self._rows[i + 1], part)
            elif following is not None:
                _prepare(self._rows[0], following)
            rows = [layer.read(*part) for layer in layers]
            here = None if keep is None else keep[slice(*part)]
            if self._uploads is not None:
                rows = self._uploads.bring(rows if here is None else [*rows, here])
                here = None if here is None else rows.pop()
            a, *others = rows
            for sums, name, b in zip(self._sums, self._names[1:], others, strict=True):
                sums.update_rows(i, a, b, here, PairOrigin(self._names[0], name, part[0]))
            for layer in layers:
                layer.release(*part)

    @property
    def _accumulators(self) -> list[PairedCorrelation]:
        return [sums for layers in self._sums for sums in layers.accumulators]

    def states(self) -> list[dict[str, Any]]:
        return [sums.state_dict() for sums in self._accumulators]

    def load(self, states: Sequence[Mapping[str, Any]]) -> None:
        for sums, state in zip(self._accumulators, states, strict=True):
            sums.load_state_dict(state)

    def reduce(self) -> None:
        for sums in self._accumulators:
            sums.reduce()

    def correlations(self) -> list[list[LayerCorrelation]]:
        """Of each other model, r of each layer, in the order of A.

        Raises:
            InputError: a CUDA device found a NaN or infinity.
        """
        return [layers.correlations() for layers in self._sums]


@dataclass(frozen=True)
class Job:
    """All pairs of some layers of A with one other model.

    Attributes:
        other: its number.
        layers: names of the layers of A.
    """

    other: int
    layers: tuple[str, ...]

    def plain(self) -> list[Any]:
        """As a checkpoint has it."""
        return [self.other, list(self.layers)]

    @staticmethod
    def of(plain: Sequence[Any]) -> Job:
        """What `plain` gave."""
        other, layers = plain
        return Job(other, tuple(layers))


class PairsPass:
    """All pairs of layers of A with all layers of other models.

    Args:
        jobs: what is done in this pass.
        layers: of A, and of each other model, those that are correlated.
        models: A and the others.
        options: how sums are taken.
        device: where.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        layers: Sequence[Sequence[Layer]],
        models: Sequence[Activations],
        options: CorrelateOptions,
        device: torch.device,
    ) -> None:
        self._names = [model.name for model in models]
        used = {name for job in jobs for name in job.layers}
        self._a = {layer.name: layer for layer in layers[0] if layer.name in used}
        self._others = {job.other: layers[1 + job.other] for job in jobs}
        # What only a search needs is left out: it is done over all passes, by `Searches`.
        sums = select(SumsOptions, {**options, "device": device})
        self._sums = [
            (
                job,
                AllPairsCorrelation(
                    {name: self._a[name].neurons for name in job.layers},
                    {layer.name: layer.neurons for layer in self._others[job.other]},
                    **sums,
                ),
            )
            for job in jobs
        ]
        chunk = chunk_tokens(device)
        row = sum(layer.neurons * layer.dtype.itemsize for layer in self._layers())
        self.step = _aligned(max(1, _READ_BYTES // (row * chunk)) * chunk, models)

    def _layers(self) -> list[Layer]:
        return [*self._a.values(), *(x for layers in self._others.values() for x in layers)]

    def update(self, part: Range, following: Range | None, keep: Tensor | None) -> None:
        if following is not None:
            _prepare(self._layers(), following)
        here = None if keep is None else keep[slice(*part)]
        a = {name: layer.read(*part) for name, layer in self._a.items()}
        others = {i: [x.read(*part) for x in layers] for i, layers in self._others.items()}
        for job, sums in self._sums:
            origin = PairOrigin(self._names[0], self._names[1 + job.other], part[0])
            sums.update_rows([a[name] for name in job.layers], others[job.other], here, origin)
        for layer in self._layers():
            layer.release(*part)

    def states(self) -> list[dict[str, Any]]:
        return [sums.saved_state() for _, sums in self._sums]

    def load(self, states: Sequence[Mapping[str, Any]]) -> None:
        for (_, sums), state in zip(self._sums, states, strict=True):
            sums.load_state_dict(state)

    def reduce(self) -> None:
        for _, sums in self._sums:
            sums.reduce()

    def co_moments(self) -> list[tuple[int, CoMoments]]:
        """Of each job: the number of the other model, and the sums."""
        return [(job.other, sums.co_moments()) for job, sums in self._sums]


def _prepare(layers: Sequence[Layer], part: Range) -> None:
    for layer in layers:
        layer.prepare(*part)


def _aligned(tokens: int, models: Sequence[Activations]) -> int:
    """About so many tokens: whole windows of each model, and no more than each gives at a time."""
    most = min((model.most for model in models if model.most is not None), default=tokens)
    window = math.lcm(*(model.window for model in models))
    return max(1, min(tokens, most) // window) * window
