"""`uf.correlate` with networks that learned nothing: the numbers, against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import univfast as uf
from support.controlled import (
    COLUMNS,
    TOKENS,
    WIDTHS_B,
    assert_as_the_reference,
    assert_close,
    controls_of,
    cut,
    expected,
    sides,
    two,
    untrained,
)
from support.dtypes import F32
from support.pairs import Layers
from univfast.sums import co_moments

MATCHES = ("index", "best", "one-to-one")
LOW: dict[str, Any] = {"threshold": 0.25, "control_margin": 0.1}  # so that counts are of some
each_match = pytest.mark.parametrize("match", MATCHES)


def reference_of(a: Layers, b: Layers, match: str, **given: Any) -> Any:
    return expected(a, b, match, threshold=0.25, margin=0.1, **given)


def same_columns(one: uf.CorrelationResult, other: uf.CorrelationResult) -> None:
    for name in COLUMNS:
        assert_close(getattr(one, name), getattr(other, name).numpy(), 0, name)
    assert one.learned is not None
    assert other.learned is not None
    assert torch.equal(one.learned, other.learned)


CONTROLS = (
    "universal_on_control_tokens",
    "universal_by_control",
    "fdr_control",
    "learned",
    "learned_by_control",
)


# ---- two models ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 4])
@pytest.mark.parametrize("of", ["both", "a", "b"])
@each_match
def test_numbers_are_those_of_the_reference(match: Any, of: str, number: int) -> None:
    a, b = two(match)
    given: Any = {
        name: nets for name, nets in sides(match, number).items() if of in (name[-1], "both")
    }
    result = uf.correlate(a, b, match=match, **LOW, **given)
    e = reference_of(a, b, match, **given)
    assert_as_the_reference(result, e)
    assert (number == 1) == bool(result.p_control.isnan().all())  # type: ignore[union-attr]
    # Cases that decide something: flagged and learned ones, and NaN where a control has no r.
    assert 0 < result.summary["learned"] <= result.summary["universal"]
    assert (result.control_a.isnan().all(), result.control_b.isnan().all()) == (
        of == "b",
        of == "a",
    )  # type: ignore[union-attr]
    absent = result.excess_control.isnan() & ~result.correlation.isnan()  # type: ignore[union-attr]
    if number == 1 and (match == "index" or (match == "one-to-one" and of != "a")):
        assert absent.any(), "a dead neuron in the only control is no control"
    if number > 1 and match == "index":
        assert not absent.any(), "controls without a neuron do not count in its K"


@pytest.mark.parametrize(
    "options", [{"rotation": "none"}, {"draws": 1}, {"rotation": "haar", "seed": 3}]
)
@each_match
def test_other_rotations(match: Any, options: dict[str, Any]) -> None:
    a, b = two(match)
    given: Any = sides(match, 2)
    result = uf.correlate(a, b, match=match, **LOW, **given, **options)
    assert_as_the_reference(result, reference_of(a, b, match, **given, **options))


@each_match
def test_masks_hold_for_controls_too(match: Any) -> None:
    a, b = two(match)
    given: Any = sides(match, 2)
    mask = torch.arange(TOKENS) % 3 > 0
    result = uf.correlate(a, b, match=match, mask=mask, **LOW, **given)
    assert_as_the_reference(result, reference_of(a, b, match, mask=mask.numpy(), **given))
    assert result.summary["controls"]["tokens"] == int(mask.sum())
    whole = uf.correlate(a, b, match=match, **LOW, **given)
    assert not torch.equal(whole.excess_control, result.excess_control)  # type: ignore[arg-type]


@each_match
def test_single_precision(match: Any) -> None:
    a, b = ({name: x.to(F32) for name, x in layers.items()} for layers in two(match))
    given: Any = {
        name: [{layer: x.to(F32) for layer, x in net.items()} for net in nets]
        for name, nets in sides(match, 2).items()
    }
    result = uf.correlate(a, b, match=match, **LOW, **given)
    assert_as_the_reference(result, reference_of(a, b, match, **given), limit=1e-5)


def test_the_real_numbers_are_those_without_controls() -> None:
    a, b = two()
    given: Any = sides("best", 2)
    result, plain = (uf.correlate(a, b, **LOW, **more) for more in (given, {}))
    assert repr(uf.correlate(a, b, threshold=0.25).columns()) == repr(plain.columns())
    with_controls = result.columns()
    assert {name: repr(with_controls[name]) for name in plain.columns()} == {
        name: repr(column) for name, column in plain.columns().items()
    }
    assert list(with_controls)[len(plain.columns()) :] == [*COLUMNS, "learned"]
    assert result.summary["universal"] == plain.summary["universal"]
    assert result.top_neuron is not None
    assert torch.equal(result.top_neuron, plain.top_neuron)  # type: ignore[arg-type]
    for name in (*CONTROLS, "controls"):
        assert plain.summary[name] is None
        assert result.summary[name] is not None
    assert plain.learned is plain.excess_control is None
    names = {"a": ["controls_a[0]", "controls_a[1]"], "b": [["controls_b[0]"], ["controls_b[1]"]]}
    said = result.summary["controls"]
    assert {side: said[side] for side in "ab"} == names
    assert (said["margin"], said["tokens"], said["smallest_p"]) == (0.1, TOKENS, 1 / 3)


def test_counts_of_layers_and_of_each_control() -> None:
    a, b = two()
    given: Any = sides("best", 3)
    result = uf.correlate(a, b, **LOW, **given)
    pairs = {
        "flagged_a": [(x, b) for x in given["controls_a"]],
        "flagged_b": [(a, y) for y in given["controls_b"]],
        "flagged_both": list(zip(given["controls_a"], given["controls_b"], strict=True)),
    }
    alone = {
        name: [uf.correlate(x, y, threshold=0.25).summary for x, y in some]
        for name, some in pairs.items()
    }
    said = result.summary["controls"]
    for name, summaries in alone.items():
        assert said[name] == [one["universal"] for one in summaries]
    for i, row in enumerate(result.summary["layers"]):
        f_a, f_b, f_0 = (
            np.mean([one["layers"][i]["universal"] for one in alone[name]]) for name in pairs
        )
        assert row["universal_by_control"] == pytest.approx(max(f_a, f_b, f_a + f_b - f_0))
    learned = [row["learned"] for row in result.summary["layers"]]
    assert sum(learned) == result.summary["learned"]
    assert learned[0] == int(result.learned[: len(a["l0"][0])].sum()) > 0  # type: ignore[index]


# ---- the other way round -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("match", ["best", "one-to-one"])
def test_the_reverse_is_the_swapped_call(match: Any) -> None:
    a, b = two(match)
    given: Any = sides(match, 2)
    for names in (("controls_a", "controls_b"), ("controls_a",), ("controls_b",)):
        some = {name: given[name] for name in names}
        swapped: Any = {f"controls_{'ba'[name[-1] == 'b']}": given[name] for name in names}
        reverse = uf.correlate(a, b, match=match, reverse=True, **LOW, **some).reverse
        assert reverse is not None
        other = uf.correlate(b, a, match=match, **LOW, **swapped)
        for name in COLUMNS:
            found = getattr(other, name).numpy()
            assert_close(getattr(reverse, name), found, 1e-11, name)
        # Baselines of the two are of rotations of one matrix, and of its transpose.
        for name in (*CONTROLS, "universal"):
            assert reverse.summary[name] == other.summary[name], name
        for name in ("flagged_a", "flagged_b", "flagged_both", "active", "active_in_controls"):
            assert reverse.summary["controls"][name] == other.summary["controls"][name], name


# ---- several models ------------------------------------------------------------------------------


def several() -> tuple[Layers, list[Layers], list[Layers], list[list[Layers]]]:
    a, b = two()
    c = untrained(3, (30,))
    c["l0"][:, :3] = a["l0"][:, :3] + 0.05 * c["l0"][:, 5:8]
    return (
        a,
        [b, c],
        controls_of(10, 2),
        [controls_of(20, 2, WIDTHS_B["best"]), controls_of(30, 2, (30,), dead=False)],
    )


def by_hand(a: Layers, others: list[Layers]) -> dict[str, Any]:
    """Means over the models of single results, each with the r of the other side."""
    alone = [uf.correlate(a, b, reverse=True, **LOW) for b in others]
    together = uf.correlate(a, others, **LOW)
    places = []
    for one, b in zip(alone, others, strict=True):
        starts = dict(zip(b, np.cumsum([0, *(x.shape[1] for x in b.values())]), strict=False))
        pairs = zip(one.match_layer, one.match_neuron.tolist(), strict=True)
        places.append([-1 if n < 0 else int(starts[layer]) + n for layer, n in pairs])
    back = [one.reverse.correlation.tolist() for one in alone]  # type: ignore[union-attr]
    r = np.nanmean([one.correlation.numpy() for one in alone], axis=0)
    return {"r": r, "baseline": together.baseline.numpy(), "places": places, "back": back,
            "universal": together.universal.numpy()}  # fmt: skip


def back_of(trial: dict[str, Any], places: list[list[int]]) -> Any:
    """What the matches of each model's neurons have in a trial, the mean over models."""
    found = [
        [np.nan if m < 0 else back[m] for m in own]
        for own, back in zip(places, trial["back"], strict=True)
    ]
    return np.nanmean(found, axis=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_several_models_are_averaged_and_a_control_stands_for_all() -> None:
    a, others, controls_a, controls_b = several()
    result = uf.correlate(a, others, controls_a=controls_a, controls_b=controls_b, **LOW)
    real = by_hand(a, others)
    of_a = [by_hand(x, others) for x in controls_a]
    of_b = [by_hand(a, [b[k] for b in controls_b]) for k in range(2)]
    both = [by_hand(controls_a[k], [b[k] for b in controls_b]) for k in range(2)]
    backs = np.array([back_of(x, real["places"]) for x in of_a])
    fronts = np.array([x["r"] for x in of_b])
    assert_close(result.control_a, backs.mean(0), 1e-11, "control_a")
    assert_close(result.control_b, fronts.mean(0), 1e-11, "control_b")
    highest = np.max([real["baseline"], backs.mean(0), fronts.mean(0)], axis=0)
    assert_close(result.excess_control, real["r"] - highest, 1e-11, "excess_control")
    there = np.where(np.isnan(real["r"]), np.nan, 0)
    p_a, p_b = (there + (1 + (x >= real["r"]).sum(0)) / 3 for x in (backs, fronts))
    assert_close(result.p_control_a, p_a, 0, "p_control_a")
    assert_close(result.p_control_b, p_b, 0, "p_control_b")
    assert_close(result.p_control, np.maximum(p_a, p_b), 0, "p_control")
    learned = real["universal"] & (real["r"] - highest > 0.1)
    assert result.learned is not None
    np.testing.assert_array_equal(result.learned, learned)
    flagged = [[int(x["universal"].sum()) for x in trials] for trials in (of_a, of_b, both)]
    said = result.summary["controls"]
    assert [said[f"flagged_{side}"] for side in ("a", "b", "both")] == flagged
    f_a, f_b, f_0 = (np.mean(counts) for counts in flagged)
    assert result.summary["universal_by_control"] == max(f_a, f_b, f_a + f_b - f_0)

    def passing(trial: dict[str, Any], *controls: Any) -> int:
        above = trial["r"] - np.max([trial["baseline"], *controls], axis=0) > 0.1
        return int((trial["universal"] & above).sum())

    in_b = [
        passing(of_b[k], of_b[1 - k]["r"], back_of(both[k], of_b[k]["places"])) for k in range(2)
    ]
    in_a = [
        passing(of_a[k], back_of(of_a[1 - k], of_a[k]["places"]), both[k]["r"]) for k in range(2)
    ]
    assert result.summary["learned_by_control"] == max(np.mean(in_a), np.mean(in_b))
    assert said["b"] == [[f"controls_b[{model}][{k}]" for model in range(2)] for k in range(2)]
    # Each model by itself is the call of two.
    for i, own in enumerate(result.by_model):
        alone = uf.correlate(a, others[i], controls_a=controls_a, controls_b=controls_b[i], **LOW)
        same_columns(own, alone)
        for name in CONTROLS:
            assert own.summary[name] == alone.summary[name], name
        for name in ("active", "active_in_controls", "flagged_b", "tokens"):
            assert own.summary["controls"][name] == alone.summary["controls"][name], name
        row = result.summary["by_model"][i]
        for name in ("universal_by_control", "learned"):
            assert row[name] == alone.summary[name]


# ---- fewer tokens --------------------------------------------------------------------------------


@pytest.mark.slow
@each_match
def test_controls_on_fewer_tokens_are_those_of_cut_inputs(match: Any) -> None:
    a, b = two(match)
    given: Any = sides(match, 2)
    few = 150
    result = uf.correlate(a, b, match=match, control_tokens=few, **LOW, **given)
    short: Any = {name: [cut(net, few) for net in nets] for name, nets in given.items()}
    of_cut = uf.correlate(cut(a, few), cut(b, few), match=match, **LOW, **short)
    for name in COLUMNS:
        assert_close(getattr(result, name), getattr(of_cut, name).numpy(), 1e-12, name)
    whole = uf.correlate(a, b, match=match, **LOW)
    for name in ("correlation", "baseline", "p_value"):
        assert_close(getattr(result, name), getattr(whole, name).numpy(), 0, name)
    s = result.summary
    assert (s["tokens"], s["controls"]["tokens"]) == (TOKENS, few)
    assert s["universal"] == whole.summary["universal"]
    assert s["universal_on_control_tokens"] == of_cut.summary["universal"]
    for name in ("universal_by_control", "fdr_control", "learned_by_control"):
        assert s[name] == of_cut.summary[name]
    assert result.learned is not None
    assert result.excess_control is not None
    assert torch.equal(result.learned, whole.universal & (result.excess_control > 0.1))
    # Controls may have these tokens alone.
    same_columns(uf.correlate(a, b, match=match, control_tokens=few, **LOW, **short), result)
    # As many as there are, and more, are all.
    for tokens in (TOKENS, TOKENS + 1):
        every = uf.correlate(a, b, match=match, control_tokens=tokens, **LOW, **given)
        same_columns(every, uf.correlate(a, b, match=match, **LOW, **given))
        assert every.summary["controls"]["tokens"] == TOKENS


# ---- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("match", ["best", "one-to-one"])
def test_several_passes_give_the_same(match: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(co_moments, "_CHUNK_TOKENS", 64)
    monkeypatch.setattr(co_moments, "_TILE_BYTES", 4096)
    a, b = two(match)
    given: Any = sides(match, 2)
    whole = uf.correlate(a, b, match=match, **LOW, **given)
    limit = {"best": 80e3, "one-to-one": 200e3}[match]
    ticks: list[tuple[int, int]] = []
    parts = uf.correlate(
        a,
        b,
        match=match,
        memory_limit=limit,
        progress=lambda *tick: ticks.append(tick),
        **LOW,
        **given,
    )
    assert ticks[-1][1] > 3 * TOKENS, "as many passes as without a limit"
    assert ticks[-1][0] == ticks[-1][1]
    assert repr(parts.columns()) == repr(whole.columns())
    for name in (*CONTROLS, "controls", "layers"):
        assert parts.summary[name] == whole.summary[name]


def test_inputs_are_left_alone() -> None:
    a, b = two()
    given: Any = sides("best", 2)
    nets = [a, b, *given["controls_a"], *given["controls_b"]]
    before = [{name: x.clone() for name, x in net.items()} for net in nets]
    uf.correlate(a, b, **given)
    for net, then in zip(nets, before, strict=True):
        assert all(torch.equal(net[name], then[name]) for name in then)
