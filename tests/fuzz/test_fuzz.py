"""Inputs that are wrong on purpose, and that the harness which tries them finds what is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from fuzz import files, plain, workers
from fuzz.kinds import Kind, RefusedError, WrongError, attempt, check_activations, check_r
from fuzz.workers import CRASHED, HUNG, REFUSED, RIGHT, WRONG
from support import TESTS
from univfast.errors import InputError


def fuzz(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command, in a process of its own: it forks others."""
    return subprocess.run(
        [sys.executable, "-m", "fuzz", *map(str, arguments)],
        cwd=TESTS,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.mark.slow
def test_no_input_crashes_or_hangs_or_gives_wrong_numbers() -> None:
    done = fuzz("--inputs", 2000)
    assert done.returncode == 0, done.stdout + done.stderr
    total = next(line for line in done.stdout.splitlines() if line.startswith("| all |"))
    _, _, tried, refused, right, *failures, _ = (cell.strip() for cell in total.split("|"))
    assert (tried, failures) == ("2,000", ["0", "0", "0"])
    # Neither is refused without a look, nor changed where nothing is read.
    assert min(int(refused.replace(",", "")), int(right.replace(",", ""))) > 400


@pytest.mark.slow
def test_what_was_found_once() -> None:
    done = fuzz("--corpus")
    assert done.returncode == 0, done.stdout + done.stderr


# ---- what the harness itself finds ---------------------------------------------------------------


def _ends(how: str, rng: Random, folder: Path) -> None:
    (folder / "x").write_text(how)
    if how == "abort":
        os.abort()
    if how == "sleep":
        import time

        time.sleep(60)
    if how == "memory":
        bytearray(8 << 30)
    errors = {"refused": RefusedError, "wrong": WrongError, "raise": KeyError}
    if how in errors:
        raise errors[how](how)


@pytest.mark.slow
def test_each_end_is_told_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "SECONDS", 3.0)  # of a minute; a fork alone may take long
    ends = {
        "refused": REFUSED,
        "right": RIGHT,
        "abort": CRASHED,
        "wrong": WRONG,
        "sleep": HUNG,
        "raise": CRASHED,
        "memory": CRASHED,
        "last": RIGHT,
    }
    inputs = [workers.numbered(Kind(how, 1, partial(_ends, how)), 7, 0) for how in ends]
    figures = workers.Figures()
    found = {}
    for outcome in workers.tried(inputs, 1, tmp_path):
        figures.add(outcome)
        found[outcome.kind] = outcome.verdict
    assert found == ends
    failed = {f"{how}-7" for how, end in ends.items() if end in workers.FAILURES}
    assert {path.name for path in tmp_path.iterdir()} == failed
    assert (tmp_path / "abort-7" / "x").read_text() == "abort"
    assert figures.failures == 5
    assert figures.table().splitlines()[-1] == "| all | 8 | 1 | 2 | 3 | 1 | 1 |"


@pytest.mark.parametrize("name", list(files.FORMATS))
def test_samples_are_read_as_they_were_written(name: str, tmp_path: Path) -> None:
    """So what is refused, or differs, was changed."""
    of = files.FORMATS[name]
    taken = 0
    for number in range(6):
        path = tmp_path / f"{number}.{of.suffix}"
        path.write_bytes(of.sample(Random(number)))
        try:
            of.check(path)
            taken += 1
        except RefusedError as refused:  # float masks and ids, dead layers
            assert "float" in str(refused)  # noqa: PT017
    assert taken >= 3


def test_other_values_are_found(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    x = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)
    np.save(path, x)
    check_activations(path, plain.read)
    for other in (x + 1e-6, x[:, :3], x.astype(np.float64)):
        with pytest.raises(WrongError):
            check_activations(path, lambda _, y=other: {plain.LONE: torch.from_numpy(y)})
    r = torch.tensor([float(np.corrcoef(x[:, i], x[:, 0])[0, 1]) for i in range(4)])
    first = torch.from_numpy(x[:, :1].repeat(4, 1))
    check_r(r, torch.from_numpy(x), first)
    with pytest.raises(WrongError, match="expected"):
        check_r(r + 3e-6, torch.from_numpy(x), first)


def test_only_a_line_that_was_meant_is_a_refusal() -> None:
    def raises(error: Exception) -> Callable[[], None]:
        def call() -> None:
            raise error

        return call

    with pytest.raises(RefusedError):
        attempt(raises(InputError("x: is damaged; write it again")))
    for error in (TypeError("of this file"), InputError("x" * 600), KeyError("x")):
        with pytest.raises(Exception) as caught:  # noqa: PT011
            attempt(raises(error))
        assert not isinstance(caught.value, RefusedError)
