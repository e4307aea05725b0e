"""Directories of encoders: what they may lack, how they are laid out, and how long they read."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from support.families import make, plain_layers, save, text_ids
from support.language_models import CPU, Directories, open_one, refused
from univfast.text import TextOptions, open_run
from univfast.text.models import load_model

HOOKS = "*.intermediate"
LAYERS = [f"encoder.layer.{i}.intermediate" for i in range(2)]


@pytest.fixture
def ids(tmp_path: Path) -> Path:
    torch.save(text_ids(), tmp_path / "ids.pt")
    return tmp_path / "ids.pt"


def test_a_head_makes_no_difference(tmp_path: Path, ids: Path) -> None:
    """Saved with one head, another or none, an encoder has the same layers."""
    base = make("bert", 0)
    paths = [str(save(base, tmp_path / "base"))]
    for auto in ("AutoModelForMaskedLM", "AutoModelForSequenceClassification"):
        model = make("bert", 1, auto)
        model.base_model.load_state_dict(base.state_dict(), strict=False)
        paths.append(str(save(model, tmp_path / auto)))
    with open_run(paths, [[HOOKS]] * 3, TextOptions(str(ids)), CPU) as run:
        each = [{n: x.read(0, 160) for n, x in a.layers.items()} for a in run.activations]
        assert {a.about["model_class"] for a in run.activations} == {"BertModel"}
    for found in each:
        assert list(found) == LAYERS
        assert all(torch.equal(found[name], each[0][name]) for name in LAYERS)


def test_what_hooks_do_not_need_may_be_missing(
    tmp_path: Path, ids: Path, opened: ExitStack
) -> None:
    """A model of masked words has no pooler: a hook in it is refused, and all else is known."""
    model = save(make("bert", 0, "AutoModelForMaskedLM"), tmp_path / "m")
    one, again = (load_model(str(model), CPU) for _ in range(2))
    assert one.unknown == ("pooler",)
    assert one.fingerprint == again.fingerprint
    for hooks in ("pooler", "pooler.dense", "pooler.activation", "pooler.dense:input"):
        refused(opened, "m: hooks: the directory lacks the weights of", model, ids, hooks=hooks)


@pytest.mark.parametrize(
    "name", ["encoder.layer.1.output.dense.weight", "embeddings.LayerNorm.bias"]
)
def test_other_weights_may_not(tmp_path: Path, ids: Path, opened: ExitStack, name: str) -> None:
    model = save(make("bert", 0), tmp_path / "m")
    tensors = load_file(model / "model.safetensors")
    del tensors[name]
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    refused(opened, rf"m: lacks 1 weights .*first {name}", model, ids, hooks=HOOKS)


def test_a_decoder_without_its_head(tmp_path: Path, ids: Path, opened: ExitStack) -> None:
    model = save(make("gpt_neox", 0), tmp_path / "m")
    run = open_one(opened, model, ids, hooks="gpt_neox.layers.*.mlp.act")
    (head,) = run.models[0].unknown
    assert run.models[0].module.get_submodule(head) is run.models[0].module.get_output_embeddings()
    assert not run.models[0].has_head
    refused(opened, "m: hooks: the directory lacks the weights", model, ids, hooks=head)
    # BERT as a decoder has a head of several parts.
    model = save(make("bert", 0, is_decoder=True), tmp_path / "d")
    run = open_one(opened, model, ids, hooks=f"bert.{HOOKS}")
    assert run.models[0].unknown == ("cls",)
    refused(opened, "lacks the weights", model, ids, hooks="cls.predictions.transform.dense")


@pytest.mark.parametrize("folder", ["", "0_Transformer"])
def test_sentence_encoders(
    directories: Directories, opened: ExitStack, tmp_path: Path, folder: str
) -> None:
    """As sentence-transformers saves them: a model, its tokenizer, and what pools its tokens."""
    model = make("mpnet", 0, vocab_size=320)
    save(model, tmp_path / "m" / folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(directories.gpt2 / file, tmp_path / "m" / folder / file)
    (tmp_path / "m" / "1_Pooling").mkdir()
    (tmp_path / "m" / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    (tmp_path / "m" / "modules.json").write_text(f'[{{"idx": 0, "path": "{folder}"}}]')
    if folder:
        (tmp_path / "m" / "config.json").write_text('{"__version__": "2.0.0"}')
    run = open_one(opened, tmp_path / "m", directories.text, HOOKS, context=16)
    found = {name: layer.read(0, 160) for name, layer in run.activations[0].layers.items()}
    names = dict(zip(LAYERS, LAYERS, strict=True))
    expected = plain_layers(model, names, run.windows.ids[:160].long())
    assert list(found) == LAYERS
    for name in LAYERS:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("family", "longest"), [("roberta", 32), ("mpnet", 32), ("bert", 34)])
def test_the_longest_window_is_what_the_model_can_number(
    family: str, longest: int, tmp_path: Path, ids: Path, opened: ExitStack
) -> None:
    """RoBERTa numbers tokens behind the padding: 34 positions are for 32 tokens."""
    model = save(make(family, 0, max_position_embeddings=34), tmp_path / "m")
    run = open_one(opened, model, ids, HOOKS)
    assert run.windows.window == longest
    assert run.activations[0].layers[LAYERS[0]].read(0, 160).isfinite().all()
    refused(
        opened, f"the models read {longest} at most", model, ids, hooks=HOOKS, context=longest + 1
    )


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "t5", "roberta"])
def test_controls_are_made_of_encoders(family: str, tmp_path: Path, ids: Path) -> None:
    """On the way and by `univfast control`: both are the same network."""
    from support.command import run
    from support.language_models import captured
    from univfast.text import control_activations

    end = "layer.1.DenseReluDense.act" if family == "t5" else "intermediate.intermediate_act_fn"
    hooks = f"encoder.*.{end}"
    model = save(make(family, 0), tmp_path / "m")
    text = ("--text", ids, "--hooks", hooks, "--quiet")
    assert run("control", model, *text, "--seed", 1, "--out", tmp_path / "c") == 0
    assert run("capture", tmp_path / "c", *text, "--out", tmp_path / "acts") == 0
    stored = captured(tmp_path / "acts")
    with open_run([str(model)], [[hooks]], TextOptions(str(ids)), CPU) as opened_run:
        control = control_activations(opened_run, 0, 1)
        trained = opened_run.activations[0].layers
        for name, layer in control.layers.items():
            made = layer.read(0, 160)
            torch.testing.assert_close(made, stored[name], rtol=0, atol=1e-5)
            rates = [(x > 0).double().mean(0) for x in (made, trained[name].read(0, 160))]
            assert (rates[0] - rates[1]).abs().max() < 0.02
    assert len(stored) == 2


def test_an_encoder_of_a_pair_that_was_saved_alone(
    tmp_path: Path, ids: Path, opened: ExitStack
) -> None:
    """As sentence encoders of T5 are: there are no weights of a decoder."""
    whole = make("t5", 0)
    model = save(make("t5", 1, "AutoModelForTextEncoding"), tmp_path / "m")
    assert load_model(str(model), CPU).kind == "T5EncoderModel"
    name = "encoder.block.1.layer.1.DenseReluDense.wi"
    layer = open_one(opened, model, ids, name).activations[0].layers[name]
    # The same weights under the name of the whole model: its decoder is missing.
    save(whole, tmp_path / "w")
    shutil.copyfile(model / "model.safetensors", tmp_path / "w" / "model.safetensors")
    run = open_one(opened, tmp_path / "w", ids, name)
    assert run.models[0].kind == "T5Model, its encoder alone"
    assert torch.equal(run.activations[0].layers[name].read(0, 160), layer.read(0, 160))


@pytest.mark.parametrize("hooks", ["decoder.*.wo:input", "*.wo", "shared"])
def test_hooks_outside_of_the_encoder_are_refused(
    hooks: str, tmp_path: Path, ids: Path, opened: ExitStack
) -> None:
    model = save(make("t5", 0), tmp_path / "m")
    refused(opened, "m: hooks: layer .* is not in the encoder", model, ids, hooks=hooks)


@pytest.mark.parametrize("family", ["vit", "whisper"])
def test_models_that_read_no_text_are_refused(
    family: str, tmp_path: Path, ids: Path, opened: ExitStack
) -> None:
    import transformers

    sizes = {
        "vit": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        "whisper": {
            "d_model": 12,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "vocab_size": 300,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 2,
        },
    }
    config = transformers.CONFIG_MAPPING[family](**sizes[family])
    model = save(transformers.AutoModel.from_config(config), tmp_path / "m")
    reads = "pixel_values" if family == "vit" else "input_features"
    refused(opened, f"m: reads {reads}, no tokens", model, ids, hooks="*")


@pytest.mark.slow
def test_a_model_of_text_and_images_is_taken_in_parts(
    tmp_path: Path, ids: Path, opened: ExitStack
) -> None:
    import transformers

    sizes = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    config = transformers.CLIPConfig(
        text_config={**sizes, "vocab_size": 300},
        vision_config={**sizes, "image_size": 8, "patch_size": 4},
        projection_dim=8,
    )
    whole = save(transformers.CLIPModel(config), tmp_path / "m")
    refused(opened, "m: has no vocabulary of its own, .*save the part", whole, ids, hooks="*fc1")
    text = save(transformers.CLIPTextModel.from_pretrained(whole), tmp_path / "t")
    run = open_one(opened, text, ids, hooks="*.fc2:input")
    assert len(run.activations[0].layers) == 1
