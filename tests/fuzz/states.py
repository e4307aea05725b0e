"""States of accumulators and checkpoints of runs: what is taken is the state that was saved."""

from __future__ import annotations

import copy
import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

import univfast as uf
from fuzz.files import some_field, some_pt, some_pt_pickle
from fuzz.kinds import WrongError, attempt, kind
from fuzz.mutate import several, some_bytes, some_value
from univfast.machine.digests import sealed
from univfast.runs import by_index, over_pairs, sampling, screen_passes
from univfast.sums import co_moments

TOKENS = 300
Accumulator = Any

ACCUMULATORS: dict[str, Callable[[], Accumulator]] = {
    "paired": partial(uf.PairedCorrelation, 5, draws=2, shifts=3),
    "paired, haar": partial(uf.PairedCorrelation, 5, draws=1, rotation="haar"),
    "all pairs": partial(uf.AllPairsCorrelation, {"x": 5}, {"y": 5}, draws=2),
    "all pairs, both": partial(uf.AllPairsCorrelation, {"x": 5}, {"y": 5}, reverse=True, top_k=2),
}
RUNS: dict[str, dict[str, Any]] = {
    "index": {"match": "index", "shifts": 3, "draws": 2},
    "best": {"match": "best", "draws": 2},
    "passes": {"match": "best", "draws": 1, "memory_limit": 18_000},
    "details": {"match": "index", "details": True, "draws": 2},
    "screen": {"match": "best", "draws": 1, "screen": 64},
}

_states: dict[str, dict[str, Any]] = {}
_checkpoints: dict[str, list[bytes]] = {}
_expected: dict[str, str] = {}


class _StopError(Exception):
    pass


def prepare() -> None:
    """Saves states, and checkpoints of runs that were stopped on their way."""
    by_index.LEAST_TOKENS, by_index.READ_BYTES, over_pairs.READ_BYTES = 50, 1, 1
    sampling.READ_BYTES = screen_passes.READ_BYTES = 2000
    co_moments._CHUNK_TOKENS, co_moments._TILE_BYTES = 64, 4096
    for name, make in ACCUMULATORS.items():
        accumulator = make()
        accumulator.update(*_batch(0, 100))
        _states[name] = accumulator.state_dict()
        accumulator.update(*_batch(100, TOKENS))
        _expected[name] = _told(accumulator.compute())
    with tempfile.TemporaryDirectory() as folder:
        for name, options in RUNS.items():
            _expected[f"run {name}"] = _told(uf.correlate(*_models(), **options))
            for after in (120, 250, 450):
                path = Path(folder, f"{name} {after}.pt")
                with suppress(_StopError):
                    _correlate(name, path, _stopping(after))
                _checkpoints.setdefault(name, []).append(path.read_bytes())


def _batch(start: int, stop: int) -> tuple[Tensor, Tensor]:
    a, b = torch.randn(2, TOKENS, 5, generator=torch.Generator().manual_seed(0))
    return a[start:stop], (a + b)[start:stop]


def _models() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    a, b = _batch(0, TOKENS)
    return {"x": a, "y": a * a}, {"x": b, "y": b * b}


def _correlate(name: str, path: Path, progress: Any = None) -> uf.CorrelationResult:
    a, b = _models()
    saved: dict[str, Any] = {"checkpoint": path, "checkpoint_every": 0, "progress": progress}
    return uf.correlate(a, b, **RUNS[name], **saved)


def _stopping(after: int) -> Callable[[int, int], None]:
    def progress(done: int, _: int) -> None:
        if done >= after:
            raise _StopError

    return progress


def _told(result: uf.CorrelationResult) -> str:
    """All that a result says, but how long it took."""
    summary = {name: x for name, x in result.summary.items() if name != "seconds"}
    reverse = "" if result.reverse is None else _told(result.reverse)
    return repr((result.columns(), summary, result.null_excess, reverse))


# ---- changes -------------------------------------------------------------------------------------


def some_state(rng: Random, state: Any) -> Any:
    """A state with a value or a number of a tensor in it changed."""
    if rng.random() < 0.6:
        return some_value(rng, state)
    state = copy.deepcopy(state)
    places = list(_tensors(state))
    if not places:
        return state
    parent, key = rng.choice(places)
    parent[key] = some_tensor(rng, parent[key])
    return state


