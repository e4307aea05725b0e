"""Whether controls tell what was learned: rows of ``python benchmarks/calibration.py``.

Networks of which it is known what both learned: nothing at all, in `KINDS`, though rotations say
that their axes agree; or some planted pairs. Each comes with controls, which are made as it is and
learned nothing. And pairs of neurons whose true r is known, for intervals.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

import univfast as uf
from univfast.experiment import (
    ModelConfig,
    TrainedModel,
    TrainingOptions,
    capture_mlp,
    default_half,
    train,
)

# Lag-one correlation of a stream of tokens: none, of a sentence, of a document.
RHOS = (0.0, 0.9, 0.99)
PLANTED = (0.5, 0.7, 0.9)
# Of networks that learn a text: less than `univfast train` has, as small ones keep live neurons.
SPARSITY = 4e-3

Layers = dict[str, Tensor]


class Scale(NamedTuple):
    """How much is made.

    Attributes:
        config: of transformers; in arrays, a layer has as many neurons as all their MLPs.
        samples: that activations are taken on, of ``config.sequence`` tokens each.
        steps: of training, where there is some.
        draws: of the rotation.
        controls: of each side.
        seeds: pairs of networks of each kind.
    """

    config: ModelConfig
    samples: int
    steps: int
    draws: int = 5
    controls: int = 4
    seeds: int = 5

    @property
    def neurons(self) -> int:
        return self.config.layers * self.config.d_mlp

    def words(self) -> str:
        tokens = self.samples * self.config.sequence
        return (
            f"{self.seeds} pairs of networks of {self.neurons:,} neurons, {tokens:,} tokens, "
            f"{self.draws} draws, {self.controls} controls a side"
        )


# 25,600 tokens: the ten networks of a comparison take 2 GB.
FULL = Scale(ModelConfig(d_mlp=1024), samples=400, steps=600, seeds=3)
QUICK = Scale(ModelConfig(), samples=250, steps=200, seeds=2)


class Compared(NamedTuple):
    """Two networks and controls of each: layer to activations ``[samples, sequence, neurons]``."""

    a: Layers
    b: Layers
    controls_a: list[Layers]
    controls_b: list[Layers]

    def correlate(self, scale: Scale) -> uf.CorrelationResult:
        """Matched ``best``, against the controls."""
        return uf.correlate(
            self.a,
            self.b,
            match="best",
            draws=scale.draws,
            controls_a=self.controls_a,
            controls_b=self.controls_b,
        )


# ---- networks that share nothing they learned ---------------------------------------------------


@cache
def trained(
    scale: Scale, data: str, seed: int, sparsity: float = 0.0, bias: float = 0.0
) -> TrainedModel:
    """A network trained on a corpus; on ``""``, one that took no step. Read on ``docs``.

    ``bias`` is added to that of every neuron.
    """
    options = TrainingOptions(
        steps=scale.steps if data else 1,
        learning_rate=TrainingOptions.learning_rate if data else 0,
        sparsity=sparsity,
        test_samples=scale.samples,
    )
    model = train(scale.config, data or "docs", seed, default_half(seed), options)
    state = {
        name: value + bias if name.endswith("mlp.up.bias") else value
        for name, value in model.state.items()
    }
    return dataclasses.replace(model, data="docs", state=state)


def networks(a: TrainedModel, b: TrainedModel, scale: Scale) -> Compared:
    """After the ReLU, with rate-matched controls."""

    def controls(model: TrainedModel) -> list[Layers]:
        return [capture_mlp(uf.control(model, k), "post") for k in range(scale.controls)]

    return Compared(capture_mlp(a, "post"), capture_mlp(b, "post"), controls(a), controls(b))


def untrained(scale: Scale, seed: int) -> Compared:
    """Neither network took a step; a bias of -1 makes their neurons fire on a few tokens."""
    first, second = (trained(scale, "", 2 * seed + side, bias=-1.0) for side in (1, 2))
    return networks(first, second, scale)


def text_and_random(scale: Scale, seed: int) -> Compared:
    """One learned a text; the other, tokens without any order, of which nothing can be learned.

    A penalty on active neurons leaves those of the text sparse; of the other it would leave none.
    """
    text = trained(scale, "docs", 2 * seed + 1, SPARSITY)
    return networks(text, trained(scale, "random", 2 * seed + 2), scale)


def in_arrays(model: Callable[[torch.Generator], Tensor], scale: Scale, seed: int) -> Compared:
    """A, B and their controls are all the same: ``model`` of a generator of each one's own.

    ``model`` gives ``[tokens, neurons]``.
    """

    def layer(number: int) -> Layers:
        g = torch.Generator().manual_seed(1_000 * seed + number)
        return {"layer": model(g).unflatten(0, (scale.samples, scale.config.sequence))}

    a, b, *controls = (layer(number) for number in range(2 + 2 * scale.controls))
    return Compared(a, b, controls[: scale.controls], controls[scale.controls :])


def _text(scale: Scale, seed: int) -> torch.Generator:
    """Of what all networks of a comparison read: another stream than that of any network."""
    return torch.Generator().manual_seed(1_000 * seed + 999)


def token_codes(scale: Scale, seed: int) -> Compared:
    """Each neuron follows one token, chosen at random: a few follow the same one in A and in B."""
    vocabulary, tokens = 20 * scale.neurons, scale.samples * scale.config.sequence
    read = torch.randint(vocabulary, (tokens,), generator=_text(scale, seed))

    def model(g: torch.Generator) -> Tensor:
        own = torch.randint(vocabulary, (scale.neurons,), generator=g)
        fires = read[:, None] == own
        return fires * (1 + 0.3 * torch.randn(fires.shape, generator=g)).relu()

    return in_arrays(model, scale, seed)


def position_and_drift(scale: Scale, seed: int) -> Compared:
    """ReLU of a wave over the positions of a sample, and of four slow drifts over the text."""
    sequence, tokens = scale.config.sequence, scale.samples * scale.config.sequence
    angle = torch.arange(sequence)[:, None] / sequence * 2 * math.pi * torch.arange(1, 5)
    waves = torch.cat([angle.sin(), angle.cos()], dim=1).repeat(scale.samples, 1)
    drift = autoregressive(torch.randn(tokens, 4, generator=_text(scale, seed)), 0.999)
    return _shared(torch.cat([waves * math.sqrt(2), drift], dim=1), -2.0, 0.1, scale, seed)


def shared_rank(scale: Scale, seed: int) -> Compared:
    """ReLU of 8 factors common to both, with loadings and some noise of each neuron's own."""
    tokens = scale.samples * scale.config.sequence
    factors = torch.randn(tokens, 8, generator=_text(scale, seed))
    return _shared(factors, -2.5, 0.1, scale, seed)


