"""What searches found, as checkpoints have it: refused where no search could have found it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from univfast.checks import differ
from univfast.inputs.layout import Layout
from univfast.search.matches import LayerCorrelation, Matches
from univfast.sums.states import check_fields, check_range, check_tensor, refused

__all__ = ["check_found", "check_number", "correlations_from", "matches_from"]

# What each tensor of a search holds where nothing was found.
_ABSENT = {"same_r": torch.nan, "same_rotated": torch.nan, "same_shifted": torch.nan}


def check_number(name: str, found: object, number: int) -> Sequence[Any]:
    """``found``, where it is a list of so many.

    Raises:
        InputError: it is not.
    """
    if not isinstance(found, (list, tuple)) or len(found) != number:
        raise refused(f"it has not {number} {name}")
    return found


def check_found(
    found: object, own: Mapping[str, Tensor], matched: int, searched: int
) -> dict[str, Tensor]:
    """The tensors of a search by name, as ``own`` are, of so many neurons.

    Raises:
        InputError: no search gives these.
    """
    plain = check_fields("a search", found, own.keys())
    new = {name: check_tensor(name, plain[name], x.shape, x.dtype) for name, x in own.items()}
    for name, most in (("top", searched), ("back", matched)):
        _check_places(new[name], new[f"{name}_place"], most, -torch.inf)
    for name, x in new.items():
        if x.is_floating_point():
            check_range(name, x, -1, 1, _ABSENT.get(name, -torch.inf))
    return new


def matches_from(
    plain: object, matched: Layout, searched: Layout, top_k: int, draws: int
) -> Matches:
    """What ``vars`` of an assignment's matches gave.

    Raises:
        InputError: they are none.
    """
    found = check_fields("an assignment", plain, [field.name for field in fields(Matches)])
    n, text = matched.neurons, "an assignment"
    shapes: dict[str, tuple[int, ...]] = {
        "correlation": (n,),
        "rotated": (draws, n),
        "top_correlation": (n, top_k),
        "back": (searched.neurons,),
    }
    places: dict[str, tuple[int, ...]] = {"match_layer": (n,), "match_neuron": (n,), "place": (n,)}
    places |= {"top_layer": (n, top_k), "top_neuron": (n, top_k)}
    for name, shape in shapes.items():
        check_range(name, check_tensor(name, found[name], shape), -1, 1, torch.nan)
    for name, shape in places.items():
        check_tensor(name, found[name], shape, torch.int64)
    for name in ("dead", "mutual"):
        check_tensor(name, found[name], (n,), torch.bool)
    if found["shifted"] is not None or differ(list(found["layers"]), list(searched.names)):
        raise refused(f"{text} is that of other layers")
    _check_places(found["correlation"], found["place"], searched.neurons, torch.nan)
    layer, neuron = searched.locate(found["place"])
    same = torch.equal(layer, found["match_layer"]) and torch.equal(neuron, found["match_neuron"])
    widths = torch.tensor(searched.widths, dtype=torch.int64, device="cpu")
    top_layer, top_neuron = found["top_layer"], found["top_neuron"]
    check_range("top_layer", top_layer, -1, len(widths) - 1)
    inside = (top_neuron >= 0) & (top_neuron < widths[top_layer.clamp(min=0)])
    none = (top_layer == -1) & (top_neuron == -1)
    if not same or not bool(torch.where(top_layer < 0, none, inside).all()):
        raise refused(f"{text} has matches that are no neurons")
    return Matches(**{**found, "layers": searched.names})


def _correlation_from(
    plain: object, names: tuple[str, str], width: int, tokens: int, draws: int, shifts: int
) -> LayerCorrelation:
    own = [field.name for field in fields(LayerCorrelation)]
    found = check_fields("r of a layer", plain, own)
    if differ([found["layer"], found["match_layer"], found["tokens"]], [*names, tokens]):
        raise refused("r of a layer is that of another one, or of other tokens")
    shapes = {"correlation": (width,), "rotated": (draws, width), "shifted": (shifts, width)}
    for name, shape in shapes.items():
        check_range(name, check_tensor(name, found[name], shape), -1, 1, torch.nan)
    return LayerCorrelation(**found)


def correlations_from(
    plain: object, layouts: tuple[Layout, Layout], tokens: int, draws: int, shifts: int
) -> list[LayerCorrelation]:
    """What ``vars`` of r of each layer gave, neuron i of either model with neuron i of the other.

    Raises:
        InputError: it is none of these layers, or of other tokens.
    """
    a, b = layouts
    return [
        _correlation_from(layer, names, width, tokens, draws, min(shifts, width - 1))
        for layer, names, width in zip(
            check_number("layers", plain, len(a.names)),
            zip(a.names, b.names, strict=True),
            a.widths,
            strict=True,
        )
    ]


def _check_places(r: Tensor, place: Tensor, most: int, absent: float) -> None:
    """Refuses places of no neurons, and r of none, or none of one."""
    check_range("places", place, -1, most - 1)
    none = r.isnan() if absent != absent else r == absent
    if not torch.equal(none, place < 0):
        raise refused("there are r of no neuron, or none of one")
