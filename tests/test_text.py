"""Texts and tokens, which tokens count, and layers that run a live model when they are read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from language_models import CONTEXT, GPT2_HOOKS, LLAMA_HOOKS, Directories, reference_layers
from safetensors.torch import load_file, save_file
from torch import Tensor

import univfast as uf
from univfast.text import CorpusOptions, TextOptions, TextRun, TokenFilters, corpus, open_run
from univfast.text.models import load_model
from univfast.text.vocabulary import Vocabulary, load_vocabulary

CPU = torch.device("cpu")


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def open_one(
    stack: ExitStack, directory: Path, text: Path, hooks: str = GPT2_HOOKS, **options: object
) -> TextRun:
    """A run of one model; options of the corpus, the filters and the run, by name."""
    kinds = (CorpusOptions, TokenFilters)
    parts = [
        kind(**{name: value for name, value in options.items() if name in kind.__annotations__})
        for kind in kinds
    ]
    batch = options.get("batch_tokens")
    run = open_run([str(directory)], [[hooks]], TextOptions(str(text), *parts, batch), CPU)
    return stack.enter_context(run)


def vocabulary_of(directory: Path) -> Vocabulary:
    return load_vocabulary(str(directory), load_model(str(directory), CPU).config)


def ids_of(directories: Directories) -> Tensor:
    """The tokens of the text, tokenised in one piece."""
    text = directories.text.read_text()
    return torch.from_numpy(vocabulary_of(directories.gpt2).encode(text)).int()


def refused(stack: ExitStack, match: str, directory: Path, text: Path, **options: object) -> None:
    with pytest.raises(uf.InputError, match=match) as caught:
        open_one(stack, directory, text, **options)
    assert "\n" not in str(caught.value)
    assert ";" in str(caught.value) or "expected" in str(caught.value)  # what to do


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


def test_filters_and_a_mask_are_joined(
    directories: Directories, opened: ExitStack, tmp_path: Path
) -> None:
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    torch.save(mask, tmp_path / "mask.pt")
    ids = [[0, 9, 9], [9, 0, 9]]
    options = {"skip": ("bos",), "positions": ":2"}
    for given in (str(tmp_path / "mask.pt"), mask.flatten().bool()):
        found = filtered(opened, directories.gpt2, ids, tmp_path, mask=given, **options)
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


# ---- models --------------------------------------------------------------------------------------


def broken(directories: Directories, tmp_path: Path, what: str) -> Path:
    """A copy of the model with something wrong with it."""
    folder = tmp_path / what
    shutil.copytree(directories.llama, folder)
    config, weights = folder / "config.json", folder / "model.safetensors"
    if what == "truncated":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif what == "weightless":
        weights.unlink()
    elif what == "incomplete":
        tensors = load_file(weights)
        del tensors["model.layers.1.mlp.up_proj.weight"]
        save_file(tensors, weights, metadata={"format": "pt"})
    elif what == "narrow":
        config.write_text(
            config.read_text().replace('"intermediate_size": 24', '"intermediate_size": 20')
        )
    elif what == "foreign":
        auto = {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}
        text = json.loads(config.read_text())
        config.write_text(json.dumps({**text, "model_type": "foreign", "auto_map": auto}))
        (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    elif what == "unknown":
        config.write_text(config.read_text().replace('"llama"', '"nothing"'))
    elif what == "garbled":
        config.write_text("{")
    elif what == "tokenizer":
        (folder / "tokenizer.json").write_text("{")
    elif what == "configless":
        config.unlink()
    return folder


BROKEN = {
    "truncated": "cannot be loaded",
    "weightless": "cannot be loaded",
    "incomplete": r"lacks 1 weights of the model \(first model.layers.1.mlp.up_proj.weight\)",
    "narrow": "cannot be loaded|lacks",
    "foreign": "brings its own code",
    "unknown": "cannot be loaded",
    "garbled": "cannot be loaded",
    "tokenizer": "cannot be loaded",
    "configless": "has no config.json",
}


@pytest.mark.parametrize("what", BROKEN)
def test_bad_directories_are_refused_in_one_line(
    what: str,
    directories: Directories,
    opened: ExitStack,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = broken(directories, tmp_path, what)
    refused(opened, rf"^{folder}: .*({BROKEN[what]})", folder, directories.text, hooks=LLAMA_HOOKS)
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "ran").exists()


def test_a_missing_head_is_no_fault(
    directories: Directories, opened: ExitStack, tmp_path: Path
) -> None:
    """The head is not run: base models are often saved without."""
    shutil.copytree(directories.llama, tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    tensors = load_file(weights)
    del tensors["lm_head.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    run = open_one(opened, tmp_path / "model", directories.text, hooks=LLAMA_HOOKS)
    assert len(run.activations[0].layers) == 2


def test_different_tokenizers_are_refused(directories: Directories) -> None:
    paths = [str(directories.gpt2), str(directories.other)]
    options = TextOptions(str(directories.text))
    with (
        pytest.raises(uf.InputError, match=r"gpt2 and .*other: have different tokenizers"),
        open_run(paths, [[GPT2_HOOKS]] * 2, options, CPU),
    ):
        pass


def test_a_directory_without_tokenizer_uses_the_others(directories: Directories) -> None:
    paths = [str(directories.bare), str(directories.gpt2)]
    options = TextOptions(str(directories.text))
    with open_run(paths, [[GPT2_HOOKS]] * 2, options, CPU) as run:
        assert torch.equal(run.windows.ids, ids_of(directories))


def test_wrong_hooks_name_the_directory(directories: Directories, opened: ExitStack) -> None:
    where = directories.gpt2, directories.text
    refused(opened, "gpt2: hooks: no module matches 'nothing'", *where, hooks="nothing")


# ---- layers of a live model ----------------------------------------------------------------------


@pytest.mark.parametrize(("name", "hooks"), [("gpt2", GPT2_HOOKS), ("llama", LLAMA_HOOKS)])
def test_any_range_is_what_the_model_gives(
    name: str, hooks: str, directories: Directories, opened: ExitStack
) -> None:
    directory = getattr(directories, name)
    run = open_one(
        opened, directory, directories.text, hooks, context=CONTEXT, max_tokens=200, batch_tokens=40
    )
    (activations,) = run.activations
    assert (activations.window, activations.most) == (CONTEXT, 32)
    names = [hooks.replace("*", str(i)) for i in range(2)]
    assert list(activations.layers) == names
    expected = reference_layers(directory, names, run.windows.ids, CONTEXT)
    tokens = run.windows.tokens
    assert tokens % CONTEXT
    for start, stop in ((0, tokens), (0, 32), (32, 64), (5, 6), (15, 17), (190, tokens), (7, 7)):
        for layer in activations.layers.values():
            rows = layer.read(start, stop)
            assert rows.stride(1) == 1
            wanted = expected[layer.name][start:stop]
            torch.testing.assert_close(rows, wanted, rtol=1e-4, atol=1e-5)
            layer.release(start, stop)
    layer = activations.layers[names[0]]
    assert (layer.shape, layer.dtype) == ((tokens, layer.neurons), torch.float32)
    assert layer.neurons == expected[names[0]].shape[1]
    with pytest.raises(IndexError):
        layer.read(0, tokens + 1)


def count_passes(run: TextRun) -> list[int]:
    """The windows of each forward pass from now on, as they are made."""
    passes: list[int] = []
    embedding = run.models[0].module.get_input_embeddings()
    embedding.register_forward_pre_hook(lambda module, args: passes.append(len(args[0])))
    return passes


def test_a_range_is_run_once_for_all_layers(directories: Directories, opened: ExitStack) -> None:
    run = open_one(opened, directories.gpt2, directories.text, context=8, batch_tokens=16)
    passes = count_passes(run)
    first, second = run.activations[0].layers.values()
    for start in (0, 16):
        for layer in (first, second):
            layer.prepare(start, start + 16)
            layer.read(start, start + 16)
            layer.release(start, start + 16)
    assert passes == [2, 2]
    first.read(16, 32)  # was released
    assert passes == [2, 2, 2]
    second.read(16, 32)
    first.read(0, 40)  # more than one pass may hold
    assert passes == [2, 2, 2, 2, 2, 1]


def test_the_head_is_not_run(directories: Directories, opened: ExitStack) -> None:
    run = open_one(opened, directories.gpt2, directories.text)
    run.models[0].module.lm_head.register_forward_hook(lambda *_: pytest.fail("ran the head"))
    next(iter(run.activations[0].layers.values())).read(0, 64)


def test_padding_is_not_seen(directories: Directories, opened: ExitStack, tmp_path: Path) -> None:
    """A sample gives the same activations, whichever side of it is filled up, or none."""
    sample = [9, 30, 40, 50]
    forms = {"none": sample, "left": [2, 2, *sample], "right": [*sample, 2, 2]}
    rows = {}
    for model, hooks in (("gpt2", GPT2_HOOKS), ("llama", LLAMA_HOOKS)):
        for form, ids in forms.items():
            torch.save(torch.tensor([ids, ids]), tmp_path / f"{form}.pt")
            run = open_one(
                opened,
                getattr(directories, model),
                tmp_path / f"{form}.pt",
                hooks,
                skip=("padding",),
            )
            layer = list(run.activations[0].layers.values())[1]
            values = layer.read(0, layer.tokens)
            rows[form] = values if run.keep is None else values[run.keep]
        for form in ("left", "right"):
            torch.testing.assert_close(rows[form], rows["none"], rtol=1e-4, atol=1e-5)


def test_fingerprints_tell_models_layers_and_texts_apart(
    directories: Directories, opened: ExitStack
) -> None:
    def prints(directory: Path, **options: object) -> list[bytes]:
        run = open_one(opened, directory, directories.text, **options)
        passes = count_passes(run)
        found = [layer.fingerprint() for layer in run.activations[0].layers.values()]
        assert passes == []
        return found

    first = prints(directories.gpt2)
    assert prints(directories.gpt2) == first
    others = [
        *prints(directories.half),
        *prints(directories.gpt2, context=8),
        *prints(directories.gpt2, max_tokens=50),
    ]
    assert len({*first, *others}) == 8


def test_modules_that_give_no_row_a_token_are_refused(
    directories: Directories, opened: ExitStack
) -> None:
    """The position embedding gives the rows of one window, however many there are."""
    run = open_one(opened, directories.gpt2, directories.text, "transformer.wpe", context=8)
    layer = run.activations[0].layers["transformer.wpe"]
    match = r"'transformer.wpe' gave shape \[1, 8, 16\] for 2 windows of 8 tokens, .*; hook other"
    with pytest.raises(uf.InputError, match=match):
        layer.read(0, 16)


def test_activations_of_models_are_correlated(directories: Directories, opened: ExitStack) -> None:
    """The same as from tensors, with the filters as a mask."""
    paths = [str(directories.gpt2), str(directories.half)]
    filters = TokenFilters(("newline",), "1:")
    options = TextOptions(str(directories.text), CorpusOptions(CONTEXT), filters)
    run = opened.enter_context(open_run(paths, [[GPT2_HOOKS]] * 2, options, CPU))
    live = uf.correlate(*run.activations, mask=run.keep, draws=2)
    tensors = [
        {name: layer.read(0, layer.tokens) for name, layer in model.layers.items()}
        for model in run.activations
    ]
    stored = uf.correlate(*tensors, mask=run.keep, draws=2)
    torch.testing.assert_close(live.correlation, stored.correlation, rtol=0, atol=1e-6)
    assert live.summary["tokens"] == int(run.keep.sum())
    assert live.correlation.nanmean() > 0.99
