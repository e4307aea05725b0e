"""The command line: every command runs, says what it does, and refuses bad input in one line."""

from __future__ import annotations

import csv
import json
import os
import pickle
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from support import ROOT
from univfast import native
from univfast.cli import main
from univfast.cli.main import cli

PICTURES = {"correlation.png", "excess.png", "report.html"}
FILES = PICTURES | {"neurons.csv", "summary.json", "null_excess.npy"}
COLUMNS = (
    "layer,neuron,match_layer,match_neuron,correlation,baseline,baseline_std,excess,"
    "p_value,q_value,universal,dead"
)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two models of two layers; 8 of the 96 neurons of layer mlp.0 are shared."""
    generator = torch.Generator().manual_seed(0)
    a = {f"mlp.{i}": torch.randn(50, 20, 96, generator=generator) for i in range(2)}
    b = {f"mlp.{i}": torch.randn(50, 20, 96, generator=generator) for i in range(2)}
    b["mlp.0"][..., :8] = a["mlp.0"][..., :8] + 0.3 * b["mlp.0"][..., :8]
    paths = tmp_path / "a.pt", tmp_path / "b.pt"
    for path, layers in zip(paths, (a, b), strict=True):
        torch.save(layers, path)
    return paths


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr; nothing else may have been printed."""
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("Error: ")
    return lines[0]


