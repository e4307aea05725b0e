"""How far the work is: bars on a terminal, lines elsewhere, and nothing on stdout."""

from __future__ import annotations

import io
import re
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import univfast
from support.command import run
from univfast.cli.progress import progress_bar, progress_bars


class Clock:
    """Time that tests move on."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("univfast.cli.progress.time.monotonic", made)
    return made


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


PHASES = (("read", "tokens"), ("search", "pairs of layers"))


def test_a_line_every_thirty_seconds(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars(False, *PHASES) as (read, search):
        read(0, 64_000_000)
        clock.now += 10
        read(12_000_000, 64_000_000)
        assert capsys.readouterr().err == ""
        clock.now += 20
        read(36_000_000, 64_000_000)
        assert capsys.readouterr().err == (
            "read: 36.0 of 64.0 million tokens (56%), 1.2 M tokens/s, 23 s left\n"
        )
        clock.now += 5
        read(64_000_000, 64_000_000)
        search(24, 2_304)
        clock.now += 60
        search(144, 2_304)
        clock.now += 29
        search(200, 2_304)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "search: 144 of 2,304 pairs of layers (6%), 2 pairs/s, 18 min left\n"


def test_each_phase_has_its_own_time(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """Reading goes on after a search of ten minutes, at its own rate."""
    with progress_bars(False, *PHASES) as (read, search):
        read(0, 4_000)
        clock.now += 10
        read(1_000, 4_000)
        search(0, 8)
        clock.now += 600
        search(1, 8)
        capsys.readouterr()
        clock.now += 30
        read(4_000, 4_000)
    assert capsys.readouterr().err == "read: 4,000 of 4,000 tokens (100%), 100 tokens/s\n"


def test_what_was_done_before_counts_for_no_rate(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_bar("train", "steps", quiet=False) as progress:
        progress(900, 1_000, 0.5)
        clock.now += 40
        progress(920, 1_000, 0.25)
        clock.now += 40
        progress(930, None)
    assert capsys.readouterr().err == (
        "train: 920 of 1,000 steps (92%), 0.5 steps/s, 160 s left, loss 0.250\n"
        "train: 930 steps, 0.38 steps/s\n"
    ).replace("160 s", "3 min")


def test_quiet_says_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("read", "tokens", quiet=True) as progress:
        progress(0, 10)
        clock.now += 100
        progress(5, 10)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("width", [80, 200])
def test_two_bars_on_a_terminal(
    width: int,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    with progress_bars(False, *PHASES) as (read, search):
        read(0, 64_000_000)
        clock.now += 10
        read(12_000_000, 64_000_000)
        search(0, 100)
        clock.now += 10
        search(25, 100)
        print("a warning", file=sys.stderr)
    assert sys.stderr is terminal
    text = re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue())
    assert re.search(r"read +\S+ + 19% 12.0 of 64.0 million tokens, 1.2 M tokens/s", text)
    assert re.search(r"search +\S+ + 25% 25 of 100 pairs of layers, 2.5 pairs/s, 30 s", text)
    assert "a warning\n" in text
    assert "\x1b[?25l" not in text  # the cursor stays, for a signal may end the process
    assert capsys.readouterr().out == ""


def test_a_narrow_terminal_shows_all(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    with progress_bars(False, ("read", "tokens"), ("search", "pairs")) as bars:
        bars[1](0, 65_900_000)
        clock.now += 10
        bars[1](7_300_000, 65_900_000)
        bars.say("making assignments: of the models, and of 8 rotations")
    text = re.sub(r"\x1b\[[\d;]*[A-Za-z]", "", terminal.getvalue())
    lines = re.split(r"[\r\n]+", text)
    assert max(map(len, lines)) <= 80
    at = max(i for i, line in enumerate(lines) if "7.3 of" in line)
    assert re.match(r"search [^ ]{12} +11% 7.3 of 65.9 million pairs, 730 k pairs/s,", lines[at])
    shown = " ".join(" ".join(lines[at:]).split())
    assert shown.endswith("80 s left, making assignments: of the models, and of 8 rotations")


def test_what_is_not_counted_is_said_on_a_terminal(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    with progress_bars(False, *PHASES) as bars:
        bars[0](100, 400)
        bars.say("writing the checkpoint")
        bars[1](1, 2)
        bars.say("")
    text = re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue())
    assert "100 of 400 tokens, writing the checkpoint" in text
    assert not re.search("pairs of layers, .*writing", text)


def test_what_is_not_counted_is_said_on_lines_while_it_lasts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("univfast.cli.progress._EVERY", 0.05)
    with progress_bars(False, *PHASES) as bars:
        bars[0](100, 400)
        bars.say("writing the checkpoint")
        time.sleep(0.35)
        bars.say("")
        assert "read: 100 of 400 tokens (25%), writing the checkpoint\n" in capsys.readouterr().err
        time.sleep(0.25)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("rank", [0, 1])
def test_of_several_processes_the_first_shows_it(
    rank: int, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def correlate_together(*given: Any, say: Callable[[str], None]) -> None:
        say("adding the sums of all processes")

    terminal = Terminal()
    joined = SimpleNamespace(rank=rank), torch.device("cpu")
    monkeypatch.setattr(
        "univfast.cli.torchrun.joined_processes", lambda *given: nullcontext(joined)
    )
    monkeypatch.setattr("univfast.correlation.correlate_together", correlate_together)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    assert run("correlate", *pair) == 0
    assert ("adding the sums" in terminal.getvalue()) == (rank == 0)
    assert (terminal.getvalue() == "") == (rank == 1)


@pytest.mark.parametrize(("name", "value"), [("TERM", "dumb"), ("NO_COLOR", "1")])
def test_plain_terminals(
    name: str, value: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(name, value)
    with progress_bar("read", "tokens", quiet=False) as progress:
        progress(0, 100)
        clock.now += 31
        progress(31, 100)
    assert ("\x1b" in terminal.getvalue()) == (name == "NO_COLOR")
    assert not re.search(r"\x1b\[[\d;]+m", terminal.getvalue())
    if name == "TERM":
        assert terminal.getvalue() == "read: 31 of 100 tokens (31%), 1 tokens/s, 69 s left\n"


@pytest.mark.parametrize("match", ["best", "one-to-one"])
@pytest.mark.parametrize("reverse", [False, True])
def test_pairs_of_neurons_are_counted(pair: tuple[Path, Path], match: str, reverse: bool) -> None:
    """In models, each draw and direction, of all models and controls, whatever memory cuts."""
    told: list[tuple[int, int]] = []
    result = univfast.correlate(
        pair[0],
        pair[1],
        match=match,  # type: ignore[arg-type]
        reverse=reverse,
        controls_a=[pair[1]],
        draws=3,
        search_progress=lambda done, total: told.append((done, total)),
    )
    total = len(result.correlation) ** 2 * (1 + 3) * 2 * (2 if reverse else 1)
    assert {whole for _, whole in told} == {total}
    done = [pairs for pairs, _ in told]
    assert done == sorted(done)
    assert done[-1] == total
    # Told of each draw of each comparison in each direction, at least.
    assert len({*done}) > (1 + 3) * 2 * (2 if reverse else 1) // (3 if match == "best" else 1)


def test_by_index_nothing_is_searched(pair: tuple[Path, Path]) -> None:
    told: list[int] = []
    univfast.correlate(*pair, match="index", search_progress=lambda done, _: told.append(done))
    assert told == []


def test_the_search_is_seen_on_the_command_line(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("univfast.cli.progress._EVERY", 0.0)
    assert run("correlate", *pair) == 0
    out, err = capsys.readouterr()
    assert "read: 1,000 of 1,000 tokens (100%)" in err
    assert re.search(r"search: 221,184 of 221,184 pairs \(100%\)", err)  # 192 x 192, 5 draws
    assert " pairs (" not in out
    assert run("correlate", *pair, "--quiet") == 0
    assert capsys.readouterr() == ("", "")
