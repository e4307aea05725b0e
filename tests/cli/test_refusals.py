"""Bad input to commands: refused in one line that names it, and nothing is lost."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from support.command import SMALL_MODEL, error_line, run
from support.made_up import FILES
from support.pickles import Malicious


def save(path: Path, value: object) -> Path:
    torch.save(value, path)
    return path


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
    malicious = [save(tmp_path / "evil.pt", {"mlp.0": Malicious(marker)})]
    malicious.append(tmp_path / "evil.npy")
    np.save(malicious[1], np.array([Malicious(marker)], dtype=object), allow_pickle=True)
    malicious.append(tmp_path / "plain.pt")
    malicious[2].write_bytes(pickle.dumps(Malicious(marker)))
    for path in malicious:
        assert run("correlate", path, pair[1]) == 2
        assert str(path) in error_line(capsys)
        assert not marker.exists()
    # The test can fail: the payload does what it says when it is unpickled.
    pickle.loads(malicious[2].read_bytes()).close()
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
        assert run("correlate", pair[0], path, "--match", "index") == 2
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


@pytest.mark.slow
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


@pytest.mark.slow
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
    assert run("train", tmp_path / "pipe", *SMALL_MODEL) == 2
    assert "not an ordinary file" in error_line(capsys)
    assert run("train", tmp_path / "a.ckpt", *SMALL_MODEL) == 0
    before = (tmp_path / "a.ckpt").read_bytes()
    assert run("capture", tmp_path / "a.ckpt", "--out", tmp_path / "a.ckpt") == 2
    assert "is the model itself" in error_line(capsys)
    assert (tmp_path / "a.ckpt").read_bytes() == before
