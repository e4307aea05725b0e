"""The command line, within the test."""

from __future__ import annotations

import pytest

from univfast.cli import main

# Of `univfast train`, for a model whose quality does not matter.
SMALL_MODEL = ("--steps", 4, "--samples", 64, "--d-model", 16, "--d-mlp", 24, "--quiet")


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def error_line(capture: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr; nothing else may have been printed, by a library either."""
    captured = capture.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("Error: ")
    return lines[0]
