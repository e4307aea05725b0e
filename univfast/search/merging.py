"""What several searches of the same models found, together: of other layers of either model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from univfast.errors import InputError
from univfast.machine.processes import Processes

if TYPE_CHECKING:
    from univfast.search.searches import Searches

__all__ = ["clear", "gather", "merge_found"]

# What each tensor of `Search.tensors` holds where nothing was found; pairs of neurons with those of
# the same number, NaN.
_ABSENT = {"top": -torch.inf, "top_place": -1, "back": -torch.inf, "back_place": -1}
_ABSENT |= {"rotated": -torch.inf, "alive": False}


def gather(searches: Searches, processes: Processes) -> None:
    """Moves what the searches of all processes have found into process 0; the others hold nothing.

    A collective. Each process has searched other layers of A, all on the same tokens; process 0
    then holds, bit for bit, what one search of all of them finds.

    Raises:
        InputError: in process 0, where they are of other tokens; or another process died.
    """
    if processes.rank:
        processes.send_first(searches.state())
        clear(searches)
        return
    for state in processes.from_others():
        merge_found(searches, state)


def merge_found(searches: Searches, state: Mapping[str, Any]) -> None:
    """Takes in what `Searches.state` of others gives, which searched other layers of A.

    Partners are the highest of both and, of equal ones, those of the lower number; as a search of
    all layers in their order keeps them. Not for a matching that assigns, which has all at once.

    Raises:
        InputError: it is of other tokens.
    """
    if not state["tokens"]:
        return
    if searches.tokens and state["tokens"] != searches.tokens:
        raise InputError(
            f"processes: some searched {searches.tokens} tokens, others {state['tokens']}; start"
            " all again"
        )
    searches.tokens = state["tokens"]
    searches.multiplied |= set(state["multiplied"])
    for own, theirs in zip(searches.found(), state["searches"], strict=True):
        _merge_tensors(own, theirs)


def clear(searches: Searches) -> None:
    """Forgets what was found."""
    searches.tokens = 0
    searches.multiplied.clear()
    for found in searches.found():
        for name, tensor in found.items():
            tensor.fill_(_ABSENT.get(name, torch.nan))


def _merge_tensors(own: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    other = {name: tensor.to(own[name].device) for name, tensor in theirs.items()}
    for name in ("top", "back"):
        # A neuron searched has one that likes it best, a neuron matched `top_k` partners.
        r, place = (
            torch.stack([own[x], other[x]], dim=-1).flatten(-1 - (name == "top"))
            for x in (name, f"{name}_place")
        )
        r, place = _highest(r, place, own[name].shape[-1] if name == "top" else 1)
        own[name].copy_(r.view_as(own[name]))
        own[f"{name}_place"].copy_(place.view_as(own[name]))
    torch.maximum(own["rotated"], other["rotated"], out=own["rotated"])
    own["alive"].logical_or_(other["alive"])
    for name in own.keys() - _ABSENT.keys():
        own[name].copy_(torch.where(own[name].isnan(), other[name], own[name]))


def _highest(r: Tensor, place: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The highest of each row, highest first, and of equal ones the lower place first."""
    place, order = place.sort(dim=-1)
    r, highest = r.gather(-1, order).sort(dim=-1, descending=True, stable=True)
    return r[..., :count], place.gather(-1, highest)[..., :count]
