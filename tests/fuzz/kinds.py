"""What a kind of input is, and what may become of one."""

from __future__ import annotations

import glob
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import univfast as uf
from univfast.errors import InputError, UnivfastWarning
from univfast.inputs.activations import open_activations

T = TypeVar("T")

PACKAGE = str(Path(uf.__file__).parent)
LINE = 500  # characters of a refusal, at most


class RefusedError(Exception):
    """The input was refused in one line, as it may be."""


class WrongError(Exception):
    """The input was taken, and what came out is not what is in it."""


class CrashError(Exception):
    """The input was refused in another way than in one line."""


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    Attributes:
        name: of the kind.
        share: of all inputs, relative to others.
        run: makes an input in an empty directory, and tries it. Ends where it is right; raises
            RefusedError, WrongError or, where it crashes, anything else.
        check: tries a file of the kind; None where inputs are no single files.
    """

    name: str
    share: int
    run: Callable[[Random, Path], None]
    check: Callable[[Path], None] | None = None


KINDS: dict[str, Kind] = {}


Run = Callable[[Random, Path], None]


def kind(
    name: str, share: int, check: Callable[[Path], None] | None = None
) -> Callable[[Run], Run]:
    """Registers a function as `Kind.run`."""

    def register(run: Run) -> Run:
        KINDS[name] = Kind(name, share, run, check)
        return run

    return register


def attempt(call: Callable[[], T]) -> T:
    """What the call gives.

    Raises:
        RefusedError: it refused its input in one line.
        CrashError: in another way; or because memory ran out, where all inputs are small.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnivfastWarning)
            return call()
    except (InputError, TypeError) as error:
        if isinstance(error, TypeError) and not _is_ours(error):
            raise
        check_line(str(error))
        raise RefusedError(str(error)) from error


def check_line(message: str) -> None:
    """Raises CrashError for a refusal that is not one line which says something."""
    if "\n" in message or "\r" in message or not message.strip() or len(message) > LINE:
        raise CrashError(f"not one line: {message[:LINE]!r}")
    if "fit into memory" in message or "allocate" in message:
        raise CrashError(f"a small input took all memory: {message}")


def _is_ours(error: BaseException) -> bool:
    """Whether the package raised it on purpose, and not an expression in it by accident."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return last.filename.startswith(PACKAGE) and (last.line or "").startswith("raise")


# ---- the answer ----------------------------------------------------------------------------------


def exact_r(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """r of column i with column i, ``[tokens, neurons]`` each, in long double; constants: NaN."""
    with np.errstate(all="ignore"):
        x, y = (v - v[:1] for v in (a.astype(np.longdouble), b.astype(np.longdouble)))
        x, y = x - x.mean(axis=0), y - y.mean(axis=0)
        r = (x * y).sum(axis=0) / np.sqrt((x * x).sum(axis=0)) / np.sqrt((y * y).sum(axis=0))
    constant = (a == a[:1]).all(axis=0) | (b == b[:1]).all(axis=0)
    return np.asarray(np.where(constant, np.nan, r), np.float64)


def check_r(found: Tensor, a: Tensor, b: Tensor) -> None:
    """Raises WrongError where r by index is not that of ``[tokens, neurons]`` each."""
    x, y = (v.double().numpy() for v in (a, b))
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise WrongError("NaN or infinity was taken")
    expected, got = exact_r(x, y), found.double().numpy()
    limit = 1e-12 if torch.float64 in (a.dtype, b.dtype) else 1e-6
    with np.errstate(all="ignore"):
        promised = _in_range(x) & _in_range(y)
        close = np.abs(got - expected) <= limit
    if got.shape != expected.shape or not ((np.abs(got) <= 1) | np.isnan(got)).all():
        raise WrongError(f"r is {got}, expected {expected}")
    same = close | (np.isnan(got) & np.isnan(expected)) | ~promised
    if not same.all():
        raise WrongError(f"r is {got[~same]}, expected {expected[~same]}")


def _in_range(x: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Columns for which README promises r: spread and offset within what it names."""
    spread, offset = x.std(axis=0), np.abs(x).max(axis=0)
    constant = (x == x[:1]).all(axis=0)
    return np.asarray((spread > 1e-18) & (spread < 1e18) & (offset < 1e4 * spread) | constant)


def partner(x: Tensor) -> Tensor:
    """Activations of another model on the same tokens."""
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(x.numel()))


def usable(x: Tensor) -> bool:
    """Whether an array can be activations."""
    wanted = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    return x.dtype in wanted and x.dim() >= 2 and x.numel() > 0


def check_activations(path: Path, plain: Callable[[Path], dict[str, Tensor]]) -> None:
    """Tries a file or directory of activations against what a plain reader finds in it."""
    found = attempt(lambda: open_activations(path, "a"))
    try:
        expected = plain(path)
    except Exception as error:
        raise WrongError(f"was taken, but a plain reader says {error!r}") from error
    # One of several may be refused where it is asked for.
    wanted = {name for name, x in expected.items() if usable(x)} - found.unusable.keys()
    if wanted != set(found.layers):
        raise WrongError(f"has layers {sorted(found.layers)}, expected {sorted(wanted)}")
    for name, layer in found.layers.items():
        x = expected[name]
        rows = x.reshape(-1, x.shape[-1])
        got = layer.read(0, layer.tokens)
        if (layer.dtype, tuple(got.shape)) != (x.dtype, tuple(rows.shape)):
            raise WrongError(f"{name!r} is {layer.dtype} {tuple(got.shape)}, expected {x.dtype}")
        if not bool(((got == rows) | (got.isnan() & rows.isnan())).all()):
            raise WrongError(f"{name!r} has other values than a plain reader finds")
    name = min(found.layers)
    x = expected[name]
    options: dict[str, Any] = {"match": "index", "rotation": "none", "shifts": 0}
    b = {name: partner(x)}
    layers = glob.escape(name)
    result = attempt(lambda: uf.correlate(str(path), b, layers=layers, **options))
    check_r(result.correlation, *(v.reshape(-1, x.shape[-1]) for v in (x, b[name])))


def bytes_of(x: Tensor) -> bytes:
    """The values as they are in memory."""
    return x.contiguous().flatten().view(torch.uint8).numpy().tobytes()
