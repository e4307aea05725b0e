"""Whether a network takes a batch, and what of a batch it is given."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

import torch
from torch import Tensor, nn

from univfast.errors import InputError

__all__ = ["check_call", "given_to", "refused_keyword"]

_PLACES = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_CHOOSE = "say what the model is given, as inputs=lambda batch: batch[0]"


def given_to(batches: Any, inputs: Callable[[Any], Any] | None) -> Any:
    """What ``inputs`` makes of each batch, which can be gone through as the batches can.

    Raises:
        TypeError: ``inputs`` is no function.
    """
    if inputs is None:
        return batches
    if not callable(inputs):
        raise TypeError(
            f"inputs: expected a function of a batch, got {type(inputs).__name__}; give one, as"
            " lambda batch: batch[0]"
        )
    if isinstance(batches, (Tensor, Mapping, str)) or not isinstance(batches, Iterable):
        return batches  # which is refused by its name
    if isinstance(batches, Iterator):
        return map(inputs, batches)
    return _Sized(batches, inputs) if isinstance(batches, Sized) else _Given(batches, inputs)


class _Given:
    """Batches, as ``inputs`` gives them."""

    def __init__(self, batches: Iterable[Any], inputs: Callable[[Any], Any]) -> None:
        self._batches: Any = batches
        self._inputs = inputs

    def __iter__(self) -> Iterator[Any]:
        return map(self._inputs, self._batches)


class _Sized(_Given):
    def __len__(self) -> int:
        return len(self._batches)


def check_call(
    model: nn.Module, args: Sequence[object], keywords: Mapping[str, object], name: str
) -> None:
    """Refuses a batch that a model does not take, or that could be taken in two ways.

    An integer tensor of a tuple that falls on a parameter which need not be given may be a label
    that the loader gives beside: a mask by place is one of 0 and 1.

    Args:
        model: whose forward is asked.
        args: what it is called with by place.
        keywords: and by name.
        name: what to call the model.

    Raises:
        InputError: what does not fit, and how it does.
    """
    text = next((x for x in (*args, *keywords.values()) if isinstance(x, str)), None)
    if text is not None:
        raise InputError(f"batches: one holds text, {text[:20]!r}, and no tensors; give token ids")
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):  # of what is no Python function
        return
    whose = f"{name} ({type(model).__name__})"
    taken = signature.parameters.values()
    if keywords and not any(x.kind is x.VAR_KEYWORD for x in taken):
        _check_keywords(keywords, [x.name for x in taken if x.kind is not x.VAR_POSITIONAL], whose)
    by_place = [x for x in taken if x.kind in _PLACES]
    if len(args) > len(by_place) and not any(x.kind is x.VAR_POSITIONAL for x in taken):
        kinds = ", ".join(type(x).__name__ for x in args)
        takes = ", ".join(x.name for x in by_place) or "nothing"
        raise InputError(
            f"batches: one is a tuple or list of {len(args)} ({kinds}), and {whose} takes"
            f" {len(by_place)} by place ({takes}); {_CHOOSE}"
        )
    try:
        signature.bind(*args, **keywords)
    except TypeError as error:
        raise InputError(
            f"batches: one does not fit what {whose} takes ({error}); give a mapping of its"
            " parameters, or a tuple of them in order"
        ) from error
    for parameter, value in zip(by_place[1:], args[1:], strict=False):
        if parameter.default is not parameter.empty and _may_be_label(parameter.name, value):
            assert isinstance(value, Tensor)
            dtype = str(value.dtype).removeprefix("torch.")
            raise InputError(
                f"batches: one is a tuple or list with {dtype} {list(value.shape)} where"
                f" {whose} takes {parameter.name!r}, and may be a label; {_CHOOSE}, or give a"
                f" mapping that has {parameter.name!r}"
            )


def refused_keyword(error: TypeError, keywords: Mapping[str, object]) -> str | None:
    """The name that a function within a model did not take, where the batch gave it."""
    found = re.search(r"got an unexpected keyword argument '(\w+)'", str(error))
    return found[1] if found is not None and found[1] in keywords else None


def _check_keywords(given: Mapping[str, object], taken: Sequence[str], whose: str) -> None:
    more = [name for name in given if name not in taken]
    if more:
        raise InputError(
            f"batches: one has {', '.join(map(repr, more))}, which {whose} does not take; leave"
            " out what is for others, as inputs=lambda batch:"
            f" {{name: batch[name] for name in {[x for x in given if x in taken]}}}"
        )


def _may_be_label(name: str, value: object) -> bool:
    if not isinstance(value, Tensor) or value.dtype == torch.bool:
        return False
    if value.ndim <= 1:
        return True
    if value.is_floating_point():
        return False
    return "mask" not in name or not bool(((value == 0) | (value == 1)).all())
