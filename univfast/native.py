"""The border to the compiled core: torch tensors in, torch tensors out.

The core knows neither Python objects nor torch. All memory that it reads or writes, its workspace
included, is a tensor that these functions hold while the core runs. The contracts of the operations
stand in ``csrc/univfast.h``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

try:
    from univfast import _native
except ImportError as error:  # pragma: no cover - needs a broken installation
    raise ImportError(
        "univfast's compiled core could not be imported. Was the package installed "
        "(pip install .), or is this a source folder that was not built?"
    ) from error

__all__ = [
    "SIGN_STAGES",
    "BadValue",
    "compiler",
    "paired_moments",
    "rotate",
    "rotation_signs",
    "simd_level",
    "simd_levels",
]

_DTYPES = {
    torch.float64: _native.DType.float64,
    torch.float32: _native.DType.float32,
    torch.float16: _native.DType.float16,
    torch.bfloat16: _native.DType.bfloat16,
}
_ALIGNMENT = 64  # bytes, as workspace.h asks

SIGN_STAGES = _native.SIGN_STAGES
compiler = _native.COMPILER
simd_level = _native.simd_level
simd_levels = _native.simd_levels


class BadValue(NamedTuple):
    """The first value, by token, that no finite statistic can include."""

    in_b: bool
    token: int
    neuron: int
    value: float


def _matrix(x: Tensor) -> _native.Matrix:
    """Describes a CPU tensor ``[rows, columns]`` whose columns are contiguous."""
    if x.device.type != "cpu" or x.dim() != 2 or (x.shape[1] > 1 and x.stride(1) != 1):
        raise ValueError(f"native matrix: got {x.device} {tuple(x.shape)} strides {x.stride()}")
    return _native.Matrix(
        data=x.data_ptr(),
        dtype=_DTYPES[x.dtype],
        rows=x.shape[0],
        columns=x.shape[1],
        row_stride=x.stride(0),
    )


def _signs(signs: Tensor) -> _native.Signs:
    return _native.Signs(data=signs.data_ptr(), draws=signs.shape[0])


def _workspace(size: int) -> tuple[Tensor, tuple[int, int]]:
    """The tensor that owns at least ``size`` aligned bytes, and their address and size."""
    owner = torch.empty(size + _ALIGNMENT, dtype=torch.uint8)
    return owner, (owner.data_ptr() + -owner.data_ptr() % _ALIGNMENT, size)


def rotation_signs(neurons: int, draws: int, seed: int) -> Tensor:
    """Signs of the structured rotation, ``[draws, stages, neurons]``, from a 64-bit seed."""
    signs = torch.empty(draws, SIGN_STAGES, neurons)
    _native.rotation_signs(signs=signs.data_ptr(), draws=draws, neurons=neurons, seed=seed)
    return signs


def rotate(x: Tensor, signs: Tensor) -> Tensor:
    """Rotates each row of ``x`` by each draw: ``[rows, neurons]`` -> ``[draws, rows, neurons]``.

    ``x`` is float32 or float64; the result has its dtype.
    """
    threads = torch.get_num_threads()
    matrix = _matrix(x)
    output = torch.empty(signs.shape[0], *x.shape, dtype=x.dtype)
    owner, workspace = _workspace(_native.rotate_workspace(matrix, threads))
    _native.rotate(
        x=matrix,
        signs=_signs(signs),
        output=output.data_ptr(),
        workspace=workspace,
        threads=threads,
    )
    del owner  # alive until here
    return output


def paired_moments(
    a: Tensor, b: Tensor, rows: Tensor | None, signs: Tensor, threads: int
) -> Tensor | BadValue:
    """Moments of neuron i of ``a`` with neuron i of ``b`` and of each rotation of ``b``.

    Args:
        a: ``[tokens, neurons]``, float64, float32, float16 or bfloat16, neuron stride 1.
        b: the same shape, any of the same dtypes.
        rows: int64 ``[tokens used]``, or None for all tokens.
        signs: as `rotation_signs` returns them; zero draws for none.
        threads: at most this many; the result does not depend on it.

    Returns:
        float64 ``[5 + 2 * draws, neurons]`` (`univfast.moments` names the rows), or the value that
        prevents it.
    """
    tokens = a.shape[0] if rows is None else rows.shape[0]
    neurons, draws = a.shape[1], signs.shape[0]
    moments = torch.empty(5 + 2 * draws, neurons, dtype=torch.float64)
    owner, workspace = _workspace(_native.paired_workspace(tokens, neurons, draws, threads))
    bad = _native.paired_moments(
        a=_matrix(a),
        b=_matrix(b),
        rows=(0 if rows is None else rows.data_ptr(), tokens),
        signs=_signs(signs),
        moments=moments.data_ptr(),
        workspace=workspace,
        threads=threads,
    )
    del owner  # alive until here
    return moments if bad is None else BadValue(*bad)
