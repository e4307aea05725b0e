"""Python in processes of its own, also started by torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from support import TESTS


def python(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs ``code``, which finds this package too, with more variables of the environment."""
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def printed(done: subprocess.CompletedProcess[str]) -> str:
    """What a process wrote on stdout, which must have ended well."""
    assert done.returncode == 0, done.stderr
    return done.stdout


def memory(kind: str) -> int:
    """Bytes of this process in memory, on Linux: VmRSS; of files alone, RssFile; at most, VmHWM.

    The most that getrusage says is at least what the process that started this one had: so much
    more would not be seen.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) * 1024 for x in lines if x.startswith(f"{kind}:"))


def written_at(path: Path) -> int | None:
    """When a file was written, which another process writes; None where it is not there.

    In one call: a checkpoint is gone for a moment while the next one takes its place.
    """
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def torchrun(processes: int, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def finished(process: subprocess.Popen[str], limit: float = 120) -> str:
    """What a run wrote on stdout, which must end well."""
    out, err = process.communicate(timeout=limit)
    assert process.returncode == 0, err
    return out


def command_in_slices(tokens: int, chunk: int) -> str:
    """The command line as a script, with slices and chunks so small that there are many of them.

    Args:
        tokens: of a slice by index.
        chunk: tokens of a chunk, which for all pairs a slice is too.
    """
    return f"""
import sys
from univfast.sums import co_moments
from univfast.runs import by_index, over_pairs, sampling, screen_passes
by_index.LEAST_TOKENS, by_index.READ_BYTES, over_pairs.READ_BYTES = {tokens}, 1, 1
sampling.READ_BYTES = screen_passes.READ_BYTES = 1 << 16
screen_passes.SearchPass.step = 8
co_moments._CHUNK_TOKENS, co_moments._TILE_BYTES = {chunk}, 4096
from univfast.cli import main
sys.exit(main(sys.argv[1:]))
"""


def together(folder: object) -> str:
    """The start of a script of two processes, which go on when both have imported what they need.

    They join at once then, within any timeout, however long that took one of them.
    """
    return f"""
import os, pathlib, time
import univfast.cli.correlate, univfast.correlation, univfast.machine.processes
ready = pathlib.Path({str(folder)!r})
(ready / f"ready-{{os.environ['RANK']}}").touch()
while len([*ready.glob("ready-*")]) < 2:
    time.sleep(0.01)
"""


def ends_itself(signal: str, rank: int) -> str:
    """The start of a script in which a process sends itself a signal once it has read 3 slices.

    It is in the middle of the run then, however fast that is and whoever else uses the cores.
    """
    return f"""
import os, signal
from univfast.runs import by_index, over_pairs
def ending(update):
    seen = []
    def counted(*given):
        done = update(*given)
        seen.append(0)
        if len(seen) == 3 and os.environ.get("RANK") == "{rank}":
            os.kill(os.getpid(), signal.{signal})
        return done
    return counted
for each in (by_index.IndexPass, over_pairs.PairsPass):
    each.update = ending(each.update)
"""


def slow_search(seconds: float) -> str:
    """The start of a script in which one step of a search says nothing for so long."""
    return f"""
import time
from univfast.machine.meanwhile import meanwhile
from univfast.search.partners import PartnersWork
do = PartnersWork._do
def slowly(self, unit, part):
    if (unit, part) == (0, 0):
        yield from meanwhile(lambda: time.sleep({seconds}))
    return (yield from do(self, unit, part))
PartnersWork._do = slowly
"""
