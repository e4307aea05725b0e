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
    "COMMON_ROUNDS",
    "SIGN_STAGES",
    "BadValue",
    "Best",
    "CudaDevice",
    "add_product",
    "best_pairs",
    "compiler",
    "cuda_built_with",
    "cuda_devices",
    "cuda_unavailable",
    "neuron_moments",
    "paired_moments",
    "rotate",
    "rotated_best",
    "rotated_variance",
    "rotation_signs",
    "simd_level",
    "simd_levels",
    "standardise",
]

_DTYPES = {
    torch.float64: _native.DType.float64,
    torch.float32: _native.DType.float32,
    torch.float16: _native.DType.float16,
    torch.bfloat16: _native.DType.bfloat16,
}
_ALIGNMENT = 64  # bytes, as workspace.h asks

SIGN_STAGES = _native.SIGN_STAGES
COMMON_ROUNDS = _native.COMMON_ROUNDS
compiler = _native.COMPILER
simd_level = _native.simd_level
simd_levels = _native.simd_levels
cuda_built_with = _native.cuda.built_with
cuda_unavailable = _native.cuda.unavailable


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


def _co_moments(c: Tensor) -> _native.CoMoments:
    """Describes float64 co-moments ``[rows, columns]`` whose columns are contiguous."""
    _matrix(c)  # refuses what is no such matrix
    return _native.CoMoments(
        data=c.data_ptr(), rows=c.shape[0], columns=c.shape[1], row_stride=c.stride(0)
    )


def _signs(signs: Tensor) -> _native.Signs:
    """Describes what `rotation_signs` returns."""
    return _native.Signs(data=signs.data_ptr(), draws=len(signs) - COMMON_ROUNDS)


def _workspace(size: int) -> tuple[Tensor, tuple[int, int]]:
    """The tensor that owns at least ``size`` aligned bytes, and their address and size."""
    owner = torch.empty(size + _ALIGNMENT, dtype=torch.uint8)
    return owner, (owner.data_ptr() + -owner.data_ptr() % _ALIGNMENT, size)


def rotation_signs(neurons: int, draws: int, seed: int) -> Tensor:
    """Signs of the structured rotation, ``[rounds + draws, stages, neurons]``, from a 64-bit seed.

    Those of the `COMMON_ROUNDS`, which all draws share, then those of each draw's own round.
    """
    signs = torch.empty(COMMON_ROUNDS + draws, SIGN_STAGES, neurons)
    _native.rotation_signs(signs=signs.data_ptr(), draws=draws, neurons=neurons, seed=seed)
    return signs


