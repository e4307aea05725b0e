"""Plans: which passes are dealt to the processes, and what each of them then does."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest

import univfast as uf
from univfast.checks import differ
from univfast.inputs.layout import Layout
from univfast.machine import devices
from univfast.options import CorrelateOptions, complete
from univfast.runs.comparisons import Comparison
from univfast.runs.planning import Job, multiplications, pass_bytes, plan_passes
from univfast.runs.sharding import dealt_to, dealt_work, jobs_in, plan_round, steps_in
from univfast.runs.sparse_plan import SparsePlan
from univfast.search.searches import state_bytes

OPTIONS = complete(CorrelateOptions, {"draws": 2}, "correlate")
A = Layout(tuple(f"a{i}" for i in range(12)), (64,) * 12)
B = Layout(("b0", "b1"), (128, 64))
LAYOUTS = [A, B, B]
WIDTHS = [A.by_name()] * 2
DENSE = cast("SparsePlan", SimpleNamespace(entries=lambda one: None))
WORK = partial(multiplications, layouts=LAYOUTS, options=OPTIONS)


def planned(processes: int, limit: float, comparisons: int = 1) -> list[dict[str, Any]]:
    numbered = [(i, Comparison(0, 1 + i)) for i in range(comparisons)]
    loads = partial(plan_passes, numbered, LAYOUTS, OPTIONS, device=devices.CPU, sparse=DENSE)
    return plan_round(1000, loads, WORK, limit, processes)


def need(layers: int) -> int:
    """Bytes of so many layers of A with all of B."""
    group = Layout(A.names[:layers], A.widths[:layers])
    return state_bytes(A, B, OPTIONS, devices.CPU, group)


def layers_of(entry: dict[str, Any]) -> list[int]:
    """Layers of A that each process has."""
    return [sum(len(layers) for _, layers in jobs) for jobs in entry["dealt"]]


def job_bytes(jobs: list[Any]) -> int:
    found = [Job(number, 0, 1 + number, tuple(layers)) for number, layers in jobs]
    return pass_bytes(found, LAYOUTS, OPTIONS, devices.CPU, DENSE)


@pytest.mark.parametrize("limit", [need(12), need(12) + 1, float("inf")])
def test_what_fits_is_not_dealt(limit: float) -> None:
    (entry,) = planned(4, limit)
    assert entry == {"tokens": 1000, "jobs": [[0, list(A.names)]]}
    assert dealt_to(entry) is None
    assert dealt_work([entry]) is None


def test_one_process_takes_several_passes() -> None:
    plan = planned(1, need(5))
    assert [[len(layers) for _, layers in entry["jobs"]] for entry in plan] == [[5], [5], [2]]


@pytest.mark.parametrize(
    ("processes", "fits", "expected"),
    [
        (2, 11, [[6, 6]]),
        (4, 5, [[3, 3, 3, 3]]),
        (4, 3, [[3, 3, 3, 3]]),
        (2, 5, [[3, 3], [3, 3]]),
        (5, 4, [[3, 3, 3, 3, 0]]),
        (12, 3, [[1] * 12]),
        (3, 1, [[1, 1, 1]] * 4),
        (4, 2, [[2, 2, 2, 2], [1, 1, 1, 1]]),
    ],
)
def test_layers_are_dealt_evenly(processes: int, fits: int, expected: list[list[int]]) -> None:
    plan = planned(processes, need(fits))
    assert [layers_of(entry) for entry in plan] == expected
    assert all(dealt_to(entry) == processes for entry in plan)
    assert [name for entry in plan for _, names in jobs_in(entry) for name in names] == [*A.names]
    assert all(job_bytes(jobs) <= need(fits) for entry in plan for jobs in entry["dealt"])
    assert dealt_work(plan) == {"layers": 12, "processes": processes, "passes": len(expected)}


def test_tokens_are_shared_where_layers_cannot_be_dealt_evenly() -> None:
    for processes, fits in ((20, 3), (8, 7), (8, 10)):  # one for 0.6, or two for 1.5
        plan = planned(processes, need(fits))
        assert [[len(layers) for _, layers in entry["jobs"]] for entry in plan] == [
            [min(fits, 12 - i)] for i in range(0, 12, fits)
        ]


def test_what_is_multiplied_within_b_counts() -> None:
    options = {**OPTIONS, "rotation": "haar"}
    job = Job(0, 0, 1, ("a3", "a4"))
    within = (128**2 + 64**2) / 2
    assert multiplications([job], LAYOUTS, OPTIONS) == 128 * 192  # rotated as tokens come
    assert multiplications([job], LAYOUTS, {**OPTIONS, "rotation": "none"}) == 128 * 192
    assert multiplications([job], LAYOUTS, options) == 128 * 192 + within
    both = multiplications([job, job], LAYOUTS, {**options, "reverse": True})
    assert both == 2 * (128 * 192 + within + 64**2)


def test_comparisons_are_dealt_too() -> None:
    (entry,) = planned(2, need(12), comparisons=2)
    assert entry["dealt"] == [[[0, [*A.names]]], [[1, [*A.names]]]]
    assert dealt_work([entry]) == {"layers": 12, "processes": 2, "passes": 1}
    (entry,) = planned(2, 2 * need(12), comparisons=2)
    assert entry["jobs"] == [[0, [*A.names]], [1, [*A.names]]]


@pytest.mark.parametrize("processes", [1, 2])
def test_what_fits_nowhere_is_refused(processes: int) -> None:
    with pytest.raises(uf.InputError, match=r"^memory_limit: layer 'a0' of A with all of B needs"):
        planned(processes, need(1) - 1)


def test_the_layer_that_takes_most_is_named() -> None:
    layouts = [Layout(("a", "wide", "b"), (64, 300, 64)), B]
    numbered = [(0, Comparison(0, 1))]
    with pytest.raises(uf.InputError, match=r"layer 'wide' of A with all of B needs"):
        plan_passes(numbered, layouts, OPTIONS, need(1), devices.CPU, DENSE)


def test_equal_work_is_recognised_however_it_is_cut() -> None:
    whole = steps_in(planned(1, float("inf"), 2), whole=False, widths=WIDTHS)
    for processes, fits in ((1, 5), (2, 5), (4, 1), (3, 12)):
        assert not differ(
            steps_in(planned(processes, need(fits), 2), whole=False, widths=WIDTHS), whole
        )
    assert differ(steps_in(planned(2, need(5)), whole=False, widths=WIDTHS), whole)


@pytest.mark.parametrize(
    "dealt",
    [
        [],
        [[]],
        [[0, ["a0"]]],
        {"a": 1},
        "ab",
        3,
        [[[0, []]]],
        [[[0, "a0"]]],
        [[[0]]],
        [[[0, 1, 2]]],
    ],
    ids=repr,
)
def test_what_is_no_plan_is_told(dealt: object) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        steps_in([{"tokens": 5, "dealt": dealt}], whole=False, widths=WIDTHS)


def test_an_assignment_is_never_dealt() -> None:
    plan = planned(2, need(5))
    assert len(steps_in(plan, whole=False, widths=WIDTHS)) == 12
    with pytest.raises(ValueError, match="dealt"):
        steps_in(plan, whole=True, widths=WIDTHS)


def test_layers_that_are_done_are_left_out() -> None:
    numbered = [(0, Comparison(0, 1)), (1, Comparison(0, 2))]
    done = {(0, name) for name in A.names[:8]} | {(1, name) for name in A.names}
    loads = partial(plan_passes, numbered, LAYOUTS, OPTIONS, device=devices.CPU, sparse=DENSE)

    def rest(fits: int, processes: int, *more: str) -> list[dict[str, Any]]:
        taken = {*done, *((0, name) for name in more)}
        return plan_round(7, loads, WORK, need(fits), processes, taken)

    assert rest(12, 2) == [{"tokens": 7, "jobs": [[0, ["a8", "a9", "a10", "a11"]]]}]
    assert rest(3, 2) == [{"tokens": 7, "dealt": [[[0, ["a8", "a9"]]], [[0, ["a10", "a11"]]]]}]
    assert rest(1, 2, "a9", "a10") == [{"tokens": 7, "dealt": [[[0, ["a8"]]], [[0, ["a11"]]]]}]
    assert rest(12, 2, *A.names) == []
