"""Several pairs of layers, neuron i of one with neuron i of the other, as their batches come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from univfast.accumulators import PairedCorrelation
from univfast.batches import Origin, PairOrigin
from univfast.layout import Layout
from univfast.matching import LayerCorrelation, matches_by_index
from univfast.result import CorrelationResult, make_result
from univfast.rotations import RotationOptions

__all__ = ["LayerPairs"]


class LayerPairs:
    """A `PairedCorrelation` for each pair of layers, in ``accumulators``.

    Args:
        a: the layers of A.
        b: that of B for each of them, of the same width.
        rotation: of the layers of B.
        device: where to accumulate.
        threads: of the CPU, at most this many.
    """

    def __init__(
        self, a: Layout, b: Layout, rotation: RotationOptions, device: torch.device, threads: int
    ) -> None:
        self._a, self._rotation, self._device = a, rotation, device
        self.pairs: Sequence[tuple[str, str]] = list(zip(a.names, b.names, strict=True))
        self.accumulators = [
            PairedCorrelation(
                width,
                draws=rotation.draws,
                rotation=rotation.kind,
                seed=rotation.seed,
                layer=name,
                device=device,
                threads=threads,
            )
            for name, width in zip(a.names, a.widths, strict=True)
        ]

    def update_rows(
        self, number: int, a: Tensor, b: Tensor, mask: Tensor | None, origin: PairOrigin
    ) -> None:
        """Adds tokens ``[tokens, neurons]`` of one pair that are known to fit.

        ``origin`` names them in errors.
        """
        names = Origin(origin.a, origin.b, *self.pairs[number], origin.first_token)
        self.accumulators[number].update_rows(a, b, mask, names)

    @property
    def tokens(self) -> int:
        """Tokens accumulated so far. Waits for a CUDA device."""
        return self.accumulators[0].tokens

    def correlations(self) -> list[LayerCorrelation]:
        """r and the rotated r of each pair. Raises what `PairedCorrelation.correlations` does."""
        return [
            replace(sums.correlations(), match_layer=name)
            for sums, (_, name) in zip(self.accumulators, self.pairs, strict=True)
        ]

    def result(
        self, models: tuple[str, str], threshold: float, seconds: float | None = None
    ) -> CorrelationResult:
        """The result so far. Raises what `PairedCorrelation.correlations` does."""
        found = self.correlations()
        return make_result(
            self._a,
            found[0].tokens,
            [matches_by_index(found)],
            models=models,
            match="index",
            rotation=self._rotation,
            threshold=threshold,
            device=str(self._device),
            seconds=seconds,
        )
