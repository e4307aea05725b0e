"""Runs over sparse features that are broken off, and go on; and those that processes share."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import univfast as uf
from support import TESTS
from support.processes import finished, torchrun
from support.sparse_models import TOKENS, as_form, cut_small, dense_model, in_parts
from support.stopped import StopError, stopping
from univfast.machine.digests import DIGEST, sealed


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_small(monkeypatch)


def pair() -> list[Any]:
    return [as_form(dense_model(i, 50), "coo") for i in (1, 2)]


@pytest.mark.parametrize("masked", [False, True])
def test_a_broken_run_goes_on_to_the_same_bits(masked: bool, tmp_path: Path) -> None:
    """Also in the middle of a part, and with other memory afterwards."""
    a, b = pair()
    options: dict[str, Any] = {"rotation": "none"}
    if masked:
        options["mask"] = torch.arange(TOKENS) > 90  # none of the first slice
    expected = uf.correlate(a, b, **options)
    limit, path = in_parts(a, b, 20, rotation="none"), tmp_path / "run.pt"
    for after in (64, 300, 700, 1400):
        with suppress(StopError):
            uf.correlate(
                a,
                b,
                **options,
                memory_limit=limit,
                checkpoint=path,
                checkpoint_every=0,
                progress=stopping(after),
            )
    plan = torch.load(path, weights_only=True)["plan"]
    assert [entry["jobs"][0][2:] for entry in plan] == [[0, 16], [16, 33], [33, 50]]
    seen: list[int] = []
    result = uf.correlate(
        a, b, **options, checkpoint=path, progress=lambda done, total: seen.append(done)
    )
    assert seen[0] >= 1000
    assert np.allclose(result.correlation, expected.correlation, atol=1e-13, equal_nan=True)
    assert torch.equal(result.match_neuron, expected.match_neuron)


def edited(path: Path, change: Any) -> None:
    content = torch.load(path, weights_only=True)
    change(content)
    content.pop(DIGEST)
    torch.save(sealed(content), path)


CHANGES: dict[str, Any] = {
    "other parts": lambda x: x["plan"][0].update(jobs=[[0, ["activations"], 0, 15]]),
    "a part that is missing": lambda x: x["plan"].pop(),
    "parts beyond the layer": lambda x: x["plan"][-1].update(jobs=[[0, ["activations"], 33, 60]]),
    "no number": lambda x: x["plan"][0].update(jobs=[[9, ["activations"], 0, 16]]),
    "other sums": lambda x: x["states"][0]["moments"]["cross"].fill_(1e9),
    "no sums": lambda x: x["states"][0]["moments"].pop("sums_a"),
    "large sums": lambda x: x["states"][0]["moments"]["sums_a"].fill_(1e9),
    "NaN": lambda x: x["states"][0]["moments"]["m2_b"].fill_(torch.nan),
    "other tokens": lambda x: x["states"][0].update(tokens=7),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_checkpoints_that_no_run_wrote(name: str, tmp_path: Path) -> None:
    a, b = pair()
    options: dict[str, Any] = {"rotation": "none", "checkpoint": tmp_path / "run.pt"}
    options["memory_limit"] = in_parts(a, b, 20, rotation="none")
    with pytest.raises(StopError):
        uf.correlate(a, b, **options, checkpoint_every=0, progress=stopping(200))
    edited(tmp_path / "run.pt", CHANGES[name])
    with pytest.raises(uf.InputError, match="does not hold the state of a run"):
        uf.correlate(a, b, **options)


def test_less_memory_on_the_way(tmp_path: Path) -> None:
    a, b = pair()
    path = tmp_path / "run.pt"
    with pytest.raises(StopError):
        uf.correlate(
            a, b, rotation="none", checkpoint=path, checkpoint_every=0, progress=stopping(200)
        )
    limit = in_parts(a, b, 20, rotation="none")
    with pytest.raises(uf.InputError, match=r"^memory_limit: the checkpoint was written by a run"):
        uf.correlate(a, b, rotation="none", checkpoint=path, memory_limit=limit)


# ---- processes ----------------------------------------------------------------------------------

SCRIPT = """
import sys, pytest
from support.sparse_models import cut_small
from univfast.cli import main
cut_small(pytest.MonkeyPatch())
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("case", ["whole", "in parts", "fewer slices than processes"])
def test_processes_share_the_tokens(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    tokens = 70 if case == "fewer slices than processes" else TOKENS
    for name, seed in (("a", 1), ("b", 2)):
        dense = dense_model(seed, 50)[:tokens]
        dense[:, 0] = 100 + dense[:, 1] + dense[:, 2].sqrt()  # with a pivot
        values, indices = dense.topk(3, dim=1)
        metadata = {"num_latents": "50"}
        content = {"top_acts": values, "top_indices": indices}
        save_file(content, tmp_path / f"{name}.safetensors", metadata=metadata)
    paths = [tmp_path / f"{name}.safetensors" for name in "ab"]
    rotation = "none" if case == "in parts" else "hadamard"
    options: list[object] = ["--rotation", rotation]
    if case == "in parts":
        limit = in_parts(*paths, 20, rotation="none")
        options += ["--memory-limit", limit / 1e9]
    expected = uf.correlate(*paths, rotation=rotation)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    checkpoint = ["--checkpoint", tmp_path / "run.pt", "--checkpoint-every", "0"]
    out = tmp_path / "out"
    finished(torchrun(3, script, "correlate", *paths, *options, *checkpoint, "--out", out))
    table = pd.read_csv(out / "neurons.csv")
    for name in ("correlation", "baseline"):
        np.testing.assert_allclose(
            table[name], getattr(expected, name), rtol=0, atol=6e-7
        )  # six digits
    assert list(table["match_neuron"]) == expected.match_neuron.tolist()
    assert json.loads((out / "summary.json").read_text())["tokens"] == tokens
