"""States as they are saved: plain values and tensors, refused by name where they do not fit."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Size, Tensor

from univfast.checks import check_options, shown
from univfast.errors import InputError
from univfast.machine.digests import DIGEST, sealed, tensor_problem, unsealed

__all__ = [
    "MOST_TOKENS",
    "StateFormat",
    "check_count",
    "check_fields",
    "check_range",
    "check_tensor",
    "check_total",
    "refused",
]

MOST_TOKENS = 1 << 53
"""Of a state: so many float64 counts exactly."""

_CUT = "was the state cut or edited?"


@dataclass(frozen=True)
class StateFormat:
    """What an accumulator's states are marked with.

    Attributes:
        name: of the format.
        owner: the class whose states they are.
        version: that is written, which has a digest.
        older: versions that are read too, which have none.
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
            "options": copy.deepcopy(dict(options)),
            "tokens": tokens,
        }

    def seal(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """A state with its digest, as users get it."""
        return sealed(state)

    def check_seal(self, state: Mapping[str, Any]) -> None:
        """Refuses a state that is not as `seal` gave it; but older versions had no digest.

        Raises:
            InputError: it is damaged, or was edited.
        """
        if state["version"] == self.version or DIGEST in state:
            problem = unsealed(state)
            if problem is not None:
                raise refused(f"this is not the state that was saved ({problem})")

    def check(self, state: object, options: Mapping[str, Any]) -> int:
        """The number of tokens in a state.

        Raises:
            InputError: it is none of this format, of another version, of other options, or damaged.
            TypeError: no dict.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"load_state_dict: expected a dict, got {type(state).__name__}")
        readable = (*self.older, self.version)
        name, version = state.get("format"), state.get("version")
        known = type(name) is str and type(version) is int
        if not known or name != self.name or version not in readable:
            raise InputError(
                f"load_state_dict: not a state of {self.owner} of version"
                f" {' or '.join(map(str, readable))} (format {shown(name)}, version"
                f" {shown(version)}); accumulate it again"
            )
        found = state.get("options")
        check_options(found if isinstance(found, Mapping) else {}, options, "load_state_dict")
        return check_count("tokens", state.get("tokens"))


def refused(what: str) -> InputError:
    """The error for a state that no accumulator gave."""
    return InputError(f"load_state_dict: {what}; {_CUT}")


def check_tensor(
    name: str, found: object, shape: Size | tuple[int, ...], dtype: torch.dtype = torch.float64
) -> Tensor:
    """A tensor of a state, if it is one of this shape and dtype.

    Raises:
        InputError: it is not, or is no plain memory.
    """
    if not isinstance(found, Tensor) or found.shape != shape:
        raise refused(f"{name} is missing or not of shape {list(shape)}")
    if found.dtype != dtype:
        wanted, got = (str(x).removeprefix("torch.") for x in (dtype, found.dtype))
        raise refused(f"{name} is {got}, expected {wanted}")
    problem = tensor_problem(found)
    if problem is not None:
        raise refused(f"{name} {problem}")
    return found.detach()


def check_range(
    name: str, x: Tensor, low: float, high: float, absent: float | None = None
) -> Tensor:
    """``x``, where all of it is within the range or ``absent``.

    Raises:
        InputError: some of it is not. Infinity is within no range, NaN in none but as ``absent``.
    """
    fits = x.isfinite() & (x >= low) & (x <= high)
    if absent is not None:
        fits |= x.isnan() if absent != absent else x == absent
    if not bool(fits.all()):
        wrong = x[~fits].flatten()[0].item()
        raise refused(f"{name} holds {wrong!r}, which is not from {low} to {high}")
    return x


def check_count(name: str, value: object, low: int = 0, high: int = MOST_TOKENS) -> int:
    """``value``, where it is an int from ``low`` to ``high``.

    Raises:
        InputError: it is not.
    """
    if type(value) is not int or not low <= value <= high:
        raise refused(f"got {shown(value)} {name}, expected a number from {low} to {high}")
    return value


def check_fields(name: str, found: object, fields: Collection[str]) -> Mapping[str, Any]:
    """``found``, where it is a dict of just these entries.

    Raises:
        InputError: it is not.
    """
    if not isinstance(found, Mapping) or set(found) != set(fields):
        raise refused(f"{name} has not the entries {', '.join(fields)}")
    return found


def check_total(what: str, tokens: int) -> int:
    """The tokens of several states together.

    Raises:
        InputError: they are too many to be counted.
    """
    if tokens > MOST_TOKENS:
        raise InputError(
            f"{what}: {tokens} tokens are together more than 2**53, which no sum can hold; are the"
            " states of real runs?"
        )
    return tokens
