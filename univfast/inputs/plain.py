"""One gate for tensors: only such as are memory of their own pass, or what is made of them.

The core and NumPy read memory; a tensor that wraps others, or stands for something else, has none.
"""

from __future__ import annotations

import sys
from functools import cache

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from univfast.errors import InputError
from univfast.machine.torch_state import PlainState, not_compiled
from univfast.native.place import memory

__all__ = ["by_rows", "plain_tensor"]

_BY_COLUMNS = ("sparse_csc", "sparse_bsr", "sparse_bsc")


@not_compiled
def plain_tensor(value: Tensor, where: str) -> Tensor:
    """The tensor as plain memory, detached: strided, on a device, with all values that it says.

    In place, but for views that are negative or conjugate, zeros without memory, and distributed
    tensors, which are made whole: a collective, that all processes call.

    Args:
        value: a `torch.Tensor` of any kind.
        where: what begins the error, as ``"a"`` or ``"mask"``.

    Raises:
        InputError: what it is, and what to give instead.
    """
    value = _whole(value)
    # What a class adds to torch's functions is not asked.
    with torch._C.DisableTorchFunctionSubclass():
        device = value.device.type
        more = _keys(value) & ~_plain_keys(device)
        if more & ~_resolved() or device == "meta" or is_lazy(value):
            kind, instead = _described(value)
            raise InputError(f"{where}: is {kind}; {instead}")
        with PlainState():
            value = value.detach()
            if type(value) is not Tensor:
                value = value.as_subclass(Tensor)
            if more and torch._is_zerotensor(value):
                value = torch.zeros(value.shape, dtype=value.dtype, device=value.device)
            elif more:
                value = value.resolve_neg().resolve_conj()
        _check_memory(value, device, where)
    return value


def _keys(value: Tensor) -> int:
    """A bit for each kind of tensor that torch takes this one for."""
    return torch._C._dispatch_keys(value).raw_repr()


@cache
def _plain_keys(device: str) -> int:
    """Those of memory on a device."""
    with PlainState():
        return _keys(torch.empty(0, dtype=torch.float32, device=device))


@cache
def _resolved() -> int:
    """Those of what can be made plain without a change."""
    with PlainState():
        one = torch.empty(1, dtype=torch.complex64, device="cpu")
        lazy = torch._neg_view(one), one.conj(), torch._efficientzerotensor((1,), device="cpu")
        found = 0
        for each in lazy:
            found |= _keys(each)
        return found & ~_plain_keys("cpu")


def _whole(value: Tensor) -> Tensor:
    """What processes hold together, or are still sending, once it is here."""
    if type(value) is Tensor:
        return value
    collectives = sys.modules.get("torch.distributed._functional_collectives")
    if collectives is not None and isinstance(value, collectives.AsyncCollectiveTensor):
        return _whole(value.wait())
    distributed = sys.modules.get("torch.distributed.tensor")
    if distributed is not None and isinstance(value, distributed.DTensor):
        return _whole(value.full_tensor())
    return value


def by_rows(layout: str) -> str:
    """What is said of sparse tensors of columns or blocks, for those of rows are read."""
    if layout not in _BY_COLUMNS:
        return ""
    return "; or, of activations [tokens, features], x.to_sparse_coo().coalesce()"


def _described(value: Tensor) -> tuple[str, str]:
    """What a tensor is that has no memory of its own, and what to give instead."""
    name = type(value).__name__
    keys = torch._C._dispatch_keys(value)
    if is_lazy(value):
        return f"an {name}, which has no values yet", "run the model once, or give a plain tensor"
    if name == "FakeTensor" or value.device.type == "meta":
        kind = "a meta tensor" if name != "FakeTensor" else "a FakeTensor, which has no values"
        return kind, "pass a dense one that holds its values"
    transforms = "FuncTorchBatched", "FuncTorchGradWrapper", "Functionalize"
    if any(keys.has(getattr(torch._C.DispatchKey, key)) for key in transforms):
        return (
            "a tensor of a transform of torch.func (vmap, grad, jvp, functionalize)",
            "pass it outside of the transform",
        )
    if name == "MaskedTensor":
        return (
            "a masked tensor, whose mask would be lost",
            "pass its data (.get_data()) and give the mask as mask=",
        )
    if value.is_nested:
        return (
            "a nested tensor",
            "pass a dense one: torch.cat(x.unbind()), or x.to_padded_tensor(0.0) and mask=",
        )
    if value.is_quantized:
        return "a quantized tensor", "pass a dense one: x.dequantize()"
    if value.layout is not torch.strided:
        layout = str(value.layout).removeprefix("torch.").removeprefix("_")
        dense = "pass a dense one that holds its values: x.to_dense()"
        return f"a {layout} tensor", f"{dense}{by_rows(layout)}"
    return (
        f"a {name}, which wraps other tensors",
        "pass a plain torch.Tensor that holds its values",
    )


def _check_memory(x: Tensor, device: str, where: str) -> None:
    """Refuses a tensor that is said to reach beyond its memory, as those that were freed are."""
    if x.numel() == 0 or device not in ("cpu", "cuda"):
        return
    needed, held = memory(x)
    if needed > held or x.data_ptr() == 0:
        raise InputError(
            f"{where}: is a tensor of shape {list(x.shape)} that needs {needed} bytes of memory and"
            f" has {held}; its memory was freed or cut: give it once it is whole, as within FSDP's"
            " summon_full_params, or a copy"
        )
