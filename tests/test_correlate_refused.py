"""`uf.correlate`: what it refuses, before the work where that is possible."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import univfast as uf
from support.small_layers import pair, two_layers
from univfast.errors import InputError
from univfast.nulls import rotations


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"match": "nearest"}, InputError, "match: got 'nearest', expected index or best"),
        ({"rotation": "random"}, InputError, "rotation: got 'random', expected one of hadamard,"),
        ({"draws": 0}, InputError, "draws: got 0, expected at least 1; rotation='none' asks"),
        ({"draws": -1}, InputError, "draws: got -1"),
        ({"draws": 10**12}, InputError, "draws: got 1000000000000, expected at most 100000"),
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
        ({"device": ["cpu"]}, TypeError, "device: expected a str or torch.device, got list"),
        ({"device": 0}, TypeError, "device: expected a str or torch.device, got int"),
        ({"layers": 3}, TypeError, "layers: expected a str, got int"),
        ({"layers": {"x": 1}}, TypeError, "layers: expected a str, got dict"),
        ({"checkpoint": 3}, TypeError, "checkpoint: expected a path, got int"),
        ({"checkpoint": b"x.pt"}, TypeError, "checkpoint: expected a path, got bytes"),
        ({"checkpoint": Path}, TypeError, "checkpoint: expected a path, got type"),
        ({"checkpoint": "a\0b"}, InputError, "checkpoint: 'a.x00b' cannot be a path"),
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
    for match in ("index", "best"):
        with pytest.raises(InputError, match=r"^a and b: .* 300 and 299 tokens"):
            uf.correlate(a, b[:299], match=match)
    with pytest.raises(InputError, match=r"^a and b: .* 20 and 19 neurons"):
        uf.correlate(a, b[:, :19], match="index")
    with pytest.raises(InputError, match=r"^a and b: have different layers"):
        uf.correlate({"x": a, "y": a}, {"x": b, "z": b}, match="index")
    with pytest.raises(TypeError, match=r"^b: "):
        uf.correlate(a, 3)
    with pytest.raises(InputError, match=r"^no.pt: no such file"):
        uf.correlate(a, "no.pt")


def test_bad_values_name_file_layer_and_token(tmp_path: Path) -> None:
    a, b = two_layers()
    b["mlp.1"][299, 2] = torch.inf
    torch.save(b, tmp_path / "b.pt")
    expected = f"{tmp_path / 'b.pt'}: layer 'mlp.1' has inf at token 299, neuron 2; "
    for match in ("index", "best"):
        with pytest.raises(InputError) as caught:
            uf.correlate(a, tmp_path / "b.pt", match=match)
        assert str(caught.value).startswith(expected)


@pytest.mark.parametrize("rotation", ["hadamard", "haar"])
def test_draws_that_no_machine_can_hold(rotation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotations, "machine_memory", lambda: 10**6)
    with pytest.raises(InputError, match=r"^draws: 100000 .* GB, this machine has"):
        uf.correlate(*pair(), match="index", rotation=rotation, draws=100_000)


def test_names_of_files_break_no_line() -> None:
    with pytest.raises(InputError) as caught:
        uf.correlate(*pair(), mask="a\nb\r\x1b[31mc\udcff.npy")
    assert str(caught.value).startswith(r"a\nb\r\x1b[31mc\udcff.npy: no such file")
    assert str(InputError(str(caught.value))) == str(caught.value)
