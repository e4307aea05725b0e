"""States as they are saved: plain values and tensors, refused by name where they do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Size, Tensor

from univfast.checks import check_options
from univfast.errors import InputError
from univfast.inputs.plain import plain_tensor

__all__ = ["StateFormat", "check_tensor"]

_CUT = "was the state cut or edited?"


@dataclass(frozen=True)
class StateFormat:
    """What an accumulator's states are marked with.

    Attributes:
        name: of the format.
        owner: the class whose states they are.
        version: that is written.
        older: versions that are read too.
    """

    name: str
    owner: str
    version: int
    older: tuple[int, ...] = ()

    def mark(self, options: Mapping[str, Any], tokens: int) -> dict[str, Any]:
        """What a state says beside its tensors."""
        return {
            "format": self.name,
            "version": self.version,
            "options": dict(options),
            "tokens": tokens,
        }

    def check(self, state: object, options: Mapping[str, Any]) -> int:
        """The number of tokens in a state.

        Raises:
            InputError: it is none of this format, of another version, of other options, or damaged.
            TypeError: no dict.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"load_state_dict: expected a dict, got {type(state).__name__}")
        readable = (*self.older, self.version)
        if state.get("format") != self.name or state.get("version") not in readable:
            raise InputError(
                f"load_state_dict: not a state of {self.owner} of version"
                f" {' or '.join(map(str, readable))} (format {state.get('format')!r}, version"
                f" {state.get('version')!r}); accumulate it again"
            )
        found = state.get("options")
        check_options(found if isinstance(found, Mapping) else {}, options, "load_state_dict")
        tokens = state.get("tokens")
        if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 0:
            raise InputError(f"load_state_dict: got {tokens!r} tokens, expected a number; {_CUT}")
        return tokens


def check_tensor(name: str, found: object, shape: Size) -> Tensor:
    """A tensor of a state, if it is one of this shape.

    Raises:
        InputError: it is not.
    """
    if not isinstance(found, Tensor) or found.shape != shape:
        raise InputError(
            f"load_state_dict: {name} is missing or not of shape {list(shape)}; {_CUT}"
        )
    return plain_tensor(found, f"load_state_dict: {name}")
