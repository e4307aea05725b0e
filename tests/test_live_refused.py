"""`uf.correlate_models`: what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import univfast as uf
from support.live_models import POST, Plain, token_ids
from univfast.errors import InputError


class Half(nn.Module):
    """Sees every other token alone."""

    def __init__(self, flip: bool = False) -> None:
        super().__init__()
        self.model, self.flip = Plain(), flip

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(ids.T.contiguous() if self.flip else ids[:, ::2])


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"batches": []}, InputError, "batches: there are none"),
        ({"batches": token_ids()[0]}, TypeError, "batches: .* got Tensor; give a list"),
        ({"batches": {"ids": 1}}, TypeError, "batches: expected an iterable of batches, got dict"),
        ({"batches": 3}, TypeError, "batches: .* got int"),
        ({"hooks": "nothing"}, InputError, "hooks: no module matches 'nothing'; there are 'embed'"),
        (
            {"hooks_b": "*.0.*post", "match": "index"},
            InputError,
            "a and b: have different layers: only a has",
        ),
        ({"hooks": "embed:input"}, InputError, "layer 'embed:input' has dtype int64; convert"),
        (
            {"model_b": Plain(width=16), "match": "index"},
            InputError,
            "so 24 and 16 neurons; match='index' needs equal",
        ),
        (
            {"model_b": Plain(layers=3), "match": "index"},
            InputError,
            "only b has 'blocks.2.mlp.hook_post'",
        ),
        ({"model_b": 3}, TypeError, "model_b: expected a torch.nn.Module, got int"),
        (
            {"model_b": Half(), "hooks_b": f"model.{POST}"},
            InputError,
            r"layer 'model.blocks.0.mlp.hook_post' of b gave shape \[6, 10, 24\] for tokens"
            r" \[6, 20\], expected a row a token \[6, 20, neurons\]; hook other modules",
        ),
        (
            {"model_b": Half(flip=True), "hooks_b": f"model.{POST}", "match": "best"},
            InputError,
            "its samples are on the second axis: hook",
        ),
        ({"mask": [torch.ones(6, 20).bool()]}, InputError, "more batches than masks"),
        ({"mask": [torch.ones(6, 20).bool()] * 5}, InputError, "more masks than batches"),
        ({"mask": lambda x: x < 0}, InputError, "mask: leaves no token"),
        ({"mask": lambda x: x[0] > 0}, InputError, r"mask: the mask has 20 values .* \[6, 20\]"),
        ({"mask": 3}, TypeError, "mask: expected a function or masks, got int"),
        ({"mask": "keep.npy"}, TypeError, "mask: expected a function or masks, got str"),
        ({"match": "nearest"}, InputError, "match: got 'nearest'"),
        (
            {"match": "index", "reverse": True},
            InputError,
            "reverse: is not for a match by index",
        ),
        ({"match": "best", "mask": lambda x: x < 0}, InputError, "mask: leaves no token"),
        ({"names": "ab"}, TypeError, "names: expected those of both models"),
        ({"device": "tpu"}, InputError, "device: got 'tpu'"),
    ],
)
def test_wrong_arguments(given: dict[str, Any], error: type[Exception], message: str) -> None:
    right = {"model_a": Plain(), "model_b": Plain(), "batches": token_ids(), "hooks": POST}
    with pytest.raises(error, match=message):
        uf.correlate_models(**{**right, **given})


def test_a_layer_whose_width_changes_is_refused() -> None:
    model = nn.Sequential(nn.Identity())
    batches = [torch.randn(10, 4), torch.randn(10, 5)]
    with pytest.raises(InputError, match=r"batches: layers were .* hook modules of a fixed width"):
        uf.correlate_models(model, nn.Sequential(nn.Identity()), batches, hooks="0")


class Changing(nn.Module):
    """Centres its batch, in place or not."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.in_place, self.up = in_place, nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(x.sub_(1) if self.in_place else x - 1)


@pytest.mark.parametrize("kind", ["tensor", "tuple", "mapping"])
def test_a_model_that_changes_its_batch_is_refused(kind: str) -> None:
    x = torch.randn(6, 20, 8)
    batch = {"tensor": x, "tuple": (x,), "mapping": {"x": x}}[kind]
    good, bad = Changing(in_place=False), Changing(in_place=True)
    for pair, name in (((bad, good), "first"), ((good, bad), "second")):
        with pytest.raises(InputError, match=rf"^{name}: changes its batch in place, .*; have"):
            uf.correlate_models(*pair, [batch], hooks="up", names=("first", "second"))
    uf.correlate_models(good, good, [batch], hooks="up")


def test_each_model_gets_its_own_copy_of_tensors_of_inference_mode() -> None:
    with torch.inference_mode():
        x = torch.randn(6, 20, 8)
    before, bad = x.clone(), Changing(in_place=True)
    result = uf.correlate_models(bad, Changing(in_place=False), [x], hooks="up")
    assert torch.equal(x, before)
    assert result.correlation.min() > 0.999
