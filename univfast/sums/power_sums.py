"""Sums of matched pairs, block by block and of higher powers, and the algebra that moves them.

All are of x = (a - pivot) * scale and y = (b - pivot) * scale, where scale is a power of two, so
that it rounds nothing. `csrc/rows.h` names the rows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Frame", "PowerSums", "mean_and_std"]

X, Y, XX, YY, XY = range(5)
XXY, XYY, XXYY, XXX, XXXX, YYY, YYYY, ACTIVE_A, ACTIVE_B = range(9)

# A pivot farther from the mean than so many standard deviations, in squares, is moved to it, and a
# scale so far from 1 / standard deviation, as a power of two.
_FARTHEST = 1.0
_EXPONENT = 24
# Of scales: such that float32 has both them and their inverses.
_LARGEST_EXPONENT = 120


class Frame(NamedTuple):
    """Where sums are taken from; ``[2, neurons]``, float64: of A's neurons, and of the partners."""

    pivot: Tensor
    scale: Tensor

    @staticmethod
    def of(mean: Tensor, std: Tensor, narrow: bool) -> Frame:
        """About a mean, in units near a standard deviation, where that is a number above 0.

        ``narrow``: a frame that float32 holds.
        """
        pivot = mean.float().double() if narrow else mean.double()
        _, exponent = torch.frexp(std)
        most = _LARGEST_EXPONENT if narrow else 8 * _LARGEST_EXPONENT
        known = (std > 0) & std.isfinite()
        exponent = torch.where(known, exponent, 0).clamp(-most, most)
        # The bits of 2^-exponent: `torch.ldexp` goes through float32.
        bits = (1023 - exponent.long()) << 52
        return Frame(pivot, bits.view(torch.float64))

    def better(self, total: Tensor, tokens: int, narrow: bool) -> Frame | None:
        """A frame near mean and standard deviation, where this one is far from them.

        ``total`` are sums ``[5, neurons]`` of so many tokens, in this frame.
        """
        mean, square = total[:XX] / tokens, total[XX:XY] / tokens
        variance = (square - mean * mean).clamp(min=0)
        far = mean * mean > _FARTHEST * variance
        far |= (square > 0) & (torch.frexp(square)[1].abs() > _EXPONENT)
        if not bool(far.any()):
            return None
        found = Frame.of(self.pivot + mean / self.scale, variance.sqrt() / self.scale, narrow)
        scale = torch.where(far & (variance > 0), found.scale, self.scale)
        return Frame(torch.where(far, found.pivot, self.pivot), scale)

    def tensor(self, wide: bool) -> Tensor:
        """``[2, 2, neurons]``, in float32 where that holds it and not ``wide``."""
        both = torch.stack(list(self))
        narrow = both.float()
        return both if wide or not torch.equal(narrow.double(), both) else narrow


class PowerSums(NamedTuple):
    """The sums.

    Attributes:
        pairs: float64 ``[blocks, 5, neurons]``.
        powers: float64 ``[9, neurons]``, over all blocks.
        counts: tokens of each block, int64 ``[blocks]``.
    """

    pairs: Tensor
    powers: Tensor
    counts: Tensor

    @staticmethod
    def zero(blocks: int, neurons: int, device: torch.device | None) -> PowerSums:
        return PowerSums(
            torch.zeros(blocks, 5, neurons, dtype=torch.float64, device=device),
            torch.zeros(9, neurons, dtype=torch.float64, device=device),
            torch.zeros(blocks, dtype=torch.int64, device=device),
        )

    @property
    def tokens(self) -> int:
        return int(self.counts.sum())

    def finite(self) -> bool:
        return bool(self.pairs.isfinite().all() and self.powers.isfinite().all())

    def moved(self, old: Frame, new: Frame) -> PowerSums:
        """The same sums in another frame."""
        return self.shifted(*((new.pivot - old.pivot) * old.scale)).scaled(*(new.scale / old.scale))

    def shifted(self, d: Tensor, e: Tensor) -> PowerSums:
        """Of x - d and y - e, ``[neurons]`` each."""
        counts = self.counts.double()[:, None]
        x, y, xx, yy, xy = self.pairs.unbind(1)
        pairs = torch.stack(
            [
                x - counts * d,
                y - counts * e,
                xx - 2 * d * x + counts * d * d,
                yy - 2 * e * y + counts * e * e,
                xy - d * y - e * x + counts * d * e,
            ],
            dim=1,
        )
        n = counts.sum()
        x, y, xx, yy, xy = self.pairs.sum(dim=0)
        xxy, xyy, xxyy, xxx, xxxx, yyy, yyyy = self.powers[:ACTIVE_A]
        # By powers of x first: x^2 y, x y^2 and so on of x - d; then of y - e.
        centred_xx = xx - 2 * d * x + n * d * d
        centred_xxy = xxy - 2 * d * xy + d * d * y
        centred_yy = yy - 2 * e * y + n * e * e
        centred_xyy = xyy - 2 * e * xy + e * e * x
        centred_xxyy = xxyy - 2 * d * xyy + d * d * yy
        powers = torch.stack(
            [
                centred_xxy - e * centred_xx,
                centred_xyy - d * centred_yy,
                centred_xxyy - 2 * e * centred_xxy + e * e * centred_xx,
                xxx - 3 * d * xx + 3 * d**2 * x - n * d**3,
                xxxx - 4 * d * xxx + 6 * d**2 * xx - 4 * d**3 * x + n * d**4,
                yyy - 3 * e * yy + 3 * e**2 * y - n * e**3,
                yyyy - 4 * e * yyy + 6 * e**2 * yy - 4 * e**3 * y + n * e**4,
                *self.powers[ACTIVE_A:],
            ]
        )
        return PowerSums(pairs, powers, self.counts)

    def scaled(self, f: Tensor, g: Tensor) -> PowerSums:
        """Of f x and g y, ``[neurons]`` each."""
        one = torch.ones_like(f)
        pairs = torch.stack([f, g, f * f, g * g, f * g])
        powers = [f * f * g, f * g * g, f * f * g * g, f**3, f**4, g**3, g**4, one, one]
        return PowerSums(self.pairs * pairs, self.powers * torch.stack(powers), self.counts)


def mean_and_std(values: Tensor) -> tuple[Tensor, Tensor]:
    """Of the neurons of a layer ``[tokens, width]``; a constant one has the usual deviation.

    The mean is taken from the first token, so that it is exactly the value of a constant neuron.
    """
    x = values.double()
    shift = x - x[0]
    mean = x[0] + shift.mean(dim=0)
    std = (x - mean).square().mean(dim=0).sqrt()
    alive = (std > 0) & std.isfinite()
    sizes = std[alive] if bool(alive.any()) else mean[mean != 0].abs()
    usual = sizes.median() if len(sizes) else sizes.new_ones(())
    return mean, torch.where(alive, std, usual)
