"""`uf.correlate` and its result: table, summary, files, pictures."""

from __future__ import annotations

import csv
import json
import math
import os
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import univfast as uf
from support.parity import activations, assert_close, exact, make_case
from univfast.columns import columns_of
from univfast.errors import InputError
from univfast.report.files import load_result

FLOATS = ("correlation", "baseline", "baseline_std", "excess", "p_value", "q_value")
COLUMNS = [column.name for column in columns_of("neurons")]
FILES = {
    *("neurons.csv", "null_excess.npy", "summary.json"),
    *("correlation.png", "excess.png", "report.html"),
}


def pair(tokens: int = 300, neurons: int = 20, seed: int = 0) -> tuple[Tensor, Tensor]:
    a, b = activations(tokens, neurons, seed)
    return torch.from_numpy(a).float(), torch.from_numpy(b).float()


def two_layers() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    a, b = zip(pair(300, 20), pair(300, 7, seed=1), strict=True)
    return {"mlp.0": a[0], "mlp.1": a[1]}, {"mlp.1": b[1], "mlp.0": b[0]}


def with_dead() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    a, b = two_layers()
    a["mlp.0"][:, 3] = 0.1
    b["mlp.1"][:, 6] = 0.0
    return a, b


# ---- what comes out -----------------------------------------------------------------------------


def test_result_has_a_row_a_neuron() -> None:
    a, b = with_dead()
    result = uf.correlate(a, b, draws=3, seed=5)
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
    assert result.null_excess.shape == (3, 27)
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
    result = uf.correlate(
        a, b, draws=3, seed=5, threshold=0.25, progress=lambda *tick: ticks.append(tick)
    )
    s = result.summary
    assert s["univfast"] == uf.__version__
    assert s["models"] == ["a", "b"]
    assert s["match"] == "index"
    assert s["rotation"] == {"kind": "hadamard", "draws": 3, "seed": 5}
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
def test_what_too_few_draws_cannot_tell_is_absent(options: dict[str, Any], draws: int) -> None:
    result = uf.correlate(*pair(), **options)
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


def test_everything_dead() -> None:
    ones = torch.ones(50, 4)
    result = uf.correlate(ones, ones)
    assert result.dead.all()
    assert result.summary["universal"] == 0
    assert result.summary["universal_by_chance"] == 0
    for name in ("fdr", "mean_correlation", "mean_baseline", "mean_excess"):
        assert result.summary[name] is None


def test_correlate_is_the_accumulator_in_odd_batches() -> None:
    a, b = activations(2500, 65)
    for dtype, limit in ((torch.float32, 1e-6), (torch.float64, 1e-12)):
        case = make_case("odd", a + 100, b, dtype, draws=3, seed=9)
        result = uf.correlate(case.a, case.b, draws=3, seed=9)
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
    ours = uf.correlate(a, b, mask=mask, **options)
    r, theirs = uf.reference.correlate(
        {k: v.numpy() for k, v in a.items()},
        {k: v.numpy() for k, v in b.items()},
        mask=mask.numpy(),
        **options,
    )
    assert_close(ours.correlation, r, 1e-12, "r")
    for name in FLOATS[1:]:
        np.testing.assert_allclose(
            getattr(ours, name), getattr(theirs, name), rtol=0, atol=1e-12, err_msg=name
        )
    np.testing.assert_array_equal(ours.universal, theirs.universal)
    if rotation != "none":
        assert ours.summary["universal_by_chance"] == theirs.universal_by_chance
        assert ours.summary["fdr"] == theirs.fdr


def test_leading_axes_are_tokens() -> None:
    a, b = pair(300)
    flat = uf.correlate(a, b)
    shaped = uf.correlate(a.reshape(3, 10, 10, 20), b.reshape(30, 10, 20))
    assert torch.equal(flat.correlation, shaped.correlation)
    assert torch.equal(flat.p_value, shaped.p_value)


