"""Shifts of what goes into an activation function, which stay on a network.

A place is a module's name, where its output is shifted, or that with ``:input``, where what it is
called with is. The shift ``[neurons]`` is a buffer of the module, so that it moves with the
network, is copied and pickled with it, and stands in its ``state_dict``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from univfast.errors import InputError
from univfast.machine.torch_state import in_plain_state
from univfast.networks.wrapping import named_modules

__all__ = ["BUFFERS", "INPUT", "add_shifts", "shifted", "shifts_of"]

INPUT = ":input"
_BUFFER = {True: "univfast_shift_of_input", False: "univfast_shift_of_output"}
BUFFERS = tuple(_BUFFER.values())
"""Names of the buffers, at the end of those in a ``state_dict``."""


@in_plain_state
def add_shifts(model: nn.Module, shifts: Mapping[str, Tensor], source: str = "shifts") -> None:
    """Puts shifts ``[neurons]`` onto a network, by place; nothing is done where one does not fit.

    Raises:
        InputError: beginning with ``source``: no module of that name, or one that is shifted.
    """
    modules = named_modules(model)
    for place in shifts:
        module = modules.get(place.removesuffix(INPUT))
        if module is None or hasattr(module, _BUFFER[place.endswith(INPUT)]):
            wrong = "no module" if module is None else "a shifted module"
            raise InputError(
                f"{source}: shifts {place!r}, which is {wrong} of the network; make the control"
                " again, of the trained model"
            )
    for place, shift in shifts.items():
        module, is_input = modules[place.removesuffix(INPUT)], place.endswith(INPUT)
        module.register_buffer(_BUFFER[is_input], shift.detach().clone())
        if is_input:
            module.register_forward_pre_hook(_shift_input)
        else:
            module.register_forward_hook(_shift_output)


def shifts_of(model: nn.Module) -> dict[str, Tensor]:
    """The shifts on a network, by place; none where it is no rate-matched control."""
    return {
        name + (INPUT if is_input else ""): getattr(module, buffer)
        for name, module in named_modules(model).items()
        for is_input, buffer in _BUFFER.items()
        if hasattr(module, buffer)
    }


# Functions, and not objects that hold the shift: a copy of a module has them too.


def _shift_input(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return shifted(args[0], getattr(module, _BUFFER[True])), *args[1:]


def _shift_output(module: nn.Module, args: object, output: Tensor) -> Tensor:
    return shifted(output, getattr(module, _BUFFER[False]))


def shifted(x: Tensor, shift: Tensor) -> Tensor:
    """``[..., neurons]`` plus ``[neurons]``, in the dtype of ``x``."""
    if x.shape[-1:] != shift.shape:
        raise InputError(
            f"shifts: {len(shift)} of a control, for {x.shape[-1]} neurons; make the control again,"
            " of the trained model"
        )
    # Added in the dtype of the shift where that is wider: rounding then moves no token across 0.
    return (x + shift).to(x.dtype)
