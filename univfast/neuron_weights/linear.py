"""Linear layers and weight matrices, whose axes are told by their class and never by their sizes.

`torch.nn.Linear` keeps ``[outputs, inputs]``, the ``Conv1D`` of transformers ``[inputs, outputs]``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from univfast.errors import InputError
from univfast.inputs.plain import plain_tensor

__all__ = ["Linear", "checked_weight", "linear_of"]

_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Linear:
    """A linear map of a model.

    Attributes:
        name: of its module or parameter in the model.
        inputs, outputs: its sizes.
        weight: gives its weights ``[outputs, inputs]``, the model's own memory.
        bias: gives its bias ``[outputs]``; None where it has none.
    """

    name: str
    inputs: int
    outputs: int
    weight: Callable[[], Tensor]
    bias: Callable[[], Tensor | None]


def linear_of(module: nn.Module, name: str) -> Linear | None:
    """A module as a linear map; None where it is none whose axes are known."""
    if isinstance(module, nn.Linear):
        sizes, turned = (int(module.in_features), int(module.out_features)), False
    elif any(_is_conv1d(kind) for kind in type(module).__mro__):
        sizes, turned = (int(module.nx), int(module.nf)), True  # type: ignore[arg-type]
    else:
        return None

    def weight() -> Tensor:
        stored = sizes if turned else sizes[::-1]
        found = checked_weight(module.weight, f"{name}.weight", stored)
        return found.T if turned else found

    def bias() -> Tensor | None:
        found = getattr(module, "bias", None)
        return None if found is None else checked_weight(found, f"{name}.bias", sizes[1:])

    return Linear(name, *sizes, weight, bias)


def checked_weight(value: object, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
    """A parameter as plain memory of floating-point numbers.

    Args:
        value: the parameter.
        name: its name in the model, for errors.
        shape: that it must have; None for any.

    Raises:
        InputError: it is quantised, without values, or of another shape.
    """
    if not isinstance(value, Tensor):
        kind = type(value).__name__
        raise InputError(
            f"model: {name} is a {kind} and no tensor; load the model without quantisation"
        )
    found = plain_tensor(value, f"model: {name}")
    if found.dtype not in _FLOATS:
        dtype = str(found.dtype).removeprefix("torch.")
        raise InputError(
            f"model: {name} is quantised ({dtype}), so that its values alone are no weights; load"
            " the model without quantisation"
        )
    if shape is not None and tuple(found.shape) != shape:
        raise InputError(
            f"model: {name} has shape {list(found.shape)}, expected {list(shape)}; load the model"
            " without quantisation, and whole"
        )
    return found


def _is_conv1d(kind: type) -> bool:
    # By name, so that transformers is not imported for models that do without.
    return kind.__name__ == "Conv1D" and kind.__module__.startswith("transformers.")