def _tensors(tree: Any) -> Iterator[tuple[Any, Any]]:
    keys = (
        list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    )
    for key in keys:
        if isinstance(tree[key], Tensor):
            yield tree, key
        else:
            yield from _tensors(tree[key])


def some_tensor(rng: Random, x: Tensor) -> Any:
    """A tensor with a number changed, or of another dtype, shape or kind."""
    if x.numel() == 0 or x.layout is not torch.strided or x.is_meta or x.requires_grad:
        return None  # changed already
    at, y = rng.randrange(x.numel()), x.clone().contiguous()
    what = rng.randrange(10)
    if what < 4:
        raw = y.flatten().view(torch.uint8)
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        return raw.view(y.dtype).view(y.shape)
    if what < 6:
        values = (0.0, -1.0, 3e4, float("nan"), float("inf"), float(y.flatten()[at]) / 2)
        y.view(-1)[at] = rng.choice(values if y.is_floating_point() else (0, -1, 2**40, 3))
        return y
    others: tuple[Callable[[], Any], ...] = (
        lambda: y.to(rng.choice((torch.float32, torch.int64, torch.bool, torch.complex128))),
        lambda: rng.choice((y.flatten(), y[:0], y[None], y.mT if y.dim() > 1 else y)),
        lambda: rng.choice((y.to_sparse(), y.to("meta"), y.flatten()[:1].expand(y.shape))),
        lambda: rng.choice((y.tolist(), y.numpy(), None, torch.nn.Parameter(y.double()))),
    )
    return rng.choice(others)()


# ---- kinds ---------------------------------------------------------------------------------------


def resealed(rng: Random, edited: Any) -> tuple[Any, bool]:
    """What was edited, half of the time with a digest that fits, and whether it has one."""
    if rng.random() < 0.5 or not isinstance(edited, dict):
        return edited, False
    with suppress(TypeError):
        return sealed(edited), True
    return edited, False


def check_numbers(result: uf.CorrelationResult) -> None:
    """Raises WrongError for numbers that no activations have.

    What is edited and has a digest that fits is a state of other activations.
    """
    r = result.correlation
    if not bool(((r.abs() <= 1) | r.isnan()).all()):
        raise WrongError(f"r is {r}")


@kind("state", 14)
def state(rng: Random, folder: Path) -> None:
    """A state that was edited, loaded to go on from it."""
    name = rng.choice(tuple(ACCUMULATORS))
    edited, forged = resealed(rng, several(rng, some_state, _states[name]))
    accumulator = ACCUMULATORS[name]()
    attempt(lambda: accumulator.load_state_dict(edited))

    def go_on() -> uf.CorrelationResult:
        accumulator.update(*_batch(100, TOKENS))
        return accumulator.compute()

    result = attempt(go_on)
    check_numbers(result)
    if not forged and _told(result) != _expected[name]:
        raise WrongError(f"{name}: an edited state was taken, and gives other numbers")


@kind("checkpoint", 12)
def checkpoint(rng: Random, folder: Path) -> None:
    """A checkpoint that was damaged or edited, with which a run goes on."""
    name = rng.choice(tuple(_checkpoints))
    content, path = rng.choice(_checkpoints[name]), folder / "run.pt"
    what, forged = rng.randrange(4), False
    if what == 0:
        content = several(rng, some_bytes, content)
    elif what == 1:
        content = rng.choice((some_pt, some_pt_pickle, some_field))(rng, content)
    else:
        edited = several(rng, some_state, torch.load(io.BytesIO(content), weights_only=True))
        edited, forged = resealed(rng, edited)
        buffer = io.BytesIO()
        torch.save(edited, buffer)
        content = buffer.getvalue()
    path.write_bytes(content)
    result = attempt(lambda: _correlate(name, path))
    check_numbers(result)
    if not forged and _told(result) != _expected[f"run {name}"]:
        raise WrongError(f"{name}: a changed checkpoint was taken, and gives other numbers")
