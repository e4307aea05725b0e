"""One batch as an argument of Python: a tensor, whatever it came as."""

from __future__ import annotations

from itertools import accumulate
from operator import mul

import torch

from univfast.errors import InputError
from univfast.inputs.stored import from_memory

__all__ = ["DTYPES", "check_dtype", "same_order", "to_tensor"]

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""What activations may be."""


def to_tensor(value: object, name: str) -> torch.Tensor:
    """A tensor, a NumPy array or anything with ``__dlpack__`` as a detached tensor, in place.

    Raises:
        InputError: it cannot be shared, or not as a dense tensor.
        TypeError: it is none of these.
    """
    return from_memory(value, name, TypeError).tensor()


def check_dtype(dtype: torch.dtype, where: str) -> None:
    """Refuses a dtype that activations may not be.

    Raises:
        InputError: naming ``where`` and the dtype.
    """
    if dtype not in DTYPES:
        raise InputError(
            f"{where} has dtype {str(dtype).removeprefix('torch.')}; convert it to float64, "
            "float32, float16 or bfloat16"
        )


def same_order(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Whether two shapes of the same tokens number them alike: one is the other with axes merged.

    ``[30, 10]`` and ``[300]`` are alike, ``[30, 10]`` and ``[10, 30]`` are not.
    """
    ends_a, ends_b = set(accumulate(a, mul)), set(accumulate(b, mul))
    return ends_a <= ends_b or ends_b <= ends_a
