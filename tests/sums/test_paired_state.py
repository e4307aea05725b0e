"""Batches, merges, threads and saved states of the streaming accumulator."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import univfast as uf
from support.dtypes import BF16, F32, F64
from support.parity import (
    LAYER,
    Case,
    accumulated,
    activations,
    assert_close,
    assert_holds,
    assert_parity,
    bits,
    exact,
    make_case,
    same_bits,
)
from support.processes import printed, python
from univfast.errors import InputError

# ---- batches, merges and threads ----------------------------------------------------------------


def hypothesis_case(draw: Callable[[Any], Any]) -> tuple[Case, list[int]]:
    dtype = draw(st.sampled_from([F64, F32]))
    neurons = draw(st.sampled_from([1, 2, 5, 65]))
    tokens = draw(st.integers(2, 1100))
    rotation = draw(st.sampled_from(["hadamard", "hadamard", "haar", "none"]))
    offset = draw(st.sampled_from([0.0, 1e4]))
    a, b = activations(tokens, neurons, seed=draw(st.integers(0, 3)))
    cuts = sorted(draw(st.lists(st.integers(0, tokens), max_size=8)))
    sizes = np.diff([0, *cuts, tokens]).tolist()
    case = make_case("split", a + offset, b - offset, dtype, rotation=rotation)
    return replace(case, batches=tuple(sizes)), sizes


@pytest.mark.slow
@given(st.data())
def test_any_split_and_any_order_of_merges(data: st.DataObject) -> None:
    case, _ = hypothesis_case(data.draw)
    parts = []
    for a, b in case.split():
        part = accumulated(replace(case, a=a, b=b, batches=None))
        parts.append((part, len(a)))
    while len(parts) > 1:  # a random tree of merges, of states that went through state_dict or not
        i = data.draw(st.integers(0, len(parts) - 1))
        into, n = parts.pop(i)
        j = data.draw(st.integers(0, len(parts) - 1))
        other, m = parts[j]
        untouched = other.state_dict()
        into.merge(other)
        assert bits(untouched["moments"]) == bits(other.state_dict()["moments"])
        parts[j] = (into, n + m)
        assert into.tokens == n + m
    assert_holds(parts[0][0], case)
    assert_parity(uf.PairedCorrelation, case)


@pytest.mark.parametrize("rotation", ["hadamard", "haar", "none"])
def test_batches_of_one_and_none(rotation: str) -> None:
    a, b = activations(70, 65)
    case = make_case("ones", a + 1e4, b, F32, batches=(0, 1) * 70 + (0,), rotation=rotation)
    assert_parity(uf.PairedCorrelation, case)


def test_empty_updates_and_merges_change_nothing() -> None:
    case = make_case("small", *activations(20, 3), F32)
    acc = accumulated(case)
    before = acc.state_dict()
    acc.update(torch.empty(0, 3), torch.empty(0, 3))
    acc.update(torch.empty(4, 0, 3), torch.empty(4, 0, 3), mask=torch.empty(4, 0, dtype=torch.bool))
    acc.update(case.a, case.b, mask=torch.zeros(20, dtype=torch.bool))
    acc.merge(uf.PairedCorrelation(3, draws=2))
    assert acc.tokens == 20
    assert bits(acc.state_dict()["moments"]) == bits(before["moments"])
    fresh = uf.PairedCorrelation(3, draws=2)
    fresh.merge(acc)
    assert same_bits(fresh, acc)


def test_merge_with_itself_counts_twice() -> None:
    case = make_case("small", *activations(20, 3), F64)
    acc = accumulated(case)
    acc.merge(acc)
    assert acc.tokens == 40
    doubled = replace(case, a=case.a.repeat(2, 1), b=case.b.repeat(2, 1))
    assert_close(acc.correlations().correlation, exact(doubled)[0], 1e-12, "r")


@pytest.mark.parametrize("dtype", [F64, F32, BF16])
@pytest.mark.parametrize("rotation", ["hadamard", "haar", "none"])
def test_same_bits_for_any_number_of_threads(dtype: torch.dtype, rotation: str) -> None:
    a, b = activations(10_001, 65)
    case = make_case("threads", a + 3, b, dtype, rotation=rotation)
    mask = torch.from_numpy(np.random.default_rng(0).random(10_001) < 0.8)
    for keep in (None, mask):
        runs = [accumulated(case, threads, keep) for threads in (1, 2, 3, 7)]
        assert all(same_bits(runs[0], run) for run in runs[1:])


def test_same_bits_for_torchs_number_of_threads() -> None:
    a, b = activations(5000, 257)
    before = torch.get_num_threads()
    runs = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            runs += [
                accumulated(make_case("", a, b, F32, rotation=r)) for r in ("haar", "hadamard")
            ]
    finally:
        torch.set_num_threads(before)
    assert same_bits(runs[0], runs[2])
    assert same_bits(runs[0], runs[4])
    assert same_bits(runs[1], runs[3])
    assert same_bits(runs[1], runs[5])


@pytest.mark.parametrize("neurons", [512, 1344, 1536])
def test_same_bits_where_neurons_are_dealt_in_groups(neurons: int) -> None:
    """The widths that are rotated part by part, and across blocks."""
    case = make_case("threads", *activations(2000, neurons), F32, draws=3)
    runs = [accumulated(case, threads) for threads in (1, 2, 5)]
    assert all(same_bits(runs[0], run) for run in runs[1:])
    assert_parity(uf.PairedCorrelation, replace(case, a=case.a[:300], b=case.b[:300]))


FORK = """
import os, sys, threading
import torch
import univfast as uf

