"""Whether the verdicts hold: ``python benchmarks/calibration.py [--quick]`` prints six tables.

Activations whose truth is known are made, correlated, and counted: neurons with a planted partner
(are they found, and what else is?), and models that share factors but no neuron (is as much flagged
as chance is said to flag, and are p-values uniform?). ``calibration_controls.py`` has the rows of
networks and their controls, and those of intervals. ``--quick`` takes fewer and smaller layers.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import calibration_controls as controls
import numpy as np
import torch
from numpy.typing import NDArray
from table import table
from torch import Tensor

import univfast as uf
from univfast import reference
from univfast.nulls.statistics import statistics

# True r of the planted pairs.
PLANTED = (0.3, 0.5, 0.7, 0.9)
# The share of the variance of every neuron that factors common to both models make up.
COMMON = {"isotropic": 0.0, "5 factors": 0.2}
MATCHES = ("index", "best", "one-to-one")
# The usual threshold, and one that enough neurons pass for the counts to be compared.
THRESHOLDS = (0.1, 0.5)


class Size(NamedTuple):
    """How much is made of each kind.

    Attributes:
        neurons: of a layer.
        tokens: of a layer.
        draws: of the rotation.
        seeds: layers of each kind.
    """

    neurons: int
    tokens: int
    draws: int
    seeds: int


class Shape(NamedTuple):
    """Layers whose neurons load on factors: the same factors in A and B, independent loadings.

    Attributes:
        factors: how many.
        common: the share of the variance that they make up; the rest is each neuron's own.
        sparse: nine of ten loadings are zero.
    """

    factors: int
    common: float = 1.0
    sparse: bool = False


# Layers that share no neuron. A rotation of Gaussian loadings is as good as other Gaussian
# loadings, so that the draws differ from the layer itself by nothing but chance.
NOISY = "8 factors and noise"
SHAPES = {
    "rank 1": Shape(1),
    "rank 2": Shape(2),
    "rank 3": Shape(3),
    "rank 10": Shape(10),
    NOISY: Shape(8, 0.5),
}
# A rotation of sparse loadings is not sparse: the layer differs from its rotations though no neuron
# is shared, and no rotation can tell that from shared neurons.
SPARSE = {"8 sparse factors and noise": Shape(8, 0.5, sparse=True)}


class Planted(NamedTuple):
    """Two models, some of whose neurons are pairs; the others are independent.

    Attributes:
        a, b: ``[tokens, neurons]``.
        r: that neurons of A have with their partners in B, ``[neurons]``; 0 without one.
        partner: number of the partner, ``[neurons]``; -1 without one.
    """

    a: Tensor
    b: Tensor
    r: Tensor
    partner: Tensor


class Counts(NamedTuple):
    """Neurons flagged where nothing is shared, a number a layer: ``[layers]``.

    Attributes:
        flagged: universal neurons.
        by_chance: how many there should be.
    """

    flagged: Tensor
    by_chance: Tensor

    @property
    def standard_errors(self) -> float:
        """The mean difference, in standard errors of its spread over layers."""
        difference = self.flagged - self.by_chance
        mean, error = difference.mean(), difference.std() / math.sqrt(len(difference))
        return float(mean / error) if mean else 0.0


# ---- activations --------------------------------------------------------------------------------


def unaligned(shape: Shape, size: Size, seed: int) -> tuple[Tensor, Tensor]:
    """Two models with the same factors and no neuron in common, ``[tokens, neurons]`` each."""
    g = torch.Generator().manual_seed(seed)
    factors = torch.randn(size.tokens, shape.factors, generator=g)

    def model() -> Tensor:
        loadings = torch.randn(shape.factors, size.neurons, generator=g)
        if shape.sparse:
            loadings *= math.sqrt(10) * (torch.rand(loadings.shape, generator=g) < 0.1)
        noise = torch.randn(size.tokens, size.neurons, generator=g)
        own = factors @ loadings * math.sqrt(shape.common / shape.factors)
        return own + noise * math.sqrt(1 - shape.common)

    return model(), model()


def planted(common: float, size: Size, seed: int) -> Planted:
    """A twentieth of the neurons paired at each of `PLANTED`; 5 factors have ``common`` of all."""
    g = torch.Generator().manual_seed(seed)
    neurons, tokens = size.neurons, size.tokens
    factors = torch.randn(tokens, 5, generator=g)
    loadings = [torch.randn(5, neurons, generator=g) * math.sqrt(common / 5) for _ in range(2)]
    noise = [torch.randn(tokens, neurons, generator=g) for _ in range(2)]
    planted_r = torch.tensor(PLANTED).repeat_interleave(neurons // 20)
    own, other = (torch.randperm(neurons, generator=g)[: len(planted_r)] for _ in range(2))

    # Partners have the same loadings, and noise so correlated that r is as planned.
    loadings[1][:, other] = loadings[0][:, own]
    shared = loadings[0][:, own].square().sum(dim=0)
    rho = (planted_r * (shared + 1 - common) - shared) / (1 - common)
    noise[1][:, other] = rho * noise[0][:, own] + (1 - rho**2).sqrt() * noise[1][:, other]

    a, b = (factors @ w + math.sqrt(1 - common) * e for w, e in zip(loadings, noise, strict=True))
    r, partner = torch.zeros(neurons), torch.full((neurons,), -1)
    r[own], partner[own] = planted_r, other
    return Planted(a, b, r, partner)


# ---- what is counted ----------------------------------------------------------------------------


class Found(NamedTuple):
    """What a rule flags among planted pairs.

    Attributes:
        recall: share of the neurons flagged, at each of `PLANTED`.
        false: share of the flagged that have no partner, or were matched with another; 0 if none
            is flagged.
    """

    recall: list[float]
    false: float


def find_planted(data: Planted, size: Size, rotation: str, seed: int) -> dict[str, Found]:
    """What the threshold, and what q, flags of some planted pairs, matched ``best``."""
    result = uf.correlate(
        data.a, data.b, match="best", rotation=rotation, draws=size.draws, seed=seed
    )
    right = (data.partner >= 0) & (result.match_neuron == data.partner)
    rules = {"universal": result.universal, "q < 0.05": result.q_value < 0.05}
    return {
        rule: Found(
            [float(flagged[data.r == torch.tensor(r)].double().mean()) for r in PLANTED],
            float((flagged & ~right).sum() / flagged.sum().clamp(min=1)),
        )
        for rule, flagged in rules.items()
    }


def null_results(
    shape: Shape, size: Size, match: str, rotation: str = "hadamard", width: int | None = None
) -> list[uf.CorrelationResult]:
    """A result a seed, where nothing is shared; ``width`` is of B, all neurons if not given."""
    pairs = (unaligned(shape, size, seed) for seed in range(size.seeds))
    return [
        uf.correlate(a, b[:, :width], match=match, rotation=rotation, draws=size.draws, seed=seed)
        for seed, (a, b) in enumerate(pairs)
    ]


def counts(results: Sequence[uf.CorrelationResult], threshold: float) -> Counts:
    """What is flagged at a threshold, and what chance should flag."""
    flagged, by_chance = [], []
    for result in results:
        assert result.null_excess is not None
        flagged.append((result.excess > threshold).sum())
        by_chance.append((result.null_excess > threshold).sum(dim=1).double().mean())
    return Counts(torch.stack(flagged).double(), torch.stack(by_chance))


def averaged_first(shape: Shape, size: Size, seed: int) -> Tensor:
    """p of best matches against a null that is wrong, ``[neurons]``.

    Matrices of correlations are averaged, four draws at a time, before the highest is taken, as
    published code does. The highest of averages is lower than the average of the highest.
    """
    layers = {"activations": size.neurons}
    pairs = reference.AllPairsCorrelation(layers, layers, draws=size.draws, seed=seed)
    a, b = unaligned(shape, size, seed)
    pairs.update({"activations": a.numpy()}, {"activations": b.numpy()})
    r, rotated = pairs.compute()
    averages = [np.mean(rotated[i : i + 4], axis=0) for i in range(0, len(rotated), 4)]
    highest = torch.from_numpy(np.stack([reference.best(average)[1] for average in averages]))
    correlation = torch.from_numpy(reference.best(r)[1])
    return statistics(correlation[None], highest[None], [size.neurons], 0.5).p_value


class Uniformity(NamedTuple):
    """How far p-values are from uniform.

    Attributes:
        distance: of Kolmogorov and Smirnov, of all layers together.
        limit: that it stays below in 99 of 100 cases if they are uniform.
        below: the share of p below 0.05 and below 0.001.
    """

    distance: float
    limit: float
    below: tuple[float, float]


def uniformity(p_values: Sequence[Tensor]) -> Uniformity:
    """Of p-values ``[neurons]`` of some layers.

    Neurons of a layer share its factors, so their p-values are not independent. How many
    independent ones they are worth is seen from how their distribution varies from layer to layer:
    independent uniform ones have a variance of t (1 - t) / n at t, 1 / 6n over all t.
    """
    p = torch.stack(list(p_values)).double().sort(dim=1).values  # [layers, neurons]
    layers, neurons = p.shape
    grid = torch.linspace(0, 1, 201, dtype=p.dtype)
    shares = torch.searchsorted(p, grid.expand(layers, -1).contiguous(), right=True) / neurons
    worth = 1 / (6 * float(shares.var(dim=0).mean()))
    pooled: NDArray[np.float64] = p.flatten().sort().values.numpy()
    steps = np.arange(len(pooled) + 1) / len(pooled)
    distance = max((steps[1:] - pooled).max(), (pooled - steps[:-1]).max())
    below = tuple(float((pooled < limit).mean()) for limit in (0.05, 0.001))
    return Uniformity(float(distance), 1.628 / math.sqrt(layers * worth), (below[0], below[1]))


# ---- tables -------------------------------------------------------------------------------------


def planted_rows(size: Size, haar: Size) -> Iterator[list[str]]:
    """``haar`` has a size of its own: its matrices take longest."""
    for (name, common), (rotation, one) in product(
        COMMON.items(), (("hadamard", size), ("haar", haar))
    ):
        found = [
            find_planted(planted(common, one, seed), one, rotation, seed)
            for seed in range(one.seeds)
        ]
        for rule in found[0]:
            recall = np.mean([one[rule].recall for one in found], axis=0)
            false = np.mean([one[rule].false for one in found])
            label = f"{name}, {rotation}, {rule}"
            yield [label, *(f"{x:.1%}" for x in recall), f"{false:.2%}"]


def null_rows(size: Size) -> tuple[list[list[str]], list[list[str]]]:
    """Rows of the counts, and of the p-values."""
    flagged, uniform = [], []
    for (name, shape), match in product((SHAPES | SPARSE).items(), MATCHES):
        results = null_results(shape, size, match)
        flagged += _count_rows(f"{name}, {match}", results)
        if shape.common < 1:
            values = [result.p_value for result in results]
            uniform.append(_uniform_row(f"{name}, {match}", values))
    for width in (size.neurons // 2, size.neurons // 10):
        label = f"{NOISY}, one-to-one, {width} neurons in B"
        results = null_results(SHAPES[NOISY], size, "one-to-one", width=width)
        flagged += _count_rows(label, results)
        values = [result.p_value[~result.correlation.isnan()] for result in results]
        uniform.append(_uniform_row(label, values))
    # Not orthogonal: the rotated noise is not as independent as the noise itself.
    for match in ("index", "best"):
        results = null_results(SHAPES[NOISY], size, match, "gaussian")
        values = [result.p_value for result in results]
        uniform.append(_uniform_row(f"{NOISY}, {match}, gaussian rotation", values))
    wrong = [averaged_first(SHAPES[NOISY], size, seed) for seed in range(size.seeds)]
    uniform.append(_uniform_row(f"{NOISY}, best, averaged before the highest (wrong)", wrong))
    return flagged, uniform


def _count_rows(label: str, results: Sequence[uf.CorrelationResult]) -> Iterator[list[str]]:
    for threshold in THRESHOLDS:
        found = counts(results, threshold)
        means = (f"{x.mean():.2f}" for x in found)
        yield [f"{label}, above {threshold}", *means, f"{found.standard_errors:+.1f}"]


def _uniform_row(label: str, p_values: Sequence[Tensor]) -> list[str]:
    found = uniformity(p_values)
    return [
        label,
        f"{found.distance:.3f}",
        f"{found.limit:.3f}",
        *(f"{share:.2%}" for share in found.below),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Tables that say whether the verdicts hold.")
    parser.add_argument("--quick", action="store_true", help="smaller layers, and fewer")
    quick = parser.parse_args().quick
    full = Size(2000, 5000, 20, 5)
    pairs, haar = (Size(400, 5000, 20, 3),) * 2 if quick else (full, full._replace(seeds=2))
    null = Size(200, 1000, 20, 20) if quick else Size(400, 2000, 20, 50)
    nets = controls.QUICK if quick else controls.FULL

    header = ["planted pairs found", *(f"r = {r}" for r in PLANTED), "false"]
    print(table(header, planted_rows(pairs, haar)), "\n", sep="")
    flagged, uniform = null_rows(null)
    header = ["nothing shared", "universal", "by chance", "standard errors"]
    print(table(header, flagged), "\n", sep="")
    header = ["p where nothing is shared", "KS distance", "limit", "p < 0.05", "p < 0.001"]
    print(table(header, uniform), "\n", sep="")
    print(table(controls.NOTHING_LEARNED, controls.nothing_learned_rows(nets)), "\n", sep="")
    print(table(controls.RECALL, controls.recall_rows(nets)), "\n", sep="")
    print(table(controls.INTERVALS, controls.interval_rows(400, 256)))
    with_haar = f"; {haar.seeds} of them with haar" if haar != pairs else ""
    print(f"\nPlanted pairs: {_words(pairs)}{with_haar}.\nNothing shared: {_words(null)}.")
    print(f"Nothing learned by both, and planted pairs against controls: {nets.words()}.")


def _words(size: Size) -> str:
    return (
        f"{size.seeds} layers of {size.neurons:,} neurons, {size.tokens:,} tokens,"
        f" {size.draws} draws"
    )


if __name__ == "__main__":
    main()
