"""What a model loses without some neurons, from logits that are all held at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Loss", "ablation", "alike", "over_documents"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Loss:
    """A mean a predicted token, in nats, with the ends of its interval of 95% over documents."""

    mean: float
    low: float
    high: float


def ablation(
    whole: ArrayLike, without: ArrayLike, ids: ArrayLike, counts: ArrayLike
) -> tuple[Loss, Loss]:
    """How much the loss rises without some neurons, and KL(whole || without).

    Args:
        whole: logits of the whole model, ``[samples, length, vocabulary]``.
        without: those without the neurons.
        ids: tokens, ``[samples, length]``.
        counts: those whose next one is predicted, bool ``[samples, length - 1]``.
    """
    ids, counts = np.asarray(ids), np.asarray(counts, dtype=bool)
    rises, divergences = [], []
    for sample, tokens in enumerate(ids):
        rise, divergence = [], []
        for t in np.flatnonzero(counts[sample]):
            log_p = _log_softmax(np.asarray(whole)[sample, t])
            log_q = _log_softmax(np.asarray(without)[sample, t])
            rise.append(log_p[tokens[t + 1]] - log_q[tokens[t + 1]])
            divergence.append(float(np.sum(np.exp(log_p) * (log_p - log_q))))
        rises.append(np.array(rise))
        divergences.append(np.array(divergence))
    return over_documents(rises), over_documents(divergences)


def over_documents(values: list[Array]) -> Loss:
    """The mean of the values of all documents, and the interval of a ratio of sums.

    ``sum D / sum n`` with D the sum of a document's values and n their number; its error is
    ``sqrt(G / (G - 1) * sum (D - mean n)^2) / sum n`` (Cochran 1977, 6.4).
    """
    from scipy.stats import t as student

    there = [each for each in values if len(each)]
    sums = np.array([each.sum() for each in there])
    numbers = np.array([float(len(each)) for each in there])
    mean = float(sums.sum() / numbers.sum())
    documents = len(there)
    if documents < 2:
        return Loss(mean, np.nan, np.nan)
    squares = float(np.sum((sums - mean * numbers) ** 2))
    error = np.sqrt(documents / (documents - 1) * squares) / numbers.sum()
    reach = float(student.ppf(0.975, documents - 1) * error)
    return Loss(mean, mean - reach, mean + reach)


def alike(
    flagged: ArrayLike, candidates: ArrayLike, active: ArrayLike, std: ArrayLike
) -> list[list[int]]:
    """Of each flagged neuron, all candidates from the most to the least alike.

    By the larger difference of two ranks, from 0 to 1: of the share of active tokens, and of the
    standard deviation; equal values have the mean of their ranks.
    """
    flagged, candidates = np.asarray(flagged), np.asarray(candidates)
    both = [*flagged.tolist(), *candidates.tolist()]
    ranks = []
    for values in (np.asarray(active), np.asarray(std)):
        own = [values[i] for i in both]
        below = [sum(x < value for x in own) for value in own]
        equal = [sum(x == value for x in own) for value in own]
        ranks.append(
            {
                i: (b + (e - 1) / 2) / max(len(both) - 1, 1)
                for i, b, e in zip(both, below, equal, strict=True)
            }
        )

    def far(one: int, other: int) -> float:
        return float(max(abs(rank[one] - rank[other]) for rank in ranks))

    return [
        sorted(candidates.tolist(), key=lambda other: far(one, other)) for one in flagged.tolist()
    ]


def _log_softmax(logits: ArrayLike) -> Array:
    values = np.asarray(logits, dtype=np.float64)
    shifted: Array = values - values.max()
    result: Array = shifted - np.log(np.exp(shifted).sum())
    return result
