"""The border to the compiled core: torch tensors in, torch tensors out.

==============  ======================================================
``cpu``         the operations on the CPU, and what each is told
``sparse``      those on sparse features, on the CPU alone
``candidates``  those of some pairs alone, on the CPU alone
``cuda``        the same on a CUDA device
``products``    products of bfloat16 on the CPU
``views``       what the core is told of tensors, and what it answers
``place``       where a tensor is
``extension``   the compiled module, or what to do where it is missing
==============  ======================================================

The core knows neither Python objects nor torch. All memory that it reads or writes, its workspace
included, is a tensor that these functions hold while the core runs. Each operation is done where
its tensors are, by `univfast.native.cpu` or `univfast.native.cuda`; `cpu` documents them. Those of
`candidates`, and `cpu.extreme_tokens`, take tensors on the CPU alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import NamedTuple, ParamSpec, TypeVar

from torch import Tensor

from univfast.native import cpu, cuda, place
from univfast.native.candidates import candidate_products, standardise_transposed
from univfast.native.cuda import PairedState
from univfast.native.extension import _native
from univfast.native.products import (
    Packed,
    add_packed_product,
    multiplies_bfloat16,
    pack,
    packed_size,
)
from univfast.native.views import (
    COMMON_ROUNDS,
    SHARED_LAGS,
    SIGN_STAGES,
    BadValue,
    Best,
    Contexts,
    PairSums,
    Shifts,
    UsedTokens,
    rotation_signs,
)

__all__ = [
    "COMMON_ROUNDS",
    "SHARED_LAGS",
    "SIGN_STAGES",
    "BadValue",
    "Best",
    "Contexts",
    "CudaDevice",
    "Packed",
    "PairSums",
    "PairedState",
    "Shifts",
    "UsedTokens",
    "add_packed_product",
    "add_product",
    "best_pairs",
    "candidate_products",
    "compiler",
    "cuda_built_with",
    "cuda_devices",
    "cuda_unavailable",
    "extreme_tokens",
    "group_sums",
    "multiplies_bfloat16",
    "neuron_moments",
    "pack",
    "packed_size",
    "pair_details",
    "paired_moments",
    "rotate",
    "rotated_best",
    "rotated_variance",
    "rotation_signs",
    "simd_level",
    "simd_levels",
    "standardise",
    "standardise_transposed",
]

compiler = _native.COMPILER
simd_level = _native.simd_level
simd_levels = _native.simd_levels
cuda_built_with = _native.cuda.built_with
cuda_unavailable = _native.cuda.unavailable

P = ParamSpec("P")
R = TypeVar("R")


class CudaDevice(NamedTuple):
    """A device that the driver shows, whether or not this build has code for it."""

    name: str
    major: int  # of its compute capability
    minor: int
    memory: int  # bytes


def cuda_devices() -> list[CudaDevice]:
    """The devices of this machine, by their CUDA number."""
    return [CudaDevice(*device) for device in _native.cuda.devices()]


def _by_device(on_cpu: Callable[P, R], on_cuda: Callable[P, R]) -> Callable[P, R]:
    """An operation where its first tensor is."""

    @wraps(on_cpu)
    def operation(*args: P.args, **kwargs: P.kwargs) -> R:
        first = args[0]
        assert isinstance(first, Tensor)
        return (on_cuda if place.on_cuda(first) else on_cpu)(*args, **kwargs)

    return operation


add_product = _by_device(cpu.add_product, cuda.add_product)
best_pairs = _by_device(cpu.best_pairs, cuda.best_pairs)
extreme_tokens = cpu.extreme_tokens
group_sums = _by_device(cpu.group_sums, cuda.group_sums)
neuron_moments = _by_device(cpu.neuron_moments, cuda.neuron_moments)
pair_details = _by_device(cpu.pair_details, cuda.pair_details)
paired_moments = _by_device(cpu.paired_moments, cuda.paired_moments)
rotate = _by_device(cpu.rotate, cuda.rotate)
rotated_best = _by_device(cpu.rotated_best, cuda.rotated_best)
rotated_variance = _by_device(cpu.rotated_variance, cuda.rotated_variance)
standardise = _by_device(cpu.standardise, cuda.standardise)
