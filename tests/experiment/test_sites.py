"""Capture of the experiment's models, before and after the ReLU."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from support.tiny_models import WEIGHT, text_file
from univfast import experiment
from univfast.errors import InputError
from univfast.experiment import TrainedModel, capture_mlp, load_corpus, record_mlp


def test_capture_is_the_hidden_layer_on_the_test_set(trained: TrainedModel) -> None:
    pre, post = capture_mlp(trained, "pre"), capture_mlp(trained, "post")
    assert list(pre) == list(post) == ["mlp.0", "mlp.1", "mlp.2"]
    for name in pre:
        assert pre[name].shape == (70, 16, 24)
        assert pre[name].dtype == torch.float32
        assert not pre[name].requires_grad
        assert (pre[name] < 0).any()
        assert torch.equal(post[name], pre[name].relu())


def test_captured_values_are_those_of_the_formula(trained: TrainedModel) -> None:
    """The first layer by hand, on a sample of the second batch of the capture."""
    model = trained.model()
    tokens = load_corpus("docs", 16).test(70)[65:66]
    block = model.get_submodule("blocks.0")
    with torch.no_grad():
        x = model.embedding(tokens) + model.positions
        x = x + block.get_submodule("attention")(block.get_submodule("attention_norm")(x))
        x = block.get_submodule("mlp_norm")(x)
    by_hand = x[0] @ trained.state[WEIGHT].T + trained.state["blocks.0.mlp.up.bias"]
    captured = capture_mlp(trained, "pre")["mlp.0"][65]
    torch.testing.assert_close(captured, by_hand, rtol=0, atol=1e-5)


@pytest.mark.parametrize("fails", [False, True])
def test_capture_leaves_no_hooks(trained: TrainedModel, fails: bool) -> None:
    model = trained.model()
    tokens = torch.full((2, 16), 1_000 if fails else 65)
    if fails:
        with pytest.raises(IndexError):
            record_mlp(model, tokens, "pre")
    else:
        record_mlp(model, tokens, "pre")
    assert not any(module._forward_hooks for module in model.modules())


def test_an_unknown_site_is_named(trained: TrainedModel) -> None:
    site: Any = "middle"
    with pytest.raises(InputError, match=r"^site: got 'middle', expected pre or post$"):
        capture_mlp(trained, site)


def test_the_test_set_is_described(tmp_path: Path, trained: TrainedModel) -> None:
    assert experiment.test_set_name(trained) == "docs, 70 samples of 16 tokens"
    path = text_file(tmp_path)
    of_text = dataclasses.replace(trained, data=str(path))
    before = experiment.test_set_name(of_text)
    assert re.fullmatch(r"text\.txt \(\w{8}\), 62 samples of 16 tokens", before), "all it has"
    assert capture_mlp(of_text, "pre")["mlp.0"].shape == (62, 16, 24)
    path.write_text(path.read_text(encoding="utf-8") + "more", encoding="utf-8")
    assert experiment.test_set_name(of_text) != before, "another text is another test set"
