"""Several pairs of layers, neuron i of one with neuron i of the other, as their batches come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from univfast.inputs.layout import Layout
from univfast.options import PairedOptions
from univfast.paired import PairedCorrelation
from univfast.search.matches import LayerCorrelation
from univfast.sums.batches import Origin, PairOrigin

__all__ = ["LayerPairs"]


class LayerPairs:
    """A `PairedCorrelation` for each pair of layers, in ``accumulators``.

    Args:
        a: the layers of A.
        b: that of B for each of them, of the same width.
        options: of each `PairedCorrelation`.
    """

    def __init__(self, a: Layout, b: Layout, options: PairedOptions) -> None:
        self.pairs: Sequence[tuple[str, str]] = list(zip(a.names, b.names, strict=True))
        self.accumulators = [
            PairedCorrelation(width, layer=name, **options)
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
