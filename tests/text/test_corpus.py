"""Texts and tokens, in windows."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from support.language_models import (
    CPU,
    GPT2_HOOKS,
    LLAMA_HOOKS,
    Directories,
    ids_of,
    open_one,
    refused,
)
from univfast.text import TextOptions, corpus, open_run
from univfast.text.vocabulary import Vocabulary, load_vocabulary


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
