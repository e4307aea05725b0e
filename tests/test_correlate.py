"""`uf.correlate`: what comes out, and from which sources."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import univfast as uf
from support.parity import activations, assert_close, exact, make_case
from support.small_layers import pair, two_layers, with_dead
from univfast.errors import InputError

FLOATS = ("correlation", "baseline", "baseline_std", "excess", "p_value", "q_value")
each_match = pytest.mark.parametrize("match", ["index", "best"])


# ---- what comes out -----------------------------------------------------------------------------


def test_result_has_a_row_a_neuron() -> None:
    a, b = with_dead()
    result = uf.correlate(a, b, match="index", draws=3, seed=5)
    assert isinstance(result, uf.CorrelationResult)
    assert result.layer == ["mlp.0"] * 20 + ["mlp.1"] * 7
    assert result.neuron.tolist() == [*range(20), *range(7)]
    assert result.match_layer == result.layer
    assert torch.equal(result.match_neuron, result.neuron)
    for name in FLOATS:
        assert getattr(result, name).shape == (27,)
        assert getattr(result, name).dtype == torch.float64
    assert result.dead.nonzero().flatten().tolist() == [3, 26]
    assert torch.equal(result.universal, result.excess > 0.5)
    assert result.null_excess is not None
    assert result.null_excess.shape == (19, 27)
    assert result.null_excess[6:, 20:].isnan().all()  # 7 neurons have 6 wrong partners
    for start, layer in ((0, "mlp.0"), (20, "mlp.1")):
        acc = uf.PairedCorrelation(a[layer].shape[1], draws=3, seed=5, layer=layer)
        acc.update(a[layer], b[layer])
        part = slice(start, start + a[layer].shape[1])
        torch.testing.assert_close(
            result.correlation[part], acc.compute().correlation, rtol=0, atol=0, equal_nan=True
        )


def test_summary() -> None:
    a, b = with_dead()
    ticks: list[tuple[int, int]] = []
    options: dict[str, Any] = {"match": "index", "draws": 3, "seed": 5, "threshold": 0.25}
    result = uf.correlate(a, b, **options, progress=lambda *tick: ticks.append(tick))
    s = result.summary
    assert s["univfast"] == uf.__version__
    assert s["models"] == ["a", "b"]
    assert s["match"] == "index"
    assert s["rotation"] == {"kind": "hadamard", "draws": 3, "seed": 5}
    assert s["shifts"] == 19
    assert s["threshold"] == 0.25
    assert (s["tokens"], s["neurons"], s["dead"]) == (300, 27, 2)
    assert s["universal"] == int((result.excess > 0.25).sum()) > 0
    assert s["universal_by_chance"] == pytest.approx(np.mean(s["chance_counts"]))
    assert s["fdr"] == pytest.approx(s["universal_by_chance"] / s["universal"])
    assert s["device"] == "cpu"
    assert s["seconds"] > 0
    assert s["mean_correlation"] == pytest.approx(float(result.correlation.nanmean()))
    assert [row["layer"] for row in s["layers"]] == ["mlp.0", "mlp.1"]
    assert [row["dead"] for row in s["layers"]] == [1, 1]
    assert sum(row["universal"] for row in s["layers"]) == s["universal"]
    assert s["layers"][1]["mean_excess"] == pytest.approx(float(result.excess[20:].nanmean()))
    json.dumps(s, allow_nan=False)
    assert ticks[-1] == (300, 300)
    assert sorted(ticks) == ticks


@pytest.mark.parametrize(
    ("options", "draws"), [({"rotation": "none"}, 0), ({"draws": 1}, 1), ({"rotation": "haar"}, 5)]
)
@each_match
def test_what_too_few_draws_cannot_tell_is_absent(
    options: dict[str, Any], draws: int, match: Any
) -> None:
    shifts = {"shifts": min(draws, 1)} if match == "index" and draws < 2 else {}
    result = uf.correlate(*pair(), match=match, **shifts, **options)
    s = result.summary
    assert s["rotation"]["draws"] == draws
    absent = draws < 2
    for name in ("baseline_std", "p_value", "q_value"):
        assert bool(getattr(result, name).isnan().all()) == absent
    assert (result.null_excess is None) == absent
    for name in ("universal_by_chance", "chance_counts", "q_below_0.05"):
        assert (s[name] is None) == absent
    assert bool(result.baseline.isnan().all()) == (draws == 0)
    assert (s["mean_baseline"] is None) == (draws == 0)
    if draws == 0:
        assert s["universal"] == 0
        assert s["fdr"] is None
    assert result.verdict()


@each_match
def test_everything_dead(match: Any) -> None:
    ones = torch.ones(50, 4)
    result = uf.correlate(ones, ones, match=match)
    assert result.dead.all()
    assert result.summary["universal"] == 0
    assert result.summary["universal_by_chance"] == 0
    for name in ("fdr", "mean_correlation", "mean_baseline", "mean_excess"):
        assert result.summary[name] is None


def test_correlate_is_the_accumulator_in_odd_batches() -> None:
    a, b = activations(2500, 65)
    for dtype, limit in ((torch.float32, 1e-6), (torch.float64, 1e-12)):
        case = make_case("odd", a + 100, b, dtype, draws=3, seed=9)
        result = uf.correlate(case.a, case.b, match="index", draws=3, seed=9)
        acc = uf.PairedCorrelation(65, draws=3, seed=9)
        for x, y in zip(case.a.split(7), case.b.split(7), strict=True):
            acc.update(x, y)
        streamed = acc.compute()
        r, rotated = exact(case)
        for each in (result, streamed):
            assert_close(each.correlation, r, limit, "r")
            assert_close(each.baseline, rotated.mean(0), limit, "baseline")
        assert torch.equal(result.universal, streamed.universal)


@pytest.mark.parametrize("rotation", ["hadamard", "haar", "none"])
def test_correlate_is_the_references(rotation: str) -> None:
    a, b = with_dead()
    a, b = ({k: v.double() for k, v in layers.items()} for layers in (a, b))
    mask = torch.arange(300) % 3 > 0
    options: dict[str, Any] = {"rotation": rotation, "draws": 4, "seed": 2, "threshold": 0.3}
    ours = uf.correlate(a, b, match="index", mask=mask, **options)
    r, theirs = uf.reference.correlate(
        {k: v.numpy() for k, v in a.items()},
        {k: v.numpy() for k, v in b.items()},
        mask=mask.numpy(),
        match="index",
        **options,
    )
    assert_close(ours.correlation, r, 1e-12, "r")
    for name in FLOATS[1:]:
        np.testing.assert_allclose(
            getattr(ours, name), getattr(theirs, name), rtol=0, atol=1e-12, err_msg=name
        )
    np.testing.assert_array_equal(ours.universal, theirs.universal)
    assert ours.summary["universal_by_chance"] == pytest.approx(theirs.universal_by_chance)
    assert ours.summary["fdr"] == pytest.approx(theirs.fdr)


@each_match
def test_leading_axes_are_tokens(match: Any) -> None:
    a, b = pair(300)
    flat = uf.correlate(a, b, match=match)
    shaped = uf.correlate(a.reshape(3, 10, 10, 20), b.reshape(30, 10, 20), match=match, axis=-1)
    assert torch.equal(flat.correlation, shaped.correlation)
    assert torch.equal(flat.p_value, shaped.p_value)


def test_reading_in_slices_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from univfast.runs import by_index

    a, b = pair(5000, 8)
    mask = torch.arange(5000) % 3 > 0
    options: dict[str, Any] = {"match": "index", "mask": mask}
    whole = uf.correlate(a, b, **options)
    monkeypatch.setattr(by_index, "READ_BYTES", 1)
    monkeypatch.setattr(by_index, "LEAST_TOKENS", 1024)
    ticks: list[tuple[int, int]] = []
    sliced = uf.correlate(a, b, **options, threads=2, progress=lambda *tick: ticks.append(tick))
    assert [done for done, _ in ticks] == [0, 1024, 2048, 3072, 4096, 5000]
    assert (sliced.correlation - whole.correlation).abs().max() < 1e-6
    a[4321, 5] = torch.nan
    with pytest.raises(InputError, match="a: layer 'activations' has nan at token 4321, neuron 5"):
        uf.correlate(a, b, match="index")


@each_match
def test_inputs_are_left_alone(match: Any) -> None:
    a, b = with_dead()
    before = {k: v.clone() for k, v in a.items()}, {k: v.clone() for k, v in b.items()}
    uf.correlate(a, b, match=match, draws=2)
    for now, then in zip((a, b), before, strict=True):
        assert all(torch.equal(now[k], then[k]) for k in then)


@each_match
def test_a_match_has_the_name_of_its_own_layer(match: Any) -> None:
    a, b = pair()
    result = uf.correlate({"mlp.0": a}, b, match=match, draws=2)
    assert set(result.layer) == {"mlp.0"}
    assert set(result.match_layer) == {"activations"}
    b[7, 3] = torch.nan
    with pytest.raises(InputError, match=r"^b: layer 'activations' has nan at token 7, neuron 3"):
        uf.correlate({"mlp.0": a}, b, match=match)
    with pytest.raises(InputError, match=r"^a: layer 'mlp.0' has nan at token 7, neuron 3"):
        uf.correlate({"mlp.0": b}, a, match=match)


# ---- sources ------------------------------------------------------------------------------------


@each_match
@pytest.mark.parametrize("kind", ["pt", "npz", "safetensors"])
def test_files_are_what_they_hold(kind: str, match: Any, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    a, b = two_layers()
    paths = [tmp_path / f"{name}.{kind}" for name in "ab"]
    for path, layers in zip(paths, (a, b), strict=True):
        if kind == "pt":
            torch.save(layers, path)
        elif kind == "npz":
            np.savez(path, **{k: v.numpy() for k, v in layers.items()})
        else:
            save_file(layers, path)
    expected = uf.correlate(a, b, match=match)
    for sources in (paths, [str(path) for path in paths], [paths[0], b]):
        result = uf.correlate(*sources, match=match)
        assert torch.equal(result.correlation, expected.correlation)
        assert torch.equal(result.q_value, expected.q_value)
        assert result.summary["models"][0] == str(paths[0])


def test_layers_can_be_chosen() -> None:
    a, b = two_layers()
    result = uf.correlate(a, b, match="index", layers="*.1")
    assert result.layer == ["mlp.1"] * 7
    assert torch.equal(result.correlation, uf.correlate(a, b, match="index").correlation[20:])
    result = uf.correlate(a, b, layers="*.1")  # of both models
    assert result.layer == ["mlp.1"] * 7
    alone = uf.correlate({"mlp.1": a["mlp.1"]}, {"mlp.1": b["mlp.1"]})
    assert torch.equal(result.correlation, alone.correlation)


@each_match
@pytest.mark.parametrize("source", ["tensor", "array", "shaped", "npy", "pt", "str"])
def test_masks(source: str, match: Any, tmp_path: Path) -> None:
    a, b = two_layers()
    keep = torch.arange(300) % 4 > 0
    masks: dict[str, Any] = {
        "tensor": keep,
        "array": keep.numpy(),
        "shaped": keep.reshape(3, 100),
        "npy": tmp_path / "mask.npy",
        "pt": tmp_path / "mask.pt",
        "str": str(tmp_path / "mask.npy"),
    }
    np.save(tmp_path / "mask.npy", keep.numpy())
    torch.save(keep, tmp_path / "mask.pt")
    kept = ({k: v[keep] for k, v in layers.items()} for layers in (a, b))
    expected = uf.correlate(*kept, match=match)
    for layers in (a, b):  # what is masked is never read
        for layer in layers.values():
            layer[~keep] = torch.nan
    if source == "shaped":
        a, b = ({k: v.reshape(3, 100, -1) for k, v in layers.items()} for layers in (a, b))
    result = uf.correlate(a, b, match=match, mask=masks[source])
    assert torch.equal(result.correlation, expected.correlation)
    assert torch.equal(result.baseline, expected.baseline)
    assert result.summary["tokens"] == int(keep.sum())
