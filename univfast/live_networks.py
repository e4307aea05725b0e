"""The networks that `correlate_models` runs: the two models, and their controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import nn

from univfast.errors import InputError
from univfast.hooks import sites_of
from univfast.networks.globs import matched
from univfast.networks.wrapping import network_of
from univfast.options import ModelOptions

__all__ = ["Network", "by_argument", "controls_of", "networks"]


@dataclass(frozen=True, eq=False)
class Network:
    """A model that runs beside others, and where its activations are taken.

    Attributes:
        name: for errors.
        argument: of `correlate_models`, which it was given as.
        module: what runs.
        hooks: glob patterns of its layers.
        axis: of neurons, as `capture` takes it.
    """

    name: str
    argument: str
    module: nn.Module
    hooks: str | Sequence[str]
    axis: int | None

    @cached_property
    def layers(self) -> list[str]:
        """Those that the hooks match. Raises what `sites_of` does."""
        return [site.layer for site in sites_of(self.module, self.hooks)]

    def rows(self) -> list[dict[str, object]]:
        """What its hooks matched, for a summary."""
        found = matched(self.layers, self.hooks)
        return [{"model": self.name, **each.as_row()} for each in found]


def networks(
    names: Sequence[str],
    models: Sequence[nn.Module],
    hooks: Sequence[str | Sequence[str]],
    axis: int | None,
) -> list[Network]:
    """The two models.

    Raises:
        InputError: one cannot be hooked or run.
        TypeError: one is no module, or the names are not two texts.
    """
    if isinstance(names, str) or len(names) != 2 or not all(isinstance(x, str) for x in names):
        raise TypeError(f"names: expected those of both models, got {names!r}")
    arguments = ("model_a", "model_b")
    return [
        Network(name, argument, network_of(model, argument), patterns, axis)
        for name, argument, model, patterns in zip(names, arguments, models, hooks, strict=True)
    ]


def controls_of(real: Sequence[Network], options: ModelOptions) -> list[list[Network]]:
    """The controls of both models.

    Raises:
        InputError: more of one than of the other, or one cannot be hooked or run.
        TypeError: no modules.
    """
    sides = []
    for side, own in zip("ab", real, strict=True):
        name = f"controls_{side}"
        given: Any = options[name]  # type: ignore[literal-required]
        found = [] if given is None else [given] if isinstance(given, nn.Module) else given
        if not isinstance(found, (list, tuple)):
            kind = type(found).__name__
            raise TypeError(f"{name}: expected a list of torch.nn.Module, got {kind}")
        arguments = [f"{name}[{k}]" for k in range(len(found))]
        sides.append(
            [
                replace(
                    own,
                    name=f"{own.name} (control {k})",
                    argument=argument,
                    module=network_of(x, argument),
                )
                for k, (argument, x) in enumerate(zip(arguments, found, strict=True))
            ]
        )
    a, b = sides
    if a and b and len(a) != len(b):
        raise InputError(
            f"controls_a and controls_b: the models have {len(a)} and {len(b)} controls; give as"
            " many of each"
        )
    return sides


def by_argument(controls: Sequence[Sequence[Network]]) -> dict[str, nn.Module]:
    """The controls, each by what it was given as."""
    return {network.argument: network.module for side in controls for network in side}
