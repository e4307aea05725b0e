"""Texts and tokens, and which of these count."""

from __future__ import annotations

import dataclasses
import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode

from support.language_models import (
    CPU,
    GPT2_HOOKS,
    LLAMA_HOOKS,
    Directories,
    ids_of,
    open_one,
    refused,
)
from univfast.text import TextOptions, TokenFilters, corpus, filters, open_run
from univfast.text.vocabulary import Vocabulary, load_vocabulary
from univfast.text.windows import TokenWindows

# ---- corpora -------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1 << 20, 300, 40, 7])
def test_a_text_is_tokenised_in_blocks(
    block: int, directories: Directories, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "_BLOCK", block)
    windows = open_one(opened, directories.gpt2, directories.text, context=10).windows
    expected = ids_of(directories)
    assert windows.ids.dtype == torch.int32
    assert windows.window == 10
    decoded = load_vocabulary(str(directories.gpt2), None).tokenizer.decode(windows.ids)
    assert decoded == directories.text.read_text()
    if block >= 300:  # lines fit: what is between blocks is a line end
        assert torch.equal(windows.ids, expected)


def test_a_text_that_fits_in_a_block_is_not_cut(
    directories: Directories, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []
    encode = Vocabulary.encode

    def watched(self: Vocabulary, text: str) -> Any:
        encoded.append(text)
        return encode(self, text)

    monkeypatch.setattr(Vocabulary, "encode", watched)
    text = directories.text.read_text()
    size = directories.text.stat().st_size
    for block, parts in ((size + 1, 1), (size, 1), (size - 1, 2)):
        encoded.clear()
        monkeypatch.setattr(corpus, "_BLOCK", block)
        open_one(opened, directories.gpt2, directories.text)
        assert len(encoded) == parts
        assert "".join(encoded) == text


@pytest.mark.parametrize("block", [1 << 20, 1])
def test_a_byte_order_mark_is_no_text(
    block: int,
    directories: Directories,
    opened: ExitStack,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(corpus, "_BLOCK", block)
    found = []
    for name, encoding in (("plain.txt", "utf-8"), ("marked.txt", "utf-8-sig")):
        (tmp_path / name).write_text("the fox, naïve", encoding=encoding)
        found.append(open_one(opened, directories.gpt2, tmp_path / name).windows.ids)
    assert torch.equal(found[0], found[1])


def test_windows_are_cut_from_flat_tokens(
    directories: Directories, opened: ExitStack, tmp_path: Path
) -> None:
    ids = ids_of(directories)
    np.save(tmp_path / "a.npy", ids.numpy().astype(np.uint16))
    torch.save(ids.long(), tmp_path / "a.pt")
    save_file({"tokens": ids}, tmp_path / "a.safetensors")
    for name in ("a.npy", "a.pt", "a.safetensors"):
        windows = open_one(opened, directories.gpt2, tmp_path / name, max_tokens=100).windows
        assert torch.equal(windows.ids, ids[:100])
        assert windows.window == 32  # what the model can read


def test_each_sample_is_a_window(
    directories: Directories, opened: ExitStack, tmp_path: Path
) -> None:
    samples = ids_of(directories)[:60].view(5, 12)
    torch.save(samples, tmp_path / "a.pt")
    windows = open_one(opened, directories.gpt2, tmp_path / "a.pt").windows
    assert windows.window == 12
    assert torch.equal(windows.ids, samples.flatten())


@pytest.mark.parametrize("block", [1 << 20, 5])
def test_bos_begins_each_window(
    block: int,
    directories: Directories,
    opened: ExitStack,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(corpus, "_BLOCK", block)
    ids = ids_of(directories)[:50]
    torch.save(ids, tmp_path / "a.pt")
    windows = open_one(
        opened, directories.gpt2, tmp_path / "a.pt", context=8, bos=True, max_tokens=40
    ).windows
    by_hand = torch.cat([torch.cat([torch.tensor([0]), part]) for part in ids[:40].split(7)])
    assert torch.equal(windows.ids, by_hand.int())


def test_windows_are_as_long_as_the_shortest_model_reads(
    directories: Directories, opened: ExitStack
) -> None:
    for names, longest in ((("llama",), 64), (("llama", "gpt2"), 32)):
        paths = [str(getattr(directories, name)) for name in names]
        hooks = [[LLAMA_HOOKS], [GPT2_HOOKS]][: len(names)]
        options = TextOptions(str(directories.text))
        run = opened.enter_context(open_run(paths, hooks, options, CPU))
        assert run.windows.window == longest


BAD_TOKENS = {
    "floats": (torch.ones(10), "holds float32, not tokens"),
    "flags": (torch.ones(10, dtype=torch.bool), "holds bool, not tokens"),
    "axes": (torch.ones(2, 2, 2, dtype=torch.int64), r"expected \[tokens\] or \[samples"),
    "empty": (torch.ones(0, dtype=torch.int64), "holds no tokens"),
    "unknown": (torch.tensor([1, 2, 320, 4]), "token 320 at position 2 is outside of the models'"),
    "negative": (torch.tensor([1, -1]), "token -1 at position 1 is outside of the models'"),
    "long": (torch.ones(2, 33, dtype=torch.int64), "samples of 33 tokens, the models read 32"),
    "several": ({"a": torch.ones(3), "b": torch.ones(3)}, "holds one array"),
}


@pytest.mark.parametrize("what", BAD_TOKENS)
def test_bad_tokens_are_refused(
    what: str, directories: Directories, opened: ExitStack, tmp_path: Path
) -> None:
    value, match = BAD_TOKENS[what]
    torch.save(value, tmp_path / "bad.pt")
    refused(opened, rf"bad\.pt.*{match}", directories.gpt2, tmp_path / "bad.pt")


def test_bad_texts_are_refused(directories: Directories, opened: ExitStack, tmp_path: Path) -> None:
    for name, data in {"latin.txt": b"na\xefve text", "empty.txt": b""}.items():
        (tmp_path / name).write_bytes(data)
    refused(opened, r"latin\.txt: is not a text in UTF-8", directories.gpt2, tmp_path / "latin.txt")
    refused(opened, r"empty\.txt: holds no tokens", directories.gpt2, tmp_path / "empty.txt")
    refused(opened, r"none\.txt: cannot be read", directories.gpt2, tmp_path / "none.txt")
    refused(opened, r"bare: has no tokenizer, which text", directories.bare, directories.text)


def test_options_of_windows_are_refused_where_they_do_not_fit(
    directories: Directories, opened: ExitStack, tmp_path: Path
) -> None:
    torch.save(torch.ones(5, 12, dtype=torch.int64), tmp_path / "a.pt")
    for options in ({"context": 6}, {"bos": True}):
        refused(opened, "are its samples of 12", directories.gpt2, tmp_path / "a.pt", **options)
    refused(opened, "windows of 33", directories.gpt2, directories.text, context=33)
    refused(opened, "windows of 1 ", directories.gpt2, directories.text, context=1, bos=True)


def test_bos_needs_a_token(directories: Directories, opened: ExitStack, tmp_path: Path) -> None:
    shutil.copytree(directories.bare, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["bos_token_id"] = config["eos_token_id"] = config["pad_token_id"] = None
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    torch.save(torch.ones(5, dtype=torch.int64), tmp_path / "a.pt")
    model, tokens = tmp_path / "model", tmp_path / "a.pt"
    refused(opened, "no token that begins a text", model, tokens, bos=True)
    for kind in ("bos", "special"):
        match = f"its config.json names no token to skip as '{kind}'"
        refused(opened, match, model, tokens, skip=(kind,))
    torch.save(torch.ones(5, 3, dtype=torch.int64), tokens)
    refused(opened, "no token to skip as 'padding'", model, tokens, skip=("padding",))


# ---- filters -------------------------------------------------------------------------------------


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
