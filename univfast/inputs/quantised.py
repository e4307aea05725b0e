"""Integers that stand for numbers: of how many each is one, and which of them is zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from univfast.errors import InputError

if TYPE_CHECKING:
    from univfast.inputs.sparse_names import Found
    from univfast.inputs.stored import Stored

__all__ = ["INTEGERS", "Quantiser", "with_scales"]

INTEGERS = (torch.int8, torch.uint8, torch.qint8, torch.quint8)
"""Dtypes of what is quantised to 8 bits."""

_SCALES, _ZEROS = ("scale", "scales"), ("zero_point", "zero_points")
# What is added behind the product, in some files, and taken off before it in others.
_UNCLEAR = ("offset", "bias", "zero", "min")
_JOINTS = (".", "_", "/")


@dataclass(frozen=True, slots=True)
class Quantiser:
    """What integers stand for: ``(integer - zero_point) * scale``, in float32.

    ``scale`` and ``zero_point``: float32 ``[neurons]``, or ``[1]`` for all neurons.
    """

    scale: torch.Tensor
    zero_point: torch.Tensor

    @classmethod
    def of(cls, scale: torch.Tensor, zero_point: torch.Tensor, where: str) -> Quantiser:
        """Of one number, or one a neuron, each. Raises InputError, which ``where`` begins."""
        parts = []
        for part in (scale, zero_point):
            if part.numel() != max((*part.shape, 1)) or (part.dim() and part.shape[-1] == 0):
                raise InputError(
                    f"{where} has shape {list(part.shape)}; expected one number, or one a neuron"
                )
            if part.dim() > 1 and part.shape[-1] != part.numel():
                raise InputError(
                    f"{where} has shape {list(part.shape)}, one a token; expected one number, or "
                    "one a neuron"
                )
            # A copy: it is used as long as the activations are read.
            parts.append(part.detach().cpu().flatten().to(torch.float32, copy=True))
        if not bool((parts[0].isfinite() & (parts[0] >= 0)).all()):
            raise InputError(f"{where}: holds what is no scale, below 0 or not finite; correct it")
        if not bool(parts[1].isfinite().all()):
            raise InputError(f"{where}: has a zero_point that is not finite; write it again")
        return cls(parts[0], parts[1])

    def on(self, stored: Stored, where: str) -> Stored:
        """The array, to be read so. Raises InputError for another width."""
        if stored.dtype not in INTEGERS:
            kind = str(stored.dtype).removeprefix("torch.")
            raise InputError(f"{where}: is given for {kind}; it is for int8 and uint8 alone")
        width = stored.data.shape[-1] if stored.data.ndim else 0
        for part in (self.scale, self.zero_point):
            if len(part) not in (1, width):
                raise InputError(
                    f"{where}: has {len(part)} values for {width} neurons; give one, or one each"
                )
        return replace(stored, quantiser=self)

    def floats(self, rows: torch.Tensor) -> torch.Tensor:
        """What rows of integers stand for, as a copy."""
        return rows.to(torch.float32).sub_(self.zero_point).mul_(self.scale)


def with_scales(found: Mapping[str, Found], source: str) -> dict[str, Found]:
    """The arrays of a file by name: integers with the scales that stand beside them, without these.

    The scale of ``NAME`` is called ``NAME.scale``, ``NAME_scale`` or ``NAME/scale``; where the file
    holds one array of integers, also ``scale`` alone. ``zero_point`` likewise.

    Raises:
        InputError: an ``offset`` beside a scale, which can be read in two ways; or scales that fit
            no array.
    """
    from univfast.inputs.stored import Stored

    arrays = {name: x for name, x in found.items() if isinstance(x, Stored)}
    integers = [name for name, stored in arrays.items() if stored.dtype in INTEGERS]
    left = dict(found)
    for name in integers:
        starts = [f"{name}{joint}" for joint in _JOINTS] + ([""] if len(integers) == 1 else [])

        def beside(endings: tuple[str, ...], starts: list[str] = starts) -> str | None:
            names = (f"{start}{ending}" for start in starts for ending in endings)
            return next((x for x in names if x in found), None)

        scale, zero = beside(_SCALES), beside(_ZEROS)
        if scale is None:
            continue
        if unclear := beside(_UNCLEAR):
            raise InputError(
                f"{source}: {unclear!r} may be added to integer * scale, or taken off the integer "
                "before; save it as 'zero_point', of (integer - zero_point) * scale"
            )
        none = torch.zeros(1, dtype=torch.float32, device="cpu")
        where = f"{source}: {scale!r}"
        for number in (scale, zero):
            if number is not None and number not in arrays:
                raise InputError(f"{source}: {number!r} is no tensor; save it as one")
        zeros = none if zero is None else arrays[zero].tensor()
        quantiser = Quantiser.of(arrays[scale].tensor(), zeros, where)
        left[name] = quantiser.on(arrays[name], where)
        for used in (scale, zero):
            left.pop(used or "", None)
    return left
