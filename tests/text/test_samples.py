"""Models that read pixels and sound, from their directories, on arrays of a file."""

from __future__ import annotations

import fnmatch
import json
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import univfast as uf
from support import ROOT
from support.command import error_line, run
from support.families import NO_TEXT, make, pixels, plain_rows, save, text_ids
from support.language_models import CPU, captured
from univfast.report.saved import load
from univfast.text import TextOptions, control_activations, open_run
from univfast.text.models import load_model

PAGE = (ROOT / "docs" / "your-model.md").read_text()
ROWS = dict(re.findall(r"^\| .*? \| (\w+) \| `(.*?)` \| `\w+`", PAGE, re.MULTILINE))
VIT = "layers.*.mlp.fc2:input"
TOKENS = 5  # of a sample of ViT: CLS, and 4 patches
_CONVOLUTION = "embeddings.patch_embeddings.projection"


@pytest.fixture
def vit(tmp_path: Path) -> Any:
    """A model, in ``vit``, and pixels, in ``pixels.npy``."""
    model = make("vit", 0)
    save(model, tmp_path / "vit")
    np.save(tmp_path / "pixels.npy", pixels().numpy())
    return model


def names_of(model: Any, hooks: str) -> dict[str, str]:
    glob = hooks.removesuffix(":input")
    names = [name for name, _ in model.named_modules() if fnmatch.fnmatchcase(name, glob)]
    return {f"{name}:input": f"{name}:input" for name in names}


def test_the_page_has_all_families() -> None:
    assert ROWS.keys() == NO_TEXT.keys()


@pytest.mark.parametrize(
    "family", [pytest.param(x, marks=() if x == "vit" else pytest.mark.slow) for x in NO_TEXT]
)
def test_directories_give_what_the_models_give(
    family: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """By the command line, by Python and by NumPy."""
    hooks = ROWS[family]
    models = [make(family, seed) for seed in (0, 1)]
    folders = [save(model, tmp_path / name) for model, name in zip(models, "ab", strict=True)]
    read = "pixel_values"
    values = pixels()
    if family == "whisper":
        read, values = "input_features", pixels()[:, 0, :6].repeat(1, 1, 2)
    save_file({read: values}, tmp_path / "in.safetensors")
    given = ("--inputs", tmp_path / "in.safetensors", "--hooks", hooks, "--quiet")
    out = tmp_path / "result"
    command = ("correlate", *folders, *given, "--match", "index", "--draws", 1, "--out", out)
    assert run(*command) == 0, capfd.readouterr().err
    found = load(out)
    names = names_of(models[0], hooks)
    run_as = models
    if family == "whisper":
        names = {x: y for x, y in names.items() if x.startswith("encoder.")}
        run_as = [model.get_encoder() for model in models]
    inner = {x: y.removeprefix("encoder.") if family == "whisper" else y for x, y in names.items()}
    batches = [{read: part} for part in values.split(7)]
    rows = [plain_rows(model, inner, batches) for model in run_as]
    expected = np.concatenate([correlations(rows[0][x], rows[1][x]) for x in names])
    assert list(dict.fromkeys(found.layer)) == list(names)
    assert np.abs(found.correlation.numpy() - expected).max() < 1e-6
    assert np.abs(expected).max() > 0.05
    assert found.summary["tokens"] == len(rows[0][next(iter(names))])
    loaded = [load_model(str(folder), CPU).module for folder in folders]
    live = uf.correlate_models(*loaded, batches, hooks=hooks, match="index", draws=1)
    assert np.abs(live.correlation.numpy() - expected).max() < 1e-6


def correlations(a: Tensor, b: Tensor) -> list[float]:
    pairs = zip(a.double().numpy().T, b.double().numpy().T, strict=True)
    return [np.corrcoef(x, y)[0, 1] for x, y in pairs]


def test_a_capture_leaves_cls_out(vit: Any, tmp_path: Path) -> None:
    given = ("--inputs", tmp_path / "pixels.npy", "--hooks", VIT, "--positions", "1:", "--quiet")
    assert run("capture", tmp_path / "vit", *given, "--out", tmp_path / "acts") == 0
    found = captured(tmp_path / "acts")
    expected = plain_rows(vit, names_of(vit, VIT), [{"pixel_values": pixels()}])
    for name, rows in expected.items():
        patches = rows.view(24, TOKENS, -1)[:, 1:].flatten(0, 1)
        torch.testing.assert_close(found[name], patches, rtol=0, atol=1e-5)
    assert not (tmp_path / "acts" / "tokens.npy").exists()
    about = json.loads((tmp_path / "acts" / "capture.json").read_text())
    assert about["tokens"] == 24 * 4
    # Again is nothing to do; other pixels are another capture.
    assert run("capture", tmp_path / "vit", *given, "--out", tmp_path / "acts") == 0
    np.save(tmp_path / "pixels.npy", pixels().numpy()[::-1].copy())
    assert run("capture", tmp_path / "vit", *given, "--out", tmp_path / "acts") == 2


@pytest.mark.slow
def test_controls_of_pixels(vit: Any, tmp_path: Path) -> None:
    hooks = "layers.*.mlp.activation_fn"
    given = ("--inputs", tmp_path / "pixels.npy", "--hooks", hooks, "--quiet")
    assert run("control", tmp_path / "vit", *given, "--out", tmp_path / "c") == 0
    assert run("capture", tmp_path / "c", *given, "--out", tmp_path / "acts") == 0
    stored = captured(tmp_path / "acts")
    options = TextOptions("", inputs=str(tmp_path / "pixels.npy"))
    with open_run([str(tmp_path / "vit")], [[hooks]], options, CPU) as opened:
        for tokens in (None, 7):  # of two samples
            control = control_activations(opened, 0, 0, tokens=tokens)
            made = {name: layer.read(0, 24 * TOKENS) for name, layer in control.layers.items()}
            close = [torch.allclose(made[x], stored[x], atol=1e-5) for x in made]
            assert all(close) is (tokens is None)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (torch.zeros(3, 8, 8), r"pixel_values has shape \[3, 8, 8\], expected \[samples"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "pixel_values holds uint8; give floating"),
        (torch.zeros(2, 8, 8, 3), "fails on .* tokens .*channel"),
        (torch.zeros(2, 3, 16, 16), "fails on .* tokens"),
        (torch.zeros(0, 3, 8, 8), "holds .*samples; give at least one|no (rows|values)|empty"),
        ({"input_ids": text_ids()}, "input_ids is token ids, which are given as a text"),
        ({"pixel_values": pixels(), "bool_masked_pos": torch.zeros(24, 4)}, "is a mask"),
        ({"pixel_values": pixels(), "other": torch.zeros(24, 4)}, "holds .*'other' is not in both"),
        ({"pixels": pixels()}, "holds pixels, and .* reads pixel_values"),
        ({"pixel_values": pixels(), "x": torch.zeros(3)}, "as many in each array"),
    ],
)
def test_wrong_arrays_are_refused(
    content: object, match: str, vit: Any, tmp_path: Path, opened: ExitStack
) -> None:
    torch.save(content, tmp_path / "in.pt")
    with pytest.raises(uf.InputError, match=match) as caught:
        opened.enter_context(
            open_run(
                [str(tmp_path / "vit")],
                [[VIT]],
                TextOptions("", inputs=str(tmp_path / "in.pt")),
                CPU,
            )
        )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("other", "hooks", "match"),
    [
        ({"patch_size": 2}, [VIT], "make 5 and 17 tokens of a sample"),
        ({}, [_CONVOLUTION, VIT], r"so [0-9]+ tokens, and the first layer [0-9]+; hook layers"),
        ({}, ["pooler.dense"], "gave shape|lacks the weights|expected"),
    ],
)
def test_what_makes_no_patches_is_refused(
    other: dict[str, int], hooks: list[str], match: str, vit: Any, tmp_path: Path, opened: ExitStack
) -> None:
    second = save(make("vit", 1, **other), tmp_path / "b")
    options = TextOptions("", inputs=str(tmp_path / "pixels.npy"))
    with pytest.raises(uf.InputError, match=match):
        opened.enter_context(
            open_run([str(tmp_path / "vit"), str(second)], [hooks] * 2, options, CPU)
        )


