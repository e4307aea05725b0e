"""The directories of models: what is loaded, and what is refused in one line."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import univfast as uf
from support.families import make, save, text_ids
from support.language_models import (
    CPU,
    GPT2_HOOKS,
    LLAMA_HOOKS,
    Directories,
    ids_of,
    open_one,
    refused,
)
from univfast.text import CorpusOptions, TextOptions, TokenFilters, open_run


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
    "garbled": "has no config.json that names one",
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


def test_layers_that_no_model_has(
    directories: Directories, opened: ExitStack, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(directories.gpt2, tmp_path / "m"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "n_layer": 1_000_000}))
    message = rf"^{folder}: config.json says that the model has 1000000 layers, and none has over"
    refused(opened, message, folder, directories.text, hooks="transformer.h.*.mlp.act")


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


def saved(folder: Path, model: str, **config: object) -> Path:
    """A model of random weights, of a class of transformers that is named without "Model"."""
    import transformers

    made = getattr(transformers, f"{model}Config")(vocab_size=320, **config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        getattr(transformers, f"{model}Model")(made).save_pretrained(folder)
    return folder


def test_models_that_predict_no_tokens_are_read(
    directories: Directories, opened: ExitStack, tmp_path: Path
) -> None:
    model = saved(tmp_path / "m", "DistilBert", dim=16, hidden_dim=24, n_layers=2, n_heads=2)
    torch.save(ids_of(directories), tmp_path / "ids.pt")
    run = open_one(opened, model, tmp_path / "ids.pt", "transformer.layer.*.ffn.lin1")
    assert [layer.neurons for layer in run.activations[0].layers.values()] == [24, 24]


@pytest.mark.parametrize("each", [1, 2])
def test_neurons_of_experts_are_refused(each: int, tmp_path: Path, opened: ExitStack) -> None:
    """With one expert a token too, where there are as many rows as tokens, in another order."""
    model = save(make("mixtral", 0, num_experts_per_tok=each), tmp_path / "m")
    torch.save(text_ids(), tmp_path / "ids.pt")
    for end in ("", ":input"):
        match = rf"m: hooks: layer 'model.layers.0.mlp.experts.act_fn{end}' is within experts.*"
        match += "hook 'model.layers.0.mlp.experts', or"
        hooks = f"*.experts.act_fn{end}"
        refused(opened, match, tmp_path / "m", tmp_path / "ids.pt", hooks=hooks)
    run = open_one(opened, model, tmp_path / "ids.pt", "*.experts")
    assert [layer.neurons for layer in run.activations[0].layers.values()] == [16, 16]


def test_a_model_that_fails_is_named(directories: Directories, opened: ExitStack) -> None:
    run = open_one(opened, directories.gpt2, directories.text)

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("Tried to allocate 20 GiB.\nSee the documentation")

    run.models[0].module.transformer.register_forward_pre_hook(fail)
    layer = next(iter(run.activations[0].layers.values()))
    match = r"gpt2: fails on 32 tokens \(Tried to allocate 20 GiB. See the doc.*\); use .* or lower"
    with pytest.raises(uf.InputError, match=match):
        layer.read(0, 32)


def test_a_model_that_talks_is_not_heard(
    directories: Directories, opened: ExitStack, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers.utils import logging

    run = open_one(opened, directories.gpt2, directories.text)

    def talk(*_: object) -> None:
        logging.get_logger("transformers").warning("of things that a user cannot change")
        warnings.warn("of other such things", stacklevel=1)

    run.models[0].module.transformer.register_forward_pre_hook(talk)
    next(iter(run.activations[0].layers.values())).read(0, 32)
    assert capfd.readouterr() == ("", "")
    assert logging.get_verbosity() < logging.CRITICAL


def test_different_tokenizers_are_refused(directories: Directories) -> None:
    paths = [str(directories.gpt2), str(directories.other)]
    options = TextOptions(str(directories.text))
    with (
        pytest.raises(uf.InputError, match=r"gpt2 and .*other: have different tokenizers"),
        open_run(paths, [[GPT2_HOOKS]] * 2, options, CPU),
    ):
        pass


def test_tokens_need_no_common_tokenizer_unless_a_filter_does(
    directories: Directories, tmp_path: Path
) -> None:
    torch.save(ids_of(directories), tmp_path / "ids.pt")
    paths = [str(directories.gpt2), str(directories.other)]
    with open_run(paths, [[GPT2_HOOKS]] * 2, TextOptions(str(tmp_path / "ids.pt")), CPU) as run:
        assert torch.equal(run.windows.ids, ids_of(directories))
    for options in (
        TextOptions(str(tmp_path / "ids.pt"), filters=TokenFilters(("newline",))),
        TextOptions(str(tmp_path / "ids.pt"), CorpusOptions(bos=True)),
    ):
        with (
            pytest.raises(uf.InputError, match="have different tokenizers"),
            open_run(paths, [[GPT2_HOOKS]] * 2, options, CPU),
        ):
            pass


@pytest.mark.parametrize("tuned_first", [False, True])
def test_a_base_model_goes_with_its_copy_that_has_another_special_token(
    tuned_first: bool, directories: Directories, tmp_path: Path
) -> None:
    import transformers

    tuned = shutil.copytree(directories.gpt2, tmp_path / "tuned")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tuned)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|chat|>"]})
    tokenizer.save_pretrained(tuned)
    paths = [str(directories.gpt2), str(tuned)][:: -1 if tuned_first else 1]
    options = TextOptions(str(directories.text), filters=TokenFilters(("special",)))
    with open_run(paths, [[GPT2_HOOKS]] * 2, options, CPU) as run:
        assert torch.equal(run.windows.ids, ids_of(directories))
    # The same token with another id, or ids that stand for something else.
    renamed = (tuned / "tokenizer.json").read_text().replace('"<x>"', '"<y>"')
    (tuned / "tokenizer.json").write_text(renamed)
    with (
        pytest.raises(uf.InputError, match="have different tokenizers"),
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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_pipes_in_a_directory_are_not_waited_for(
    directories: Directories, opened: ExitStack, tmp_path: Path, name: str
) -> None:
    folder = shutil.copytree(directories.gpt2, tmp_path / "m")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    refused(opened, rf"^{folder / name}: is not a regular file; ", folder, directories.text)
