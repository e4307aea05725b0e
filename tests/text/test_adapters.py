"""Directories of adapters, as peft saves them: merged into their base, or refused."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from support.families import make, plain_layers, save, text_ids
from support.language_models import open_one, refused

peft = pytest.importorskip("peft")

HOOKS = {"gpt2": "transformer.h.*.mlp.act", "bert": "*.intermediate"}
NAMES = {
    "gpt2": [f"transformer.h.{i}.mlp.act" for i in range(2)],
    "bert": [f"encoder.layer.{i}.intermediate" for i in range(2)],
}
TARGETS = {"gpt2": ["c_fc"], "bert": ["query", "intermediate.dense"]}


@pytest.fixture
def ids(tmp_path: Path) -> Path:
    torch.save(text_ids(), tmp_path / "ids.pt")
    return tmp_path / "ids.pt"


def adapted(folder: Path, family: str, auto: str, named: str | None = None, **settings: Any) -> Any:
    """An adapter with weights that do something, in ``adapter``, to the base in ``base``."""
    base = make(family, 0, auto)
    save(base, folder / "base")
    kind = {"target_modules": TARGETS[family], "r": 4, **settings}
    if family == "gpt2":
        kind["fan_in_fan_out"] = True
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of peft, at what transformers has renamed
        torch.manual_seed(1)
        model = peft.get_peft_model(base, peft.LoraConfig(**kind)).eval()
        for name, weight in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                weight.data.normal_()
    model.save_pretrained(folder / "adapter")
    rename(folder, named or str(folder / "base"))
    return model


def rename(folder: Path, base: object) -> None:
    """Has the adapter name its base."""
    file = folder / "adapter" / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "base_model_name_or_path": base}))


@pytest.mark.parametrize(
    ("family", "auto", "settings"),
    [
        ("gpt2", "AutoModelForCausalLM", {"task_type": "CAUSAL_LM"}),
        ("gpt2", "AutoModel", {}),
        ("gpt2", "AutoModelForSequenceClassification", {"task_type": "SEQ_CLS"}),
        ("bert", "AutoModel", {"task_type": "FEATURE_EXTRACTION"}),
        ("bert", "AutoModelForSequenceClassification", {"task_type": "SEQ_CLS"}),
        ("bert", "AutoModel", {"use_dora": True}),
        ("gpt2", "AutoModelForCausalLM", {"target_modules": ["c_fc", "wte"]}),
        ("gpt2", "AutoModelForCausalLM", {"modules_to_save": ["ln_2"], "bias": "all"}),
        ("gpt2", "AutoModelForCausalLM", {"init_lora_weights": "pissa"}),
    ],
)
def test_an_adapter_is_its_base_with_it(
    family: str, auto: str, settings: dict[str, Any], tmp_path: Path, ids: Path, opened: ExitStack
) -> None:
    """Whichever head it was made with; under the names of the base."""
    model = adapted(tmp_path, family, auto, **settings)
    found = open_one(opened, tmp_path / "adapter", ids, HOOKS[family], context=16).activations[0]
    base = open_one(opened, tmp_path / "base", ids, HOOKS[family], context=16).activations[0]
    assert list(found.layers) == NAMES[family]
    inner = model.get_base_model()
    names = {
        layer: layer if auto == "AutoModelForCausalLM" else _below(inner, layer, family)
        for layer in NAMES[family]
    }
    expected = plain_layers(inner, names, text_ids())
    for name, layer in found.layers.items():
        rows = layer.read(0, 160)
        torch.testing.assert_close(rows, expected[name], rtol=1e-4, atol=1e-4)
        assert (rows - base.layers[name].read(0, 160)).abs().max() > 0.1


def _below(model: Any, layer: str, family: str) -> str:
    """A layer's name in a model with another head, or none."""
    bare = layer.removeprefix("transformer.")
    if model.base_model is model:
        return bare
    return f"{model.base_model_prefix}.{bare}"


def test_the_base_may_be_named_from_beside_the_adapter(
    tmp_path: Path, ids: Path, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapted(tmp_path, "gpt2", "AutoModelForCausalLM", named="base")
    where = tmp_path / "adapter", ids
    assert len(open_one(opened, *where, HOOKS["gpt2"]).activations[0].layers) == 2
    # Or from the working directory, where another may be.
    (tmp_path / "here").mkdir()
    shutil.copytree(tmp_path / "base", tmp_path / "here" / "base")
    monkeypatch.chdir(tmp_path / "here")
    refused(opened, "adapter: its base 'base' may be .*/here/base or .*/base; write the", *where)
    shutil.rmtree(tmp_path / "base")
    assert len(open_one(opened, *where, HOOKS["gpt2"]).activations[0].layers) == 2


def test_a_base_that_is_not_here(tmp_path: Path, ids: Path, opened: ExitStack) -> None:
    adapted(tmp_path, "gpt2", "AutoModelForCausalLM", named="someone/gpt2")
    match = (
        "adapter: is an adapter to 'someone/gpt2', which is no directory of a model here; .*merge"
    )
    refused(opened, match, tmp_path / "adapter", ids)
    for named in (None, 3, ""):
        rename(tmp_path, named)
        refused(opened, "names no base model .*merge", tmp_path / "adapter", ids)


@pytest.mark.parametrize("what", ["lacks", "more", "narrow", "truncated", "another", "whole"])
def test_adapters_that_do_not_fit(what: str, tmp_path: Path, ids: Path, opened: ExitStack) -> None:
    """None is put on in part: what is not loaded would leave the base as it is."""
    adapted(tmp_path, "gpt2", "AutoModelForCausalLM")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    name = min(tensors)
    match = {
        "lacks": "adapter: lacks transformer.h.0",
        "more": "adapter: has, and its base has no place for, transformer.h.7",
        "narrow": "adapter: cannot be loaded",
        "truncated": "adapter: cannot be loaded",
        "another": "adapter: cannot be loaded",
        "whole": "holds a whole model, and an adapter",
    }[what]
    if what == "lacks":
        del tensors[name]
    elif what == "more":
        tensors[name.replace("h.0", "h.7")] = tensors[name].clone()
    elif what == "narrow":
        tensors[name] = tensors[name][:, :5].contiguous()
    if what == "truncated":
        file.write_bytes(file.read_bytes()[:300])
    elif what == "another":
        shutil.rmtree(tmp_path / "base")
        save(make("llama", 0, "AutoModelForCausalLM"), tmp_path / "base")
    elif what == "whole":
        shutil.copyfile(
            tmp_path / "base" / "model.safetensors", file.with_name("model.safetensors")
        )
    else:
        save_file(tensors, file)
    refused(opened, match, tmp_path / "adapter", ids)


def test_prompts_cannot_be_merged(tmp_path: Path, ids: Path, opened: ExitStack) -> None:
    base = make("gpt2", 0, "AutoModelForCausalLM")
    save(base, tmp_path / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
        peft.get_peft_model(base, kind).save_pretrained(tmp_path / "adapter")
    rename(tmp_path, str(tmp_path / "base"))
    refused(opened, "puts tokens of its own before the text", tmp_path / "adapter", ids)


def test_without_peft_it_is_one_line(
    tmp_path: Path, ids: Path, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapted(tmp_path, "gpt2", "AutoModelForCausalLM")
    monkeypatch.setitem(sys.modules, "peft", None)
    refused(
        opened,
        r"needs the peft library .* pip install 'univfast\[peft\]'",
        tmp_path / "adapter",
        ids,
    )
