"""The command as a process of its own: signals at any moment, streams that are closed, limits."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.processes import python

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="signals and limits are Linux's"),
]

COMMAND = [sys.executable, "-m", "univfast"]
# Ignored in the background, and under nohup.
DEFAULT = (
    "signal.signal(signal.SIGINT, signal.default_int_handler);"
    " signal.signal(signal.SIGHUP, signal.SIG_DFL)"
)


def started(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    """The command, which signals reach though the tests may run in the background."""
    start = f"import os, signal, sys; {DEFAULT}; os.execv(sys.executable, sys.argv[1:])"
    return subprocess.Popen(
        [sys.executable, "-c", start, *COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def shell(line: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = ["bash", "-c", line.replace("UF", '"$@"'), "-", *COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


ALL = "0<&- 1>&- 2>&-"


@pytest.mark.parametrize("closed", ["2>&-", ALL], ids=["stderr", "all"])
def test_closed_streams_stop_no_work(closed: str, pair: tuple[Path, Path], tmp_path: Path) -> None:
    done = shell(f"UF {closed}", "correlate", *pair, "--draws", 1, "--out", tmp_path / "o")
    assert done.returncode == 0
    assert ("Report: " in done.stdout) == (closed != ALL)
    assert len(list((tmp_path / "o").iterdir())) >= 8


def test_no_file_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    code = (
        "import os, sys; from univfast import __main__ as process; process._open_streams();"
        "file = open(sys.argv[1], 'wb'); os.write(1, b'1'); os.write(2, b'2');"
        "print('text'); print('text', file=sys.stderr); file.write(b'whole'); file.close()"
    )
    command = ["bash", "-c", f'"$@" {ALL}', "-", sys.executable, "-c", code, tmp_path / "file"]
    assert subprocess.run(command, timeout=60, check=False).returncode == 0
    assert (tmp_path / "file").read_bytes() == b"whole"


def test_errors_that_nobody_hears_are_errors() -> None:
    for lost in ("2>&-", "2>/dev/full", ALL):
        assert shell(f"UF {lost}", "correlate", "a.pt", "no.pt", "--out", "").returncode == 2
    assert shell("UF >/dev/full", "--help").returncode == 2
    assert shell("UF | true; exit ${PIPESTATUS[0]}", "--help").returncode == 141


NUMBERS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.mark.parametrize(
    ("number", "after"),
    [
        (signal.SIGINT, 0.0),
        (signal.SIGINT, 0.4),
        (signal.SIGINT, 1.5),
        (signal.SIGTERM, 0.8),
        (signal.SIGHUP, 0.8),
    ],
)
def test_signals_end_it_with_a_line_at_any_moment(
    number: signal.Signals, after: float, tmp_path: Path
) -> None:
    process = started("train", tmp_path / "a.ckpt", "--steps", 100_000)
    handlers = Path(f"/proc/{process.pid}/status")

    def caught() -> int:
        lines = [x for x in handlers.read_text().splitlines() if x.startswith("SigCgt:")]
        return int(lines[0].split()[1], 16)

    while not caught() >> (signal.SIGTERM - 1) & 1:  # Python itself begins, and catches nothing
        time.sleep(0.002)
        assert process.poll() is None
    time.sleep(after)
    process.send_signal(number)
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()  # it would train for hours
    name = "" if number == signal.SIGINT else f" by {number.name}"
    assert (process.returncode, out, err) == (NUMBERS[number], "", f"Interrupted{name}.\n")
    assert list(tmp_path.iterdir()) == []


def test_a_signal_while_it_waits_for_other_processes(pair: tuple[Path, Path]) -> None:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    place = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    process = started("correlate", *pair, "--timeout", 300, **place)
    with socket.socket() as other:
        while other.connect_ex(("localhost", port)):  # it waits in native code now
            time.sleep(0.05)
            assert process.poll() is None
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (143, "Interrupted by SIGTERM.\n")


WRITING = """
import os, signal, sys, time
from univfast.machine import files
{default}
def write(self, content):
    os.kill(os.getpid(), signal.{name})
    time.sleep(5)
files.os.fsync = lambda number: write(None, None)
sys.argv = ["univfast", "train", {path!r}, "--steps", "1", "--samples", "64", "--quiet"]
from univfast.__main__ import run
run()
"""


def test_a_signal_leaves_no_half_file(tmp_path: Path) -> None:
    code = WRITING.format(default=DEFAULT, name="SIGTERM", path=str(tmp_path / "a.ckpt"))
    done = python(code)
    assert (done.returncode, done.stderr) == (143, "Interrupted by SIGTERM.\n")
    assert list(tmp_path.iterdir()) == []


def test_a_bug_is_one_line() -> None:
    code = (
        "import sys; sys.argv = ['univfast', 'info']; from univfast.cli import main;"
        "sys.modules['univfast.cli.info']._cuda = None; from univfast.__main__ import run; run()"
    )
    done = python(code)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: internal error: TypeError: ")
    assert "(info.py:" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" in python(code, UNIVFAST_TRACEBACK="1").stderr


def test_limits_of_memory_are_one_line(pair: tuple[Path, Path]) -> None:
    for limit in ("-v 500000", "-v 900000"):
        done = shell(f"export OMP_NUM_THREADS=1; ulimit {limit}; UF", "correlate", *pair)
        assert done.returncode == 2
        assert done.stderr.startswith("Error: not enough memory: the address space is limited to ")
        assert len(done.stderr.splitlines()) == 1


def test_no_variable_of_the_environment_is_in_its_way(pair: tuple[Path, Path]) -> None:
    odd = {
        "MPLBACKEND": "garbage",
        "HOME": "/proc/nowhere",
        "TMPDIR": "/proc/nowhere",
        "TERM": "dumb",
        "COLUMNS": "1",
        "PYTHONWARNINGS": "error",
        "PYTHONIOENCODING": "ascii",
        "LC_ALL": "POSIX",
        "PYTHONUTF8": "0",
        "TZ": "Mars/Phobos",
        "UNIVFAST_SIMD": "baseline",
    }
    out = pair[0].parent / "\u5c42"
    process = started("correlate", *pair, "--draws", 1, "--out", out, **odd)
    said, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert "Report: " in said
    assert (out / "report.html").is_file()
    process = started("correlate", "--help", PYTHONOPTIMIZE="2")  # without docstrings
    said, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "--memory-limit" in said
    process = started("info", UNIVFAST_SIMD="sse9")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.startswith("Error: UNIVFAST_SIMD=sse9: ")
