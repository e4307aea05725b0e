"""Errors name Python's arguments; the command line gives them as its own options."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import ROOT
from univfast.cli.failures import with_options

PACKAGE = ROOT / "univfast"
# Where the words are those of a command: what to type again, and what the verdict of a report says.
OF_COMMANDS = {PACKAGE / "report" / "saved.py", PACKAGE / "report" / "verdict.py"}


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """All texts of a module but docstrings, help of options, and styles of a page."""
    tree = ast.parse(path.read_text())
    left_out = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            left_out.add(node.value)
        if isinstance(node, ast.keyword) and node.arg == "help":
            left_out |= {x for x in ast.walk(node.value) if isinstance(x, ast.Constant)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in left_out:
            yield node.lineno, node.value


@pytest.mark.parametrize(
    "path",
    [x for x in sorted(PACKAGE.rglob("*.py")) if x.parts[len(PACKAGE.parts)] != "cli"],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_no_module_but_the_command_line_names_an_option(path: Path) -> None:
    if path in OF_COMMANDS:
        return
    for line, text in texts(path):
        if "color-scheme" in text or "color-adjust" in text:  # a style
            continue
        assert not re.search(r"(?<![\w-])--[a-z]", text), f"{path}:{line}"


@pytest.mark.parametrize(
    ("said", "typed"),
    [
        ("draws: got -1; give more", "--draws: got -1; give more"),
        ("draws: got 'a: b'; c: d", "--draws: got 'a: b'; c: d"),
        ("./a: hooks: none: here; choose", "./a: --hooks: none: here; choose"),
        ("a.pt: is bad; match='index' needs x", "a.pt: is bad; --match index needs x"),
        (
            "a: x; choose layers=GLOB, or match='best'",
            "a: x; choose --layers GLOB, or --match best",
        ),
        ("a: x; make plain ones (match_rate=False)", "a: x; make plain ones (--no-match-rate)"),
        ("a: x; ask for details=True", "a: x; ask for --details"),
        ("a: x; give mask=, of the tokens", "a: x; give --mask, of the tokens"),
        ("a: x; give both the same context=N", "a: x; give both the same --context N"),
        ("a: x; name neurons=LAYER/N,... where", "a: x; name --neurons LAYER/N,... where"),
        # Names of files, and arguments that no option has, are as they were.
        ("draws=3.npy: is bad; check it", "draws=3.npy: is bad; check it"),
        ("x: y; see runs/draws=3/a.npy", "x: y; see runs/draws=3/a.npy"),
        ("x: y; see draws=3/a.npy", "x: y; see draws=3/a.npy"),
        ("x: y; give inputs=lambda", "x: y; give inputs=lambda"),
        ("x: mask=keep is wrong; z", "x: mask=keep is wrong; z"),
    ],
)
def test_the_command_line_names_options(said: str, typed: str) -> None:
    assert with_options(said) == typed
