"""Masks: from every kind of file and array, and those that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from support.activation_files import WRITERS, assert_one_line, random
from univfast.errors import InputError
from univfast.inputs.masks import open_mask


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64])
@pytest.mark.parametrize("kind", ["pt", "npy"])
def test_masks(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    mask = random(3, 5) > 0
    WRITERS[kind](tmp_path / "mask", {"mask": mask.to(dtype).T})
    if kind == "npy":
        (tmp_path / "mask.npy").rename(tmp_path / "mask")
    found = open_mask(tmp_path / "mask", (5, 3))
    assert found.dtype == torch.bool
    assert torch.equal(found, mask.T.flatten())


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (torch.ones(3), "float32"),
        (torch.tensor([0, 1, 2]), "0 and 1 alone"),
        (torch.tensor([0, -1, 1]), "0 and 1 alone"),
        (torch.ones(0, dtype=torch.bool), "is empty"),
        ({"x": torch.ones(3, dtype=torch.bool), "y": torch.ones(3)}, "one array"),
        ({"format": "univfast-checkpoint"}, "one array"),
    ],
)
def test_unusable_masks(tmp_path: Path, content: object, part: str) -> None:
    torch.save(content, tmp_path / "mask.pt")
    with pytest.raises(InputError) as error:
        open_mask(tmp_path / "mask.pt", (3,))
    assert_one_line(error, tmp_path / "mask.pt", part)


def test_mask_of_the_wrong_type() -> None:
    with pytest.raises(TypeError, match=r"mask: expected a torch.Tensor"):
        open_mask(3, (3,))