def rotate(x: Tensor, signs: Tensor) -> Tensor:
    """Rotates each row of ``x`` by each draw: ``[rows, neurons]`` -> ``[draws, rows, neurons]``.

    ``x`` is float32 or float64; the result has its dtype.
    """
    threads = torch.get_num_threads()
    matrix = _matrix(x)
    output = torch.empty(len(signs) - COMMON_ROUNDS, *x.shape, dtype=x.dtype)
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
        signs: as `rotation_signs` returns them.
        threads: at most this many; the result does not depend on it.

    Returns:
        float64 ``[5 + 2 * draws, neurons]`` (`univfast.moments` names the rows), or the value that
        prevents it.
    """
    tokens = a.shape[0] if rows is None else rows.shape[0]
    neurons, draws = a.shape[1], len(signs) - COMMON_ROUNDS
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


# ---- all pairs ----------------------------------------------------------------------------------


def neuron_moments(x: Tensor, threads: int) -> Tensor | BadValue:
    """Mean and second moment (a sum about the mean) of each neuron, float64 ``[2, neurons]``.

    ``x`` is ``[tokens, neurons]``, at least one each, of any dtype of activations, neuron stride 1.
    Returns the value that prevents it if there is one.
    """
    moments = torch.empty(2, x.shape[1], dtype=torch.float64)
    bad = _native.neuron_moments(
        x=_matrix(x), mean=moments[0].data_ptr(), m2=moments[1].data_ptr(), threads=threads
    )
    return moments if bad is None else BadValue(*bad)


def standardise(x: Tensor, mean: Tensor, scale: Tensor, output: Tensor, threads: int) -> None:
    """``output = (x - mean) * scale``, ``[tokens, neurons]``, taken in float64 before rounding.

    ``mean`` and ``scale`` are float64 ``[neurons]``; ``output`` is float64, or float32 where ``x``
    is not float64, with neuron stride 1.
    """
    _native.standardise(
        x=_matrix(x),
        mean=mean.data_ptr(),
        scale=scale.data_ptr(),
        output=output.data_ptr(),
        output_dtype=_DTYPES[output.dtype],
        output_stride=output.stride(0),
        threads=threads,
    )


def add_product(
    c: Tensor,
    product: Tensor,
    scales: tuple[Tensor, Tensor],
    deltas: tuple[Tensor, Tensor],
    threads: int,
) -> None:
    """``c[i, j] += product[i, j] * scale_a[i] * scale_b[j] + delta_a[i] * delta_b[j]``.

    ``c`` is float64 ``[rows, columns]``, ``product`` float32 or float64 of that shape; scales and
    deltas are float64, of the rows and of the columns.
    """
    _native.add_product(
        c=_co_moments(c),
        product=_matrix(product),
        scales=(scales[0].data_ptr(), scales[1].data_ptr()),
        deltas=(deltas[0].data_ptr(), deltas[1].data_ptr()),
        threads=threads,
    )


class Best(NamedTuple):
    """Highest correlations and where they are, -infinity and -1 to begin with."""

    correlation: Tensor  # float64
    place: Tensor  # int64

    @staticmethod
    def none(*shape: int) -> Best:
        return Best(
            torch.full(shape, -torch.inf, dtype=torch.float64),
            torch.full(shape, -1, dtype=torch.int64),
        )

    def pointers(self) -> tuple[int, int]:
        return self.correlation.data_ptr(), self.place.data_ptr()


def _tile(c: Tensor, row_inverse: Tensor, skip: Tensor | None, threads: int) -> _native.Tile:
    return _native.Tile(
        c=_co_moments(c),
        row_inverse=row_inverse.data_ptr(),
        skip=0 if skip is None else skip.data_ptr(),
        threads=threads,
    )


def best_pairs(
    c: Tensor,
    inverse: tuple[Tensor, Tensor],
    first: tuple[int, int],
    rows: Best,
    columns: Best | None,
    skip: Tensor | None,
    threads: int,
) -> None:
    """Takes a tile of co-moments into the highest correlations of its rows and columns.

    Args:
        c: float64 ``[rows, columns]``.
        inverse: 1 / norm of the rows and of the columns, float64; NaN leaves one out.
        first: numbers of the first row and the first column.
        rows: ``[rows, count]``, contiguous, highest first; updated.
        columns: ``[columns]``, contiguous; updated. None: not asked for.
        skip: int64 ``[rows]``, the column of the tile that a row leaves out.
        threads: at most this many; the result does not depend on it.
    """
    matrix = _co_moments(c)
    owner, workspace = _workspace(_native.best_pairs_workspace(matrix, threads))
    _native.best_pairs(
        tile=_tile(c, inverse[0], skip, threads),
        column_inverse=inverse[1].data_ptr(),
        first=first,
        count=rows.place.shape[1],
        best=rows.pointers(),
        column_best=(0, 0) if columns is None else columns.pointers(),
        workspace=workspace,
    )
    del owner  # alive until here


def rotated_best(
    c: Tensor,
    inverse: tuple[Tensor, Tensor],
    signs: Tensor,
    best: Tensor,
    skip: Tensor | None,
    threads: int,
) -> None:
    """Raises ``best`` to the highest correlation of each row with each rotation of the columns.

    Args:
        c: float64 ``[rows, columns]``: co-moments of the rows with the neurons of one layer.
        inverse: 1 / norm of the rows, and of each draw's rotated neurons ``[draws, columns]``.
        signs: of the layer's rotations.
        best: float64 ``[draws, rows]``, rows contiguous; updated.
        skip: int64 ``[rows]``, the rotated neuron that a row leaves out.
        threads: at most this many; the result does not depend on it.
    """
    matrix = _co_moments(c)
    owner, workspace = _workspace(_native.rotated_best_workspace(matrix, threads))
    _native.rotated_best(
        tile=_tile(c, inverse[0], skip, threads),
        signs=_signs(signs),
        column_inverse=inverse[1].data_ptr(),
        best=(best.data_ptr(), best.stride(0)),
        workspace=workspace,
    )
    del owner  # alive until here


def rotated_variance(c: Tensor, signs: Tensor, threads: int) -> Tensor:
    """Second moments of each rotated neuron, float64 ``[draws, neurons]``: ``diag(R c R^T)``.

    ``c`` is float64 ``[neurons, neurons]``, the co-moments within one layer.
    """
    draws = len(signs) - COMMON_ROUNDS
    variance = torch.empty(draws, c.shape[1], dtype=torch.float64)
    matrix = _co_moments(c)
    size = _native.rotated_variance_workspace(matrix, draws, threads)
    owner, workspace = _workspace(size)
    _native.rotated_variance(
        c=matrix,
        signs=_signs(signs),
        variance=variance.data_ptr(),
        workspace=workspace,
        threads=threads,
    )
    del owner  # alive until here
    return variance


# ---- CUDA ---------------------------------------------------------------------------------------


class CudaDevice(NamedTuple):
    """A device that the driver shows, whether or not this build has code for it."""

    name: str
    major: int  # of its compute capability
    minor: int
    memory: int  # bytes


def cuda_devices() -> list[CudaDevice]:
    """The devices of this machine, by their CUDA number."""
    return [CudaDevice(*device) for device in _native.cuda.devices()]
