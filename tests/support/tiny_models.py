"""Trained models of the experiment, and texts to train on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from univfast.experiment import ModelConfig, TrainedModel, TrainingOptions

SMALL = ModelConfig(sequence=16, d_model=16, heads=2, layers=3, d_mlp=24)
WEIGHT = "blocks.0.mlp.up.weight"
BRIEF = TrainingOptions(steps=3, batch_size=8, samples=50, test_samples=70)


def text_file(folder: Path, characters: int = 5_000, name: str = "text.txt") -> Path:
    """A text in which every window of 16 characters is unlike all others."""
    path = folder / name
    path.write_text(" ".join(f"{i:05d}" for i in range(characters))[:characters], encoding="utf-8")
    return path


def same_state(a: TrainedModel, b: TrainedModel) -> bool:
    return all(torch.equal(a.state[name], b.state[name]) for name in a.state)


def write(content: bytes) -> Callable[[Path], object]:
    """What makes a file of bytes."""
    return lambda path: path.write_bytes(content)


def save(obj: object) -> Callable[[Path], object]:
    """What makes a file of torch's."""
    return lambda path: torch.save(obj, path)
