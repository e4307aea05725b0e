"""The border to the compiled core: torch tensors in, torch tensors out.

The core knows neither Python objects nor torch. All memory that it reads or writes, its workspace
included, is a tensor that these functions hold while the core runs. Each operation is done where
its tensors are, by `univfast.native.cpu` or `univfast.native.cuda`; `cpu` documents them.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

from torch import Tensor

from univfast import devices
from univfast.extension import _native
from univfast.native import cpu, cuda
from univfast.native.cuda import PairedState
from univfast.native.views import COMMON_ROUNDS, SIGN_STAGES, BadValue, Best, rotation_signs

__all__ = [
    "COMMON_ROUNDS",
    "SIGN_STAGES",
    "BadValue",
    "Best",
    "CudaDevice",
    "PairedState",
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

compiler = _native.COMPILER
simd_level = _native.simd_level
simd_levels = _native.simd_levels
cuda_built_with = _native.cuda.built_with
cuda_unavailable = _native.cuda.unavailable

_Operation = TypeVar("_Operation")


class CudaDevice(NamedTuple):
    """A device that the driver shows, whether or not this build has code for it."""

    name: str
    major: int  # of its compute capability
    minor: int
    memory: int  # bytes


def cuda_devices() -> list[CudaDevice]:
    """The devices of this machine, by their CUDA number."""
    return [CudaDevice(*device) for device in _native.cuda.devices()]


def _pick(x: Tensor, on_cpu: _Operation, on_cuda: _Operation) -> _Operation:
    return on_cuda if devices.on_cuda(x) else on_cpu


def rotate(x: Tensor, signs: Tensor) -> Tensor:
    return _pick(x, cpu.rotate, cuda.rotate)(x, signs)


def paired_moments(
    a: Tensor, b: Tensor, rows: Tensor | None, signs: Tensor, threads: int
) -> Tensor | BadValue:
    return _pick(a, cpu.paired_moments, cuda.paired_moments)(a, b, rows, signs, threads)


def neuron_moments(x: Tensor, threads: int) -> Tensor | BadValue:
    return _pick(x, cpu.neuron_moments, cuda.neuron_moments)(x, threads)


def standardise(x: Tensor, mean: Tensor, scale: Tensor, output: Tensor, threads: int) -> None:
    _pick(x, cpu.standardise, cuda.standardise)(x, mean, scale, output, threads)


def add_product(
    c: Tensor,
    product: Tensor,
    scales: tuple[Tensor, Tensor],
    deltas: tuple[Tensor, Tensor],
    threads: int,
) -> None:
    _pick(c, cpu.add_product, cuda.add_product)(c, product, scales, deltas, threads)


def best_pairs(
    c: Tensor,
    inverse: tuple[Tensor, Tensor],
    first: tuple[int, int],
    rows: Best,
    columns: Best | None,
    skip: Tensor | None,
    threads: int,
) -> None:
    _pick(c, cpu.best_pairs, cuda.best_pairs)(c, inverse, first, rows, columns, skip, threads)


def rotated_best(
    c: Tensor,
    inverse: tuple[Tensor, Tensor],
    signs: Tensor,
    best: Tensor,
    skip: Tensor | None,
    threads: int,
) -> None:
    _pick(c, cpu.rotated_best, cuda.rotated_best)(c, inverse, signs, best, skip, threads)


def rotated_variance(c: Tensor, signs: Tensor, threads: int) -> Tensor:
    return _pick(c, cpu.rotated_variance, cuda.rotated_variance)(c, signs, threads)
