"""Layers that run a live model when they are read."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

import univfast as uf
from support.language_models import (
    CONTEXT,
    CPU,
    GPT2_HOOKS,
    LLAMA_HOOKS,
    Directories,
    open_one,
    reference_layers,
    refused,
)
from univfast.text import CorpusOptions, TextOptions, TextRun, TokenFilters, models, open_run
from univfast.text.models import load_model


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


def test_a_model_that_cannot_leave_padding_out_is_refused(
    directories: Directories,
    opened: ExitStack,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers import GPT2LMHeadModel

    monkeypatch.setattr(
        GPT2LMHeadModel, "forward", lambda self, input_ids: self.transformer(input_ids)
    )
    torch.save(torch.tensor([[9, 30, 2], [9, 30, 40]]), tmp_path / "ids.pt")
    where = directories.gpt2, tmp_path / "ids.pt"
    refused(opened, "gpt2: takes no attention_mask", *where, skip=("padding",))
    torch.save(torch.tensor([[9, 30, 50], [9, 30, 40]]), tmp_path / "ids.pt")
    open_one(opened, *where, skip=("padding",))


def test_fingerprints_tell_models_layers_and_texts_apart(
    directories: Directories, opened: ExitStack
) -> None:
    def prints(directory: Path, factor: float = 1.0, **options: object) -> list[bytes]:
        run = open_one(opened, directory, directories.text, **options)
        run.models[0].module.get_input_embeddings().weight.data *= factor
        passes = count_passes(run)
        found = [layer.fingerprint() for layer in run.activations[0].layers.values()]
        assert passes == []
        return found

    first = prints(directories.gpt2)
    assert prints(directories.gpt2) == first
    others = [
        *prints(directories.half),
        *prints(directories.gpt2, 2.0),
        *prints(directories.gpt2, context=8),
        *prints(directories.gpt2, max_tokens=50),
    ]
    assert len({*first, *others}) == 10


def test_a_model_is_told_by_every_weight_and_its_configuration(
    directories: Directories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fingerprint(place: int | None = None, folder: str = "moved", **config: object) -> bytes:
        copy = shutil.copytree(directories.llama, tmp_path / folder, dirs_exist_ok=True)
        text = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps({**text, **config}))
        model = load_model(str(copy), CPU)
        if place is not None:
            model.module.get_parameter("model.layers.1.mlp.up_proj.weight").data[place, 3] += 1e-3
        return model.fingerprint

    whole = load_model(str(directories.llama), CPU).fingerprint
    monkeypatch.setattr(models, "_PART", 100)  # parts that end within rows
    assert fingerprint() == whole
    assert fingerprint(folder="other", _name_or_path="x", transformers_version="1") == whole
    changed = [fingerprint(place) for place in (0, 1, 10, 23)]
    changed += [fingerprint(rms_norm_eps=1e-5), fingerprint(hidden_act="gelu")]
    assert len({whole, *changed}) == 7


def test_only_a_checkpoint_asks_for_the_fingerprint_of_a_model(
    directories: Directories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        models.LanguageModel,
        "fingerprint",
        property(lambda model: asked.append(model.directory) or b""),
    )
    paths = [str(directories.gpt2), str(directories.half)]
    options = TextOptions(str(directories.text))
    with open_run(paths, [[GPT2_HOOKS]] * 2, options, CPU) as run:
        uf.correlate(*run.activations, draws=1)
        assert asked == []
        uf.correlate(*run.activations, draws=1, checkpoint=tmp_path / "run.pt")
    assert {*asked} == {*paths}


def test_modules_that_give_no_row_a_token_are_refused(
    directories: Directories, opened: ExitStack
) -> None:
    """The position embedding gives the rows of one window, however many there are."""
    run = open_one(opened, directories.gpt2, directories.text, "transformer.wpe", context=8)
    layer = run.activations[0].layers["transformer.wpe"]
    match = r"'transformer.wpe' gave shape \[1, 8, 16\] for tokens \[2, 8\], .*; hook other"
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
