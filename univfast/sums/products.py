"""How layers are multiplied: in which numbers, and by what.

A product is summed in float32 within a chunk of tokens, whatever its factors are; but for float64:

============  =================================================================================
``float64``   layers of it, and those that nearly cancel in a rotation
``float32``   standardised layers, by torch
``tf32``      the same with factors rounded to 11 bits, on a CUDA device, where that is asked for
``bfloat16``  layers of it as they are, as products are exact in float32: by the core where the CPU
              has instructions for it, by torch on a CUDA device and where the CPU has matrix units
``float16``   the same on a CUDA device
``parts``     sums of at most three bfloat16 numbers, which is exact, by torch: matrix units of a
              CPU do several such products in less time than one of float32
``entries``   of sparse features, in float64, what is active together alone (`sparse_pairs`)
============  =================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor

from univfast import native
from univfast.machine.matrix_units import matrix_units
from univfast.machine.torch_state import bfloat16_products, exact_products
from univfast.native import Packed, place

__all__ = [
    "MULTIPLIED",
    "NARROW",
    "Factor",
    "Form",
    "Multiplier",
    "multiply",
    "parts_of",
    "split",
]


MULTIPLIED = ("float64", "float32", "tf32", "bfloat16", "float16", "parts", "entries")
"""What a product can be made of."""

# What the mean adds to the products of a layer that is taken as it is comes off in float64, but
# costs accuracy: a layer whose neurons have means beyond so many standard deviations is
# standardised. Matrix units of CUDA devices cut off the last bits of a sum, always downwards, ...
_CUT_OFF = 2.0
# ... and CPUs round them.
_ROUNDED = 4.0

NARROW = (torch.float16, torch.bfloat16)
_ALL = (torch.bfloat16, torch.float16, torch.float32)
# Of 8 bits each, which make up those of a number.
_PARTS = {torch.bfloat16: 1, torch.float16: 2, torch.float32: 3}


@dataclass(frozen=True)
class Form:
    """What layers of some dtypes are multiplied as.

    Attributes:
        dtypes: the layers.
        packed: by the core.
        parts: as sums of bfloat16 numbers, by torch in its bfloat16 mode; else as they are.
        largest_mean: of a layer that is not standardised, in standard deviations.
    """

    dtypes: tuple[torch.dtype, ...]
    packed: bool = False
    parts: bool = False
    largest_mean: float = _ROUNDED


def forms(products: str, device: torch.device) -> list[Form]:
    """Those that are best on a device, or were asked for; other layers are standardised."""
    if products == "float32":
        return []
    if place.on_cuda(device):
        return [Form(NARROW, largest_mean=_CUT_OFF)]
    units, forced = matrix_units(), products == "bfloat16"
    if native.multiplies_bfloat16() and units is None:
        by_core = Form((torch.bfloat16,), packed=True)
        return [by_core, *([Form(_ALL[1:], parts=True)] if forced else [])]
    if units == "amx" or forced:
        return [Form(_ALL, parts=True)]
    # Of ARM's units it is not known that six products take less time than one of float32.
    return [Form(_ALL[:1], parts=True)] if units else []


class Factor(NamedTuple):
    """Neighbouring neurons of a chunk as they are multiplied.

    Attributes:
        neurons: where they stand among all of the model.
        data: ``[tokens, neurons]``: a tensor, packed by the core, or parts that add up to it.
        plain: the same as a tensor, for a product with another form.
        tokens: of parts, that are summed at a time; None for all.
    """

    neurons: slice
    data: Tensor | Packed | tuple[Tensor, ...]
    plain: Callable[[], Tensor]
    tokens: int | None = None

    @property
    def width(self) -> int:
        first: int = self.neurons.start
        last: int = self.neurons.stop
        return last - first

    def of(self, own: slice) -> Factor:
        """Some of its neurons, counted from its first."""
        data: Tensor | Packed | tuple[Tensor, ...]
        if isinstance(self.data, Packed):
            data = self.data.at(own.start)
        elif isinstance(self.data, Tensor):
            data = self.data[:, own]
        else:
            data = tuple(part[:, own] for part in self.data)
        first = self.neurons.start
        neurons = slice(first + own.start, first + own.stop)
        return Factor(neurons, data, lambda: self.plain()[:, own], self.tokens)


class Multiplier:
    """Adds products of chunks to co-moments, and keeps memory for the next ones.

    Attributes:
        forms: what layers are multiplied as.
    """

    def __init__(self, products: str, precision: str, device: torch.device, threads: int) -> None:
        self.forms = forms(products, device)
        self._precision, self._device, self._threads = precision, device, threads
        # Fresh memory of this size costs more than what is done in it.
        self._buffers: dict[str, Tensor] = {}

    def form(self, dtype: torch.dtype) -> Form | None:
        """What layers of a dtype are multiplied as; None: standardised."""
        return next((form for form in self.forms if dtype in form.dtypes), None)

    def buffer(self, name: str, *shape: int, dtype: torch.dtype) -> Tensor:
        """Memory of this shape, kept for the next time."""
        size = torch.Size(shape).numel()
        name = f"{name} {dtype}"
        if name not in self._buffers or self._buffers[name].numel() < size:
            self._buffers[name] = torch.empty(size, dtype=dtype, device=self._device)
        return self._buffers[name][:size].view(shape)

    def add(
        self,
        c: Tensor,
        x: Factor,
        y: Factor,
        scales: tuple[Tensor, Tensor],
        deltas: tuple[Tensor, Tensor],
        tile_bytes: int,
    ) -> str:
        """`native.add_product` of x^T y; the name of what was multiplied.

        Args:
            c: float64 ``[neurons of x, neurons of y]``.
            x: of some tokens.
            y: of the same.
            scales: as `native.add_product` has them.
            deltas: likewise, but need not be contiguous.
            tile_bytes: of what is multiplied at a time, at most, but for what the core does.
        """
        down, across = deltas[0].contiguous(), deltas[1].contiguous()
        if isinstance(x.data, Packed) and isinstance(y.data, Packed):
            native.add_packed_product(c, x.data, y.data, scales, (down, across), self._threads)
            return "bfloat16"
        name, product, dtype = self._product(x, y)
        step = max(1, tile_bytes // (dtype.itemsize * y.width))
        buffer = self.buffer("tile", min(step, x.width) * y.width, dtype=dtype)
        for start in range(0, x.width, step):
            own = slice(start, min(start + step, x.width))
            tile = buffer[: (own.stop - own.start) * y.width].view(-1, y.width)
            product(own, tile)
            beside = down[..., own].contiguous(), across
            native.add_product(c[own], tile, (scales[0][own], scales[1]), beside, self._threads)
        return name

    def _product(
        self, x: Factor, y: Factor
    ) -> tuple[str, Callable[[slice, Tensor], None], torch.dtype]:
        """Its name, what fills a tile with some rows of it, and the dtype of that."""
        if _in_parts(x.data) and _in_parts(y.data):
            parts, others = x.data, y.data
            tokens = x.tokens or y.tokens

            def of_parts(own: slice, tile: Tensor) -> None:
                multiply_parts([part[:, own].T for part in parts], others, tile, tokens)

            name = "bfloat16" if len(parts) == len(others) == 1 else "parts"
            return name, of_parts, torch.float32
        first, second = (f.data if isinstance(f.data, Tensor) else f.plain() for f in (x, y))
        common = torch.promote_types(first.dtype, second.dtype)
        first, second = first.to(common), second.to(common)

        def plain(own: slice, tile: Tensor) -> None:
            multiply(first[:, own].T, second, tile, self._precision)

        tf32 = common == torch.float32 and place.on_cuda(self._device)
        name = self._precision if tf32 else str(common).removeprefix("torch.")
        return name, plain, torch.promote_types(common, torch.float32)


def _in_parts(data: Tensor | Packed | tuple[Tensor, ...]) -> TypeGuard[tuple[Tensor, ...]]:
    """Whether it is parts: a packed layer is a tuple too."""
    return isinstance(data, tuple) and not isinstance(data, Packed)


def parts_of(dtype: torch.dtype) -> int:
    """How many bfloat16 numbers add up to one of a dtype."""
    return _PARTS[dtype]


def split(x: Tensor, parts: list[Tensor]) -> tuple[Tensor, ...]:
    """``x``, float32, as a sum of numbers that bfloat16 holds; ``parts`` are filled, float32 too.

    Exact where there are as many as its bits ask for (but for what is below the normal range).
    """
    left = x
    for part in parts:
        part.copy_(left.bfloat16())
        left = left - part
    return tuple(parts)


def multiply(x: Tensor, y: Tensor, product: Tensor, precision: str) -> None:
    """``product = x @ y``, in float32 for tensors of 16 bits, whose products are exact."""
    device = "cuda" if x.is_cuda else "cpu"
    with exact_products(device, tf32=precision == "tf32"):
        if x.is_cuda and x.dtype in NARROW:
            torch.mm(x, y, out_dtype=torch.float32, out=product)
        else:
            torch.mm(x, y, out=product)


def multiply_parts(
    x: list[Tensor], y: tuple[Tensor, ...], product: Tensor, tokens: int | None = None
) -> None:
    """``product = sum(x) @ sum(y)``, in float32: of numbers that bfloat16 holds.

    Products of parts of which both are small are left out: below 2**-24 of the largest. So many
    tokens are summed at a time; None for all.
    """
    step = tokens or len(y[0])
    with bfloat16_products():
        for start in range(0, len(y[0]), step):
            own = slice(start, start + step)
            for i, left in enumerate(x):
                for j, right in enumerate(y):
                    if start == i + j == 0:
                        torch.mm(left[:, own], right[own], out=product)
                    elif i + j < _PARTS[torch.float32]:
                        product.addmm_(left[:, own], right[own])
