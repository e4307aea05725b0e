"""`uf.correlate` and `univfast correlate` on a CUDA device: as on the CPU."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

import univfast as uf
from support.on_device import DEVICE, TF32_LIMIT, assert_same
from support.pairs import MATCHES
from support.parity import assert_close
from univfast.cli import main

pytestmark = pytest.mark.gpu


@pytest.fixture(params=[".pt", ".safetensors"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """Two models of two layers; 30 of the 96 neurons of the first are shared."""
    g = torch.Generator().manual_seed(0)
    a, b = (
        {f"mlp.{i}": torch.randn(5000, width, generator=g) for i, width in enumerate((96, 320))}
        for _ in range(2)
    )
    b["mlp.0"][:, :30] += 2 * a["mlp.0"][:, :30]
    b = {name: x.bfloat16() for name, x in b.items()}
    paths = tmp_path / f"a{request.param}", tmp_path / f"b{request.param}"
    for path, layers in zip(paths, (a, b), strict=True):
        if request.param == ".pt":
            torch.save(layers, path)
        else:
            pytest.importorskip("safetensors.torch").save_file(layers, path)
    return paths


@pytest.mark.parametrize("match", ["index", *MATCHES])
def test_files(files: tuple[Path, Path], match: str) -> None:
    got, expected = (
        uf.correlate(*files, match=match, draws=3, device=device) for device in (DEVICE, "cpu")
    )
    assert got.summary["device"].startswith(DEVICE)
    assert expected.summary["device"] == "cpu"
    if match != "index":
        assert_same(got, expected, 5e-5)
        return
    assert torch.equal(got.universal, expected.universal)
    for name in ("correlation", "baseline", "null_excess"):
        assert_close(getattr(got, name), getattr(expected, name).numpy(), 2e-6, name)


@pytest.mark.parametrize(
    "options", [("--match", "index"), ("--match", "best", "--precision", "tf32")], ids=str
)
@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_command_line(
    files: tuple[Path, Path],
    options: tuple[str, ...],
    device: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["correlate", *map(str, files), "--draws", "3", "--json"]
    summaries, tables = [], []
    for name, own in ((device, options), ("cpu", options[:2])):
        out = tmp_path / name
        assert main([*arguments, "--device", name, "--out", str(out), *own]) == 0
        summaries.append(json.loads(capsys.readouterr().out))
        tables.append(list(csv.DictReader((out / "neurons.csv").read_text().splitlines())))
    assert summaries[0]["device"].startswith(DEVICE)
    assert summaries[1]["device"] == "cpu"
    assert summaries[0]["universal"] == summaries[1]["universal"] > 0
    for row, expected in zip(*tables, strict=True):
        assert row["layer"] == expected["layer"]
        assert abs(float(row["correlation"]) - float(expected["correlation"])) < TF32_LIMIT


def test_a_bad_value_in_a_file_is_one_line_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = torch.randn(5000, 48, generator=torch.Generator().manual_seed(0))
    paths = [tmp_path / "a.pt", tmp_path / "b.pt"]
    for path in paths:
        torch.save({"mlp.1": x}, path)
        x[4321, 29] = torch.nan
    for match in ("index", "best"):
        options = ["--match", match, "--device", "cuda"]
        assert main(["correlate", *map(str, paths), *options]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"Error: {paths[1]}: layer 'mlp.1' has nan at token 4321, neuron 29")