def test_reading_in_slices_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import univfast.correlation

    a, b = pair(5000, 8)
    mask = torch.arange(5000) % 3 > 0
    whole = uf.correlate(a, b, mask=mask)
    monkeypatch.setattr(univfast.runs.passes, "_READ_BYTES", 1)
    monkeypatch.setattr(univfast.runs.passes, "_LEAST_TOKENS", 1024)
    ticks: list[tuple[int, int]] = []
    sliced = uf.correlate(a, b, mask=mask, threads=2, progress=lambda *tick: ticks.append(tick))
    assert [done for done, _ in ticks] == [0, 1024, 2048, 3072, 4096, 5000]
    assert (sliced.correlation - whole.correlation).abs().max() < 1e-6
    a[4321, 5] = torch.nan
    with pytest.raises(InputError, match="a: layer 'activations' has nan at token 4321, neuron 5"):
        uf.correlate(a, b)


def test_inputs_are_left_alone() -> None:
    a, b = with_dead()
    before = {k: v.clone() for k, v in a.items()}, {k: v.clone() for k, v in b.items()}
    uf.correlate(a, b, draws=2)
    for now, then in zip((a, b), before, strict=True):
        assert all(torch.equal(now[k], then[k]) for k in then)


# ---- sources ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pt", "npz", "safetensors"])
def test_files_are_what_they_hold(kind: str, tmp_path: Path) -> None:
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
    expected = uf.correlate(a, b)
    for sources in (paths, [str(path) for path in paths], [paths[0], b]):
        result = uf.correlate(*sources)
        assert torch.equal(result.correlation, expected.correlation)
        assert torch.equal(result.q_value, expected.q_value)
        assert result.summary["models"][0] == str(paths[0])


def test_layers_can_be_chosen() -> None:
    a, b = two_layers()
    result = uf.correlate(a, b, layers="*.1")
    assert result.layer == ["mlp.1"] * 7
    assert torch.equal(result.correlation, uf.correlate(a, b).correlation[20:])


@pytest.mark.parametrize("source", ["tensor", "array", "shaped", "npy", "pt", "str"])
def test_masks(source: str, tmp_path: Path) -> None:
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
    expected = uf.correlate({k: v[keep] for k, v in a.items()}, {k: v[keep] for k, v in b.items()})
    for layers in (a, b):  # what is masked is never read
        for layer in layers.values():
            layer[~keep] = torch.nan
    if source == "shaped":
        a, b = ({k: v.reshape(3, 100, -1) for k, v in layers.items()} for layers in (a, b))
    result = uf.correlate(a, b, mask=masks[source])
    assert torch.equal(result.correlation, expected.correlation)
    assert torch.equal(result.baseline, expected.baseline)
    assert result.summary["tokens"] == int(keep.sum())


# ---- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"match": "nearest"}, InputError, "match: got 'nearest', expected index or best"),
        ({"rotation": "random"}, InputError, "rotation: got 'random', expected one of hadamard,"),
        ({"draws": 0}, InputError, "draws: got 0, expected at least 1; rotation='none' asks"),
        ({"draws": -1}, InputError, "draws: got -1"),
        ({"draws": 2.5}, TypeError, "draws: expected an integer, got float"),
        ({"seed": "x"}, TypeError, "seed: expected an integer, got str"),
        ({"threshold": math.nan}, InputError, "threshold: got nan, expected a finite number"),
        ({"threshold": math.inf}, InputError, "threshold: got inf, expected a finite number"),
        ({"threshold": "0.5"}, TypeError, "threshold: expected a number, got str"),
        ({"threads": 0}, InputError, "threads: got 0, expected at least 1"),
        ({"threads": -2}, InputError, "threads: got -2, expected at least 1"),
        ({"threads": "2"}, TypeError, "threads: expected an integer, got str"),
        ({"threads": 1.5}, TypeError, "threads: expected an integer, got float"),
        ({"device": "cuda:99"}, InputError, "device: .*cuda:99"),
        ({"device": "gpu"}, InputError, "device: "),
        ({"layers": "mlp.*"}, InputError, "a: no layer matches 'mlp.\\*'"),
        ({"mask": torch.ones(299, dtype=torch.bool)}, InputError, "mask: .* 299 .* 300"),
        ({"mask": torch.zeros(300, dtype=torch.bool)}, InputError, "mask: .*leaves no token"),
        ({"mask": torch.ones(300)}, InputError, "mask: .* float32"),
        ({"mask": "no/mask.npy"}, InputError, "no/mask.npy: "),
        ({"mask": 3}, TypeError, "mask: expected"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}") as caught:
        uf.correlate(*pair(), **options)
    assert "\n" not in str(caught.value)