# ---- help ----------------------------------------------------------------------------------------


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    text = capsys.readouterr().out
    assert set(cli.commands) == {"demo", "train", "capture", "correlate", "report", "info", "bench"}
    for name in cli.commands:
        assert re.search(rf"^  {name} +\w", text, re.MULTILINE), name


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_each_command_explains_itself_and_its_options(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(name, "--help") == 0
    text = capsys.readouterr().out
    assert len(cli.commands[name].help or "") > 40
    for parameter in cli.commands[name].params:
        if parameter.param_type_name == "option":
            assert parameter.opts[0] in text
            assert parameter.help, f"{name} {parameter.opts[0]} has no help"  # type: ignore[attr-defined]


def test_readme_names_every_command() -> None:
    readme = (ROOT / "README.md").read_text()
    for name in cli.commands:
        assert f"univfast {name}" in readme


def test_help_and_version_do_not_import_torch() -> None:
    code = (
        "import sys; from univfast.cli import main; "
        "assert main(['correlate', '--help']) == 0; assert main(['--version']) == 0; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_info_says_what_is_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info") == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert {"univfast", "torch", "simd", "threads", "cuda"} <= set(lines)
    assert lines["torch"] == torch.__version__


def test_info_says_of_a_build_without_cuda_only_that(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(native, "cuda_built_with", lambda: None)
    assert run("info") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "cuda      not in this build"


def test_info_shows_each_device(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    devices = [
        native.CudaDevice("Large", 9, 0, 141 * 10**9),
        native.CudaDevice("Small", 8, 6, 10**9),
    ]
    monkeypatch.setattr(native, "cuda_built_with", lambda: "13.0 for sm_80 ptx_80")
    monkeypatch.setattr(native, "cuda_devices", lambda: devices)
    monkeypatch.setattr(native, "cuda_unavailable", lambda: "")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert run("info") == 0
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "cuda      13.0 for sm_80 ptx_80",
        "device 0  Large, compute capability 9.0, 141 GB",
        "device 1  Small, compute capability 8.6, 1 GB",
    ]


def test_info_says_why_no_device_can_be_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(native, "cuda_built_with", lambda: "13.0 for sm_80 ptx_80")
    monkeypatch.setattr(native, "cuda_devices", list)
    monkeypatch.setattr(native, "cuda_unavailable", lambda: "no driver")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert run("info") == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "cuda      13.0 for sm_80 ptx_80; no device can be used, for torch is not a CUDA build",
        "devices   none can be used: no driver",
    ]


# ---- correlate -----------------------------------------------------------------------------------


def test_correlate_prints_a_table_and_a_verdict(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("correlate", *pair) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "8 of 192 live neurons" in " ".join(captured.out.split())
    assert "more than chance explains" in " ".join(captured.out.split())


def test_correlate_writes_the_files(pair: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "new" / "result"
    assert run("correlate", *pair, "--out", out, "--quiet", "--draws", 3, "--seed", 7) == 0
    assert {path.name for path in out.iterdir()} == FILES
    text = (out / "neurons.csv").read_text()
    assert text.splitlines()[0] == COLUMNS
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["neuron"] for row in rows if row["universal"] == "true"] == [
        str(i) for i in range(8)
    ]
    assert {row["layer"] for row in rows} == {"mlp.0", "mlp.1"}
    summary = json.loads((out / "summary.json").read_text())
    assert summary["models"] == [str(path) for path in pair]
    assert summary["rotation"] == {"kind": "hadamard", "draws": 3, "seed": 7}
    assert summary["tokens"] == 1000
    assert summary["neurons"] == 192
    assert summary["universal"] == 8
    assert summary["universal_by_chance"] == 0.0
    assert {"univfast", "match", "threshold", "dead", "fdr", "device", "seconds"} <= set(summary)


def test_json_is_the_summary_and_quiet_is_silent(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("correlate", *pair, "--json", "--layers", "*.1") == 0
    summary = json.loads(capsys.readouterr().out)
    assert [row["layer"] for row in summary["layers"]] == ["mlp.1"]
    assert run("correlate", *pair, "--quiet") == 0
    assert capsys.readouterr() == ("", "")


def test_absent_numbers_are_null_in_json_and_nan_in_tables(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    assert run("correlate", *pair, "--draws", 1, "--out", tmp_path / "o", "--quiet") == 0
    summary = json.loads((tmp_path / "o" / "summary.json").read_text())
    assert summary["universal_by_chance"] is None
    assert summary["fdr"] is None
    row = next(csv.DictReader((tmp_path / "o" / "neurons.csv").read_text().splitlines()))
    assert row["p_value"] == row["q_value"] == row["baseline_std"] == "nan"
    assert row["baseline"] != "nan"


def test_mask_file_leaves_tokens_out(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = torch.ones(50, 20, dtype=torch.bool)
    mask[:, 0] = False
    torch.save(mask, tmp_path / "mask.pt")
    assert run("correlate", *pair, "--mask", tmp_path / "mask.pt", "--json") == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == 950


@pytest.mark.parametrize("draws", [1, 5])
def test_report_draws_a_saved_result_again(
    draws: int, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "o"
    assert run("correlate", *pair, "--out", out, "--quiet", "--draws", draws) == 0
    before = {name: (out / name).read_bytes() for name in FILES}
    for name in PICTURES:
        (out / name).unlink()
    assert run("report", out) == 0
    assert {name: (out / name).read_bytes() for name in FILES} == before


# ---- bad input -----------------------------------------------------------------------------------


def save(path: Path, value: object) -> Path:
    torch.save(value, path)
    return path


class Payload:
    """Unpickling this would make the file that it names."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, (str(self.marker),))


BAD_FILES = {
    "missing.pt": None,
    "empty.pt": b"",
    "garbage.pt": b"\x80 this is no file of tensors",
    "truncated.safetensors": b"\xff\x00\x00\x00\x00\x00\x00\x00{",
    "garbage.npy": b"\x93NUMPY\x01\x00",
    "garbage.npz": b"PK\x03\x04 and then nothing",
}


@pytest.mark.parametrize("name", BAD_FILES)
@pytest.mark.parametrize("first", [True, False], ids=["a", "b"])
def test_unreadable_files_are_named(
    name: str,
    first: bool,
    pair: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / name
    if BAD_FILES[name] is not None:
        path.write_bytes(BAD_FILES[name])
    inputs = (path, pair[1]) if first else (pair[0], path)
    assert run("correlate", *inputs, "--out", tmp_path / "o") == 2
    assert error_line(capsys).startswith(f"Error: {path}: ")
    assert not (tmp_path / "o").exists()


def test_a_pickle_is_never_executed(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marker = tmp_path / "executed"
    malicious = [save(tmp_path / "evil.pt", {"mlp.0": Payload(marker)})]
    malicious.append(tmp_path / "evil.npy")
    np.save(malicious[1], np.array([Payload(marker)], dtype=object), allow_pickle=True)
    malicious.append(tmp_path / "plain.pt")
    malicious[2].write_bytes(pickle.dumps(Payload(marker)))
    for path in malicious:
        assert run("correlate", path, pair[1]) == 2
        assert str(path) in error_line(capsys)
        assert not marker.exists()
    # The test can fail: the payload does what it says when it is unpickled.
    pickle.loads(malicious[2].read_bytes())
    assert marker.exists()


def test_disagreeing_files_are_both_named(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = torch.load(pair[1], weights_only=True)
    others = {
        "width": {name: x[..., :90].clone() for name, x in layers.items()},
        "tokens": {name: x[:40].clone() for name, x in layers.items()},
        "names": {name.replace("mlp", "ffn"): x for name, x in layers.items()},
    }
    for what, value in others.items():
        path = save(tmp_path / f"{what}.pt", value)
        assert run("correlate", pair[0], path) == 2
        line = error_line(capsys)
        assert str(pair[0]) in line
        assert str(path) in line


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_bad_values_are_named_by_file_layer_token_and_neuron(
    bad: float, pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = torch.load(pair[1], weights_only=True)
    layers["mlp.1"][7, 3, 41] = bad
    path = save(tmp_path / "bad.pt", layers)
    assert run("correlate", pair[0], path, "--out", tmp_path / "o") == 2
    line = error_line(capsys)
    assert line.startswith(f"Error: {path}: layer 'mlp.1' has {bad!r} at token 143, neuron 41")
    assert not (tmp_path / "o").exists()


OPTIONS = {
    "--draws": "0",
    "--rotation": "random",
    "--match": "nothing",
    "--threshold": "nan",
    "--threads": "99999999999",
    "--layers": "nothing.*",
    "--mask": "missing.pt",
    "--device": "gpu",
    "--seed": "one",
    "--nonsense": "1",
}


@pytest.mark.parametrize("option", OPTIONS)
def test_bad_options_are_refused(
    option: str, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("correlate", *pair, option, OPTIONS[option]) == 2
    line = error_line(capsys)
    assert option.strip("-") in line or OPTIONS[option] in line


@pytest.mark.parametrize(
    "arguments", [["correlate"], ["correlate", "a.pt"], ["nothing"], ["train"], ["report", "nope"]]
)
def test_bad_usage_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    error_line(capsys)


def test_memory_limits_are_in_gb(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("correlate", *pair, "--match", "best", "--memory-limit", 0) == 2
    line = error_line(capsys)
    assert re.search(r"layer 'mlp.0' of A with all of B needs [\d.]+ GB, the limit is 0 GB", line)
    assert run("correlate", *pair, "--match", "best", "--memory-limit", -1) == 2
    assert "'--memory-limit': -1.0 is not in the range" in error_line(capsys)
    assert run("correlate", *pair, "--match", "best", "--memory-limit", 1, "--quiet") == 0


def test_readme_and_help_agree_on_how_long_the_demo_takes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    readme = (ROOT / "README.md").read_text()
    assert run("demo", "--help") == 0
    for text in (readme, capsys.readouterr().out):
        assert "about a minute and a half on two cores" in " ".join(text.split())


def test_a_failure_leaves_an_earlier_result_alone(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o"
    assert run("correlate", *pair, "--out", out, "--quiet") == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert run("correlate", pair[0], tmp_path / "missing.pt", "--out", out) == 2
    (out / "excess.png").unlink()
    (out / "excess.png").mkdir()  # cannot be replaced by a file
    assert run("correlate", *pair, "--out", out, "--seed", 1, "--quiet") == 2
    assert "excess.png" in capsys.readouterr().err
    (out / "excess.png").rmdir()
    after = {path.name: path.read_bytes() for path in out.iterdir()}
    assert after == {name: data for name, data in before.items() if name != "excess.png"}


def test_unwritable_output_is_named_before_any_work(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert run("correlate", *pair, "--out", out) == 2
        assert str(out) in error_line(capsys)
    assert run("train", tmp_path / "file" / "x.ckpt") == 2
    assert "x.ckpt" in error_line(capsys)
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize("spoilt", ["{}", "[]", '{"rotation": {"draws": 5}, "layers": 3}', "{"])
def test_a_spoilt_result_is_refused(
    spoilt: str, pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("correlate", *pair, "--out", tmp_path / "o", "--quiet") == 0
    (tmp_path / "o" / "summary.json").write_text(spoilt)
    before = {path.name: path.read_bytes() for path in (tmp_path / "o").iterdir()}
    assert run("report", tmp_path / "o") == 2
    assert error_line(capsys).startswith(f"Error: {tmp_path / 'o'}: ")
    assert {path.name: path.read_bytes() for path in (tmp_path / "o").iterdir()} == before


def test_what_a_killed_run_left_is_in_nobodys_way(pair: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "o").mkdir()
    for name in FILES:  # a process of the same number was killed while it wrote
        (tmp_path / "o" / f".{name}.{os.getpid()}.tmp").write_text("half")
    assert run("correlate", *pair, "--out", tmp_path / "o", "--quiet") == 0


def test_devices_and_inputs_are_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert run("train", tmp_path / "pipe", *SMALL) == 2
    assert "not an ordinary file" in error_line(capsys)
    assert run("train", tmp_path / "a.ckpt", *SMALL) == 0
    before = (tmp_path / "a.ckpt").read_bytes()
    assert run("capture", tmp_path / "a.ckpt", "--out", tmp_path / "a.ckpt") == 2
    assert "is the model itself" in error_line(capsys)
    assert (tmp_path / "a.ckpt").read_bytes() == before


# ---- the experiment ------------------------------------------------------------------------------

SMALL = ("--steps", 4, "--samples", 64, "--d-model", 16, "--d-mlp", 24, "--quiet")


def test_model_files_and_captured_files_give_the_same_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [tmp_path / "a.ckpt", tmp_path / "b.ckpt"]
    captured = [tmp_path / "a.pt", tmp_path / "b.pt"]
    for seed, (model, activations) in enumerate(zip(models, captured, strict=True), start=1):
        assert run("train", model, "--seed", seed, *SMALL) == 0
        assert run("capture", model, "--out", activations, "--quiet") == 0
    assert run("correlate", *models, "--out", tmp_path / "o", "--quiet") == 0
    assert run("correlate", *captured, "--json") == 0
    from_files = json.loads(capsys.readouterr().out)
    from_models = json.loads((tmp_path / "o" / "summary.json").read_text())
    for summary in (from_files, from_models):
        del summary["models"], summary["seconds"]
    assert from_files == from_models
    assert from_files["neurons"] == 48


def test_capture_site_and_data(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 400)
    assert run("train", tmp_path / "a.ckpt", *SMALL) == 0
    for name, options in {"pre": [], "post": [], "text": ["--data", tmp_path / "text.txt"]}.items():
        site = "post" if name == "post" else "pre"
        out = tmp_path / f"{name}.pt"
        arguments = ["--out", out, "--site", site, "--quiet", *options]
        assert run("capture", tmp_path / "a.ckpt", *arguments) == 0
    pre, post, text = (
        torch.load(tmp_path / f"{name}.pt", weights_only=True)["mlp.0"]
        for name in ("pre", "post", "text")
    )
    assert pre.shape[1:] == (64, 24)
    assert torch.equal(post, pre.relu())
    assert not torch.equal(text, pre)


def test_models_of_different_test_sets_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, data in {"a": "docs", "b": "random"}.items():
        assert run("train", tmp_path / f"{name}.ckpt", "--data", data, *SMALL) == 0
    assert run("correlate", tmp_path / "a.ckpt", tmp_path / "b.ckpt") == 2
    line = error_line(capsys)
    assert "a.ckpt" in line
    assert "b.ckpt" in line


def test_demo_runs_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "d"
    assert run("demo", "--out", out, "--data", "random", "--steps", 2) == 0
    tables = {"matches.csv", "top.csv", "layers.png"}
    others = {"index-post", "best-pre", "index-pre"}
    assert {path.name for path in out.iterdir()} == FILES | tables | others | {"a.ckpt", "b.ckpt"}
    assert {path.name for path in (out / "index-pre").iterdir()} == FILES
    assert {path.name for path in (out / "best-pre").iterdir()} == FILES | tables
    text = " ".join(capsys.readouterr().out.split())
    assert "of 512 live neurons" in text
    assert "Chance alone gives" in text
    page = (out / "report.html").read_text()
    for match in ("index", "best"):
        for site in ("before", "after"):
            assert f"match {match}, {site} the ReLU" in text
            assert f"match {match}, {site} the ReLU" in page
    summaries = {
        name: json.loads((out / name / "summary.json").read_text()) for name in (".", *others)
    }
    assert summaries["."]["match"] == summaries["best-pre"]["match"] == "best"
    assert summaries["index-pre"]["match"] == summaries["index-post"]["match"] == "index"
    assert all(summary["universal_by_chance"] is not None for summary in summaries.values())
    written = (out / "report.html").read_bytes()
    assert run("report", out) == 0
    assert (out / "report.html").read_bytes() == written


# ---- as a process --------------------------------------------------------------------------------


def test_interrupt_exits_130_without_a_traceback(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    def interrupted(*_: object) -> float:
        signal.raise_signal(signal.SIGINT)
        return 0.0

    monkeypatch.setattr("univfast.experiment.training._step", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    assert run("train", tmp_path / "a.ckpt") == 130
    out, err = capsys.readouterr()
    assert (out, err.strip()) == ("", "Interrupted.")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_goes_away_is_no_traceback(pair: tuple[Path, Path]) -> None:
    command = f"{sys.executable} -m univfast correlate {pair[0]} {pair[1]} --json | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=False)
    assert done.stderr == b""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory in kilobytes is Linux's")
def test_memory_does_not_grow_with_the_files(tmp_path: Path) -> None:
    paths = [tmp_path / "a.npy", tmp_path / "b.npy"]
    for path in paths:  # 1 GB each, which takes no disk: the file system holds no zeros
        np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(1 << 20, 256))
    code = (
        "import resource, sys; from univfast.cli import main; import univfast.report.plots, torch; "
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; "
        "status = main(['correlate', *sys.argv[1:], '--quiet', '--draws', '1']); "
        "print(status, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    command = [sys.executable, "-c", code, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    status, grown = map(int, done.stdout.split())
    assert status == 0
    assert grown < 500_000  # kilobytes


# ---- bench ---------------------------------------------------------------------------------------


def test_bench_prints_ratios(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", "--tokens", "600", "--neurons", "48") == 0
    text = capsys.readouterr().out
    for title in ("correlation, 600 tokens x 48", "correlation + 1 rotation", "best of all pairs"):
        assert title in text
    assert len(re.findall(r"^\| univfast ", text, re.MULTILINE)) == 3
    assert len(re.findall(r"^\| naive torch ", text, re.MULTILINE)) == 3


def test_bench_checks_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    from univfast.bench import rivals

    naive = rivals.naive
    monkeypatch.setattr(rivals, "naive", lambda a, b: naive(a, b) + 0.01)
    with pytest.raises(AssertionError, match=r"naive torch: r is off by 0\.01"):
        run("bench", "--tokens", "600", "--neurons", "48")
