"""Candidates from a sample, then their r over all tokens."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

import univfast as uf
from support.planted import planted
from support.stopped import StopError, stopping
from univfast.errors import UnivfastWarning
from univfast.report.files import save_result
from univfast.report.verdict import verdict
from univfast.runs import sampling, screen_passes, screening
from univfast.runs.sampling import Sample
from univfast.runs.screen_found import chosen_rows
from univfast.search import sampled
from univfast.search.missed import upper_limit

TOKENS = 600


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few neurons and tokens at a time that there are several slices, chunks and tiles."""
    monkeypatch.setattr(screen_passes.SearchPass, "step", 16)
    monkeypatch.setattr(sampled, "chunk_tokens", lambda device: 100)
    monkeypatch.setattr(sampled, "_TILE_BYTES", 8 * 40 * 10)
    for module in (screen_passes, sampling):
        monkeypatch.setattr(module, "READ_BYTES", 1 << 14)


def models(dtype: torch.dtype = torch.float32, number: int = 2) -> list[dict[str, Tensor]]:
    """Models of three layers, of which some neurons are shared, some rectified, one constant."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(TOKENS, 60, generator=generator, dtype=torch.float64)
    found = []
    for _ in range(number):
        x = torch.randn(TOKENS, 90, generator=generator, dtype=torch.float64)
        x[:, torch.randperm(90, generator=generator)[:60]] += 2 * shared
        x[:, ::3] = (x[:, ::3] - 1).relu()
        x[:, 1] += 300
        x[:, 47] = 0.25
        found.append({f"mlp.{i}": part.to(dtype) for i, part in enumerate(x.split(30, dim=1))})
    return found


EXACT = ("correlation", "top_correlation", "baseline", "excess", "p_value", "null_excess")


def check_same(one: uf.CorrelationResult, other: uf.CorrelationResult, tolerance: float) -> None:
    for name in EXACT:
        np.testing.assert_allclose(
            getattr(one, name), getattr(other, name), rtol=0, atol=tolerance, err_msg=name
        )
    assert one.match_layer == other.match_layer
    for name in ("match_neuron", "mutual", "universal", "dead", "top_neuron"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    for key in ("tokens", "neurons", "dead", "unmatched", "universal_partners", "match_layers"):
        assert one.summary[key] == other.summary[key], key  # type: ignore[literal-required]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-12), (torch.bfloat16, 2e-6)]
)
def test_on_all_tokens_it_is_the_search_of_all_pairs(
    dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screening, "CANDIDATES", 90)
    a, b = models(dtype)
    options: dict[str, Any] = {"reverse": True, "draws": 3, "top_k": 7}
    whole, screened = (uf.correlate(a, b, **options, screen=n) for n in (None, TOKENS))
    check_same(screened, whole, tolerance)
    assert screened.reverse is not None
    assert whole.reverse is not None
    check_same(screened.reverse, whole.reverse, tolerance)
    for result in (screened, screened.reverse):
        found = result.summary["screen"]
        assert (found["tokens"], found["by_activity"]) == (TOKENS, 0)
        assert found["checked"] == found["found"] == 89
        assert found["shortfall"] == 0
        assert "of matches are missed (95% limit)" in verdict(result.summary)
    assert "screen" not in whole.summary


@pytest.mark.slow
def test_r_is_over_all_tokens_and_rotations_over_the_even_half() -> None:
    a, b = models()
    result = uf.correlate(a, b, screen=200, draws=2, details=True)
    x, y = (torch.cat([*model.values()], dim=1).double() for model in (a, b))
    with np.errstate(invalid="ignore"):  # one is constant
        r = np.corrcoef(x.numpy(), y.numpy(), rowvar=False)[:90, 90:]
    live = ~result.dead
    layer = torch.tensor([int(name[-1]) if name else 0 for name in result.match_layer])
    place = 30 * layer + result.match_neuron
    expected = r[torch.arange(90), place]
    np.testing.assert_allclose(result.correlation[live], expected[live], rtol=0, atol=1e-6)
    highest = np.nan_to_num(r).max(axis=1)
    shared = highest > 0.5
    assert highest[shared].tolist() == pytest.approx(
        result.correlation[torch.from_numpy(shared)].tolist(), abs=1e-6
    )
    assert result.tokens_effective is not None  # details are of these matches
    assert result.summary["tokens"] == TOKENS

    # The baseline is that of a search on those tokens alone.
    even = []
    choose = screening.choose

    def seen(*arguments: Any) -> Sample:
        sample = choose(*arguments)
        even.append(sample.tokens[: sample.even])
        return sample

    with mock.patch.object(screening, "choose", seen):
        uf.correlate(a, b, screen=200, draws=2)
    few = [{name: x[even[0]] for name, x in model.items()} for model in (a, b)]
    there = uf.correlate(*few, draws=2)
    np.testing.assert_allclose(result.baseline, there.baseline, rtol=0, atol=2e-6)


@pytest.mark.parametrize("keeps", [False, True])
def test_neither_slices_nor_what_is_kept_show(keeps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = models()
    expected = uf.correlate(a, b, screen=200, draws=2)
    monkeypatch.setattr(screen_passes.SearchPass, "step", 1000)
    monkeypatch.setattr(screen_passes, "READ_BYTES", 1 << 24)
    limit = None if keeps else 100e6
    result = uf.correlate(a, b, screen=200, draws=2, memory_limit=limit)
    check_same(result, expected, 2e-6)


def test_masks_leave_tokens_out() -> None:
    a, b = models()
    mask = torch.arange(TOKENS) % 4 != 1
    kept = [{name: x[mask] for name, x in model.items()} for model in (a, b)]
    for model in (a, b):
        for x in model.values():
            x[~mask] = torch.nan
    result = uf.correlate(a, b, screen=200, draws=2, mask=mask)
    expected = uf.correlate(*kept, draws=2)
    high = expected.correlation > 0.5
    assert int(high.sum()) > 20
    np.testing.assert_allclose(result.correlation[high], expected.correlation[high], atol=2e-6)
    assert result.summary["tokens"] == 450


def test_masks_that_leave_controls_no_token_are_refused_by_what_bounds_these() -> None:
    a, b, control = models(number=3)
    mask = torch.arange(TOKENS) >= 300
    for tokens, name in ((250, "control_tokens"), (500, "screen")):
        given: dict[str, Any] = {"controls_b": [control], "control_tokens": tokens, "mask": mask}
        with pytest.raises(uf.InputError, match=f"^{name}: the mask leaves none of the first"):
            uf.correlate(a, b, screen=280, **given)


def test_a_model_with_itself_leaves_each_neuron_out() -> None:
    a, _ = models()
    result = uf.correlate(a, a, exclude_self=True, screen=TOKENS, draws=2)
    check_same(result, uf.correlate(a, a, exclude_self=True, draws=2), 2e-6)
    assert result.summary["screen"]["found"] == 89


@pytest.mark.slow
def test_several_models_have_one_sample(tmp_path: Path) -> None:
    a, *others = models(number=3)
    result = uf.correlate(a, others, screen=TOKENS, draws=2)
    whole = uf.correlate(a, others, draws=2)
    np.testing.assert_allclose(result.correlation, whole.correlation, rtol=0, atol=2e-6)
    np.testing.assert_allclose(result.excess, whole.excess, rtol=0, atol=2e-6)
    screens = [x.summary["screen"] for x in (result, *result.by_model)]
    assert [x["checked"] for x in screens] == [178, 89, 89]
    assert "178 neurons, counted in each other model, were searched whole" in result.verdict()
    save_result(result, tmp_path, published=False)
    loaded = uf.load(tmp_path)
    for one, saved in zip(result.by_model, loaded.by_model, strict=True):
        assert saved.summary["screen"] == one.summary["screen"]
        assert saved.summary["method"] == one.summary["method"]


@pytest.mark.slow
def test_controls_are_compared_on_as_many_tokens() -> None:
    a, b, *controls = models(number=4)
    for control in controls:  # of other neurons
        for name, x in control.items():
            control[name] = x[torch.randperm(TOKENS, generator=torch.Generator().manual_seed(9))]
    given: dict[str, Any] = {"controls_a": controls[:1], "controls_b": controls[1:], "draws": 2}
    result = uf.correlate(a, b, screen=200, **given)
    on_few = uf.correlate(a, b, control_tokens=200, **given)
    one, other = (x.summary["controls"] for x in (result, on_few))
    assert one is not None
    assert other is not None
    for key in ("tokens", "flagged_a", "flagged_b", "flagged_both", "more_than_controls"):
        assert one[key] == other[key]  # type: ignore[literal-required]
    for key in ("universal_on_control_tokens", "universal_by_control"):
        assert result.summary[key] == on_few.summary[key]  # type: ignore[literal-required]
    np.testing.assert_allclose(result.control_b, on_few.control_b, atol=2e-6, equal_nan=True)


# ---- what is missed -----------------------------------------------------------------------------


def recall(sample: int, *, by_activity: bool) -> list[float]:
    """Of planted pairs that fire at 2,000, 400, 40 and 4 of 4,000 tokens, those found."""
    counts = [2000, 400, 40, 4]
    a, b, partner = planted(4000, counts, 25, 100)

    choose = screening.choose

    def evenly(models: Any, tokens: int, keep: Any, number: int, seed: int) -> Sample:
        drawn = torch.randperm(tokens, generator=torch.Generator().manual_seed(seed))
        variances = choose(models, tokens, keep, number, seed).variances
        return Sample(drawn[:number].sort().values, number, variances)

    with mock.patch.object(screening, "choose", choose if by_activity else evenly):
        result = uf.correlate(a, b, screen=sample, rotation="none", draws=0)
    found = (result.match_neuron[:100] == partner).double()
    return found.view(4, 25).mean(dim=1).tolist()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen_passes.SearchPass, "step", 1000)
    monkeypatch.setattr(sampled, "chunk_tokens", lambda device: 4096)
    monkeypatch.setattr(sampled, "_TILE_BYTES", 1 << 24)
    monkeypatch.setattr(screen_passes, "READ_BYTES", 1 << 24)


@pytest.mark.slow
@pytest.mark.usefixtures("at_once")
def test_rare_pairs_are_found_by_activity() -> None:
    often, sometimes, seldom, rarely = recall(400, by_activity=True)
    assert often == sometimes == 1
    assert seldom > 0.9
    assert rarely > 0.9
    *_, evenly = recall(400, by_activity=False)
    assert evenly < 0.6


@pytest.mark.slow
@pytest.mark.usefixtures("at_once")
def test_a_broken_screen_is_told() -> None:
    a, b, partner = planted(2000, [100], 150, 150)
    good = uf.correlate(a, b, screen=400, draws=0, rotation="none")
    above = good.summary["screen"]["above"]
    assert above["checked"] == above["found"] > 50

    class Broken(sampled.SampleSearch):
        def tensors(self) -> dict[str, Tensor]:
            found = super().tensors()
            for name in ("top", "back"):
                found[f"{name}_place"].fill_(-1)[:, 0] = 7
                found[name].fill_(-torch.inf)[:, 0] = 0.5
            return found

    with mock.patch.object(screen_passes, "SampleSearch", Broken):
        result = uf.correlate(a, b, screen=400, draws=0, rotation="none")
    screen = result.summary["screen"]
    assert int((result.match_neuron[:150] == partner).sum()) < 10
    assert screen["above"]["found"] < 10
    limit = screen["above"]["limit"]
    assert limit is not None
    assert limit > 0.9
    assert screen["shortfall"] > 0.8
    assert sum(third["checked"] for third in screen["thirds"]) == screen["checked"] == 256


def test_the_limit_holds_for_several_models_that_are_alike() -> None:
    generator = np.random.default_rng(0)
    rests_on = torch.from_numpy(generator.random(3000))
    missing = generator.random(3000) < 0.2  # in each of four models the same
    held = 0
    for seed in range(100):
        checked = [chosen_rows(rests_on, seed, model) for model in range(4)]
        rows = torch.cat(checked).numpy()
        assert all(len(set(x.tolist())) == 256 for x in checked)
        held += upper_limit(int(missing[rows].sum()), len(rows)) >= missing.mean()
    assert held >= 90


@pytest.mark.slow
@pytest.mark.usefixtures("at_once")
def test_neurons_that_the_sample_hardly_sees_are_counted() -> None:
    a, b, _ = planted(4000, [2000], 20, 0)
    many, other, _ = planted(4000, [3], 500, 0, seed=1)
    a, b = torch.cat([a, many], dim=1), torch.cat([b, other], dim=1)
    result = uf.correlate(a, b, screen=64, draws=0, rotation="none")
    assert 300 < result.summary["screen"]["rare"] <= 500
    assert "tokens of the sample, whose matches may be missed" in verdict(result.summary)


# ---- when ---------------------------------------------------------------------------------------


def test_with_no_more_tokens_than_a_sample_all_are_searched() -> None:
    a, b = models()
    with pytest.warns(UnivfastWarning, match="screen: there are 600 tokens, no more than a"):
        result = uf.correlate(a, b, screen=TOKENS + 1, draws=2)
    assert "screen" not in result.summary
    check_same(result, uf.correlate(a, b, draws=2), 0)


def test_controls_on_fewer_tokens_than_asked_are_told_of() -> None:
    a, b, *controls = models(number=4)
    given: dict[str, Any] = {"controls_a": controls[:1], "controls_b": controls[1:], "draws": 2}
    said = "control_tokens: controls are compared on 100 tokens, as many as the screen's sample"
    with pytest.warns(UnivfastWarning, match=said):
        uf.correlate(a, b, screen=100, control_tokens=300, **given)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        uf.correlate(a, b, screen=100, **given)
    assert not [x for x in found if "control_tokens" in str(x.message)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"screen": 63}, "screen: got 63, expected at least 64"),
        (
            {"screen": 100, "top_k": 33},
            "top_k: got 33, and a screen keeps 32 partners of each neuron",
        ),
        ({"screen": 100, "match": "index"}, "screen: is for match 'best', not 'index'"),
        ({"screen": 100, "match": "one-to-one"}, "screen: is for match 'best', not 'one-to-one'"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    a, b = models()
    with pytest.raises(uf.InputError, match=f"^{message}"):
        uf.correlate(a, b, **options)
    with pytest.raises(TypeError, match=r"^screen: expected an integer"):
        uf.correlate(a, b, screen=100.5)  # type: ignore[arg-type]


def test_bad_values_are_named() -> None:
    a, b = models()
    b["mlp.1"][571, 4] = torch.inf
    with pytest.raises(uf.InputError, match=r"b: layer 'mlp.1' has inf at token 571, neuron 4"):
        uf.correlate(a, b, screen=100)


# ---- runs ---------------------------------------------------------------------------------------


def stops(seen: list[tuple[int, int]]) -> list[int]:
    """Some of what was told as done, without all of it."""
    ticks = sorted({done for done, total in seen if 0 < done < total})
    return ticks[:: max(1, len(ticks) // 5)]


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
def test_a_broken_run_goes_on_to_the_same_bits(masked: bool, tmp_path: Path) -> None:
    a, b, *controls = models(number=4)
    options: dict[str, Any] = {"reverse": True, "draws": 2, "screen": 200, "details": True}
    options |= {"controls_a": controls[:1], "controls_b": controls[1:]}
    if masked:
        options["mask"] = torch.arange(TOKENS) % 7 != 3
    told: dict[str, list[tuple[int, int]]] = {"progress": [], "search_progress": []}
    expected = uf.correlate(
        a,
        b,
        **options,
        progress=lambda *tick: told["progress"].append(tick),
        search_progress=lambda *tick: told["search_progress"].append(tick),
    )
    # Of five comparisons, forwards with two rotations, and two rotations backwards.
    totals = {"progress": 3 * TOKENS, "search_progress": 5 * 90 * 90 * (3 + 2)}
    for name, seen in told.items():
        assert seen == sorted(seen)
        assert seen[-1] == (totals[name], totals[name])
    for name, seen in told.items():
        options |= {"checkpoint": tmp_path / f"{name}.pt", "checkpoint_every": 0}
        for after in stops(seen):
            with pytest.raises(StopError):
                uf.correlate(a, b, **options, **{name: stopping(after)})
        assert uf.correlate(a, b, **options) == expected
    with pytest.raises(uf.InputError, match="is the checkpoint of other screen, 200 instead of 30"):
        uf.correlate(a, b, **{**options, "screen": 300})