def _shared(factors: Tensor, bias: float, noise: float, scale: Scale, seed: int) -> Compared:
    """ReLU of factors ``[tokens, factors]``, of variance 1, noise (a share of it) and a bias."""
    many = factors.shape[1]

    def model(g: torch.Generator) -> Tensor:
        loadings = torch.randn(many, scale.neurons, generator=g) / math.sqrt(many)
        own = torch.randn(len(factors), scale.neurons, generator=g)
        return (math.sqrt(1 - noise) * factors @ loadings + math.sqrt(noise) * own + bias).relu()

    return in_arrays(model, scale, seed)


KINDS: Mapping[str, Callable[[Scale, int], Compared]] = {
    "both untrained, bias -1": untrained,
    "trained on text, on random tokens": text_and_random,
    "independent codes of one token each": token_codes,
    "position and slow drift alone": position_and_drift,
    "8 shared factors, bias -2.5": shared_rank,
}


# ---- what both have -----------------------------------------------------------------------------


class Pairs(NamedTuple):
    """Networks with planted pairs.

    Attributes:
        compared: the networks, and controls that have none of the pairs.
        r: that neurons of A have with their partners in B, ``[neurons]``; 0 without one.
    """

    compared: Compared
    r: Tensor


def planted(scale: Scale, seed: int, each: int = 10) -> Pairs:
    """Pairs in a trained and in an untrained network, ``each`` at each r of `PLANTED`.

    The partner is a mixture of the neuron and of the one whose place in B it takes. It is in the
    layer of the same name, and both are live.
    """
    data = networks(
        trained(scale, "docs", 2 * seed + 1, SPARSITY),
        trained(scale, "", 2 * seed + 2),
        scale,
    )
    g = torch.Generator().manual_seed(seed)
    width = scale.config.d_mlp
    known = []
    wanted = torch.tensor(PLANTED).repeat_interleave(each)
    for layer, part in zip(data.a, wanted.tensor_split(scale.config.layers), strict=True):
        a, b = (model[layer].flatten(0, 1).double() for model in (data.a, data.b))
        live_a, live_b = ((x.std(dim=0) > 0).nonzero()[:, 0] for x in (a, b))
        own = live_a[torch.randperm(len(live_a), generator=g)[: len(part)]]
        other = live_b[torch.randperm(len(live_b), generator=g)[: len(part)]]
        mine, theirs = ((x - x.mean(dim=0)) / x.std(dim=0) for x in (a[:, own], b[:, other]))
        theirs -= mine * (mine * theirs).mean(dim=0)  # so that r is as planned, and no more
        theirs /= theirs.std(dim=0)
        mixed = part * mine + (1 - part.double() ** 2).sqrt() * theirs
        data.b[layer][..., other] = mixed.float().view(*data.b[layer].shape[:-1], -1)
        known.append(torch.zeros(width).index_put_((own,), part))
    return Pairs(data, torch.cat(known))


class Found(NamedTuple):
    """What is said of planted pairs.

    Attributes:
        recall: of the planted neurons, the share that exceeds controls by 0.3, at each r of
            `PLANTED`.
        learned: the same share of those that are learned, which needs an excess above 0.5 too.
        by_control: neurons that are flagged with a control, the larger of both sides' means.
        false: neurons that are learned without a partner.
    """

    recall: list[float]
    learned: list[float]
    by_control: float
    false: int


