"""Which tokens of a text count."""

from __future__ import annotations

import dataclasses
import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from support.language_models import Directories, open_one, refused
from univfast.text import TokenFilters, filters
from univfast.text.vocabulary import load_vocabulary
from univfast.text.windows import TokenWindows


def filtered(
    opened: ExitStack, directory: Path, ids: list[list[int]], tmp_path: Path, **options: object
) -> list[int]:
    """What is kept of samples, as 0 and 1."""
    torch.save(torch.tensor(ids), tmp_path / "ids.pt")
    keep = open_one(opened, directory, tmp_path / "ids.pt", **options).keep
    assert keep is not None
    return keep.int().tolist()


def test_special_tokens_are_left_out(
    directories: Directories, opened: ExitStack, tmp_path: Path
) -> None:
    ids = [[0, 1, 2, 3, 9]]  # <s>, </s>, <pad>, <x>, and a byte
    found = filtered(opened, directories.gpt2, ids, tmp_path, skip=("special",))
    assert found == [0, 0, 0, 0, 1]
    # Without a tokenizer, config.json has the three that have a use.
    found = filtered(opened, directories.bare, ids, tmp_path, skip=("special",))
    assert found == [0, 0, 0, 1, 1]
    found = filtered(opened, directories.gpt2, ids, tmp_path, skip=("bos",))
    assert found == [0, 1, 1, 1, 1]


def test_newlines_are_left_out(directories: Directories, opened: ExitStack) -> None:
    run = open_one(opened, directories.gpt2, directories.text, skip=("newline",))
    tokenizer = load_vocabulary(str(directories.gpt2), None).tokenizer
    by_hand = ["\n" not in tokenizer.decode([token]) for token in run.windows.ids.tolist()]
    assert 0 < sum(by_hand) < len(by_hand)
    assert run.keep is not None
    assert run.keep.tolist() == by_hand
    missing = r"bare: has no tokenizer, which skip: 'newline' needs"
    torch.save(run.windows.ids, directories.text.with_suffix(".pt"))
    tokens = directories.text.with_suffix(".pt")
    refused(opened, missing, directories.bare, tokens, skip=("newline",))


def test_padding_is_left_out_at_both_ends_alone(
    directories: Directories, opened: ExitStack, tmp_path: Path
) -> None:
    ids = [[2, 2, 9, 2, 9, 2], [9, 9, 9, 9, 9, 9], [2, 2, 2, 2, 2, 2]]
    found = filtered(opened, directories.gpt2, ids, tmp_path, skip=("padding",))
    assert found == [0, 0, 1, 1, 1, 0, *[1] * 6, *[0] * 6]


def test_padding_is_refused_where_nothing_is_padded(
    directories: Directories, opened: ExitStack, tmp_path: Path
) -> None:
    torch.save(torch.tensor([9, 9, 2, 2]), tmp_path / "flat.pt")
    for path in (tmp_path / "flat.pt", directories.text):
        match = rf"{path.name}: has no samples that may be padded; skip 'padding' only of"
        refused(opened, match, directories.gpt2, path, skip=("padding",))


def test_a_bos_that_is_the_pad_token_is_no_padding(
    directories: Directories, opened: ExitStack, tmp_path: Path
) -> None:
    shutil.copytree(directories.bare, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "bos_token_id": 2}))
    ids = [[2, 9, 9, 2], [2, 2, 9, 9]]
    found = filtered(opened, tmp_path / "model", ids, tmp_path, skip=("padding",))
    assert found == [1, 1, 1, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("positions", ["1:", ":3", "-2:", "1:-1", ":"])
def test_positions_are_slices_of_each_window(
    positions: str, directories: Directories, opened: ExitStack, tmp_path: Path
) -> None:
    torch.save(torch.arange(4, 23), tmp_path / "a.pt")
    run = open_one(opened, directories.gpt2, tmp_path / "a.pt", context=8, positions=positions)
    begin, end = (int(part) if part else None for part in positions.split(":"))
    by_hand = [t for part in torch.arange(19).split(8) for t in part.tolist()[begin:end]]
    assert run.keep is not None
    assert run.keep.nonzero().flatten().tolist() == by_hand


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = call(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and not made._is_view():
            self.bytes = max(self.bytes, made.nbytes)
        return made


def test_filters_take_a_byte_a_token(
    directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = torch.randint(0, 300, (50_000,), dtype=torch.int32)
    ids.view(-1, 50)[:, 40:] = 2
    windows = TokenWindows("a.pt", ids, 50, samples=True)
    vocabulary = load_vocabulary(str(directories.gpt2), None)
    kinds = TokenFilters(("special", "newline", "padding"))
    whole = filters.padding(windows, vocabulary)
    windows = dataclasses.replace(windows, padding=whole)
    kept = filters.kept_tokens(windows, vocabulary, kinds)
    monkeypatch.setattr(filters, "_BLOCK", 1024)
    with Largest() as largest:
        assert torch.equal(filters.padding(windows, vocabulary), whole)
        again = filters.kept_tokens(windows, vocabulary, kinds)
    assert kept is not None
    assert again is not None
    assert torch.equal(again, kept)
    assert largest.bytes <= len(ids)


def test_filters_and_a_mask_are_joined(
    directories: Directories, opened: ExitStack, tmp_path: Path
) -> None:
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    ids = [[0, 9, 9], [9, 0, 9]]
    options = {"skip": ("bos",), "positions": ":2", "mask": str(tmp_path / "mask.pt")}
    for given in (mask, mask.flatten().bool()):
        torch.save(given, tmp_path / "mask.pt")
        found = filtered(opened, directories.gpt2, ids, tmp_path, **options)
        assert found == [0, 1, 0, 1, 0, 0]


def test_bad_filters_are_refused(
    directories: Directories, opened: ExitStack, tmp_path: Path
) -> None:
    where = directories.gpt2, directories.text
    refused(opened, "skip: got 'odd'", *where, skip=("odd",))
    for positions in ("1", "a:", "1:2:3", ""):
        refused(opened, "positions: got .* expected START:STOP", *where, positions=positions)
    refused(opened, "corpus.txt: the filters leave no token", *where, positions="5:5")
    torch.save(torch.ones(7, dtype=torch.bool), tmp_path / "mask.pt")
    mask = str(tmp_path / "mask.pt")
    refused(opened, "mask.pt: the mask has 7 values", *where, mask=mask)