a, b = torch.randn(2, 4000, 512, generator=torch.Generator().manual_seed(0))

def r():
    acc = uf.PairedCorrelation(512, draws=2, threads=4)
    acc.update(a, b)
    return acc.correlations().rotated

before, running = r(), threading.active_count()
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(r(), before) else 1)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0
assert torch.equal(r(), before)
tasks = os.listdir("/proc/self/task") if os.path.isdir("/proc/self/task") else []
r()
assert not tasks or len(os.listdir("/proc/self/task")) == len(tasks)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_goes_on() -> None:
    """Nothing is left running between calls, so a child lacks nothing."""
    printed(python(FORK))


def test_two_python_threads_at_once() -> None:
    cases = [make_case(f"{i}", *activations(3000, 64 + i), F32) for i in range(8)]
    alone = [accumulated(case) for case in cases]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda case: accumulated(case, threads=2), cases))
    assert all(map(same_bits, alone, together))


def test_seed_draws_and_layer_decide_the_rotations() -> None:
    a, b = (torch.from_numpy(v) for v in activations(50, 16))

    def rotated(**options: Any) -> Tensor:
        acc = uf.PairedCorrelation(16, **{"draws": 2, **options})
        acc.update(a, b)
        return acc.correlations().rotated

    first = rotated()
    assert torch.equal(first, rotated(seed=0, layer=LAYER))
    for rotation in ("hadamard", "haar", "gaussian"):
        assert torch.equal(rotated(rotation=rotation), rotated(rotation=rotation, draws=5)[:2])
    others = [rotated(seed=1), rotated(layer="mlp.1"), rotated(rotation="haar"), first.flip(0)]
    assert all((first - other).abs().max() > 0.05 for other in others)
    assert rotated(rotation="none").shape == (0, 16)


# ---- the object ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"neurons": 0}, InputError, "neurons: got 0"),
        ({"neurons": 3.0}, TypeError, "neurons: expected an integer"),
        ({"neurons": True}, TypeError, "neurons: expected an integer"),
        ({"draws": 0}, InputError, "draws: got 0"),
        ({"rotation": "random"}, InputError, "rotation: got 'random'"),
        ({"seed": 0.5}, TypeError, "seed: expected an integer"),
        ({"shifts": -1}, InputError, "shifts: got -1"),
        ({"threads": 0}, InputError, "threads: got 0"),
        ({"threads": "2"}, TypeError, "threads: expected an integer"),
        ({"threads": 1.5}, TypeError, "threads: expected an integer"),
        ({"device": "cuda:99"}, InputError, "device: .*cuda:99"),
        ({"device": "gpu"}, InputError, "device: "),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        uf.PairedCorrelation(**{"neurons": 3, **options})


def test_compute_needs_tokens() -> None:
    acc = uf.PairedCorrelation(3)
    for _ in range(2):
        with pytest.raises(InputError, match="compute: no tokens"):
            acc.compute()
        acc.update(torch.randn(9, 3), torch.randn(9, 3))
        acc.compute()
        acc.reset()
        assert acc.tokens == 0


def test_compute_changes_nothing_and_more_may_follow() -> None:
    case = make_case("two", *activations(90, 5), F64)
    acc = uf.PairedCorrelation(5, draws=2)
    acc.update(case.a[:40], case.b[:40])
    state = acc.state_dict()
    first = acc.compute()
    assert torch.equal(first.correlation, acc.compute().correlation)
    assert bits(state["moments"]) == bits(acc.state_dict()["moments"])
    acc.update(case.a[40:], case.b[40:])
    assert acc.compute().summary["tokens"] == 90
    assert_close(acc.compute().correlation, exact(case)[0], 1e-12, "r")


