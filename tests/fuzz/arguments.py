"""Tensors, arrays and options as Python passes them, also where torch's own settings are odd."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor

import univfast as uf
from fuzz.kinds import WrongError, attempt, check_r, exact_r, kind
from fuzz.mutate import near, odd
from support.torch_states import default_dtype
from univfast.option import declared
from univfast.options import CorrelateOptions

TOKENS, NEURONS = 24, 6
PLAIN: dict[str, Any] = {"rotation": "none", "shifts": 0}


def activations(rng: Random) -> tuple[Tensor, Tensor]:
    """Two models' ``[tokens, neurons]``, float32, whose r is anywhere."""
    generator = torch.Generator(device="cpu").manual_seed(rng.getrandbits(32))
    shape = (2, rng.choice((2, 5, TOKENS)), rng.choice((1, NEURONS, NEURONS)))
    a, noise = torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32)
    return a, a + noise


# ---- what tensors can be -------------------------------------------------------------------------


class Named(Tensor):
    """A subclass that is plain memory."""


class Wrapper(Tensor):
    """A tensor of no memory of its own, as those of tensor-parallel modules are."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Wrapper:
        made = Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        plain = [x.inner if isinstance(x, Wrapper) else x for x in args]
        found = func(*plain, **(kwargs or {}))
        return Wrapper(found) if isinstance(found, Tensor) else found


class Exporter:
    """What offers DLPack and nothing else."""

    def __init__(self, x: Tensor) -> None:
        self._x = x

    def __dlpack__(self, **options: Any) -> Any:
        return self._x.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._x.__dlpack_device__()


class Arrayish:
    """What NumPy takes for an array."""

    def __init__(self, x: Tensor) -> None:
        self._x = x

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self._x.numpy()


def _freed(x: Tensor) -> Tensor:
    """Whose memory is gone, as that of sharded parameters between their uses."""
    x = x.clone()
    x.untyped_storage().resize_(0)
    return x


def _fake(x: Tensor) -> Tensor:
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode().from_tensor(x)


def _masked(x: Tensor) -> Any:
    from torch.masked import masked_tensor

    return masked_tensor(x, x < 1)


def _unaligned(x: Tensor) -> Any:
    raw = np.frombuffer(b"." + x.numpy().tobytes(), np.uint8)[1:]
    return raw.view(np.float32).reshape(x.shape)


def _record(x: Tensor) -> Any:
    return x.numpy().view([("x", np.float32)])


# Each makes something of plain activations; what it stands for is found by a plain reader below.
ODD: tuple[Callable[[Tensor], Any], ...] = (
    *(
        lambda x: x.T.contiguous().T,
        lambda x: x.double(),
        lambda x: x.half(),
        lambda x: x.bfloat16(),
    ),
    lambda x: torch.cat([x, x.new_full((len(x), 9), 7)], 1)[:, : x.shape[1]],
    lambda x: torch.stack([x, 7 * x], 2)[:, :, 0],
    lambda x: torch.stack([x, 7 * x], 1).flatten(0, 1)[::2],
    *(lambda x: x[:1].expand(x.shape), lambda x: x[:, :1].expand(x.shape)),
    *(
        lambda x: x.clone().requires_grad_(),
        lambda x: torch._neg_view(-x),
        lambda x: x[None, :, None],
    ),
    *(torch.nn.Parameter, torch.nn.Buffer, lambda x: x.as_subclass(Named)),  # type: ignore[attr-defined]
    *(Wrapper, Exporter, Arrayish, _freed, _fake, _masked),
    *(
        lambda x: x.to_sparse(),
        lambda x: x.to_sparse_csr(),
        lambda x: x.to("meta"),
        lambda x: x.tolist(),
    ),
    *(lambda x: torch.nested.nested_tensor([x, x]), lambda x: x.to_mkldnn()),
    lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
    *(lambda x: x.to(torch.complex64), lambda x: x.long(), lambda x: x > 0),
    *(lambda x: x.to(torch.float8_e4m3fn), lambda x: torch.complex(x, x).imag),
    *(lambda x: x[:0], lambda x: x[:, :0], lambda x: x[0], lambda x: x[0, 0], lambda x: x[:1]),
    *(lambda x: x * 1e30, lambda x: x * 1e-30, lambda x: x + 1e5, lambda x: x * 0, lambda x: x / 0),
    *(lambda x: x.numpy(), lambda x: x.numpy()[::-1], lambda x: x.numpy()[:, ::-1]),
    *(
        lambda x: np.asfortranarray(x.numpy()),
        lambda x: x.numpy().astype(">f4"),
        _unaligned,
        _record,
    ),
    *(lambda x: x.numpy().astype(np.longdouble), lambda x: x.numpy().astype(object)),
    *(lambda x: np.ma.masked_array(x.numpy(), x.numpy() < 0), lambda x: np.asmatrix(x.numpy())),
    *(lambda x: np.broadcast_to(x.numpy()[:1], x.shape), lambda x: x.numpy().astype("U5")),
    *(
        lambda x: x.numpy().view("M8[s]") if x.shape[1] % 2 == 0 else None,
        lambda x: memoryview(x.numpy()),
    ),
    *(
        lambda x: {"activations": x},
        lambda x: {"é\n": x},
        lambda x: {0: x},
        lambda x: {},
        lambda x: [x],
    ),
    *(
        lambda x: {"a": x, "b": x[:, :1]},
        lambda x: [x, x.tolist()],
        lambda x: "\0",
        lambda x: b"x",
        lambda x: Path("gone"),
    ),
)


def plainly(value: Any) -> Tensor | None:
    """The activations in a value that can be nothing else; None where it may well be refused."""
    if isinstance(value, dict):
        layers = list(value.values())
        value = torch.cat(layers, 1) if len(layers) > 1 else next(iter(layers), None)
    if isinstance(value, list) and len(value) == 1:
        (value,) = value
    if isinstance(value, Wrapper):
        value = value.inner
    if isinstance(value, Exporter):
        value = value._x
    if isinstance(value, Tensor) and type(value) not in (Tensor, torch.nn.Parameter, Named):
        value = value.as_subclass(Tensor) if type(value) is torch.nn.Buffer else None  # type: ignore[attr-defined]
    if isinstance(value, np.ndarray) and value.dtype.kind == "f" and not np.ma.isMaskedArray(value):
        value = torch.from_numpy(np.ascontiguousarray(value).astype(f"f{min(value.itemsize, 8)}"))
    if isinstance(value, Tensor) and value.layout in (torch.sparse_coo, torch.sparse_csr):
        value = value.to_dense()
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_meta:
        return None
    if not value.is_floating_point() or value.is_quantized or value.is_nested:
        return None
    if value.untyped_storage().nbytes() == 0 and value.numel():
        return None
    found = value.detach().resolve_neg()
    return found.reshape(-1, found.shape[-1]) if found.dim() else None


# ---- what torch can be set to --------------------------------------------------------------------


@contextmanager
def _strict() -> Iterator[None]:
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(False)


@contextmanager
def _threads() -> Iterator[None]:
    torch.set_num_threads(3)
    try:
        yield
    finally:
        torch.set_num_threads(1)


SETTINGS: tuple[Callable[[], AbstractContextManager[Any]], ...] = (
    *(nullcontext,) * 8,
    *(lambda: default_dtype(torch.bfloat16), lambda: default_dtype(torch.float64)),
    *(torch.inference_mode, torch.no_grad, lambda: torch.device("meta")),
    *(lambda: torch.autocast("cpu", torch.bfloat16), _strict, _threads),
)


# ---- kinds ---------------------------------------------------------------------------------------


@kind("tensor", 20)
def tensor(rng: Random, folder: Path) -> None:
    """Activations of odd kinds, to each function that takes some."""
    a, b = activations(rng)
    a, b = a.to(dtype := rng.choice((torch.float32,) * 3 + (torch.float64,))), b.to(dtype)
    os.chdir(folder)
    if dtype == torch.float64:
        given: Any = a
    else:
        make = rng.choice(ODD)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            given = make(a)
    swapped = rng.random() < 0.3
    way = rng.choice((_by_index, _by_index, _best, _paired, _all_pairs))
    with rng.choice(SETTINGS)():
        pair = (b, given) if swapped else (given, b)
        found = attempt(lambda: way(*pair))
    plain = plainly(given)
    if plain is None:
        raise WrongError(f"{type(given).__name__} was taken")
    x, y = (b, plain) if swapped else (plain, b)
    if way in (_best, _all_pairs):
        _check_best(found, x, y)
    else:
        check_r(found, x, y.reshape(x.shape))


def _by_index(a: Any, b: Any) -> Tensor:
    return uf.correlate(a, b, match="index", **PLAIN).correlation


def _best(a: Any, b: Any) -> Tensor:
    return uf.correlate(a, b, match="best", **PLAIN).correlation


def _paired(a: Any, b: Any) -> Tensor:
    accumulator = uf.PairedCorrelation(_width(a) or _width(b) or 1, **PLAIN)
    accumulator.update(a, b)
    return accumulator.compute().correlation


def _width(x: Any) -> int:
    """Of a tensor that has one; else 0."""
    return x.shape[-1] if isinstance(x, Tensor) and not x.is_nested and x.dim() else 0


def _all_pairs(a: Any, b: Any) -> Tensor:
    layers = [{"activations": _width(x) or NEURONS} for x in (a, b)]
    accumulator = uf.AllPairsCorrelation(*layers, **PLAIN)
    accumulator.update(a, b)
    return accumulator.compute().correlation


def _check_best(found: Tensor, a: Tensor, b: Tensor) -> None:
    """Raises WrongError where the highest r of each neuron with any is not that."""
    x, y = (v.double().numpy() for v in (a, b.reshape(-1, b.shape[-1])))
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise WrongError("NaN or infinity was taken")
    each = [exact_r(x, np.roll(y, -i, 1)[:, :1].repeat(x.shape[1], 1)) for i in range(y.shape[1])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = np.nanmax(each, axis=0)
    got = found.double().numpy()
    if not np.allclose(got, expected, 0, 2e-6, equal_nan=True):
        raise WrongError(f"highest r is {got}, expected {expected}")


@kind("option", 14)
def option(rng: Random, folder: Path) -> None:
    """Options of odd values: refused, or r is what it is without them."""
    a, b = activations(rng)
    os.chdir(folder)
    options = declared(CorrelateOptions)
    given: dict[str, Any] = {"match": "index", "draws": 1, "shifts": 2}
    for name in rng.sample(sorted(options), rng.choice((1, 1, 2))):
        default = options[name][1].default
        given[name] = (
            near(rng, default) if type(default) is int and rng.random() < 0.3 else odd(rng)
        )
    if rng.random() < 0.02:
        given[rng.choice(("", "Draws", "x"))] = odd(rng)
    _bounded(given)
    result = attempt(lambda: uf.correlate(a, b, **given))
    if given.get("axis") is not None:
        a, b = (x.movedim(int(given["axis"]), -1) for x in (a, b))
    (_check_best if given["match"] == "best" else check_r)(result.correlation, a, b)


def _bounded(given: dict[str, Any]) -> None:
    """Fewer draws where there are so many that they are allowed, and take half a minute."""
    if type(given["draws"]) is int and 1_000 < given["draws"] <= 100_000:
        given["draws"] = 1_000


@kind("accumulator", 8)
def accumulator(rng: Random, folder: Path) -> None:
    """Widths, layers and options of accumulators, of odd values."""
    a, b = activations(rng)
    made: Callable[..., Any] = rng.choice((uf.PairedCorrelation, uf.AllPairsCorrelation))
    widths: list[Any] = [a.shape[1]] if made is uf.PairedCorrelation else [{"x": a.shape[1]}] * 2
    given: dict[str, Any] = {"draws": 1}
    if rng.random() < 0.4:
        widths[0] = odd(rng) if rng.random() < 0.5 else {"x": odd(rng)}
    else:
        names = ("draws", "seed", "rotation", "shifts", "threads", "device", "layer", "top_k")
        given[rng.choice((*names, "reverse", "exclude_self", "precision", "products"))] = odd(rng)
    _bounded(given)
    made = attempt(lambda: made(*widths, **given))
    attempt(lambda: made.update(a, b, rng.choice((None, None, odd(rng)))))  # type: ignore[attr-defined]
    threshold = rng.choice((0.5, 0.5, odd(rng)))
    result = attempt(lambda: made.compute(threshold=threshold))  # type: ignore[attr-defined]
    if isinstance(made, uf.PairedCorrelation):
        check_r(result.correlation, a, b)
    elif not given.get("exclude_self"):
        _check_best(result.correlation, a, b)
