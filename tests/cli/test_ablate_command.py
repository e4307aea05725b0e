"""`univfast ablate`: directories on a text, model files, and what is refused."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from support.ablated import array, logits_by_hand, means_by_hand
from support.command import SMALL_MODEL, error_line, run
from support.language_models import GPT2_HOOKS, LLAMA_HOOKS, Directories, ids_of
from support.made_up import made_up
from support.saved_results import six
from univfast import reference
from univfast.experiment import load_model, sites
from univfast.report.files import neurons_csv, summary_json

GPT2_LAYERS = [GPT2_HOOKS.replace("*", str(i)) for i in range(2)]
LLAMA_LAYERS = [LLAMA_HOOKS.replace("*", str(i)) for i in range(2)]
TEXT = ("--context", 8, "--max-tokens", 160)


def saved(
    folder: Path, layers: Sequence[str], models: Sequence[object], width: int = 64, **summary: Any
) -> Path:
    """A result of which the first five neurons are universal, without its pictures."""
    result = made_up(2 * width, 5, layers=layers, models=[str(x) for x in models])
    result.summary.update(summary)
    folder.mkdir(parents=True)
    (folder / "neurons.csv").write_bytes(neurons_csv(result))
    (folder / "summary.json").write_text(summary_json(result.summary))
    assert result.null_excess is not None
    np.save(folder / "null_excess.npy", result.null_excess.numpy())
    return folder


def test_a_directory_on_a_text(
    directories: Directories, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    result = saved(tmp_path / "r", GPT2_LAYERS, (directories.gpt2, directories.half))
    options = ("--result", result, "--text", directories.text, *TEXT, "--repeats", 2, "--top", 2)
    assert run("ablate", directories.gpt2, *options, "--json") == 0
    out, err = capfd.readouterr()
    assert err == ""
    found = json.loads(out)
    assert (found["format"], found["version"]) == ("univfast-ablation", 1)
    assert (found["documents"], found["tokens"], found["mean_tokens"]) == (20, 140, 140)
    (layer,) = found["layers"]
    assert (layer["layer"], layer["neurons"]) == (GPT2_LAYERS[0], [0, 1, 2, 3, 4])
    assert found["all_layers"] is None
    assert len(layer["random"]) == 2
    for one in layer["random"]:
        (drawn,) = one["neurons"].values()
        assert len({*drawn} - {*range(5)}) == 5
    distinct = {x for one in layer["random"] for x in one["neurons"][GPT2_LAYERS[0]]}
    assert len(distinct) == layer["activity"]["random_distinct"]
    assert [x["layer"] for x in found["single_neurons"]] == [GPT2_LAYERS[0]] * 2
    assert found["settings"]["text"]["file"] == str(directories.text)
    assert found["settings"]["text"]["hooks"] == GPT2_LAYERS
    import transformers

    model = transformers.GPT2LMHeadModel.from_pretrained(directories.gpt2)
    ids = ids_of(directories)[:160].view(20, 8).long()
    means = means_by_hand(model, GPT2_LAYERS[0], range(5), ids)
    whole, without = (logits_by_hand(model, ids, x) for x in ({}, {GPT2_LAYERS[0]: means}))
    counts = torch.ones(20, 7, dtype=torch.bool)
    loss, kl = reference.ablation(array(whole), array(without), ids, counts)
    for name, expected in (("loss", loss), ("kl", kl)):
        for end in ("mean", "low", "high"):
            got = layer["flagged"][name][end]
            assert got == pytest.approx(getattr(expected, end), abs=1e-6), (name, end)


def test_what_is_printed_and_written(
    directories: Directories, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    result = saved(tmp_path / "r", GPT2_LAYERS, (directories.gpt2, directories.half))
    options = ("--result", result, "--text", directories.text, *TEXT)
    out = tmp_path / "deep" / "out"
    assert run("ablate", directories.gpt2, *options, "--out", out) == 0
    text, err = capfd.readouterr()
    assert err == ""
    head, *lines = text.splitlines()
    assert head.startswith(f"{directories.gpt2}: loss ")
    assert head.endswith(" nats a token, over 140 predicted tokens of 20 documents")
    assert sum(line.startswith(f"{GPT2_LAYERS[0]}/") for line in lines) == 5
    content = json.loads((out / "ablation.json").read_text())
    assert " ".join(content["sentences"]) in " ".join(text.split())
    assert lines[-1] == f"Written to {out}: ablation.json and ablation.csv."
    with open(out / "ablation.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    names = ["whole", "flagged", *(f"random {i}" for i in range(1, 6)), "random mean", "difference"]
    assert [row["set"] for row in rows] == names + ["single"] * 5
    (layer,) = content["layers"]
    assert float(rows[1]["loss_high"]) == six(layer["flagged"]["loss"]["high"])
    assert float(rows[8]["kl"]) == six(layer["difference"]["kl"]["mean"])
    assert float(rows[0]["loss"]) == six(content["loss"]["mean"])
    assert math.isnan(float(rows[0]["kl"]))
    assert rows[9]["neuron"] == str(content["single_neurons"][0]["neuron"])
    assert run("ablate", directories.gpt2, *options, "--quiet", "--out", out) == 0
    assert capfd.readouterr() == ("", "")


def test_gated_models_and_filters_and_reverse(
    directories: Directories, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "r"
    saved(folder, GPT2_LAYERS, (directories.gpt2, directories.llama))
    pair = (directories.llama, directories.gpt2)
    hooks = [[LLAMA_HOOKS], [GPT2_HOOKS]]
    saved(folder / "reverse", LLAMA_LAYERS, pair, width=24, text={"hooks": hooks})
    options = ("--result", folder, "--text", directories.text, *TEXT)
    filters = ("--skip", "newline", "--positions", "1:", "--batch-tokens", 24)
    command = ("ablate", directories.llama, "--reverse", *options, *filters, "--json")
    assert run(*command) == 0
    out, err = capfd.readouterr()
    assert err == ""
    found = json.loads(out)
    assert found["settings"]["text"]["hooks"] == [LLAMA_HOOKS]
    assert found["layers"][0]["site"] == LLAMA_LAYERS[0]
    ids = ids_of(directories)[:160].view(20, 8).long()
    newline = {i for i in ids.unique().tolist() if "\n" in decoded(directories, i)}
    keep = torch.tensor([[i not in newline for i in row] for row in ids.tolist()])
    keep[:, 0] = False
    assert found["tokens"] == int(keep[:, :-1].sum())
    assert run("ablate", directories.llama, *options) == 2
    assert "llama: is B of the result, and not " in error_line(capfd)
    assert run("ablate", directories.gpt2, "--reverse", *options) == 2
    assert "gpt2: is A of the result, and not " in error_line(capfd)


def decoded(directories: Directories, token: int) -> str:
    import transformers

    return str(transformers.AutoTokenizer.from_pretrained(directories.gpt2).decode([token]))


def test_padded_samples(directories: Directories, tmp_path: Path, capfd: Any) -> None:
    result = saved(tmp_path / "r", GPT2_LAYERS, (directories.gpt2, directories.half))
    samples = ids_of(directories)[:60].view(10, 6).long()
    samples[3, 4:] = 2
    samples[7, :3] = 2
    path = tmp_path / "ids.pt"
    torch.save(samples, path)
    options = ("--result", result, "--text", path, "--skip", "padding", "--json", "--top", 0)
    assert run("ablate", directories.gpt2, *options) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["tokens"] == 8 * 5 + 3 + 2


@pytest.mark.slow
def test_model_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / name for name in ("a.ckpt", "b.ckpt", "c.ckpt")]
    for seed, path in enumerate(paths):
        assert run("train", path, "--seed", seed, *SMALL_MODEL, "--test-samples", 30) == 0
    layers = ["mlp.0", "mlp.1"]
    result = saved(tmp_path / "r", layers, paths[:2], width=24)
    trained = load_model(paths[0])
    for site, module in (("pre", "up"), ("post", "relu")):
        assert run("ablate", paths[0], "--result", result, "--site", site, "--json") == 0
        found = json.loads(capsys.readouterr().out)
        ids = sites.test_tokens(trained)
        model = trained.model()
        name = f"blocks.0.mlp.{module}"
        assert found["layers"][0]["site"] == name
        means = means_by_hand(model, name, range(5), ids)
        whole, without = (logits_by_hand(model, ids, x) for x in ({}, {name: means}))
        counts = torch.ones(30, 63, dtype=torch.bool)
        loss, _ = reference.ablation(array(whole), array(without), ids, counts)
        assert found["layers"][0]["flagged"]["loss"]["mean"] == pytest.approx(loss.mean, abs=1e-6)
    # Of a model file itself, 'univfast correlate' captures what is before the ReLU; of captures
    # nobody knows.
    assert run("ablate", paths[0], "--result", result, "--json") == 0
    assert json.loads(capsys.readouterr().out)["layers"][0]["site"] == "blocks.0.mlp.up"
    after = saved(tmp_path / "after", layers, paths[:2], width=24, site="post")
    assert run("ablate", paths[0], "--result", after, "--json") == 0
    assert json.loads(capsys.readouterr().out)["layers"][0]["site"] == "blocks.0.mlp.relu"
    captures = saved(tmp_path / "captures", layers, ("a.pt", "b.pt"), width=24)
    assert run("ablate", paths[0], "--result", captures) == 2
    assert "before the ReLU or after it; give --site pre or --site post" in error_line(capsys)
    for options, message in (
        (("--text", "x"), "--text is for directories of Hugging Face models; leave it out"),
        (("--device", "cpu"), "--device is for directories of Hugging Face models"),
        (("--site", "pre", "--hooks", "x"), "--site and --hooks both say where layers are"),
        (("--hooks", "blocks.0.mlp.up"), "a.ckpt: --hooks: layer 'mlp.0' is none of those that"),
        (("--layer", "mlp.1"), "--layer: layer 'mlp.1' has no universal neuron; name one of"),
        (("--learned",), "--learned: the result was not compared with controls"),
    ):
        assert run("ablate", paths[0], "--result", result, *options) == 2
        assert message in error_line(capsys)
    assert run("ablate", paths[2], "--result", result) == 2
    assert "c.ckpt: is none of the models of the result in" in error_line(capsys)
    wide = saved(tmp_path / "wide", layers, paths[:2], width=25)
    assert run("ablate", paths[0], "--result", wide) == 2
    line = error_line(capsys)
    assert f"{wide}: layer 'mlp.0' has 25 neurons in the result, and 24 in the model;" in line


def test_what_is_refused(
    directories: Directories, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    result = saved(tmp_path / "r", GPT2_LAYERS, (directories.gpt2, directories.half))
    text = ("--text", directories.text, *TEXT)
    one = tmp_path / "one.pt"
    torch.save(torch.zeros(5, 1, dtype=torch.int64), one)
    for model, options, message in (
        (directories.gpt2, ("--result", result), "needs --text FILE"),
        (directories.gpt2, ("--result", tmp_path / "x", *text), "x/summary.json: cannot be read"),
        (directories.gpt2, ("--result", result, "--site", "pre", *text), "--site is for model"),
        (directories.gpt2, ("--result", result, "--reverse", *text), "has no result in reverse;"),
        (directories.llama, ("--result", result, *text), "llama: is none of the models of the"),
        (tmp_path / "no", ("--result", result, *text), "no: no such file or directory"),
        (
            directories.gpt2,
            ("--result", result, *text, "--hooks", "transformer.h.1.mlp.act"),
            f"{directories.gpt2}: --hooks: layer '{GPT2_LAYERS[0]}' is none of those that they",
        ),
        (directories.gpt2, ("--result", result, "--text", one), "--text: no token counts whose"),
        (
            directories.gpt2,
            ("--result", result, *text, "--out", directories.gpt2),
            "gpt2: is the directory of the model; name another --out",
        ),
    ):
        assert run("ablate", model, *options) == 2
        assert message in error_line(capfd)


@pytest.mark.slow
def test_models_without_a_head_are_refused(
    directories: Directories, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import transformers

    bare, bert = tmp_path / "bare", tmp_path / "bert"
    # Weights of the head alone are missing, which the library draws at random.
    transformers.LlamaForCausalLM.from_pretrained(directories.llama).model.save_pretrained(bare)
    config = json.loads((directories.llama / "config.json").read_text())
    (bare / "config.json").write_text(json.dumps(config))
    transformers.BertLMHeadModel(
        transformers.BertConfig(
            vocab_size=320,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=32,
            initializer_range=0.3,
        )
    ).save_pretrained(bert)
    layers = [f"encoder.layer.{i}.intermediate" for i in range(2)]
    for folder in (bare, bert):
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(directories.gpt2 / name, folder / name)
    capfd.readouterr()
    text = ("--text", directories.text, *TEXT)
    result = saved(tmp_path / "r", LLAMA_LAYERS, (bare, bert), width=24)
    assert run("ablate", bare, "--result", result, *text) == 2
    assert "bare: has no head that predicts tokens, or not the weights of one" in error_line(capfd)
    result = saved(tmp_path / "r2", layers, (bert, bare))
    assert run("ablate", bert, "--result", result, *text) == 2
    assert "bert: has no head that predicts tokens" in error_line(capfd)


def test_a_result_keeps_what_it_was(directories: Directories, tmp_path: Path) -> None:
    """Written beside a result, an ablation leaves it as it is."""
    result = saved(tmp_path / "r", GPT2_LAYERS, (directories.gpt2, directories.half))
    before = {path.name: path.read_bytes() for path in result.iterdir()}
    options = ("--result", result, "--text", directories.text, *TEXT, "--top", 0, "--repeats", 0)
    assert run("ablate", directories.gpt2, *options, "--quiet", "--out", result) == 0
    after = {path.name: path.read_bytes() for path in result.iterdir()}
    assert after.keys() - before.keys() == {"ablation.json", "ablation.csv"}
    assert all(after[name] == content for name, content in before.items())
