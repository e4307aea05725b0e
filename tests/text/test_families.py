"""Models of every family in docs/your-model.md, from their directories."""

from __future__ import annotations

import fnmatch
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import univfast as uf
from support import ROOT
from support.command import run
from support.families import FAMILIES, WINDOW, configuration, make, plain_layers, save, text_ids
from support.language_models import open_one, refused
from univfast.report.saved import load
from univfast.text.models import load_model

PAGE = (ROOT / "docs" / "your-model.md").read_text()
ROWS = dict(re.findall(r"^\| [^|]* \| ([\w-]+) \| `([^`]*)` \|$", PAGE, re.MULTILINE))
QUICK = ("bert", "gpt2")
SLOW = pytest.mark.slow
# What is loaded as what predicts tokens, and then has another name before its modules'.
DECODERS = {"gpt2": "transformer.", "gpt_neox": "gpt_neox."}


def test_the_page_has_all_families() -> None:
    assert ROWS.keys() == FAMILIES.keys()


def base_names(family: str, hooks: str, model: Any) -> dict[str, str]:
    """By the layers that a glob of the page names, modules of the model without a head."""
    prefix = re.match(r"transformer\.(?=h\.)|gpt_neox\.|model\.|", hooks)[0]
    glob = hooks.removesuffix(":input").removeprefix(prefix)
    end = ":input" if hooks.endswith(":input") else ""
    names = [name for name, _ in model.named_modules() if fnmatch.fnmatchcase(name, glob)]
    return {f"{prefix}{name}{end}": name + end for name in names}


@pytest.mark.parametrize(
    "family",
    [x if x in (*QUICK, "roberta", "bart") else pytest.param(x, marks=SLOW) for x in FAMILIES],
)
@pytest.mark.parametrize("left", [False, True])
def test_padding_moves_no_token(family: str, left: bool, tmp_path: Path, opened: ExitStack) -> None:
    """A padded sample is what it is alone, however a model numbers its tokens; or it is refused."""
    pad = configuration(family).pad_token_id
    changes = {"pad_token_id": 2} if pad is None else {}
    model, sample = make(family, 0, **changes), text_ids(10)
    place = slice(6, None) if left else slice(10)
    samples = torch.full((3, 16), 2 if pad is None else pad)
    samples[:, place] = sample
    torch.save(samples, tmp_path / "ids.pt")
    where = save(model, tmp_path / "m"), tmp_path / "ids.pt", ROWS[family]
    if left and family in ("bart", "mbart"):
        refused(
            opened, "padding before them moves them", *where[:2], hooks=where[2], skip=("padding",)
        )
        return
    (found,) = open_one(opened, *where, skip=("padding",)).activations
    names = base_names(family, ROWS[family], model)
    if pair := family in ("t5", "bart", "mbart"):
        names = {layer: name.removeprefix("encoder.") for layer, name in names.items()}
    expected = plain_layers(model.get_encoder() if pair else model, names, sample)
    for name, layer in found.layers.items():
        rows = layer.read(0, 48).view(3, 16, -1)[1, place]
        torch.testing.assert_close(rows, expected[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "family", [x if x in QUICK else pytest.param(x, marks=SLOW) for x in FAMILIES]
)
def test_directories_give_what_the_models_give(
    family: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """By the command line, by Python and by NumPy, from models that were saved without a head."""
    hooks, ids = ROWS[family], text_ids()
    models = [make(family, seed) for seed in (0, 1)]
    folders = [save(model, tmp_path / name) for model, name in zip(models, "ab", strict=True)]
    torch.save(ids, tmp_path / "ids.pt")
    text = ("--text", tmp_path / "ids.pt", "--context", WINDOW, "--hooks", hooks)
    out = tmp_path / "result"
    command = ("correlate", *folders, *text, "--match", "index", "--draws", 1, "--quiet")
    assert run(*command, "--out", out) == 0, capfd.readouterr().err
    found = load(out)
    # Plain: hooks of the test, one window at a time.
    names = base_names(family, hooks, models[0])
    assert len(names) == 2
    if hasattr(models[0], "decoder") and family not in DECODERS and family != "opt":
        models = [model.get_encoder() for model in models]
        names = {layer: name.removeprefix("encoder.") for layer, name in names.items()}
    rows = [plain_layers(model, names, ids) for model in models]
    expected = np.concatenate(
        [
            [np.corrcoef(x, y)[0, 1] for x, y in zip(a.T, b.T, strict=True)]
            for a, b in ([part[layer].double().numpy() for part in rows] for layer in names)
        ]
    )
    assert list(dict.fromkeys(found.layer)) == list(names)
    assert np.abs(found.correlation.numpy() - expected).max() < 1e-6
    assert np.abs(expected).max() > 0.05
    assert found.summary["tokens"] == len(ids)
    # Python: the models as they are loaded, on batches of the same windows.
    loaded = [load_model(str(folder), torch.device("cpu")).module for folder in folders]
    batches = [{"input_ids": part[None]} for part in ids.split(WINDOW)]
    live = uf.correlate_models(*loaded, batches, hooks=hooks, match="index", draws=1)
    assert np.abs(live.correlation.numpy() - expected).max() < 1e-6


HEADS = {
    "AutoModelForMaskedLM": (
        "roberta",
        "mpnet",
        "electra",
        "deberta-v2",
        "distilbert",
        "modernbert",
    ),
    "AutoModelForSequenceClassification": ("roberta", "modernbert", "gpt2", "llama", "bart", "opt"),
    "AutoModelForCausalLM": ("gpt2", "gpt_neox", "opt", "llama", "mixtral", "olmoe"),
    "AutoModelForSeq2SeqLM": ("t5", "bart", "mbart"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("auto", "family"), [(x, y) for x in HEADS for y in HEADS[x]])
def test_layers_of_directories_with_heads(
    auto: str, family: str, tmp_path: Path, opened: ExitStack
) -> None:
    """They have the names that the page has, and the values of the model below the head."""
    pad = configuration(family).pad_token_id
    model = make(family, 0, auto, **({"pad_token_id": 2} if pad is None else {}))
    torch.save(text_ids(), tmp_path / "ids.pt")
    where = save(model, tmp_path / "m"), tmp_path / "ids.pt", ROWS[family]
    (found,) = open_one(opened, *where, context=WINDOW).activations
    base = model.base_model
    names = base_names(family, ROWS[family], base)
    if family in ("t5", "bart", "mbart"):
        base = base.get_encoder()
        names = {layer: name.removeprefix("encoder.") for layer, name in names.items()}
    expected = plain_layers(base, names, text_ids())
    assert list(found.layers) == list(names)
    for name, layer in found.layers.items():
        torch.testing.assert_close(layer.read(0, 160), expected[name], rtol=0, atol=1e-5)