def test_options_are_checked_before_the_work() -> None:
    def progress(done: int, total: int) -> None:
        raise AssertionError("worked before the threshold was looked at")

    with pytest.raises(InputError, match="threshold"):
        uf.correlate(*pair(), threshold=math.nan, progress=progress)


def test_bad_pairs() -> None:
    a, b = pair()
    with pytest.raises(InputError, match=r"^a and b: .* 300 and 299 tokens"):
        uf.correlate(a, b[:299])
    with pytest.raises(InputError, match=r"^a and b: .* 20 and 19 neurons"):
        uf.correlate(a, b[:, :19])
    with pytest.raises(InputError, match=r"^a and b: have different layers"):
        uf.correlate({"x": a, "y": a}, {"x": b, "z": b})
    with pytest.raises(TypeError, match=r"^b: "):
        uf.correlate(a, 3)
    with pytest.raises(InputError, match=r"^no.pt: no such file"):
        uf.correlate(a, "no.pt")


def test_bad_values_name_file_layer_and_token(tmp_path: Path) -> None:
    a, b = two_layers()
    b["mlp.1"][299, 2] = torch.inf
    torch.save(b, tmp_path / "b.pt")
    expected = f"{tmp_path / 'b.pt'}: layer 'mlp.1' has inf at token 299, neuron 2; "
    with pytest.raises(InputError) as caught:
        uf.correlate(a, tmp_path / "b.pt")
    assert str(caught.value).startswith(expected)


# ---- table, files and pictures ------------------------------------------------------------------


def test_to_pandas() -> None:
    result = uf.correlate(*with_dead(), draws=3)
    frame = result.to_pandas()
    assert frame.index.names == ["layer", "neuron"]
    assert ["layer", "neuron", *frame.columns] == list(COLUMNS)
    assert len(frame) == 27
    row = frame.loc[("mlp.1", 2)]
    assert row["correlation"] == result.correlation[22]
    assert row["match_layer"] == "mlp.1"
    assert frame["dead"].dtype == bool
    assert frame["universal"].sum() == result.summary["universal"]
    assert frame.loc[("mlp.0", 3), list(FLOATS)].isna().all()


def test_columns_are_those_of_the_contract() -> None:
    assert ",".join(COLUMNS) == (
        "layer,neuron,match_layer,match_neuron,correlation,baseline,baseline_std,excess,p_value,"
        "q_value,universal,dead"
    )


@pytest.mark.parametrize("options", [{"draws": 3}, {"draws": 1}, {"rotation": "none"}])
def test_what_is_saved_is_read_back_bit_for_bit(options: dict[str, Any], tmp_path: Path) -> None:
    names = ["mlp,0", 'le "résumé"\n1']  # what a careless CSV writer breaks on
    a, b = (dict(zip(names, x.values(), strict=True)) for x in with_dead())
    b = dict(zip(names, (b[names[1]], b[names[0]]), strict=True))
    result = uf.correlate(a, b, **options)
    result.save(tmp_path / "new" / "out")
    assert set(os.listdir(tmp_path / "new" / "out")) == FILES
    loaded = load_result(tmp_path / "new" / "out")
    for name in COLUMNS:
        got, expected = getattr(loaded, name), getattr(result, name)
        if isinstance(expected, list):
            assert got == expected
        else:
            assert got.dtype == expected.dtype
            np.testing.assert_array_equal(got.numpy(), expected.numpy(), err_msg=name)
    assert loaded.summary == result.summary
    if result.null_excess is None:
        assert loaded.null_excess is None
    else:
        assert loaded.null_excess is not None
        np.testing.assert_array_equal(loaded.null_excess.numpy(), result.null_excess.numpy())
    assert loaded.verdict() == result.verdict()