@pytest.mark.parametrize("rotation", ["hadamard", "gaussian", "none"])
def test_state_goes_through_a_file(tmp_path: Path, rotation: str) -> None:
    case = make_case("two", *activations(90, 5), F64, rotation=rotation)
    whole = accumulated(replace(case, batches=(40, 50)))
    first = accumulated(replace(case, a=case.a[:40], b=case.b[:40]))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    resumed = uf.PairedCorrelation(5, draws=2, rotation=rotation)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert same_bits(resumed, first)
    resumed.update(case.a[40:], case.b[40:])
    assert same_bits(resumed, whole)


def test_a_state_is_a_copy() -> None:
    acc = accumulated(make_case("one", *activations(9, 5), F64))
    state = acc.state_dict()
    other = uf.PairedCorrelation(5, draws=2)
    other.load_state_dict(state)
    state["moments"].zero_()
    state["options"]["seed"] = 5
    assert same_bits(acc, other)
    assert acc.state_dict()["moments"].any()
    assert acc.state_dict()["options"]["seed"] == 0


OTHER_OPTIONS: list[dict[str, Any]] = [
    {"neurons": 6},
    {"draws": 3},
    {"rotation": "haar"},
    {"seed": 1},
    {"layer": "mlp.1"},
    {"shifts": 3},
]


@pytest.mark.parametrize("options", OTHER_OPTIONS, ids=lambda o: next(iter(o)))
def test_other_options_do_not_mix(options: dict[str, Any]) -> None:
    acc = accumulated(make_case("one", *activations(9, 5), F64))
    before = acc.state_dict()
    other = uf.PairedCorrelation(**{"neurons": 5, "draws": 2, **options})
    (name,) = options
    with pytest.raises(InputError, match=f"merge: {name} differs, got"):
        acc.merge(other)
    with pytest.raises(InputError, match=f"load_state_dict: {name} differs, got"):
        acc.load_state_dict(other.state_dict())
    assert bits(acc.state_dict()["moments"]) == bits(before["moments"])


def spoilt_states() -> dict[str, Any]:
    good = accumulated(make_case("one", *activations(9, 5), F64)).state_dict()
    moments = good["moments"]
    changes: dict[str, dict[str, Any]] = {
        "format": {"format": "other"},
        "version": {"version": 1},
        "without shifts": {"version": 2},
        "options": {"options": None},
        "moments missing": {"moments": None},
        "moments cut": {"moments": moments[:-1]},
        "tokens negative": {"tokens": -1},
        "tokens a float": {"tokens": 2.5},
        "tokens a word": {"tokens": "nine"},
    }
    spoilt: dict[str, Any] = {name: {**good, **change} for name, change in changes.items()}
    for key in good:
        spoilt[f"no {key}"] = {k: v for k, v in good.items() if k != key}
    return spoilt | {"empty": {}}


@pytest.mark.parametrize("name", list(spoilt_states()))
def test_spoilt_states_are_refused(name: str) -> None:
    acc = accumulated(make_case("two", *activations(30, 5), F64))
    before = acc.state_dict()
    with pytest.raises(InputError, match=r"^load_state_dict: "):
        acc.load_state_dict(spoilt_states()[name])
    assert acc.tokens == 30
    assert bits(acc.state_dict()["moments"]) == bits(before["moments"])


@pytest.mark.parametrize("other", [None, [1, 2], 3])
def test_neither_states_nor_accumulators(other: Any) -> None:
    acc = uf.PairedCorrelation(5)
    with pytest.raises(TypeError, match=r"^load_state_dict: "):
        acc.load_state_dict(other)
    with pytest.raises(TypeError, match=r"^merge: "):
        acc.merge(other)


# ---- memory -------------------------------------------------------------------------------------


def test_state_does_not_grow() -> None:
    def size(acc: uf.PairedCorrelation) -> int:
        file = io.BytesIO()
        torch.save(acc.state_dict(), file)
        return len(file.getvalue())

    acc = uf.PairedCorrelation(64, draws=3)
    a, b = (torch.from_numpy(v).float() for v in activations(1000, 64))
    acc.update(a, b)
    first = size(acc)
    assert acc.state_dict()["moments"].nbytes == 8 * (5 + 2 * 3 + 20) * 64
    for _ in range(5):
        acc.update(a, b)
    assert size(acc) == first
