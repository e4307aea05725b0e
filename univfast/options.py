"""What `correlate` is asked for."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import torch

from univfast.checks import as_number, check_choice, plain_text
from univfast.chunks import PRECISIONS
from univfast.devices import as_device
from univfast.errors import InputError
from univfast.rotations import RotationOptions
from univfast.searches import ALL_PAIRS, PairOptions

__all__ = ["MATCHES", "Options"]

MATCHES = ("index", *ALL_PAIRS)


@dataclass(frozen=True, kw_only=True)
class Options:
    """How models are correlated: the arguments of `correlate`, which says what each means.

    Raises:
        InputError: an option that cannot be.
        TypeError: one of a type that cannot be used.
    """

    match: str = "index"
    rotation: str = "hadamard"
    draws: int = 5
    seed: int = 0
    threshold: float = 0.5
    mask: object | None = None
    layers: str | None = None
    top_k: int = 10
    exclude_self: bool = False
    reverse: bool = False
    memory_limit: float | None = None
    device: str | torch.device | None = None
    precision: str = "float32"
    threads: int | None = None
    checkpoint: str | os.PathLike[str] | None = None
    checkpoint_every: float = 60.0
    # Those of a search over all pairs.
    pairs: PairOptions = field(init=False)

    def __post_init__(self) -> None:
        check_choice("match", self.match, MATCHES)
        check_choice("precision", self.precision, PRECISIONS)
        as_device(self.device)
        object.__setattr__(self, "threshold", as_number("threshold", self.threshold))
        rotation = RotationOptions(self.rotation, self.draws, self.seed)
        pairs = PairOptions(rotation, self.top_k, bool(self.exclude_self), bool(self.reverse))
        object.__setattr__(self, "pairs", pairs)
        if self.match == "index" and (self.exclude_self or self.reverse):
            raise InputError("match: 'index' has no exclude_self and no reverse; use match='best'")
        if self.memory_limit is not None:
            as_number("memory_limit", self.memory_limit, 0)
        as_number("checkpoint_every", self.checkpoint_every, 0)

    def identity(self) -> dict[str, Any]:
        """What decides on the sums that are taken, as plain values."""
        search = {
            "top_k": self.pairs.top_k,
            "exclude_self": self.pairs.exclude_self,
            "reverse": self.pairs.reverse,
        }
        return {
            "match": plain_text(self.match),
            "rotation": self.pairs.rotation.kind,
            "draws": self.pairs.rotation.draws,
            "seed": self.pairs.rotation.seed,
            "precision": plain_text(self.precision),
            **({} if self.match == "index" else search),
        }
