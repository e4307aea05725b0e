"""Tries inputs and prints what became of them: ``PYTHONPATH=tests python -m fuzz --help``."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported: processes are forked later

import argparse
import sys
import time
from functools import partial
from pathlib import Path

import torch

from fuzz import arguments, commands, directories, files, results, states
from fuzz.kinds import KINDS
from fuzz.workers import FAILURES, Figures, Input, numbered, tried

CORPUS = Path(__file__).parent / "corpus"


def main() -> int:
    """Exit status 1 where an input crashed, hung or gave wrong numbers."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=2000, help="how many to try")
    parser.add_argument("--seed", type=int, default=0, help="that they are made from")
    parser.add_argument("--only", nargs="+", choices=KINDS, help="kinds; by default all")
    parser.add_argument("--one", metavar="KIND:NUMBER", help="this input alone")
    parser.add_argument("--corpus", action="store_true", help="the files of the corpus alone")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="gets the inputs that failed")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--verbose", action="store_true", help="print every refusal too")
    given = parser.parse_args()
    torch.set_num_threads(1)
    prepare()
    if given.keep:
        given.keep.mkdir(parents=True, exist_ok=True)
    inputs = corpus() if given.corpus else chosen(given)
    figures, start = Figures(), time.monotonic()
    for outcome in tried(inputs, given.processes, given.keep):
        figures.add(outcome)
        if outcome.verdict in FAILURES or given.verbose or given.one:
            why = " ".join(outcome.why.split())[:300]
            print(f"{outcome.label} {outcome.verdict}: {why}", flush=True)
    print(figures.table())
    print(f"seed {given.seed}, {time.monotonic() - start:.0f} s, {given.processes} processes")
    return 1 if figures.failures else 0


def prepare() -> None:
    """What processes would else do anew, each for itself."""
    for module in (arguments, commands, directories, files, results, states):
        getattr(module, "prepare", lambda: None)()


def chosen(given: argparse.Namespace) -> list[Input]:
    """The inputs to try: of each kind its share, kinds one after another."""
    if given.one:
        name, number = given.one.split(":")
        return [numbered(KINDS[name], int(number), given.seed)]
    kinds = [KINDS[name] for name in given.only or KINDS]
    total = sum(kind.share for kind in kinds)
    found, before = [], 0
    for kind in kinds:
        first, before = given.inputs * before // total, before + kind.share
        count = given.inputs * before // total - first
        found += [numbered(kind, number, given.seed) for number in range(count)]
    return found


def corpus() -> list[Input]:
    """The files of the corpus, each named KIND--what-is-wrong.SUFFIX."""
    found = []
    for path in sorted(CORPUS.iterdir()):
        kind = KINDS[path.name.split("--")[0]]
        assert kind.check is not None
        check = kind.check
        found.append(Input(kind.name, path.name, partial(_check, check, path)))
    return found


def _check(check, path: Path, folder: Path) -> None:  # type: ignore[no-untyped-def]
    copy = folder / path.name
    copy.write_bytes(path.read_bytes())
    check(copy)


if __name__ == "__main__":
    sys.exit(main())