def test_a_convolution_is_read_by_channels(vit: Any, tmp_path: Path, opened: ExitStack) -> None:
    options = TextOptions("", inputs=str(tmp_path / "pixels.npy"))
    run = opened.enter_context(open_run([str(tmp_path / "vit")], [[_CONVOLUTION]], options, CPU))
    (layer,) = run.activations[0].layers.values()
    pixels = torch.from_numpy(np.load(tmp_path / "pixels.npy"))
    with torch.no_grad():
        given = vit.get_submodule(_CONVOLUTION)(pixels)  # [samples, channels, height, width]
    expected = given.permute(0, 2, 3, 1).reshape(-1, given.shape[1])
    torch.testing.assert_close(layer.read(0, layer.tokens), expected)


def test_axis_says_where_neurons_are_behind_a_convolution(
    vit: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--inputs", tmp_path / "pixels.npy", "--hooks", "embeddings", "--quiet")
    command = ("capture", tmp_path / "vit", *given, "--out", tmp_path / "acts")
    assert run(*command) == 2
    assert f"{tmp_path / 'vit'}: --axis: layer 'embeddings' gave shape" in error_line(capsys)
    assert run(*command, "--axis", -1) == 0
    expected = plain_rows(vit, {"embeddings": "embeddings"}, [{"pixel_values": pixels()}])
    rows = captured(tmp_path / "acts")["embeddings"]
    torch.testing.assert_close(rows, expected["embeddings"], rtol=0, atol=1e-5)


def test_patches_that_are_hidden_at_random_are_refused(tmp_path: Path, opened: ExitStack) -> None:
    model = save(make("vit_mae", 0, image_size=16), tmp_path / "m")
    np.save(tmp_path / "pixels.npy", pixels(size=16).numpy())
    options = TextOptions("", inputs=str(tmp_path / "pixels.npy"))
    with pytest.raises(uf.InputError, match="gives others for the same sample again"):
        opened.enter_context(open_run([str(model)], [[VIT]], options, CPU))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (("--text", "pixels.npy"), "--text is for models of text, and --inputs for others"),
        (("--skip", "bos"), "--skip is for models of text"),
        (("--max-tokens", 3), "--max-tokens is for models of text"),
    ],
)
def test_options_of_text_are_refused(
    options: tuple[object, ...],
    match: str,
    vit: Any,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    given = ("--inputs", tmp_path / "pixels.npy", "--hooks", VIT)
    assert run("capture", tmp_path / "vit", *given, *options, "--out", tmp_path / "acts") == 2
    assert match in error_line(capfd)
