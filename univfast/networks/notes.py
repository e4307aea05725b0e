"""What is to be said of networks that run side by side, and of their hooks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import nn

from univfast.networks.globs import nested
from univfast.networks.sharing import shared_parameters

__all__ = ["Hooked", "notes"]


class Hooked(Protocol):
    """A network, its hooks, and the layers that they match."""

    @property
    def name(self) -> str: ...
    @property
    def module(self) -> nn.Module: ...
    @property
    def hooks(self) -> str | Sequence[str]: ...
    @property
    def layers(self) -> Sequence[str]: ...


def notes(real: Sequence[Hooked], controls: Sequence[Hooked] = ()) -> list[str]:
    """What may not be meant: networks that are partly one, patterns that match too much.

    A model with itself is meant.
    """
    found = []
    for i, one in enumerate(real):
        for other in (*real[i + 1 :], *controls):
            found += shared_parameters(one.module, other.module, (one.name, other.name))
        found += nested(one.layers, one.hooks)
    return list(dict.fromkeys(found))