def test_other_tools_can_read_the_files(tmp_path: Path) -> None:
    result = uf.correlate(*with_dead(), draws=3)
    result.save(tmp_path)
    text = (tmp_path / "neurons.csv").read_text(encoding="utf-8")
    assert text.splitlines()[0] == ",".join(COLUMNS)
    assert len(list(csv.reader(text.splitlines()))) == 28
    frame = pd.read_csv(tmp_path / "neurons.csv")
    pd.testing.assert_frame_equal(
        frame.set_index(["layer", "neuron"]), result.to_pandas(), rtol=1e-14, atol=0
    )
    summary = json.loads(
        (tmp_path / "summary.json").read_text(),
        parse_constant=lambda name: pytest.fail(f"{name} is no JSON"),
    )
    assert summary == result.summary
    for name in ("correlation.png", "excess.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_a_failing_write_leaves_the_old_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uf.correlate(*pair(), draws=2).save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    result = uf.correlate(*pair(seed=3), draws=3)

    real, calls = os.fsync, []

    def full_disk(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 4:  # the fourth of six files
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(InputError, match=r"cannot be written .No space left on device.") as caught:
        result.save(tmp_path)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    monkeypatch.setattr("univfast.report.html.report_html", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        result.save(tmp_path)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    result.save(tmp_path)
    assert load_result(tmp_path).summary["rotation"]["draws"] == 3
    assert set(os.listdir(tmp_path)) == FILES


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    result = uf.correlate(*pair(), draws=2)
    (tmp_path / "file").write_bytes(b"mine")
    for place in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(InputError, match=f"^{place}"):
            result.save(place)
    (tmp_path / "out" / "report.html").mkdir(parents=True)
    with pytest.raises(InputError, match=r"report.html: cannot be written"):
        result.save(tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["report.html"]
    assert (tmp_path / "file").read_bytes() == b"mine"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: (d / "summary.json").unlink(),
        lambda d: (d / "neurons.csv").unlink(),
        lambda d: (d / "summary.json").write_text("{"),
        lambda d: (d / "neurons.csv").write_text("layer,neuron\nx,1\n"),
        lambda d: (d / "neurons.csv").write_bytes((d / "neurons.csv").read_bytes()[:-30]),
        lambda d: (d / "neurons.csv").write_bytes((d / "neurons.csv").read_bytes()[:-7]),
        lambda d: (d / "neurons.csv").write_bytes(b"\xff\xfe\x00"),
    ],
    ids=[
        "no summary",
        "no table",
        "half summary",
        "other columns",
        "cut table",
        "cut row",
        "no text",
    ],
)
def test_spoilt_results_are_refused(spoil: Any, tmp_path: Path) -> None:
    uf.correlate(*pair(), draws=2).save(tmp_path)
    spoil(tmp_path)
    with pytest.raises(InputError, match=f"^{tmp_path}") as caught:
        load_result(tmp_path)
    assert "\n" not in str(caught.value)


def test_plot() -> None:
    result = uf.correlate(*pair(), draws=2)
    for figure in (result.plot(), result.plot("correlation"), result.plot("excess")):
        assert isinstance(figure, matplotlib.figure.Figure)
        assert figure.axes
    with pytest.raises(
        InputError, match="kind: got 'heat', this result has 'correlation', 'excess'"
    ):
        result.plot("heat")


def test_a_match_has_the_name_of_its_own_layer() -> None:
    a, b = pair()
    result = uf.correlate({"mlp.0": a}, b, draws=2)
    assert set(result.layer) == {"mlp.0"}
    assert set(result.match_layer) == {"activations"}
    b[7, 3] = torch.nan
    with pytest.raises(InputError, match=r"^b: layer 'activations' has nan at token 7, neuron 3"):
        uf.correlate({"mlp.0": a}, b)
    with pytest.raises(InputError, match=r"^a: layer 'mlp.0' has nan at token 7, neuron 3"):
        uf.correlate({"mlp.0": b}, a)


@pytest.mark.parametrize("rotation", ["hadamard", "haar"])
def test_draws_that_no_machine_can_hold(rotation: str) -> None:
    with pytest.raises(InputError, match=r"^draws: 1000000000000 .* GB, this machine has"):
        uf.correlate(*pair(), rotation=rotation, draws=10**12)
