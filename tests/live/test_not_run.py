"""Networks that cannot be hooked or run: one line, which says what to pass instead."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import univfast as uf
from support.networks import HOOKS, OPTIONS, Network, inputs


class Encodes(nn.Module):
    """A model that is called by another method."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()

    def encode(self, x: Tensor) -> Tensor:
        return self.act(x)


def scripted() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(Network())


def traced() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(Network(), inputs()[0])


def exported() -> Any:
    return torch.export.export(Network(), (inputs()[0],))


MADE_OF = r"; pass the nn\.Module that it was made of$"
KINDS = {
    "scripted": (scripted, rf"is a scripted or traced module \(\w+\){MADE_OF}"),
    "traced": (traced, rf"is a scripted or traced module \(\w+\){MADE_OF}"),
    "exported": (exported, rf"is an exported program \(ExportedProgram\){MADE_OF}"),
    "its module": (lambda: exported().module(), rf"is a graph of operations, .*{MADE_OF}"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_hears_no_hooks(kind: str) -> None:
    make, message = KINDS[kind]
    model = make()
    for name, models in (("model_a", (model, Network())), ("model_b", (Network(), model))):
        with pytest.raises(uf.InputError, match=f"^{name}: {message}"):
            uf.correlate_models(*models, inputs(), hooks=HOOKS, **OPTIONS)
    with pytest.raises(uf.InputError, match=rf"^controls_a\[0\]: {message}"):
        uf.correlate_models(
            Network(), Network(), inputs(), hooks=HOOKS, controls_a=[model], **OPTIONS
        )
    with pytest.raises(uf.InputError, match=f"^model: {message}"), uf.capture(model, HOOKS):
        pass
    for call in (
        lambda: uf.weights(model, HOOKS),
        lambda: uf.ablate(model, inputs(), HOOKS, {"layers.0.act": [0]}),
        lambda: uf.control(model, match_rate=False),
    ):
        with pytest.raises(uf.InputError, match=f"^model: {message}"):
            call()


@pytest.mark.slow
def test_a_scripted_part() -> None:
    model = Network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.layers[0] = torch.jit.script(model.layers[0])
    message = r"^hooks: layer 'layers.0.act' is a scripted or traced module, .*; put the nn.Module"
    with pytest.raises(uf.InputError, match=message):
        uf.correlate_models(model, model, inputs(), hooks=HOOKS, **OPTIONS)
    found = uf.correlate_models(  # what is beside it
        model, model, inputs(), hooks="layers.1.act", match="index", rotation="none"
    )
    assert float(found.correlation.nanmean()) > 0.999


@pytest.mark.parametrize("model", [Encodes(), nn.ModuleList([nn.ReLU()])], ids=["own", "list"])
def test_a_model_without_forward(model: nn.Module) -> None:
    name = type(model).__name__
    with pytest.raises(uf.InputError, match=rf"^model_b: {name} has no forward, .*; pass a module"):
        uf.correlate_models(Network(), model, inputs(), hooks=HOOKS, hooks_b="*", **OPTIONS)


def test_a_capture_needs_no_forward() -> None:
    model, (x, *_) = Encodes(), inputs()
    with uf.capture(model, "act") as captured:
        model.encode(x)
        assert torch.equal(captured["act"], x.relu())


def test_parameters_without_values() -> None:
    with torch.device("meta"):
        empty = Network()
    lazy = nn.Sequential(nn.LazyLinear(8), nn.ReLU())
    for model, message in (
        (empty, "parameter 'layers.0.up.weight' is on the meta device, .*; load the weights first"),
        (lazy, "parameter '0.weight' of a lazy module has no shape yet; run the model on a batch"),
    ):
        with pytest.raises(uf.InputError, match=f"^model_a: {message}"):
            uf.correlate_models(model, Network(), inputs(), hooks="*", **OPTIONS)


def test_a_forward_that_only_begins() -> None:
    class Yields(Network):
        def forward(self, x: Tensor) -> Any:
            yield super().forward(x)

    with pytest.raises(uf.InputError, match=r"did not reach layer 'layers\.0\.act'; hook modules"):
        uf.correlate_models(Yields(), Network(), inputs(), hooks=HOOKS, **OPTIONS)


def test_what_a_model_raises_itself_is_its_own() -> None:
    class Fails(Network):
        def forward(self, x: Tensor) -> Tensor:
            return len(3)  # type: ignore[arg-type]

    with pytest.raises(TypeError, match="has no len"):
        uf.correlate_models(Fails(), Network(), inputs(), hooks=HOOKS, **OPTIONS)
