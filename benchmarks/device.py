"""What the benchmarks on a CUDA device need: what it is, activations on it, and the measurement."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from harness import Activations, Answer, Array, Data, Layers, Measure

from univfast import reference
from univfast.bench.data import LAYER, correlated
from univfast.nulls.rotations import HadamardRotations

__all__ = [
    "DEVICE",
    "PAIRED",
    "R_ALONE",
    "DeviceActivations",
    "DeviceMeasure",
    "Paired",
    "Size",
    "clock",
    "describe",
    "layers",
    "line_of",
    "two_layers",
    "two_layers_options",
]

DEVICE = "cuda"
R_ALONE = "univfast, r alone"

PAIRED = pytest.mark.parametrize(
    ("wide", "dtype"),
    [(wide, dtype) for wide in (False, True) for dtype in (torch.bfloat16, torch.float32)],
    ids=["bfloat16", "float32", "wide bfloat16", "wide float32"],
)

# A round takes about so long, for launches to hide behind work as they do in a stream of batches;
# a line is measured for about this share of --seconds, within these numbers of rounds.
_ROUND_SECONDS = 0.03
_MOST_IN_A_ROUND = 30
_SHARE = 0.25
_ROUNDS = (3, 25)
# Tokens that the exact answer converts to float64 at a time, to bound its memory.
_TOKENS = 4096


def clock() -> float:
    """Seconds, when the device has done all that was queued."""
    torch.cuda.synchronize()
    return time.perf_counter()


@lru_cache(maxsize=1)
def describe() -> dict[str, Any]:
    """The device in use, its driver and torch, for the saved JSON."""
    found = torch.cuda.get_device_properties(DEVICE)
    return {
        "device": found.name,
        "capability": f"{found.major}.{found.minor}",
        "memory": found.total_memory,
        "multiprocessors": found.multi_processor_count,
        "l2_cache": found.L2_cache_size,
        "driver": _driver(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }


def _driver() -> str | None:
    """Its version, where nvidia-smi can say."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.split("\n")[0].strip() if done.returncode == 0 else None


def line_of(draws: int) -> str:
    """The line of univfast with so many draws."""
    return f"univfast, {draws} draw{'s' if draws > 1 else ''}" if draws else R_ALONE


class DeviceActivations(Activations):
    """Two models' activations on the device."""

    @property
    def nbytes(self) -> int:
        """Of both models."""
        return self.a.nbytes + self.b.nbytes

    @cached_property
    def exact_draw(self) -> Array:
        """r, and r with draw 0 of the structured rotation, ``[2, checked]``.

        The CPU rotates all tokens, in float64: its tests hold it to the matrices of the reference,
        which take too long to make for wide layers.
        """
        rotation = HadamardRotations(self.neurons, range(1), 0, LAYER)
        first = self.b[0].cpu().double()
        turned = torch.cat(
            [
                rotation.apply(part.cpu().double() - first)[0][:, self.checked]
                for part in torch.split(self.b, _TOKENS)
            ]
        )
        rotated = reference.pearson(self._columns(self.a), turned.numpy())
        return np.stack([self.exact[0], rotated])


@lru_cache(maxsize=4)
def activations(nbytes: int, neurons: int, dtype: torch.dtype) -> DeviceActivations:
    """Made on the device; ``nbytes`` of both models together."""
    tokens = max(16, nbytes // (2 * dtype.itemsize * neurons))
    return DeviceActivations(*(x.to(dtype) for x in correlated(tokens, neurons, DEVICE)))


@dataclass(frozen=True)
class Size:
    """How much a run reads: ``--tokens`` and ``--neurons``, and what README makes of them."""

    tokens: int
    neurons: int

    @property
    def nbytes(self) -> int:
        """Of the inputs of the paired stream, both models together: several times any cache."""
        return 32 * self.tokens * self.neurons


class Paired:
    """The inputs of a group of the paired stream, and its name."""

    def __init__(self, size: Size, wide: bool, dtype: torch.dtype) -> None:
        neurons = size.neurons * 14 // 3 if wide else size.neurons
        self.data = activations(size.nbytes, neurons, dtype)
        self.group = f"paired, {neurons:,} neurons, {str(dtype).removeprefix('torch.')}"


def layers(tokens: int, count: int, width: int, dtype: torch.dtype) -> Layers:
    """Two models on the device."""
    models = correlated(tokens, count * width, DEVICE)
    return Layers(
        *(
            {f"mlp.{i}": x.to(dtype).contiguous() for i, x in enumerate(model.split(width, dim=1))}
            for model in models
        )
    )


@lru_cache(maxsize=1)
def two_layers(size: Size) -> Layers:
    return layers(4 * size.tokens, 2, size.neurons * 2 // 3, torch.float32)


def two_layers_options(data: Layers, draws: int, precision: str = "float32") -> dict[str, Any]:
    """What the lines of this group have in common."""
    return {
        "floor": f"product, {precision}",
        "against": line_of(draws),
        "group": f"all pairs, 2 layers of {data.neurons // 2:,} neurons, float32",
        "amount": 2 * data.tokens * data.neurons**2,
    }


class DeviceMeasure(Measure):
    """Times one line of a table on the device, and checks the answer of what was timed.

    The benchmark's timer must be `clock`.
    """

    def __call__(
        self,
        line: str,
        run: Callable[[], Answer],
        data: Data,
        *,
        floor: str = "copy",
        against: str = R_ALONE,
        once: bool = False,
        group: str = "",
        amount: int = 0,
        **extra: object,
    ) -> Answer:
        """Runs twice to warm up, then for about `_SHARE` of ``seconds``.

        Args:
            line: its name in the table.
            run: what is timed. It may return before the device is done.
            data: what it reads.
            floor: the line whose rate is the most that this one can have.
            against: the line of univfast that does the same job.
            once: time one run, the first: for what takes long.
            group: the table.
            amount: what must be moved (bytes) or computed (operations), as the floor counts it; 0
                where there is no telling.
            extra: for ``extra_info`` of the saved JSON.

        Returns:
            The last answer.
        """
        rounds = iterations = 1
        if not once:
            run()  # what is compiled, loaded or allocated once
            started = clock()
            run()
            seconds = clock() - started
            iterations = max(1, min(_MOST_IN_A_ROUND, int(_ROUND_SECONDS / seconds)))
            least, most = _ROUNDS
            rounds = max(least, min(most, int(_SHARE * self._seconds / (seconds * iterations))))
        self._benchmark.group = group
        answer: Answer = self._benchmark.pedantic(run, rounds=rounds, iterations=iterations)
        info = self._benchmark.extra_info
        info.update(
            line=line,
            floor=floor,
            against=against,
            amount=amount,
            dtype=str(data.dtype).removeprefix("torch."),
            size=data.size,
            **describe(),
            **extra,
        )
        if self._benchmark.stats is not None:  # None with --benchmark-disable
            record = self._benchmark.stats.as_dict(include_data=False)
            self._records.append(record)
            info["rate"] = amount / record["stats"]["median"] if amount else None
            info["share"] = self._share(floor)
        return answer

    def _share(self, floor: str) -> float | None:
        """Of the floor's rate, if that was measured before."""
        rate = self._benchmark.extra_info["rate"]
        floors = [
            record["extra_info"]["rate"]
            for record in self._records
            if record["extra_info"]["line"] == floor
        ]
        return rate / floors[-1] if rate and floors else None
