"""What docs/your-model.md says to type, typed, on tiny models."""

from __future__ import annotations

import re
import shlex
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

import univfast as uf
from support import ROOT
from support.command import run
from support.families import make, pixels, save, text_ids
from support.language_models import Directories
from univfast.report.saved import load

PAGE = (ROOT / "docs" / "your-model.md").read_text()
SECTIONS = dict(re.findall(r"^##? (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def commands(section: str) -> list[list[str]]:
    lines = re.findall(r"^univfast (.*)$", SECTIONS[section], re.MULTILINE)
    return [shlex.split(line) for line in lines]


def code(section: str) -> str:
    (found,) = re.findall(r"```python\n(.*?)```", SECTIONS[section], re.DOTALL)
    return found


@pytest.fixture
def place(directories: Directories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a text."""
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(directories.text, "corpus.txt")
    return tmp_path


def directory(name: str, directories: Directories, family: str, seed: int, auto: str) -> None:
    save(make(family, seed, auto, vocab_size=320), Path(name))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(directories.gpt2 / file, Path(name) / file)


def test_all_commands_are_typed_here() -> None:
    typed = {name for name in SECTIONS if commands(name)}
    assert typed == {"Your model", "Models that read no text", "Encoders", "Adapters", "Memory"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("section", "names", "family"),
    [
        ("Your model", ("a", "b"), "bert"),
        ("Encoders", ("mpnet-a", "mpnet-b"), "mpnet"),
        ("Memory", ("a", "b"), "roberta"),
    ],
)
def test_models_of_text(
    section: str, names: tuple[str, str], family: str, directories: Directories, place: Path
) -> None:
    for seed, name in enumerate(names):
        directory(name, directories, family, seed, "AutoModel")
    for command in commands(section):
        assert run(*command, "--quiet") == 0
    if section == "Memory":  # the same as side by side
        text = ("--text", "corpus.txt", "--hooks", "*.intermediate", "--quiet")
        for out, models in (("live", names), ("stored", ("acts-a", "acts-b"))):
            given = text if out == "live" else ("--quiet",)
            assert run("correlate", *models, *given, "--draws", 1, "--out", out) == 0
        live, stored = (load(name).correlation for name in ("live", "stored"))
        assert (live - stored).abs().max() < 1e-6


@pytest.mark.slow
def test_models_that_read_no_text(place: Path) -> None:
    np.save("pixels.npy", pixels().numpy())
    for seed, name in enumerate(("vit-a", "vit-b")):
        save(make("vit", seed), Path(name))
    (command,) = commands("Models that read no text")
    assert run(*command, "--quiet") == 0


@pytest.mark.slow
def test_adapters(directories: Directories, place: Path) -> None:
    peft = pytest.importorskip("peft")
    directory("base", directories, "gpt2", 0, "AutoModelForCausalLM")
    base = make("gpt2", 0, "AutoModelForCausalLM", vocab_size=320)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind = peft.LoraConfig(
            target_modules=["c_fc"], fan_in_fan_out=True, init_lora_weights=False
        )
        model = peft.get_peft_model(base, kind)
        model.peft_config["default"].base_model_name_or_path = "base"
        model.save_pretrained("adapter")
    (command,) = commands("Adapters")
    assert run(*command, "--draws", 1, "--out", "result", "--quiet") == 0
    found = load("result")
    assert found.summary["text"]["model_class"] == ["GPT2LMHeadModel"] * 2
    assert 0 < float(found.correlation.mean()) < 0.999


@pytest.mark.slow
def test_sentences_as_samples(directories: Directories, place: Path) -> None:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(directories.gpt2)
    sentences = ["the quick brown fox", "a neuron", "that two networks learned, and a third not"]
    exec(code("Encoders"), {"tokenizer": tokenizer, "sentences": sentences, "numpy": np})
    directory("a", directories, "bert", 0, "AutoModel")
    text = (
        "--text",
        "ids.npy",
        "--hooks",
        "*.intermediate",
        "--skip",
        "padding,special",
        "--quiet",
    )
    assert run("correlate", "a", "a", *text, "--draws", 1, "--out", "result") == 0
    tokens = load("result").summary["tokens"]
    assert tokens == sum(
        len(x) for x in tokenizer(sentences, add_special_tokens=False)["input_ids"]
    )


def test_the_decoder_of_a_pair() -> None:
    ids = text_ids(64).view(4, 16)
    a, b = (make("bart", seed) for seed in (0, 1))
    names = {"uf": uf, "a": a, "b": b, "source": ids, "target": ids[:, :9]}
    statement = code("Encoders with a decoder").replace("uf.corr", "result = uf.corr")
    exec(statement, names)
    assert names["result"].summary["tokens"] == 4 * 9
