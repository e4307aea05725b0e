"""Command lines: each ends with status 0 and its results, or with 2 and one line that says why."""

from __future__ import annotations

import io
import json
import os
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from random import Random

import numpy as np
import torch

from fuzz.kinds import CrashError, RefusedError, WrongError, check_line, kind
from fuzz.mutate import INTEGERS, TEXTS
from univfast.cli import main

WORDS = (
    *("a.npy", "b.npy", "keep.npy", "gone.npy", ".", "out", "nan", "inf", "-1", "0", "1", "1e400"),
    *(
        "index",
        "best",
        "one-to-one",
        "none",
        "haar",
        "cpu",
        "cuda",
        "auto",
        "mlp.*",
        "[",
        "-",
        "--",
    ),
)
OPTIONS = (
    *(
        "--match",
        "--rotation",
        "--draws",
        "--shifts",
        "--seed",
        "--threshold",
        "--layers",
        "--top-k",
    ),
    *("--exclude-self", "--reverse", "--mask", "--details", "--token-ids", "--controls-a"),
    *(
        "--controls-b",
        "--controls",
        "--control-tokens",
        "--control-margin",
        "--device",
        "--threads",
    ),
    *(
        "--precision",
        "--products",
        "--memory-limit",
        "--checkpoint",
        "--checkpoint-every",
        "--timeout",
        "--out",
    ),
    *("--columns", "--json", "--quiet", "--text", "--hooks", "--hooks-b", "--help", "--x"),
)
LINES = (
    ("correlate", "a.npy", "b.npy", "--match", "index", "--draws", "1", "--json"),
    ("correlate", "a.npy", "b.npy", "b.npy", "--draws", "2", "--top-k", "3", "--json"),
    ("correlate", "a.npy", "b.npy", "--mask", "keep.npy", "--rotation", "none", "--quiet"),
    ("correlate", "a.npy", "b.npy", "--controls-b", "b.npy", "--control-tokens", "9"),
    ("correlate", "a.npy", "b.npy", "--checkpoint", "c.pt", "--match", "one-to-one", "--quiet"),
    ("report", "out"),
    ("control", "a.npy", "--out", "x"),
    ("capture", "a.npy", "--out", "x"),
    ("info",),
)


@kind("command", 14)
def command(rng: Random, folder: Path) -> None:
    """A command line with a word of it odd, gone, there twice, or one more."""
    words = list(rng.choice(LINES))
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randint(1, len(words))
        word = rng.choice((*WORDS, *OPTIONS, *TEXTS, str(rng.choice(INTEGERS))))
        what = rng.randrange(4)
        words[at : at + 1] = {
            0: [word],
            1: [],
            2: words[at : at + 1] * 2,
            3: [*words[at : at + 1], rng.choice(OPTIONS), word],
        }[what]
    if rng.random() < 0.05:
        words[0] = rng.choice((*WORDS, "correlat", ""))
    # What no shell can pass on, and what takes a long time on purpose.
    words = [word for word in words if "\0" not in word and word not in ("demo", "train", "bench")]
    os.chdir(folder)
    tokens = torch.randn(3, 24, 5, generator=torch.Generator().manual_seed(0)).numpy()
    np.save("a.npy", tokens[0])
    np.save("b.npy", tokens[0] + tokens[1])
    np.save("keep.npy", np.arange(24) % 3 > 0)
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = main(words)
    said = err.getvalue()
    if status == 2:
        lines = said.splitlines()
        if out.getvalue() or len(lines) != 1 or not said.startswith(("Error: ", "Usage: ")):
            raise CrashError(f"{words}: status 2 with {out.getvalue()[:99]!r} and {said[:300]!r}")
        check_line(lines[0])
        raise RefusedError(lines[0])
    if status != 0:
        raise CrashError(f"{words}: status {status} with {said[:300]!r}")
    if "Error" in said or "Traceback" in said:
        raise WrongError(f"{words}: status 0 with {said[:300]!r}")
    if "--json" in words and words[0] == "correlate" and "--help" not in words:
        summary = json.loads(out.getvalue())
        if summary["neurons"] != 5 or not 1 <= summary["tokens"] <= 24:
            raise WrongError(f"{words}: {summary['neurons']} neurons, {summary['tokens']} tokens")
