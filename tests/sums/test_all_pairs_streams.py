"""All pairs of streams: batches, merges, states, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import univfast as uf
from support.dtypes import DTYPES, F16, F32, F64, name_of
from support.pairs import MATCHES, Layers, accumulated, limit_of, matches_of, models
from support.parity import assert_close, bits

# ---- streams ------------------------------------------------------------------------------------


def test_bits_do_not_depend_on_batches(small_chunks: int, baseline: str) -> None:
    a, b = models(333, (30, 20), (25,), F32)
    whole = accumulated(a, b)
    for sizes in ((1, 332), (63, 1, 200, 69), (0, 64, 64, 0, 64, 100, 41), (128, 205)):
        parts = uf.AllPairsCorrelation({"a0": 30, "a1": 20}, {"b0": 25})
        for x0, x1, y in zip(
            a["a0"].split(sizes), a["a1"].split(sizes), b["b0"].split(sizes), strict=True
        ):
            parts.update({"a1": x1, "a0": x0}, y)
        assert parts.tokens == 333
        one, other = (x.co_moments().tensors() for x in (whole, parts))
        assert all(bits(one[name]) == bits(other[name]) for name in one)


@pytest.mark.parametrize("dtype", [F32, F64], ids=name_of)
def test_merging_is_adding(dtype: torch.dtype, small_chunks: int, baseline: str) -> None:
    a, b = models(500, (30,), (25, 10), dtype)
    whole = accumulated(a, b, reverse=True)
    merged = uf.AllPairsCorrelation({"a0": 30}, {"b0": 25, "b1": 10}, reverse=True)
    for part in (slice(0, 10), slice(10, 10), slice(10, 400), slice(400, 500)):
        merged.merge(
            accumulated(
                {name: x[part] for name, x in a.items()},
                {name: x[part] for name, x in b.items()},
                reverse=True,
            )
        )
    assert merged.tokens == 500
    for one, other in zip(matches_of(whole), matches_of(merged), strict=True):
        assert_close(one.correlation, other.correlation.numpy(), limit_of(dtype), "r")
        assert_close(one.rotated, other.rotated.numpy(), limit_of(dtype), "rotated r")


def test_masked_tokens_are_left_out(small_chunks: int) -> None:
    a, b = models(300, (30,), (25,))
    g = torch.Generator().manual_seed(0)
    mask = torch.rand(30, 10, generator=g) < 0.6
    keep = mask.flatten()
    spoilt = {"a0": torch.where(keep[:, None], a["a0"], torch.nan).view(30, 10, 30)}
    masked = uf.AllPairsCorrelation({"a0": 30}, {"b0": 25})
    masked.update(spoilt, {"b0": b["b0"].view(30, 10, 25)}, mask=mask)
    taken = accumulated({"a0": a["a0"][keep]}, {"b0": b["b0"][keep]})
    one, other = (x.co_moments().tensors() for x in (masked, taken))
    assert all(bits(one[name]) == bits(other[name]) for name in one)


def test_a_state_goes_on_where_it_was_saved(tmp_path: Path, small_chunks: int) -> None:
    a, b = models(300, (30,), (25,))
    first, rest = ({"a0": a["a0"][part]} for part in (slice(0, 100), slice(100, 300)))
    first_b, rest_b = ({"b0": b["b0"][part]} for part in (slice(0, 100), slice(100, 300)))
    saved = accumulated(first, first_b)
    torch.save(saved.state_dict(), tmp_path / "state.pt")
    loaded = uf.AllPairsCorrelation({"a0": 30}, {"b0": 25})
    loaded.update(rest, rest_b)  # replaced
    loaded.load_state_dict(torch.load(tmp_path / "state.pt"))
    for accumulator in (saved, loaded):
        accumulator.update(rest, rest_b)
    one, other = (x.co_moments().tensors() for x in (saved, loaded))
    assert all(bits(one[name]) == bits(other[name]) for name in one)
    snapshot = saved.state_dict()
    saved.update(rest, rest_b)
    assert bits(snapshot["moments"]["cross"]) == bits(other["cross"])


def test_saving_a_state_changes_nothing(tmp_path: Path, small_chunks: int) -> None:
    a, b = models(300, (30,), (25,))
    saved, whole, resumed = (uf.AllPairsCorrelation({"a0": 30}, {"b0": 25}) for _ in range(3))
    for first in range(0, 300, 50):  # of chunks of 64
        part = slice(first, first + 50)
        batch = {"a0": a["a0"][part]}, {"b0": b["b0"][part]}
        whole.update(*batch)
        saved.update(*batch)
        torch.save(saved.state_dict(), tmp_path / "state.pt")
        resumed.update(*batch)
        assert resumed.tokens == saved.tokens == first + 50
        resumed = uf.AllPairsCorrelation({"a0": 30}, {"b0": 25})
        resumed.load_state_dict(torch.load(tmp_path / "state.pt"))
    expected = whole.co_moments().tensors()
    for accumulator in (saved, resumed):
        found = accumulator.co_moments().tensors()
        assert all(bits(found[name]) == bits(x) for name, x in expected.items())


def test_a_state_of_version_2_is_read(small_chunks: int) -> None:
    a, b = models(300, (30,), (25,))
    written = accumulated(a, b)
    written.co_moments()  # that version added all tokens to the moments
    state = {**written.state_dict(), "version": 2}
    del state["pending"], state["digest"]
    loaded = uf.AllPairsCorrelation({"a0": 30}, {"b0": 25})
    loaded.load_state_dict(state)
    assert loaded.tokens == 300
    assert bits(loaded.compute().correlation) == bits(written.compute().correlation)


def test_reset_forgets(small_chunks: int) -> None:
    a, b = models(100, (30,), (25,))
    accumulator = accumulated(a, b)
    accumulator.reset()
    assert accumulator.tokens == 0
    with pytest.raises(uf.InputError, match="no tokens"):
        accumulator.compute()


@pytest.mark.parametrize("match", MATCHES)
def test_threads_change_no_reduction(match: str) -> None:
    a, b = models(200, (150,), (130, 70))
    state = accumulated(a, b, draws=3, reverse=True).state_dict()
    found = []
    for threads in (1, 2, 5):
        accumulator = accumulated(a, b, draws=3, reverse=True, threads=threads)
        accumulator.load_state_dict(state)
        found.append(matches_of(accumulator, match))
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            assert bits(one.correlation) == bits(other.correlation)
            assert bits(one.rotated) == bits(other.rotated)
            assert torch.equal(one.match_neuron, other.match_neuron)


def test_batches_are_not_written_to() -> None:
    a, b = models(100, (30,), (25,), F16)
    before = [x.clone() for x in (*a.values(), *b.values())]
    accumulated(a, b).compute()
    assert all(bits(x) == bits(y) for x, y in zip(before, (*a.values(), *b.values()), strict=True))


def test_strided_views_are_read_as_they_are() -> None:
    a, b = models(100, (30,), (24,), F32)
    views = {"b0": b["b0"].T.contiguous().T[::2, ::3]}
    copies = {"b0": views["b0"].contiguous()}
    halves = {"a0": a["a0"][::2]}
    one, other = accumulated(halves, views), accumulated(halves, copies)
    assert bits(one.co_moments().cross) == bits(other.co_moments().cross)


# ---- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ({"x": torch.zeros(5, 3)}, {"y": torch.zeros(6, 4)}, r"a and b: leading shapes \[5\]"),
        ({"z": torch.zeros(5, 3)}, {"y": torch.zeros(5, 4)}, r"a: got layers \['z'\], expected"),
        ({"x": torch.zeros(5, 4)}, {"y": torch.zeros(5, 4)}, r"a: layer 'x': .* \[..., 3\]"),
        ({"x": torch.zeros(5, 3).int()}, {"y": torch.zeros(5, 4)}, "a: layer 'x' has dtype int32"),
        (
            {"x": torch.zeros(2, 5, 3)},
            {"y": torch.zeros(5, 2, 4)},
            r"a and b: leading shapes \[2, 5\] and \[5, 2\]",
        ),
    ],
)
def test_batches_that_do_not_fit(a: Layers, b: Layers, message: str) -> None:
    accumulator = uf.AllPairsCorrelation({"x": 3}, {"y": 4})
    with pytest.raises(uf.InputError, match=f"^{message}"):
        accumulator.update(a, b)
    assert accumulator.tokens == 0


def test_layers_of_a_batch_must_have_the_same_tokens() -> None:
    accumulator = uf.AllPairsCorrelation({"x": 3, "z": 2}, {"y": 4})
    with pytest.raises(uf.InputError, match=r"^a: layers 'x' and 'z' have shapes"):
        accumulator.update(
            {"x": torch.zeros(5, 3), "z": torch.zeros(4, 2)}, {"y": torch.zeros(5, 4)}
        )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_bad_values_are_named_and_lose_nothing(
    value: float, dtype: torch.dtype, small_chunks: int
) -> None:
    a, b = models(300, (30, 20), (25,), dtype)
    accumulator = accumulated(a, b)
    before = accumulator.state_dict()
    b["b0"] = b["b0"].clone()
    b["b0"][222, 17] = value
    with pytest.raises(
        uf.InputError, match=rf"^b: layer 'b0' has {value!r} at token 222, neuron 17;"
    ):
        accumulator.update(a, b)
    after = accumulator.state_dict()
    assert after["tokens"] == before["tokens"] == 300
    assert all(bits(before["moments"][n]) == bits(after["moments"][n]) for n in after["moments"])


def test_values_too_large_to_square_are_named() -> None:
    a, b = models(50, (3,), (4,))
    a["a0"][7, 1] = 1e200
    with pytest.raises(uf.InputError, match=r"a: layer 'a0' has 1e.200 at token 7, neuron 1, too"):
        accumulated(a, b)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"top_k": 0}, uf.InputError, "top_k: got 0, expected at least 1"),
        ({"top_k": 2.0}, TypeError, "top_k: expected an integer"),
        ({"draws": 0}, uf.InputError, "draws: got 0"),
        ({"rotation": "dft"}, uf.InputError, "rotation: got 'dft'"),
        ({"device": "cuda"}, uf.InputError, "device: "),
        ({"threads": 0}, uf.InputError, "threads: got 0"),
        ({"exclude_self": True}, uf.InputError, "exclude_self: A and B have other layers"),
        ({"layers_a": {}}, uf.InputError, "layers_a: has no layers"),
        ({"layers_a": {"x": 0}}, uf.InputError, "layers_a: 'x': got 0"),
        ({"layers_a": {1: 5}}, TypeError, "layers_a: layer names must be str"),
        ({"layers_b": 5}, TypeError, "layers_b: expected a dict"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        uf.AllPairsCorrelation(**{"layers_a": {"x": 3}, "layers_b": {"y": 4}, **options})


def test_states_that_do_not_fit_are_refused() -> None:
    accumulator = uf.AllPairsCorrelation({"x": 3}, {"y": 4})
    state = accumulator.state_dict()
    two = {"x": 3, "y": 3}
    reordered = uf.AllPairsCorrelation({"y": 3, "x": 3}, two)
    with pytest.raises(uf.InputError, match="merge: layers_a differs"):
        uf.AllPairsCorrelation(two, two).merge(reordered)
    with pytest.raises(uf.InputError, match="load_state_dict: layers_a differs"):
        uf.AllPairsCorrelation(two, two).load_state_dict(reordered.state_dict())
    for other, message in (
        (uf.AllPairsCorrelation({"x": 3}, {"y": 5}), "layers_b differs"),
        (uf.AllPairsCorrelation({"x": 3}, {"y": 4}, seed=1), "seed differs"),
        (uf.AllPairsCorrelation({"x": 3}, {"y": 4}, reverse=True), "reverse differs"),
    ):
        with pytest.raises(uf.InputError, match=f"merge: {message}"):
            accumulator.merge(other)
        with pytest.raises(uf.InputError, match=f"load_state_dict: {message}"):
            accumulator.load_state_dict(other.state_dict())
    with pytest.raises(TypeError, match="merge: expected an AllPairsCorrelation"):
        accumulator.merge(uf.PairedCorrelation(3))  # type: ignore[arg-type]
    for change, message in (
        ({"options": {**state["options"], "draws": 9}}, "draws differs, got 9, expected 5"),
        ({"format": "univfast-paired"}, "not a state of AllPairsCorrelation"),
        ({"version": 1}, "of version 2 or 3 or 4 .* version 1"),
        ({"pending": [torch.zeros(2, 3)]}, "pending is missing"),
        ({"pending": [torch.zeros(2, 3), torch.zeros(1, 4)]}, "pending is missing"),
        ({"tokens": -1}, "got -1 tokens"),
        ({"moments": {**state["moments"], "cross": torch.zeros(2, 2)}}, "cross is missing"),
        ({"moments": None}, "is missing"),
    ):
        with pytest.raises(uf.InputError, match=message):
            accumulator.load_state_dict({**state, **change})
