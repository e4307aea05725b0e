"""Screens two models that are too wide for all pairs, and says what that took.

    python benchmarks/two_wide_models.py --neurons 131072 --tokens 32768 --folder DIR
    python benchmarks/two_wide_models.py --project

Both are sparse neurons in bfloat16, planted pairs among them as in `screen_recall`, in shards on
the disk (17 GB by default), which are removed in the end. The result is checked: of planted pairs
that fire at 1% of tokens and more, nearly all are found. With ``--project``, what two models of 32
layers of 11,008 neurons would take on one H100, from rates that are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from screen_recall import ACTIVITY, Planted, R

import univfast as uf

SHARD = 2048  # tokens of a file
BATCH = 512  # tokens that are made at a time


def write(folder: Path, neurons: int, layers: int, tokens: int) -> Planted:
    """Both models, in shards."""
    models = Planted(neurons)
    for name in ("a", "b"):
        (folder / name).mkdir()
    for first in range(0, tokens, SHARD):
        sizes = [min(BATCH, tokens - i) for i in range(first, min(first + SHARD, tokens), BATCH)]
        batches = [models.batch(size) for size in sizes]
        for name, x in zip(("a", "b"), zip(*batches, strict=True), strict=True):
            parts = torch.cat(x).split(neurons // layers, dim=1)
            shard = {f"mlp.{i}": part.contiguous() for i, part in enumerate(parts)}
            save_file(shard, folder / name / f"shard-{first // SHARD:04}.safetensors")
        print(f"\rwritten {first + sum(sizes):,} of {tokens:,} tokens", end="", file=sys.stderr)
    print(file=sys.stderr)
    return models


def screened(folder: Path, given: argparse.Namespace) -> None:
    """In a process of its own: correlates, and prints what it took and found."""
    neurons, tokens = given.neurons, given.tokens
    ends: dict[str, float] = {}
    start = time.perf_counter()

    def tell(phase: str, done: int, total: int) -> None:
        ends[phase] = time.perf_counter() - start
        print(f"\r{phase}: {done:,} of {total:,}, {ends[phase]:,.0f} s", end="", file=sys.stderr)

    def progress(done: int, total: int) -> None:
        if done <= tokens and "search" not in ends:
            tell("sample", done, total)
        elif done > tokens:
            tell("verify", done, total)

    def search_progress(done: int, total: int) -> None:
        if done:
            tell("search", done, total)

    result = uf.correlate(
        str(folder / "a"),
        str(folder / "b"),
        screen=given.screen,
        draws=given.draws,
        details=False,
        memory_limit=0.8e9 * given.gigabytes,
        checkpoint=given.checkpoint,
        progress=progress,
        search_progress=search_progress,
    )
    layers = {name: i for i, name in enumerate(sorted(set(result.layer), key=result.layer.index))}
    width = neurons // len(layers)
    first = torch.tensor([layers.get(name, -1) * width for name in result.match_layer])
    torch.save((first + result.match_neuron, result.correlation), folder / "found.pt")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"ends": ends, "peak": peak, "summary": dict(result.summary)}))


def tell(found: dict[str, object], models: Planted, folder: Path) -> None:
    """Prints what a screen took, and what it found of planted pairs."""
    start = 0.0
    ends = found["ends"]
    assert isinstance(ends, dict)
    for name, end in ends.items():
        print(f"| {name} | {end - start:,.0f} s |")
        start = end
    peak, summary = found["peak"], found["summary"]
    assert isinstance(peak, int)
    assert isinstance(summary, dict)
    print(f"| all | {summary['seconds']:,.0f} s |")
    print(f"| peak memory | {peak / 1e9:.1f} GB |\n")
    print(json.dumps(summary["screen"]))
    print(f"warnings: {summary['warnings']}\n")
    place, correlation = torch.load(folder / "found.pt")
    print("| activity | " + " | ".join(f"r = {r}" for r in R) + " |")
    print("| --- |" + " ---: |" * len(R))
    for i, activity in enumerate(ACTIVITY):
        cells = []
        for j in range(len(R)):
            there = (models.group == i * len(R) + j) & (models.partner >= 0)
            cells.append((place == models.partner)[there].double().mean().item())
            assert activity < 0.01 or cells[-1] > 0.95, "planted pairs were missed"
        print(f"| {activity:.2%} | " + " | ".join(f"{x:.1%}" for x in cells) + " |")
    assert bool((correlation.nan_to_num(0).abs() <= 1).all())


def project(
    *,
    neurons: int = 32 * 11_008,
    tokens: int = 1_000_000,
    sample: int = 8192,
    draws: int = 5,
    product: float = 600e12,
    copy: float = 2.8e12,
    pairs: float = 10e9,
    disk: float = 5e9,
    say: Callable[[str], None] = print,
) -> float:
    """Seconds that two such models would take on one H100.

    Args:
        neurons: of each model.
        tokens: of the run.
        sample: tokens of the sample.
        draws: of the baseline.
        product: operations a second, of products of bfloat16.
        copy: bytes a second that the device reads and writes.
        pairs: products of candidates a second, which the CPU takes.
        disk: bytes a second that activations are read at.
        say: prints a line.
    """
    every = float(neurons) ** 2
    moved = 4 * 2 + 16 * -(-sample // 4096) + 8 * 4 + 8 * draws
    parts = {
        "sample: all activations, read once": 2 * 2 * neurons * tokens / disk,
        f"search: products of {sample:,} tokens": 2 * every * sample / product,
        f"search: tiles, {moved} bytes a pair": every * moved / copy,
        "verify: all activations, read again": 2 * 2 * neurons * tokens / disk,
        "verify: 64 candidates a neuron, on the CPU": 64 * neurons * tokens / pairs,
    }
    say(f"Projected, not measured: 2 x {neurons:,} neurons, {tokens:,} tokens, {draws} draws.")
    say(
        f"Rates assumed: {product / 1e12:,.0f} TFLOP/s of bfloat16 products, {copy / 1e12:.1f} TB/s"
        f" of memory, {pairs / 1e9:,.0f} billion candidate products/s, {disk / 1e9:.0f} GB/s read."
    )
    for name, seconds in parts.items():
        say(f"| {name} | {seconds:,.0f} s |")
    say(f"| all | {sum(parts.values()):,.0f} s |")
    say(f"| sample on the device | {2 * 2 * neurons * sample / 1e9:.1f} GB |")
    return sum(parts.values())


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--neurons", type=int, default=131_072, help="of each model")
    options.add_argument("--layers", type=int, default=32)
    options.add_argument("--tokens", type=int, default=32_768)
    options.add_argument("--screen", type=int, default=8192)
    options.add_argument("--draws", type=int, default=5)
    options.add_argument("--gigabytes", type=float, default=24, help="of the machine")
    options.add_argument("--folder", default=tempfile.gettempdir(), help="for the files")
    options.add_argument("--checkpoint", help="a file to go on from")
    options.add_argument("--project", action="store_true", help="only tell what an H100 would take")
    options.add_argument("--screened", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.project:
        project()
        return
    if given.screened:
        screened(Path(given.screened), given)
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        models = write(folder, given.neurons, given.layers, given.tokens)
        # By a process of its own: what this one has resident counts for those that it starts.
        command = [sys.executable, *sys.argv, "--screened", name]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=dict(os.environ))
        tell(json.loads(done.stdout), models, folder)


if __name__ == "__main__":
    main()
