"""How active the neurons of a layer are."""

from __future__ import annotations

import torch
from torch import Tensor

from univfast.errors import InputError
from univfast.machine.torch_state import methods_in_plain_state

__all__ = ["Activity"]


@methods_in_plain_state
class Activity:
    """Means, standard deviations and shares of active tokens of a layer, streamed in float64.

    Args:
        layer: its name, for errors.
    """

    def __init__(self, layer: str) -> None:
        self.layer = layer
        self.tokens = 0
        self._sums: Tensor | None = None  # [5, neurons]: mean, squares about it, active, low, high

    @property
    def neurons(self) -> int:
        """How many the layer has."""
        assert self._sums is not None
        return self._sums.shape[1]

    @property
    def mean(self) -> Tensor:
        """Float64 ``[neurons]``, on the CPU, as all that follow."""
        return self._row(0)

    @property
    def std(self) -> Tensor:
        """Over tokens, divided by their number."""
        return (self._row(1) / max(self.tokens, 1)).sqrt()

    @property
    def active(self) -> Tensor:
        """The share of tokens above 0."""
        return self._row(2) / max(self.tokens, 1)

    @property
    def live(self) -> Tensor:
        """Whether values differ, bool ``[neurons]``."""
        return self._row(4) > self._row(3)

    def add(self, rows: Tensor) -> None:
        """Adds tokens ``[tokens, neurons]``.

        Raises:
            InputError: a value is NaN or infinite.
        """
        if not len(rows):
            return
        values = rows.double()
        mean = values.mean(dim=0)
        low, high = values.amin(dim=0), values.amax(dim=0)
        if not bool((low.isfinite() & high.isfinite() & mean.isfinite()).all()):
            raise InputError(
                f"model: layer {self.layer!r} gives NaN or infinity, which has no mean; run it in"
                " float32 or bfloat16"
            )
        # Of a constant, the mean is that very number.
        mean = torch.where(low == high, low, mean)
        squares = (values - mean).square().sum(dim=0)
        active = (values > 0).sum(dim=0).double()
        new = torch.stack([mean, squares, active, low, high])
        self._sums = new if self._sums is None else self._joined(self._sums, new, len(rows))
        self.tokens += len(rows)

    def _joined(self, old: Tensor, new: Tensor, tokens: int) -> Tensor:
        """Sums of both (Chan, Golub and LeVeque 1979)."""
        share = tokens / (self.tokens + tokens)
        shift = new[0] - old[0]
        return torch.stack(
            [
                old[0] + shift * share,
                old[1] + new[1] + shift.square() * (self.tokens * share),
                old[2] + new[2],
                torch.minimum(old[3], new[3]),
                torch.maximum(old[4], new[4]),
            ]
        )

    def _row(self, number: int) -> Tensor:
        assert self._sums is not None
        return self._sums[number].cpu()
