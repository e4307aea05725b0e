"""`ablate`: what a language model loses without some of its neurons."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from univfast.ablation.ablation_passes import Guard, Passes, Text
from univfast.ablation.ablation_result import AblationResult, Group, Single
from univfast.ablation.ablation_sets import Planned, likeness, plan, sets_of
from univfast.ablation.activity import Activity
from univfast.ablation.choosing import choose, paired
from univfast.ablation.effects import Effect
from univfast.checks import as_integer, as_seed
from univfast.feeding import BatchProgress, evaluating
from univfast.hooks import Site, sites_of
from univfast.networks.calls import given_to
from univfast.networks.wrapping import network_of
from univfast.result import CorrelationResult

__all__ = ["MEAN_TOKENS", "Neurons", "Wanted", "ablate", "measure"]

MEAN_TOKENS = 262_144
"""Tokens, by default, that means are of."""

Neurons = CorrelationResult | Mapping[str, Iterable[int]]

_MOST_SETS = 10_000


@dataclass(frozen=True)
class Wanted:
    """What is asked for; `ablate` says what each is.

    Raises:
        InputError: a number is out of range.
        TypeError: one is no integer.
    """

    layers: Sequence[str] | None = None
    learned: bool = False
    top: int = 10
    repeats: int = 5
    seed: int = 0
    mean_tokens: int = MEAN_TOKENS

    def __post_init__(self) -> None:
        as_integer("top", self.top, 0)
        as_integer("repeats", self.repeats, 0, _MOST_SETS)
        as_seed(self.seed)
        as_integer("mean_tokens", self.mean_tokens, 1)


def ablate(
    model: nn.Module,
    batches: Iterable[Any],
    hooks: str | Sequence[str],
    neurons: CorrelationResult | Mapping[str, Iterable[int]],
    *,
    layers: Sequence[str] | None = None,
    learned: bool = False,
    top: int = 10,
    repeats: int = 5,
    seed: int = 0,
    mean_tokens: int = MEAN_TOKENS,
    inputs: Callable[[Any], Any] | None = None,
    mask: Callable[[Any], object] | Iterable[object] | None = None,
    name: str = "model",
    progress: BatchProgress | None = None,
) -> AblationResult:
    """What a causal language model loses with some neurons set to their means.

    Loss is the mean cross-entropy of the next token, in nats; beside how much it rises stands
    ``KL(whole || without)``, how far predictions move. Both are measured without all flagged
    neurons of each layer, of all layers together, and without the most notable one at a time; and
    without random neurons of like activity in their place (`univfast.ablation.alike`). A neuron is
    set to its mean on every token, so that it tells nothing. Intervals are of 95%, over documents
    (`univfast.ablation.effects`). ``docs/ablation.md`` has the definitions.

    ``uf.ablate(model, batches, "transformer.h.*.mlp.act", result).sentences()``

    Args:
        model: a causal language model, which gives logits ``[samples, length, vocabulary]``: a
            tensor, or in what has ``logits``. It runs in evaluation mode, without gradients, and is
            left as it was.
        batches: what the model takes, as `correlate_models` takes batches: each with token ids
            ``[samples, length]``, of which each sample is a document. They are gone through twice:
            a list, or a `DataLoader`, and no iterator.
        hooks: glob patterns of the layers' modules, as `capture` takes them, with ``:input`` for
            what a module is given. Layers are told by name; or by the one number in the name, where
            no layer of the result is called as a module.
        neurons: a result, whose universal neurons of A are taken out; or numbers by layer, of which
            those that come first are taken out one at a time.
        layers: take them out of these layers alone; None for all that have some.
        learned: of a result with controls, take out those that are learned; random sets have no
            universal one either.
        top: how many are taken out one at a time: those with the largest excess.
        repeats: random sets, of each layer; 0 for none.
        seed: of the random sets.
        mean_tokens: means, and how active neurons are, are of the first so many tokens that count.
        inputs: of each of ``batches`` gives the batch, as `correlate_models` takes it.
        mask: the tokens that count, as `correlate_models` takes them. The next token of one that
            counts is predicted where it is in the same sample and neither is padding.
        name: what to call the model.
        progress: called with the number of batches done and of all, over all runs of the model.

    Raises:
        InputError: hooks that match nothing, or that are not the layers of the neurons; no neurons;
            batches without tokens, or that can be gone through only once; a model that is no causal
            language model, or whose values are not finite.
        TypeError: an argument of a type that cannot be used.
    """
    wanted = Wanted(layers, learned, top, repeats, seed, mean_tokens)
    text = Text(given_to(batches, inputs), mask)
    return measure(network_of(model), text, hooks, neurons, wanted, name, progress)


def measure(
    model: nn.Module,
    text: Text,
    hooks: str | Sequence[str],
    neurons: Neurons,
    wanted: Wanted,
    name: str,
    progress: BatchProgress | None,
    guard: Guard = nullcontext,
) -> AblationResult:
    """What `ablate` gives; each run of the model on so many tokens is in a block of ``guard``'s."""
    chosen = choose(neurons, wanted.layers, wanted.learned)
    singles = chosen.ranked[: wanted.top]
    places = paired(chosen, sites_of(model, hooks))
    several = len(chosen.flagged) > 1
    number = (len(chosen.flagged) + several) * (1 + wanted.repeats) + len(singles)
    passes = Passes(model, text, places, number, guard, progress)
    with evaluating(model=model):
        passes.check()
        activities = passes.activities(wanted.mean_tokens)
        groups = plan(chosen, activities, wanted.repeats, wanted.seed)
        sets = sets_of(groups, singles, activities)
        effects = passes.effects(sets, [len(group.random) for group in groups])
    of_singles = effects[len(effects) - len(singles) :]
    return AblationResult(
        model=name,
        word=chosen.word,
        documents=passes.documents,
        tokens=passes.tokens,
        mean_tokens=max(activity.tokens for activity in activities.values()),
        loss=effects[0].loss,
        groups=_groups(groups, effects[1:], places, activities),
        singles=[Single(*one, effect) for one, effect in zip(singles, of_singles, strict=True)],
        settings=asdict(wanted),
    )


def _groups(
    groups: Sequence[Planned],
    effects: Sequence[Effect],
    places: Mapping[str, Site],
    activities: Mapping[str, Activity],
) -> list[Group]:
    """What was found of each group; effects stand as `Passes.effects` gives them."""
    found, place = [], 0
    for planned in groups:
        sets = len(planned.random)
        of_sets = effects[place : place + 1 + sets]
        mean, difference = effects[place + 1 + sets : place + 3 + sets] if sets else (None, None)
        place += 1 + sets + (2 if sets else 0)
        found.append(
            Group(
                layers=list(planned.flagged),
                sites=[places[layer].layer for layer in planned.flagged],
                neurons=_numbers(planned.flagged),
                candidates=planned.candidates,
                effect=of_sets[0],
                drawn=[_numbers(one) for one in planned.random],
                random=list(of_sets[1:]),
                random_mean=mean,
                difference=difference,
                likeness=likeness(planned, activities),
            )
        )
    return found


def _numbers(neurons: Mapping[str, Tensor]) -> dict[str, list[int]]:
    return {layer: sorted(x.tolist()) for layer, x in neurons.items()}
