"""Which models are compared with which, on which tokens: the real ones, then their controls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from univfast.errors import InputError
from univfast.inputs.layers import LONE_LAYER, Activations, Layer
from univfast.inputs.layout import Layout
from univfast.inputs.pairing import all_layers, check_sources, match_layers

__all__ = ["Comparison", "Lineup", "Round", "line_up"]


@dataclass(frozen=True)
class Comparison:
    """The neurons of one model, matched in another; both by their number in the `Lineup`."""

    first: int
    second: int


@dataclass(frozen=True)
class Round:
    """Comparisons that are made together.

    Attributes:
        tokens: the first so many.
        real: A with each other model.
        a: the control of A with each other model.
        b: A with the control of each other model.
        both: the control of A with that of each other model.
    """

    tokens: int
    real: tuple[Comparison, ...] = ()
    a: tuple[Comparison, ...] = ()
    b: tuple[Comparison, ...] = ()
    both: tuple[Comparison, ...] = ()

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        return (*self.real, *self.a, *self.b, *self.both)


@dataclass(frozen=True)
class Lineup:
    """All models of a task: A, the others, and then their controls.

    Attributes:
        models: where they come from.
        layers: of each, those that are compared.
        rounds: the real comparisons, then those of each control.
        named: what each is called where two runs are told apart.
    """

    models: list[Activations]
    layers: list[list[Layer]]
    rounds: list[Round]
    named: list[str] = field(default_factory=list)

    def comparisons(self) -> Iterator[tuple[int, Round, Comparison]]:
        """All of them, each with its number and its round."""
        number = 0
        for one in self.rounds:
            for comparison in one.comparisons:
                yield number, one, comparison
                number += 1

    def searched(self, direction: int) -> list[tuple[str, list[Layer]]]:
        """The real models that A is compared with (0), or A (1): their names and layers."""
        numbers = [0] if direction else [one.second for one in self.rounds[0].real]
        return [(self.models[i].name, self.layers[i]) for i in numbers]

    def layout(self, model: int) -> Layout:
        """The layers of a model."""
        return Layout.of(self.layers[model])


def line_up(
    real: Sequence[Activations],
    controls_a: Sequence[Activations],
    controls_b: Sequence[Sequence[Activations]],
    pattern: str | None,
    all_pairs: bool,
    control_tokens: int,
) -> Lineup:
    """The models and rounds of a task.

    Args:
        real: A and the others.
        controls_a: of A; none, or as many as each other model has.
        controls_b: of each other model; none, or as many of each.
        pattern: glob pattern of the layers to use; None for all.
        all_pairs: whether neurons are searched in all layers of the others.
        control_tokens: tokens that controls are run on, at most.

    Raises:
        InputError: models, or a model and its control, that do not go together.
    """
    a, *others = real
    if all_pairs:
        chosen = [all_layers(a, b, pattern) for b in others]
        layers = [chosen[0][0], *(theirs for _, theirs in chosen)]
    else:
        pairs = [match_layers(a, b, pattern) for b in others]
        layers = [[x for x, _ in pairs[0]], *([y for _, y in found] for found in pairs)]
    tokens = layers[0][0].tokens
    first_tokens = min(tokens, control_tokens)
    models = list(real)
    named = ["A", *("B" if i == 1 else f"model {i + 1}" for i in range(1, len(real)))]
    count = _check_counts(controls_a, controls_b)

    def add(control: Activations, model: int, number: int) -> int:
        models.append(control)
        layers.append(_control_layers(real[model], layers[model], control, first_tokens))
        named.append(f"control {number + 1} of {named[model]}")
        return len(models) - 1

    real_pairs = tuple(Comparison(0, i) for i in range(1, len(real)))
    rounds = [Round(tokens, real_pairs)]
    for k in range(count):
        own = add(controls_a[k], 0, k) if controls_a else None
        theirs = [add(of_one[k], i + 1, k) for i, of_one in enumerate(controls_b)]
        rounds.append(
            Round(
                first_tokens,
                real_pairs if k == 0 and first_tokens < tokens else (),
                () if own is None else tuple(Comparison(own, i) for i in range(1, len(real))),
                tuple(Comparison(0, i) for i in theirs),
                () if own is None else tuple(Comparison(own, i) for i in theirs),
            )
        )
    return Lineup(models, layers, rounds, named)


def _check_counts(
    controls_a: Sequence[Activations], controls_b: Sequence[Sequence[Activations]]
) -> int:
    """How many controls each model has.

    Raises:
        InputError: some have more than others.
    """
    counts = [*([len(controls_a)] if controls_a else []), *(len(of_one) for of_one in controls_b)]
    if len(set(counts)) > 1:
        raise InputError(
            "controls_a and controls_b: the models have"
            f" {', '.join(map(str, counts[:-1]))} and {counts[-1]} controls; give as many of each"
        )
    return counts[0] if counts else 0


def _control_layers(
    model: Activations, layers: Sequence[Layer], control: Activations, first_tokens: int
) -> list[Layer]:
    """The layers of a control that stand for those of its model.

    Raises:
        InputError: it is of another architecture, or was run on other tokens.
    """
    check_sources(model, control)
    found = []
    lone = len(layers) == len(control.layers) == 1
    for layer in layers:
        named = control.layers.get(layer.name)
        if named is None and lone:
            (only,) = control.layers.values()
            named = only if LONE_LAYER in (layer.name, only.name) else None
        if named is None:
            raise InputError(
                f"{control.name}: has no layer {layer.name!r}, as {model.name} has; a control is a"
                " network of the same architecture"
            )
        if named.neurons != layer.neurons:
            raise InputError(
                f"{control.name}: layer {layer.name!r} has {named.neurons} neurons, that of"
                f" {model.name} has {layer.neurons}; a control is a network of the same"
                " architecture"
            )
        same = tuple(named.shape[:-1]) == tuple(layer.shape[:-1]) or named.tokens == layer.tokens
        if not same and named.tokens != first_tokens:
            raise InputError(
                f"{control.name}: layer {layer.name!r} has {named.tokens} tokens, that of"
                f" {model.name} has {layer.tokens}; run the control on the same tokens, or on the"
                f" first {first_tokens} of them"
            )
        found.append(named)
    return found
