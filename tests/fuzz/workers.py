"""Processes that take inputs and are watched: what they die of, or hang in, is told by number."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from fuzz.kinds import CrashError, Kind, RefusedError, WrongError

SECONDS = 20.0  # that an input may take
MEMORY = 1 << 30  # bytes that a process may take beside what it has when it starts
CHUNK = 50  # inputs of a process: each begins with no memory of those before

REFUSED, RIGHT, CRASHED, HUNG, WRONG = "refused", "right", "crashed", "hung", "wrong"
VERDICTS = (REFUSED, RIGHT, CRASHED, HUNG, WRONG)
FAILURES = (CRASHED, HUNG, WRONG)


class Outcome(NamedTuple):
    """What became of an input: ``label`` names it, ``why`` says what was wrong."""

    kind: str
    label: str
    verdict: str
    why: str


class Input(NamedTuple):
    """An input: called with an empty directory, it is made and tried."""

    kind: str
    label: str
    try_it: Callable[[Path], None]


def numbered(kind: Kind, number: int, seed: int) -> Input:
    """Input ``number`` of a kind, which these three alone make."""
    return Input(
        kind.name,
        f"{kind.name}:{number}",
        lambda folder: kind.run(Random(f"{seed} {kind.name} {number}"), folder),
    )


def tried(inputs: list[Input], processes: int, keep: Path | None = None) -> Iterator[Outcome]:
    """What becomes of each input.

    Args:
        inputs: to try, in chunks, each in a process of its own.
        processes: at a time.
        keep: a directory that gets what failures had in theirs.
    """
    chunks = deque(inputs[i : i + CHUNK] for i in range(0, len(inputs), CHUNK))
    running: list[_Worker] = []
    with tempfile.TemporaryDirectory() as scratch:
        while chunks or running:
            while chunks and len(running) < processes:
                running.append(_Worker(chunks.popleft(), Path(scratch), keep))
            wait([worker.connection for worker in running], timeout=0.2)
            for worker in running:
                yield from worker.outcomes()
                if worker.done and worker.left:
                    chunks.appendleft(worker.left)
            running = [worker for worker in running if not worker.done]


class _Worker:
    """A process that tries some inputs, one after another; ``left`` are those still to try."""

    def __init__(self, inputs: list[Input], scratch: Path, keep: Path | None) -> None:
        self.left, self.done = inputs, False
        self._folder, self._keep = Path(tempfile.mkdtemp(dir=scratch)), keep
        context: Any = multiprocessing.get_context("fork")
        self.connection, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=_work, args=(inputs, theirs, self._folder, keep))
        self._process.start()
        theirs.close()  # so that it ends with the process
        self._hung = False
        self._since = time.monotonic()

    def outcomes(self) -> Iterator[Outcome]:
        """Those that have come since; the last one of a process that died is that it did."""
        try:
            while self.connection.poll():
                outcome = self.connection.recv()
                self.left, self._since = self.left[1:], time.monotonic()
                yield outcome
        except EOFError:
            self.done = True
            self._process.join()
            self.connection.close()
            if self.left:
                yield self._died()
            shutil.rmtree(self._folder, ignore_errors=True)
        if not self.done and time.monotonic() - self._since > SECONDS:
            self._hung = True
            os.kill(self._process.pid, signal.SIGKILL)

    def _died(self) -> Outcome:
        first, self.left = self.left[0], self.left[1:]
        _keep_input(self._folder, self._keep, first.label)
        if self._hung:
            return Outcome(first.kind, first.label, HUNG, f"no answer for {SECONDS:.0f} s")
        code = self._process.exitcode
        ended = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        said = (self._folder / "stderr").read_text(errors="replace").strip().splitlines()
        where = [line.strip() for line in said if "univfast" in line or "File" not in line]
        return Outcome(first.kind, first.label, CRASHED, f"{ended}: {' | '.join(where[:6])}")


def _work(inputs: list[Input], answers: Any, folder: Path, keep: Path | None) -> None:
    """Tries inputs, with little memory, and says what becomes of each."""
    with open(folder / "stderr", "w") as said:
        os.dup2(said.fileno(), sys.stderr.fileno())
    faulthandler.enable()
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for each in inputs:
        path = folder / "input"
        path.mkdir()
        verdict, why = _verdict(each, path)
        if verdict in FAILURES:
            _keep_input(folder, keep, each.label)
        shutil.rmtree(path, onerror=_by_force)
        answers.send(Outcome(each.kind, each.label, verdict, why))


def _verdict(each: Input, folder: Path) -> tuple[str, str]:
    try:
        each.try_it(folder)
    except RefusedError as error:
        return REFUSED, str(error)
    except WrongError as error:
        return WRONG, str(error)
    except CrashError as error:
        return CRASHED, str(error)
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)[-6:]
        where = " < ".join(f"{Path(x.filename).name}:{x.lineno}" for x in reversed(frames))
        return CRASHED, f"{type(error).__name__}: {error} ({where})"
    return RIGHT, ""


def _keep_input(folder: Path, keep: Path | None, label: str) -> None:
    if keep is not None and (folder / "input").exists():
        with suppress(OSError):  # pipes cannot be copied
            target = keep / label.replace(":", "-")
            shutil.copytree(folder / "input", target, symlinks=True, dirs_exist_ok=True)


def _by_force(function: Callable[..., Any], path: str, _: object) -> None:
    """Removes what a mutation had protected."""
    with suppress(OSError):
        os.chmod(path, 0o700)
        function(path)


@dataclass
class Figures:
    """How many inputs of each kind came to which end."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, outcome: Outcome) -> None:
        self.counts[outcome.kind, outcome.verdict] += 1

    @property
    def failures(self) -> int:
        return sum(n for (_, verdict), n in self.counts.items() if verdict in FAILURES)

    def table(self) -> str:
        """A row a kind, and one of all together, as Markdown."""
        kinds = list(dict.fromkeys(kind for kind, _ in self.counts))
        rows = [("kind", "tried", *VERDICTS), ("---", *["---:"] * (1 + len(VERDICTS)))]
        for name, members in [*((x, [x]) for x in kinds), ("all", kinds)]:
            each = [sum(self.counts[x, verdict] for x in members) for verdict in VERDICTS]
            rows.append((name, *(f"{n:,}" for n in (sum(each), *each))))
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)
