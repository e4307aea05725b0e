"""Two models that are partly one: said, and still each with its own activations."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

import univfast as uf
from support.networks import HOOKS, OPTIONS, Network, inputs


class Adapted(nn.Module):
    """A base that is changed in place, as adapters are put into one."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base, self.scale = base, nn.Parameter(torch.full((8,), 1.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x * self.scale)


SHARED = r"^a and b share 10 of 11 parameters \(first 'base.layers.0.up.weight'\), .*deepcopy made"


def test_a_module_in_both_runs_as_each_has_it() -> None:
    base = Network(1)
    adapted = Adapted(base)
    with pytest.warns(UserWarning, match=SHARED):
        found = uf.correlate_models(
            adapted, base, inputs(), hooks=f"base.{HOOKS}", hooks_b=HOOKS, **OPTIONS
        )
    (note,) = found.summary["warnings"]
    assert note.startswith("a and b share 10 of 11 parameters")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        right = uf.correlate_models(
            *(copy.deepcopy(adapted), base, inputs()),
            hooks=f"base.{HOOKS}",
            hooks_b=HOOKS,
            **OPTIONS,
        )
    assert torch.equal(found.correlation.nan_to_num(), right.correlation.nan_to_num())
    assert float(found.correlation.nanmean()) < 0.999
    assert right.summary["warnings"] == []


def test_parameters_alone_may_be_shared() -> None:
    a, b = Network(1), Network(2)
    b.head.weight = a.head.weight
    b.layers[0].up.bias.data = a.layers[0].up.bias.data
    with pytest.warns(UserWarning, match=r"share 2 of 10 parameters \(first 'layers.0.up.bias'\)"):
        uf.correlate_models(a, b, inputs(), hooks=HOOKS, **OPTIONS)


def test_a_control_that_shares_is_named() -> None:
    a = Network(1)
    with pytest.warns(UserWarning, match=r"^a and a \(control 0\) share 10 of 10 parameters"):
        uf.correlate_models(
            *(a, Network(2), inputs()),
            hooks=HOOKS,
            controls_a=[shallow(a)],
            **OPTIONS,
        )


def shallow(model: Network) -> Network:
    """Another module of the same parameters."""
    found = Network(5)
    for block, own in zip(found.layers, model.layers, strict=True):
        block.up, block.down = own.up, own.down
        block.act = nn.LeakyReLU(0.5)
    found.head = model.head
    return found


def test_a_model_with_itself_is_meant() -> None:
    model = Network(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for other in (model, nn.DataParallel(model)):
            found = uf.correlate_models(model, other, inputs(), hooks=HOOKS, **OPTIONS)
            assert found.summary["warnings"] == []
            assert float(found.correlation.nan_to_num(nan=1.0).min()) > 0.999
