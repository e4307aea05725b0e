"""Networks that were compiled: run as they were written, hooked by their own names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import nn

import univfast as uf
from support.networks import HOOKS, Network, by_hand, check_both_places, inputs
from univfast.networks.eagerly import eagerly

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own, of what it compiles


def whole(model: Network, **more: Any) -> Any:
    return torch.compile(model, **more)


def in_place(model: Network, **more: Any) -> Any:
    model.compile(**more)
    return model


def in_parts(model: Network, **more: Any) -> Any:
    model.layers[0] = torch.compile(model.layers[0], **more)
    model.layers[1].act = torch.compile(model.layers[1].act, **more)
    return model


def forward_alone(model: Network, **more: Any) -> Any:
    model.forward = torch.compile(model.forward, **more)  # type: ignore[method-assign]
    return model


def compiled(model: Network, wrap: Callable[..., Any], backend: str, fullgraph: bool) -> Any:
    """Compiled, and run once, so that there is code that knows of no hooks."""
    found = wrap(model, backend=backend, fullgraph=fullgraph)
    with torch.no_grad():
        found.eval()(inputs()[0])
    return found


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    yield
    torch._dynamo.reset()


WAYS = pytest.mark.parametrize("wrap", [whole, in_place, in_parts, forward_alone])


@pytest.mark.slow
@WAYS
@pytest.mark.parametrize("fullgraph", [False, True])
def test_the_right_numbers(wrap: Callable[..., Any], fullgraph: bool) -> None:
    check_both_places(lambda model: compiled(model, wrap, "eager", fullgraph))


@pytest.mark.slow
def test_the_right_numbers_of_another_backend() -> None:
    check_both_places(lambda model: compiled(model, whole, "aot_eager", False))


@pytest.mark.slow
@WAYS
def test_a_capture_hears_what_its_user_runs(wrap: Callable[..., Any]) -> None:
    model, (x, *_) = compiled(Network(1), wrap, "eager", False), inputs()
    right = by_hand(Network(1), [x])
    with uf.capture(model, HOOKS) as captured, torch.no_grad():
        model(x)
        assert list(captured) == list(right)
        for name, values in right.items():
            torch.testing.assert_close(captured[name], values, rtol=0, atol=1e-6)
    assert torch._dynamo.eval_frame._stance.stance == "default"


@pytest.mark.slow
@WAYS
def test_controls_and_weights(wrap: Callable[..., Any]) -> None:
    model, plain = compiled(Network(1), wrap, "eager", False), Network(1)
    fresh, right = (uf.control(x, 3, batches=inputs(), hooks=HOOKS) for x in (model, plain))
    assert not isinstance(fresh, torch._dynamo.eval_frame.OptimizedModule)
    with torch.no_grad():
        torch.testing.assert_close(fresh(inputs()[0]), right(inputs()[0]))
    found, table = (uf.weights(x, HOOKS) for x in (model, plain))
    assert found.layer == table.layer
    torch.testing.assert_close(found.input_norm, table.input_norm)


def test_nothing_is_compiled_within_and_all_is_put_back() -> None:
    def stance() -> tuple[str, bool]:
        return torch._dynamo.eval_frame._stance.stance, torch.backends.mha.get_fastpath_enabled()

    before = stance()
    assert before == ("default", True)
    first, second = ExitStack(), ExitStack()  # as of two threads: the first ends first
    first.enter_context(eagerly())
    second.enter_context(eagerly())
    assert stance() == ("force_eager", False)
    first.close()
    assert stance() == ("force_eager", False)
    second.close()
    assert stance() == before
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with pytest.raises(KeyboardInterrupt), eagerly():
            raise KeyboardInterrupt
        assert stance() == ("default", False)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def test_names_are_those_of_the_network_itself() -> None:
    model = Network()
    names = [name for name, _ in model.named_modules() if name]
    wrapped = torch.compile(in_parts(Network(), backend="eager"), backend="eager")
    with uf.capture(wrapped, "*") as captured:
        assert [*captured.layers] == [name for name in names if name != "layers"]
    with (
        pytest.raises(uf.InputError, match="no module matches '_orig_mod"),
        uf.capture(wrapped, "_orig_mod.layers.0"),
    ):
        pass
    assert not isinstance(wrapped, nn.Sequential)
