"""What neurons write to the vocabulary: rows of ``W_out W_U``, in pieces that are never kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from univfast.machine.torch_state import exact_products

__all__ = ["Logits", "Vocabulary", "joined"]

# Numbers of a piece of rows x tokens, and of tokens x width: some tens of megabytes in all.
_PIECE = 2**21
# Below this share of the longest unembedding row, a standard deviation is rounding.
_LEAST_STD = 1e-6


@dataclass(frozen=True)
class Logits:
    """Of each neuron; float64 ``[neurons]``, population moments (divided by the vocabulary).

    NaN where output weights are 0, and skew and kurtosis where all numbers are equal.

    Attributes:
        mean, variance, skew, kurtosis: of the logits ``W_out W_U`` over the vocabulary.
        cosine_mean, cosine_variance, cosine_skew, cosine_kurtosis: of the cosines between the
            output weights and the columns of ``W_U``; 0 for a column of zeros.
        top_tokens, bottom_tokens: ids of the highest and lowest logits, int64 ``[neurons, k]``,
            from the extreme on; -1 where output weights are 0.
        top_logits, bottom_logits: these.
    """

    mean: Tensor
    variance: Tensor
    skew: Tensor
    kurtosis: Tensor
    cosine_mean: Tensor
    cosine_variance: Tensor
    cosine_skew: Tensor
    cosine_kurtosis: Tensor
    top_tokens: Tensor
    top_logits: Tensor
    bottom_tokens: Tensor
    bottom_logits: Tensor


def joined(parts: list[Logits]) -> Logits:
    """Neurons of several parts, one after the other."""
    return Logits(
        **{
            field.name: torch.cat([getattr(part, field.name) for part in parts])
            for field in fields(Logits)
        }
    )


class Vocabulary:
    """An unembedding, which is read piece by piece and nowhere kept in another form."""

    def __init__(self, rows: Tensor) -> None:
        """``rows``: ``[vocabulary, width]`` in any floating-point dtype, on any device."""
        self._rows = rows
        self._dtype = torch.float64 if rows.dtype == torch.float64 else torch.float32
        self.tokens, self.width = rows.shape
        self.device = rows.device
        norms = []
        mean = torch.zeros(self.width, dtype=torch.float64, device=self.device)
        direction = torch.zeros_like(mean)
        step = max(1, _PIECE // self.width)
        for start in range(0, self.tokens, step):
            exact = rows[start : start + step].double()
            norm = torch.linalg.vector_norm(exact, dim=1)
            norms.append(norm)
            mean += exact.sum(dim=0)
            direction += (exact / _no_zeros(norm)[:, None]).sum(dim=0)
        self._norms = torch.cat(norms)
        self._longest = self._norms.max()
        self._mean, self._direction = mean / self.tokens, direction / self.tokens

    def logits_of(self, output: Tensor, k: int) -> Logits:
        """What neurons write; on the CPU.

        Args:
            output: their output weights ``[neurons, width]``, in float64, on the same device.
            k: tokens with the highest and the lowest logits, at most the vocabulary.
        """
        norms = torch.linalg.vector_norm(output, dim=1)
        unit = output / _no_zeros(norms)[:, None]
        # Logits are summed about their mean, and in units that no power of them overflows in.
        pivots = unit @ self._mean / _no_zeros(self._longest), unit @ self._direction
        sums = [torch.zeros(4, len(unit), dtype=torch.float64, device=self.device) for _ in pivots]
        top, bottom = _Extremes(k, largest=True), _Extremes(k, largest=False)
        unit = unit.to(self._dtype)
        for start, directions, lengths in self._pieces(len(unit)):
            with exact_products(self.device.type):
                cosines = unit @ directions.T  # [neurons, tokens]
            logits = cosines * lengths
            logits -= pivots[0].to(self._dtype)[:, None]
            top.add(logits, start)
            bottom.add(logits, start)
            _add_powers(sums[0], logits)
            cosines -= pivots[1].to(self._dtype)[:, None]
            _add_powers(sums[1], cosines)
        scale, there = norms * self._longest, norms > 0
        found = {
            **self._moments(sums[0], pivots[0], scale, ""),
            **self._moments(sums[1], pivots[1], torch.ones_like(norms), "cosine_"),
        }
        for name, extremes in (("top", top), ("bottom", bottom)):
            values = (extremes.values.double() + pivots[0][:, None]) * scale[:, None]
            found[f"{name}_logits"] = torch.where(there[:, None], values, torch.nan)
            found[f"{name}_tokens"] = torch.where(there[:, None], extremes.tokens, -1)
        for name in ("", "cosine_"):
            for moment in ("mean", "variance", "skew", "kurtosis"):
                value = found[name + moment]
                found[name + moment] = torch.where(there, value, torch.nan)
        return Logits(**{name: value.cpu() for name, value in found.items()})

    def _pieces(self, neurons: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        """First token, unit rows ``[tokens, width]``, and their lengths to the longest."""
        step = max(1, _PIECE // max(neurons, self.width, 1))
        for start in range(0, self.tokens, step):
            exact = self._rows[start : start + step].double()
            norms = self._norms[start : start + step]
            directions = (exact / _no_zeros(norms)[:, None]).to(self._dtype)
            yield start, directions, (norms / _no_zeros(self._longest)).to(self._dtype)

    def _moments(
        self, sums: Tensor, pivot: Tensor, scale: Tensor, prefix: str
    ) -> dict[str, Tensor]:
        """Moments of numbers, from sums of powers about ``pivot``, in units of ``scale``."""
        first, variance, third, fourth = _central(sums / self.tokens)
        flat = variance.sqrt() <= _LEAST_STD
        return {
            f"{prefix}mean": (pivot + first) * scale,
            f"{prefix}variance": variance * scale**2,
            f"{prefix}skew": torch.where(flat, torch.nan, third / variance**1.5),
            f"{prefix}kurtosis": torch.where(flat, torch.nan, fourth / variance**2),
        }


class _Extremes:
    """The highest, or lowest, of each row, of columns that come in pieces."""

    def __init__(self, k: int, largest: bool) -> None:
        self._k, self._largest = k, largest
        self.values: Tensor = torch.empty(0, dtype=torch.float32, device="cpu")
        self.tokens: Tensor = torch.empty(0, dtype=torch.int64, device="cpu")

    def add(self, values: Tensor, start: int) -> None:
        """Columns ``[neurons, tokens]``, the first of which is number ``start``."""
        values, tokens = self._extreme(values)
        tokens += start
        if start:
            values, own = self._extreme(torch.cat([self.values, values], dim=1))
            tokens = torch.cat([self.tokens, tokens], dim=1).gather(1, own)
        self.values, self.tokens = values, tokens

    def _extreme(self, values: Tensor) -> tuple[Tensor, Tensor]:
        found = values.topk(min(self._k, values.shape[1]), dim=1, largest=self._largest)
        return found.values, found.indices


def _add_powers(sums: Tensor, values: Tensor) -> None:
    """Adds the sums of powers 1 to 4 of each row."""
    square = values * values
    sums[0] += values.sum(dim=1)
    sums[1] += square.sum(dim=1)
    sums[2] += (square * values).sum(dim=1)
    sums[3] += square.mul_(square).sum(dim=1)


def _central(raw: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean, and central moments 2 to 4, from raw moments ``[4, neurons]``."""
    m1, m2, m3, m4 = raw
    variance = (m2 - m1**2).clamp(min=0)
    third = m3 - 3 * m1 * m2 + 2 * m1**3
    fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
    return m1, variance, third, fourth


def _no_zeros(values: Tensor) -> Tensor:
    return torch.where(values == 0, 1.0, values)