def find_planted(pairs: Pairs, scale: Scale) -> Found:
    """What controls let pass, matched ``best``."""
    r = pairs.r
    result = pairs.compared.correlate(scale)
    counts = result.summary["controls"]
    at = [r == torch.tensor(one) for one in PLANTED]
    sides = (torch.tensor(counts[side]).double() for side in ("flagged_a", "flagged_b"))
    return Found(
        [float((result.excess_control[one] > 0.3).double().mean()) for one in at],
        [float(result.learned[one].double().mean()) for one in at],
        max(float(side.mean()) for side in sides),
        int((result.learned & (r == 0)).sum()),
    )


# ---- intervals ----------------------------------------------------------------------------------


def autoregressive(innovations: Tensor, rho: float) -> Tensor:
    """Streams of variance 1 and a lag-one correlation of ``rho``, ``[tokens, streams]``.

    Args:
        innovations: independent, of variance 1, of the same shape.
        rho: below 1.
    """
    x = innovations * math.sqrt(1 - rho**2)
    x[0] = innovations[0]  # stationary from the first token on
    for t in range(1, len(x)):
        x[t] += rho * x[t - 1]
    return x


class Coverage(NamedTuple):
    """Shares of 95 % intervals that hold the true r: the product's, and those of Fisher's z that
    take every token for an independent one."""

    jackknife: float
    naive: float


def coverage(rho: float, neurons: int, samples: int, sequence: int = 64, seed: int = 0) -> Coverage:
    """Of pairs by index, whose true r are spread evenly over 0 to 0.8."""
    g = torch.Generator().manual_seed(seed)
    true = torch.linspace(0, 0.8, neurons)
    noise = torch.randn(2, samples * sequence, neurons, generator=g)
    a = autoregressive(noise[0], rho)
    b = autoregressive(true * noise[0] + (1 - true**2).sqrt() * noise[1], rho)
    a, b = (x.view(samples, sequence, neurons) for x in (a, b))
    result = uf.correlate(a, b, match="index", rotation="none", details=True)
    within = (result.correlation_low <= true) & (true <= result.correlation_high)
    z, error = result.correlation.atanh(), 1 / math.sqrt(samples * sequence - 3)
    naive = (z - true.atanh()).abs() <= 1.96 * error
    return Coverage(float(within.double().mean()), float(naive.double().mean()))


# ---- rows ---------------------------------------------------------------------------------------

NOTHING_LEARNED = [
    "nothing learned by both",
    "universal",
    "by chance",
    "more than chance (wrong)",
    "by control",
    "more than controls (wrong)",
    "learned (wrong)",
    "learned by control",
]
RECALL = [
    "planted pairs, against controls",
    *(f"r = {r}" for r in PLANTED),
    "by control",
    "learned without a partner",
]
INTERVALS = ["95% intervals that hold the true r", "jackknife", "naive"]


def more_than_chance(result: uf.CorrelationResult, threshold: float = 0.5) -> bool:
    """What rotations alone would say, by the rule that is used for controls.

    More than by chance by three times the root of the draws' variance, of the chance count, or
    of 1, whichever is largest.
    """
    assert result.null_excess is not None
    flagged = (result.null_excess > threshold).sum(dim=1).double()
    chance = float(flagged.mean())
    margin = 3 * math.sqrt(max(float(flagged.var()), chance, 1))
    return int(result.universal.sum()) > chance + margin


def nothing_learned_rows(scale: Scale) -> Iterator[list[str]]:
    for name, make in KINDS.items():
        results = [make(scale, seed).correlate(scale) for seed in range(scale.seeds)]
        summaries = [result.summary for result in results]

        def mean(values: list[float]) -> float:
            return sum(values) / len(values)

        yield [
            name,
            f"{mean([int(result.universal.sum()) for result in results]):.1f}",
            f"{mean([result.summary['universal_by_chance'] for result in results]):.1f}",
            f"{mean([more_than_chance(result) for result in results]):.0%}",
            f"{mean([one['universal_by_control'] for one in summaries]):.1f}",
            f"{mean([one['controls']['more_than_controls'] for one in summaries]):.0%}",
            f"{mean([one['learned'] for one in summaries]):.1f}",
            f"{mean([one['learned_by_control'] for one in summaries]):.1f}",
        ]


def recall_rows(scale: Scale) -> Iterator[list[str]]:
    found = torch.tensor(
        [
            [*one.recall, *one.learned, one.by_control, one.false]
            for one in (find_planted(planted(scale, seed), scale) for seed in range(scale.seeds))
        ]
    ).mean(dim=0)
    recall, learned, counts = found.tensor_split((len(PLANTED), 2 * len(PLANTED)))
    ends = [f"{count:.1f}" for count in counts]
    yield ["r exceeds controls by 0.3", *(f"{share:.0%}" for share in recall), *ends]
    yield ["learned", *(f"{share:.0%}" for share in learned), *ends]


def interval_rows(neurons: int, samples: int) -> Iterator[list[str]]:
    for rho in RHOS:
        found = coverage(rho, neurons, samples)
        yield [f"tokens of lag-one correlation {rho}", *(f"{share:.1%}" for share in found)]
