"""The command as a process: signals, pipes and memory."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from support.command import run
from support.processes import printed, python


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


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_traceback(pair: tuple[Path, Path]) -> None:
    command = f"{sys.executable} -m univfast correlate {pair[0]} {pair[1]} --json | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=False)
    assert done.stderr == b""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_files(tmp_path: Path) -> None:
    paths = [tmp_path / "a.npy", tmp_path / "b.npy"]
    for path in paths:  # 1 GB each, which takes no disk: the file system holds no zeros
        np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(1 << 20, 256))
    code = (
        "import sys; from univfast.cli import main; import univfast.report.plots, torch; "
        "from support.processes import memory; before = memory('VmHWM'); "
        "status = main(['correlate', *sys.argv[1:], '--quiet', '--draws', '1']); "
        "print(status, memory('VmHWM') - before)"
    )
    status, grown = map(int, printed(python(code, *paths)).split())
    assert status == 0
    assert grown < 500_000_000
