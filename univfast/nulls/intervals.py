"""How sure r is: intervals from blocks of tokens that are left out one at a time.

Tokens of one text hang together, so that their number says little. Blocks that are long beside what
hangs together are nearly independent, and how r moves when one of them is left out (the jackknife;
Quenouille 1949, Tukey 1958) says how much it would move between texts.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["fisher_interval", "jackknife_error", "lower_excess", "t_quantile"]

_LEVEL = 0.95


def t_quantile(blocks: int) -> float:
    """Of Student's t with ``blocks - 1`` degrees of freedom, for an interval of 95%.

    NaN for fewer than two blocks.
    """
    from scipy.special import stdtrit  # takes a while to import

    return float(stdtrit(blocks - 1, (1 + _LEVEL) / 2)) if blocks > 1 else float("nan")


def jackknife_error(left_out: Tensor) -> Tensor:
    """Standard error from ``[blocks, neurons]``, each without one block: ``[neurons]``.

    ``sqrt((G - 1) / G * sum (r_(g) - mean r)^2)``; NaN for fewer than two blocks.
    """
    blocks = len(left_out)
    if blocks < 2:
        return torch.full(
            left_out.shape[1:], torch.nan, dtype=left_out.dtype, device=left_out.device
        )
    deviations = left_out - left_out.mean(dim=0)
    return (deviations.square().sum(dim=0) * ((blocks - 1) / blocks)).sqrt()


def fisher_interval(correlation: Tensor, error: Tensor, blocks: int) -> tuple[Tensor, Tensor]:
    """The lower and the upper end for r of 95%, through Fisher's z = atanh(r).

    ``error`` is the standard error of r, and that of z is ``error / (1 - r^2)``. Where r is 1 or
    -1, so are both ends.
    """
    certain = (correlation.abs() >= 1) & ~error.isnan()
    z = correlation.atanh()
    reach = t_quantile(blocks) * error / (1 - correlation.square())
    low, high = (z - reach).tanh(), (z + reach).tanh()
    return torch.where(certain, correlation, low), torch.where(certain, correlation, high)


def lower_excess(
    excess: Tensor, error: Tensor, baseline_std: Tensor, draws: int, blocks: int
) -> Tensor:
    """What the excess exceeds: ``excess - t * sqrt(error^2 + baseline_std^2 / draws)``."""
    spread = (error.square() + baseline_std.square() / draws).sqrt()
    return excess - t_quantile(blocks) * spread
