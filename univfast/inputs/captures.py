"""The directories that `univfast capture` wrote: their shards, and which tokens these hold."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import count as count_from
from typing import Any

import torch

from univfast.errors import InputError
from univfast.inputs.formats import read_array
from univfast.inputs.layers import Activations
from univfast.machine.reading import read_json

__all__ = [
    "PLACES",
    "SHARD",
    "TOKENS",
    "about_capture",
    "captured_files",
    "captured_tokens",
    "check_captured",
]

SHARD = "shard-{:05}.safetensors"
"""A file of a capture, by its number."""

TOKENS = "tokens.npy"
"""Which tokens a capture is of: their ids."""

PLACES = "places.npy"
"""The numbers of these tokens in the text as it was read, where some are left out."""

_AGAIN = "run the same `univfast capture` command again"

# Of ``capture.json``, what is read here; of what else it says, `check_sources` compares these.
_COUNTS = ("shards", "tokens")
_TEXTS = ("text", "kept", "positions")


def about_capture(path: str) -> Mapping[str, Any]:
    """What `univfast capture` says of what it wrote; empty where it wrote nothing.

    Raises:
        InputError: it is damaged.
    """
    file = os.path.join(path, "capture.json")
    if not os.path.lexists(file):
        return {}
    capture = read_json(file, _AGAIN)
    if capture.get("format") != "univfast-capture":
        return {}
    counts = all(type(n := capture.get(name)) is int and n > 0 for name in _COUNTS)
    texts = all(isinstance(capture.get(name), (str, type(None))) for name in _TEXTS)
    skip = capture.get("skip") or []
    if not (counts and texts and isinstance(skip, list) and all(isinstance(x, str) for x in skip)):
        raise InputError(f"{path}: its capture.json is damaged; {_AGAIN}")
    return capture


def captured_files(path: str, capture: Mapping[str, Any], names: list[str]) -> list[str]:
    """The shards of a capture among the names in its directory.

    Raises:
        InputError: one is missing.
    """
    there, count = {*names}, capture["shards"]
    # Looked for among the files that there are, however many there should be.
    missing = next(name for number in count_from(0) if (name := SHARD.format(number)) not in there)
    shards = [SHARD.format(number) for number in range(min(count, len(there)))]
    if len(shards) < count or not there.issuperset(shards):
        raise InputError(
            f"{path}: the capture is incomplete, {len(there.intersection(shards))} of {count} "
            f"shards are there, {missing} is not; {_AGAIN}"
        )
    return shards


def check_captured(found: Activations, capture: Mapping[str, Any]) -> None:
    """Refuses shards of other tokens than the capture has."""
    for layer in found.layers.values():
        if layer.tokens != capture["tokens"]:
            raise InputError(
                f"{found.name}: its shards hold {layer.tokens} tokens of layer {layer.name!r}, "
                f"capture.json says {capture['tokens']}; {_AGAIN}"
            )


def captured_tokens(path: str, capture: Mapping[str, Any]) -> dict[str, Any]:
    """Which tokens a capture is of, and their samples or places, as `Activations` has them."""
    ids = _of_each_token(path, TOKENS, torch.int32, capture)
    context = capture.get("context")
    if ids is None or type(context) is not int or context < 1:  # one of before
        return {}
    if capture.get("kept") is None:
        return {"ids": ids, "window": context}
    numbers = _of_each_token(path, PLACES, torch.int64, capture)
    if numbers is None:
        return {}
    if bool((numbers < 0).any()) or bool((numbers.diff() < 1).any()):
        raise _damaged(os.path.join(path, PLACES))
    return {"ids": ids, "places": torch.stack([numbers // context, numbers % context], dim=1)}


def _of_each_token(
    path: str, name: str, dtype: torch.dtype, capture: Mapping[str, Any]
) -> torch.Tensor | None:
    """A number of each token of a capture, int64; None where there is no such file."""
    file = os.path.join(path, name)
    if not os.path.lexists(file):
        return None
    found = read_array(file, "tokens").tensor().clone()
    if found.dtype != dtype or found.shape != (capture["tokens"],):
        raise _damaged(file)
    return found.long()


def _damaged(file: str) -> InputError:
    return InputError(f"{file}: is damaged, it does not hold the tokens of the capture; {_AGAIN}")
