"""Means a token with intervals over documents, from sums that are streamed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from univfast.machine.torch_state import methods_in_plain_state
from univfast.nulls.intervals import t_quantile

__all__ = ["DocumentSums", "Effect", "Interval"]


@dataclass(frozen=True)
class Interval:
    """A mean a token, and the ends of its interval of 95% over documents; NaN if unknown."""

    mean: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Effect:
    """Of neurons that are taken out: how much the loss rises, and KL(whole || without), in nats."""

    loss: Interval
    kl: Interval


@methods_in_plain_state
class DocumentSums:
    """Sums over documents of some quantities, of which only second moments are kept.

    With ``D_d`` the sum of a quantity over the ``n_d`` tokens of document d, the mean a token is
    ``m = sum D_d / sum n_d``, and its standard error that of a ratio (Cochran 1977, 6.4):
    ``sqrt(G / (G - 1) * sum (D_d - m n_d)^2) / sum n_d`` for G documents. The interval is ``m``
    plus and minus that times the quantile of Student's t with G - 1 degrees of freedom. Of
    documents of one length this is the t interval of their means. A difference of two quantities is
    a quantity: both are of the same documents, so that what these share falls out.

    Args:
        quantities: how many there are.
    """

    def __init__(self, quantities: int) -> None:
        self.documents = 0
        self.tokens = 0
        self._squares = 0.0  # sum of n_d^2
        self._sums, self._powers, self._products = (
            torch.zeros(quantities, dtype=torch.float64, device="cpu") for _ in range(3)
        )

    def add(self, tokens: Tensor, values: Tensor) -> None:
        """Adds documents; those without tokens are none.

        Args:
            tokens: of each, float64 ``[documents]``.
            values: sums over them, float64 ``[documents, quantities]``.
        """
        there = tokens > 0
        tokens, values = tokens[there], values[there]
        self.documents += len(tokens)
        self.tokens += int(tokens.sum())
        self._squares += float(tokens.square().sum())
        self._sums += values.sum(dim=0)
        self._powers += values.square().sum(dim=0)
        self._products += (values * tokens[:, None]).sum(dim=0)

    def intervals(self) -> list[Interval]:
        """Of each quantity; without tokens all is NaN, and of one document the ends are."""
        if not self.tokens:
            return [Interval(math.nan)] * len(self._sums)
        means = self._sums / self.tokens
        if self.documents < 2:
            return [Interval(mean) for mean in means.tolist()]
        squares = self._powers - 2 * means * self._products + means.square() * self._squares
        share = self.documents / (self.documents - 1)
        errors = (share * squares.clamp(min=0)).sqrt() / self.tokens
        reach = t_quantile(self.documents) * errors
        return [
            Interval(*ends)
            for ends in zip(
                means.tolist(), (means - reach).tolist(), (means + reach).tolist(), strict=True
            )
        ]
