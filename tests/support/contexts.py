"""Made-up ``contexts.jsonl`` files, whose records tests choose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HEAD: dict[str, Any] = {
    "format": "univfast-contexts",
    "version": 1,
    "models": ["a.pt", "b.pt"],
    "around": 3,
}
WORDS = ("the", " cat", "\n", "T", "he", " dog", "\t")


def example(token: int = 40, **changes: Any) -> dict[str, Any]:
    """A window of 7 tokens, whose fourth is marked: highest there in both."""
    return {
        "kinds": ["top", "match_top"],
        "token": token,
        "sample": token // 20,
        "position": token % 20,
        "at": 3,
        "ids": [5, 6, 1, 7, 8, 9, 2],
        "tokens": list(WORDS),
        "activation": [0.0, 0.3, 0.0, 1.5, 0.0, 0.75, 0.0],
        "match_activation": [0.0, 0.0, 4.0, 20.0, 0.0, 0.0, 1.0],
        **changes,
    }


def silent(token: int = 60, **changes: Any) -> dict[str, Any]:
    """High in A alone."""
    quiet = {"kinds": ["only"], "match_activation": [0.0] * 7}
    return example(token, **{**quiet, **changes})


def explanation(feature: str = "token 'T'", r2: float = 0.9, family: str = "token") -> Any:
    best = {"family": family, "feature": feature, "r2": r2}
    second = {"family": "position", "feature": "position 0", "r2": 0.02}
    return {**best, "r2_together": 0.95, "features": [best, second]}


def record(neuron: int = 3, **changes: Any) -> dict[str, Any]:
    """Of mlp.0/3, whose match is mlp.1/17."""
    return {
        "model": "b.pt",
        "layer": "mlp.0",
        "neuron": neuron,
        "match_layer": "mlp.1",
        "match_neuron": 17,
        "correlation": 0.91,
        "excess": 0.7,
        "universal": True,
        "learned": None,
        "explanation": explanation(r2=0.93),
        "match_explanation": explanation(r2=0.84),
        "examples": [example(), silent()],
        **changes,
    }


def lines(records: list[dict[str, Any]], **head: Any) -> str:
    return "".join(json.dumps(one) + "\n" for one in ({**HEAD, **head}, *records))


def write(path: Path, *records: dict[str, Any], **head: Any) -> Path:
    """A file of these records, and of this in its first line."""
    path.write_text(lines([*records], **head), encoding="utf-8")
    return path
