"""`univfast weights`, and the weights of A in the published table."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from support.command import SMALL_MODEL, error_line, run
from support.language_models import CPU, LLAMA_HOOKS, Directories, on_text
from support.saved_results import as_cells
from univfast.experiment import load_model as load_model_file
from univfast.neuron_weights.weights import weights
from univfast.text.models import load_model
from univfast.text.vocabulary import load_vocabulary


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def test_of_a_directory(
    directories: Directories, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "w.csv"
    assert run("weights", directories.llama, "--top-k", 3, "--out", out) == 0
    said = f"{out}: 48 neurons of 2 layers, logits by lm_head\n"
    assert capfd.readouterr() == (said, "")
    found = rows(out)
    model = load_model(str(directories.llama), CPU)
    tokenizer = load_vocabulary(str(directories.llama), model.config).tokenizer
    table = weights(model.module, LLAMA_HOOKS, top_k=3, tokenizer=tokenizer)
    assert [row["layer"] for row in found] == table.layer
    assert [float(row["up_out_cosine"]) for row in found] == as_cells(table.up_out_cosine).tolist()
    assert [json.loads(row["top_texts"]) for row in found] == table.top_texts
    ids = json.loads(found[5]["bottom_tokens"])
    assert json.loads(found[5]["bottom_texts"]) == [tokenizer.decode([one]) for one in ids]


def test_hooks_and_an_unembedding_by_name(
    directories: Directories, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "w.csv"
    options = ("--hooks", "transformer.h.1.mlp.c_fc", "--unembedding", "transformer.wte")
    assert run("weights", directories.bare, *options, "--out", out) == 0
    said = f"{out}: 64 neurons of 1 layer, logits by transformer.wte\n"
    assert capfd.readouterr() == (said, "")
    found = rows(out)
    assert {row["layer"] for row in found} == {"transformer.h.1.mlp.c_fc"}
    assert "top_texts" not in found[0]  # there is no tokenizer
    assert run("weights", directories.bare, *options, "--out", out, "--quiet") == 0
    assert capfd.readouterr() == ("", "")


def test_of_a_model_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = tmp_path / "a.ckpt", tmp_path / "a.csv"
    assert run("train", model, *SMALL_MODEL) == 0
    assert run("weights", model, "--out", out) == 0
    assert capsys.readouterr().out == f"{out}: 48 neurons of 2 layers, logits by unembedding\n"
    found = rows(out)
    assert [row["layer"] for row in found] == ["mlp.0"] * 24 + ["mlp.1"] * 24
    ids, texts = (json.loads(found[0][f"top_{name}"]) for name in ("tokens", "texts"))
    assert texts == [chr(token) for token in ids]
    before = model.read_bytes()
    assert run("weights", model, "--out", model) == 2
    assert "a.ckpt: is the model itself; name another --out file" in error_line(capsys)
    assert model.read_bytes() == before
    assert run("weights", model, "--device", "cpu", "--out", out) == 2
    assert "--device is for directories of Hugging Face models" in error_line(capsys)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--hooks", "no.*"), "Error: --hooks: no module matches 'no.*'; there are"),
        (("--hooks", "transformer.h.0.attn"), "'transformer.h.0.attn' has 2 linear layers"),
        (
            ("--unembedding", "head"),
            "Error: --unembedding: the model has no module or parameter 'head'",
        ),
        (("--top-k", 0), "--top-k"),
    ],
)
def test_what_is_refused(
    options: tuple[object, ...],
    message: str,
    directories: Directories,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "w.csv"
    assert run("weights", directories.gpt2, *options, "--out", out) == 2
    assert message in error_line(capfd)
    assert not out.exists()


def test_what_cannot_be_read_or_written_is_named(
    directories: Directories, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("weights", tmp_path / "none", "--out", tmp_path / "w.csv") == 2
    assert "none: no such file or directory" in error_line(capfd)
    assert run("weights", directories.text, "--out", tmp_path / "w.csv") == 2
    assert "corpus.txt: is damaged, or not a file of plain tensors" in error_line(capfd)
    assert run("weights", directories.gpt2, "--out", tmp_path / "no" / "w.csv") == 2
    assert "w.csv" in error_line(capfd)


@pytest.fixture(scope="module")
def headless(tmp_path_factory: pytest.TempPathFactory, directories: Directories) -> Path:
    """A model without what predicts tokens, which the library then draws at random."""
    import transformers

    folder = tmp_path_factory.mktemp("headless")
    transformers.GPTNeoXModel(
        transformers.GPTNeoXConfig(
            vocab_size=320,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            max_position_embeddings=32,
            tie_word_embeddings=False,
        )
    ).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(directories.gpt2 / name, folder / name)
    return folder


def test_a_head_of_random_weights_is_none(
    headless: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "w.csv"
    assert run("weights", headless, "--out", out) == 0
    said = f"{out}: 48 neurons of 2 layers, no logits, as the model has no unembedding of their "
    assert capfd.readouterr() == (f"{said}width (--unembedding)\n", "")
    assert not {name for name in rows(out)[0] if name.startswith(("logit", "cosine", "top"))}
    assert run("weights", headless, "--unembedding", "lm_head", "--out", out) == 2
    assert "--unembedding: the model has no module or parameter 'lm_head'" in error_line(capfd)


PUBLISHED = ("--columns", "published", "--draws", 2, "--quiet")


@pytest.mark.slow
def test_the_published_table_of_live_models_has_weights(
    directories: Directories, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = (*on_text(directories), *PUBLISHED, "--details", "--out", out)
    assert run("correlate", directories.gpt2, directories.half, *options) == 0
    assert capfd.readouterr() == ("", "")
    found = rows(out / "published.csv")
    assert ",".join(found[0]) == (
        "layer,neuron,max_corr,mean_corr,min_corr,max_baseline,min_baseline,mean_baseline,"
        "w_in_norm,input_bias,w_out_norm,in_out_sim,l2_penalty,mean,var,skew,kurt,"
        "vocab_mean,vocab_var,vocab_skew,vocab_kurt,sparsity,excess_corr"
    )
    table = weights(load_model(str(directories.gpt2), CPU).module)
    np.testing.assert_array_equal(
        [float(row["w_in_norm"]) for row in found], as_cells(table.input_norm)
    )
    np.testing.assert_array_equal(
        [float(row["vocab_kurt"]) for row in found], as_cells(table.cosine_kurtosis)
    )


@pytest.mark.slow
def test_the_published_table_of_a_random_head(
    headless: Path, directories: Directories, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = on_text(directories, *PUBLISHED, "--out", out, hooks="gpt_neox.layers.*.mlp.act")
    assert run("correlate", headless, headless, *options) == 0
    assert capfd.readouterr().err == (
        "Warning: published.csv says nothing of the vocabulary (A has no unembedding)\n"
    )
    for row in rows(out / "published.csv"):
        assert float(row["w_in_norm"]) > 0
        assert row["vocab_mean"].lower() in ("", "nan")


@pytest.mark.slow
def test_a_layer_whose_weights_are_not_known_is_no_end_of_a_run(
    directories: Directories, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = on_text(directories, *PUBLISHED, "--out", out, hooks="transformer.h.*.mlp")
    assert run("correlate", directories.gpt2, directories.half, *options) == 0
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.startswith("Warning: published.csv has no columns of weights (hooks: layer")
    assert len(said.err.splitlines()) == 1
    assert "w_in_norm" not in rows(out / "published.csv")[0]


@pytest.mark.slow
def test_the_published_table_of_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = tmp_path / "a.ckpt", tmp_path / "out"
    assert run("train", model, *SMALL_MODEL) == 0
    assert run("correlate", model, model, *PUBLISHED, "--layers", "mlp.1", "--out", out) == 0
    table = weights(load_model_file(model))
    found = [float(row["w_out_norm"]) for row in rows(out / "published.csv")]
    assert found == as_cells(table.output_norm[24:]).tolist()
    assert run("capture", model, "--out", tmp_path / "a.pt", "--quiet") == 0
    files = tmp_path / "a.pt", tmp_path / "a.pt"
    assert run("correlate", *files, *PUBLISHED, "--out", out) == 0
    assert capsys.readouterr().err == ""
    assert "w_in_norm" not in rows(out / "published.csv")[0]
