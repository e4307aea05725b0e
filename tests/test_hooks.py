"""`uf.capture`: which activations are found, and that nothing of it stays."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import univfast as uf
from univfast.errors import InputError


class Block(nn.Module):
    def __init__(self, act: nn.Module | None = None) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(4, 6), act or nn.GELU(), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.act(self.up(x)))


class Model(nn.Module):
    """Blocks, then a head whose calls are counted."""

    def __init__(self, *acts: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(act) for act in acts or (None, None))
        self.head = nn.Linear(4, 9)
        self.finished = 0

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        self.finished += 1
        return self.head(x)


class Gives(nn.Module):
    """A module that gives what it is told to, in a model that calls it."""

    def __init__(self, value: object) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> object:
        return self.value


def around(module: nn.Module) -> nn.Module:
    model = nn.Module()
    model.inner = module
    model.forward = lambda *args, **kwargs: model.inner(*args, **kwargs)  # type: ignore[method-assign]
    return model


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_outputs_and_inputs_are_what_the_modules_gave_and_got() -> None:
    model, x = Model(), torch.randn(2, 3, 4)
    with uf.capture(model, ["blocks.*.act", "blocks.1.down:input", "blocks.*.act"]) as captured:
        assert captured.layers == ("blocks.0.act", "blocks.1.act", "blocks.1.down:input")
        assert len(captured) == 0
        assert list(captured) == []
        out = model(x)
        assert list(captured) == list(captured.layers)
        first = model.blocks[0].act(model.blocks[0].up(x))
        between = x + model.blocks[0].down(first)
        second = model.blocks[1].act(model.blocks[1].up(between))
        torch.testing.assert_close(captured["blocks.0.act"], first.detach(), rtol=0, atol=0)
        for name in ("blocks.1.act", "blocks.1.down:input"):
            torch.testing.assert_close(captured[name], second.detach(), rtol=0, atol=0)
        assert not captured["blocks.0.act"].requires_grad
        out.sum().backward()  # the captured tensors do not disturb autograd
    assert model.blocks[0].up.weight.grad is not None


def test_a_star_crosses_dots_and_is_no_name_of_the_model() -> None:
    with uf.capture(Model(), "*.act") as captured:
        assert captured.layers == ("blocks.0.act", "blocks.1.act")
    with uf.capture(Model(), "*") as captured:
        assert "" not in captured.layers
        assert "head" in captured.layers


def test_a_star_passes_over_modules_that_nothing_calls() -> None:
    model = Model()
    model.more = nn.ModuleDict({"a": nn.ParameterList([torch.zeros(2)]), "b": nn.Module()})
    with uf.capture(model, "*") as captured:
        captured.run(torch.randn(2, 4))
        assert captured.layers[0] == "blocks.0"
        assert len(captured) == 9  # two blocks of four, and the head
    with pytest.raises(InputError, match=r"no module matches 'mor\*'"):
        uf.capture(model, "mor*").__enter__()
    with (
        uf.capture(model, "blocks") as captured,
        pytest.raises(InputError, match="did not reach layer 'blocks'; hook modules that"),
    ):
        captured.run(torch.randn(2, 4))


def test_nothing_is_copied() -> None:
    tensor = torch.randn(3, 4)
    model = around(Gives(tensor))
    with uf.capture(model, "inner") as captured:
        model(tensor)
        assert captured["inner"].data_ptr() == tensor.data_ptr()


def test_each_pass_forgets_the_one_before() -> None:
    model = Model()
    with uf.capture(model, "blocks.*.act") as captured:
        model(torch.randn(2, 4))
        before = weakref.ref(captured["blocks.0.act"])
        handle = model.blocks[0].register_forward_pre_hook(lambda *_: found.append(before()))
        found: list[Tensor | None] = []
        model(torch.randn(5, 4))
        handle.remove()
        assert found == [None]
        assert captured["blocks.1.act"].shape == (5, 6)


def test_a_part_of_the_model_may_be_called_alone_and_again() -> None:
    model = Model()
    with uf.capture(model, "blocks.*.act") as captured:
        model.blocks[1](torch.randn(2, 4))
        assert list(captured) == ["blocks.1.act"]
        model.blocks[1](torch.randn(7, 4))
        assert captured["blocks.1.act"].shape == (7, 6)
        with pytest.raises(KeyError):
            captured["blocks.0.act"]


def test_pop_gives_the_memory_back() -> None:
    model = Model()
    with uf.capture(model, "blocks.*.act") as captured:
        model(torch.randn(2, 4))
        alive = weakref.ref(captured.pop("blocks.0.act"))
        assert alive() is None
        assert list(captured) == ["blocks.1.act"]


@pytest.mark.parametrize("raises", [False, True])
def test_hooks_and_activations_are_gone_afterwards(raises: bool) -> None:
    model = Model()
    alive = []
    try:
        with uf.capture(model, ["blocks.*.act", "*.down:input"]) as captured:
            model(torch.randn(2, 4))
            alive = [weakref.ref(x.untyped_storage()) for x in captured.values()]
            assert hooks_of(model) == 6
            if raises:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert hooks_of(model) == 0
    assert len(captured) == 0
    gc.collect()
    assert len(alive) == 4
    assert [x() for x in alive] == [None] * 4


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: (x, torch.zeros(1)),
        lambda x: [None, x],
        lambda x: {"loss": None, "last_hidden_state": x, "other": torch.zeros(1)},
    ],
)
def test_the_first_tensor_of_several_is_taken(wrap: Any) -> None:
    x = torch.randn(2, 4)
    model = around(Gives(wrap(x)))
    with uf.capture(model, "inner") as captured:
        model(x)
        torch.testing.assert_close(captured["inner"], x)


def test_a_module_without_a_tensor_is_named() -> None:
    model = around(Gives((None, "x")))
    with (
        uf.capture(model, "inner"),
        pytest.raises(InputError, match=r"'inner' gave no tensor but a tuple of \(NoneType, str\)"),
    ):
        model(torch.zeros(1))
    model = around(nn.Linear(4, 4))
    with (
        uf.capture(model, "inner:input"),
        pytest.raises(InputError, match=r"'inner:input' called with no tensor by position but a"),
    ):
        model(input=torch.zeros(1, 4))


def test_a_shared_module_is_refused() -> None:
    act = nn.ReLU()
    model = Model(act, act)
    for pattern in ("*.act", "blocks.0.act", "blocks.0.act:input"):
        with (
            pytest.raises(InputError, match=r"'blocks.0.act' and 'blocks.1.act' are one module"),
            uf.capture(model, pattern),
        ):
            pass
    with uf.capture(model, "*.down:input") as captured:  # what the message advises
        captured.run(torch.randn(2, 4))
        assert len(captured) == 2


def test_a_module_called_twice_is_refused() -> None:
    model = Model()
    model.forward = lambda x: model.blocks[0](model.blocks[0](x))  # type: ignore[method-assign]
    with uf.capture(model, "blocks.0.act") as captured:
        with pytest.raises(InputError, match=r"'blocks.0.act' was called twice in one forward"):
            model(torch.randn(2, 4))
        with pytest.raises(InputError, match="twice"):
            captured.run(torch.randn(2, 4))
        for _ in range(2):  # alone, outside of a pass that failed, it may be called again
            model.blocks[0](torch.randn(2, 4))


@pytest.mark.parametrize("hook", ["blocks.0.up", "blocks.0.act:input"])
def test_a_later_change_in_place_is_found(hook: str) -> None:
    model = Model(nn.ReLU(inplace=True), None)
    with uf.capture(model, [hook, "blocks.0.act"]) as captured:
        with torch.no_grad():
            model(torch.randn(2, 4))
        with pytest.raises(InputError, match=rf"'{hook}' was modified in place"):
            captured[hook]
        with pytest.raises(InputError, match="modified in place"):
            captured.pop(hook)
        assert bool((captured["blocks.0.act"] >= 0).all())


def test_in_inference_mode_a_copy_is_kept() -> None:
    model, x = Model(nn.ReLU(inplace=True), None), torch.randn(2, 4)
    with uf.capture(model, "blocks.0.up") as captured, torch.inference_mode():
        model(x)
        torch.testing.assert_close(captured["blocks.0.up"], model.blocks[0].up(x))
        assert bool((captured["blocks.0.up"] < 0).any())


def test_run_ends_with_the_last_layer_but_for_the_first_time() -> None:
    model = Model()
    with uf.capture(model, "blocks.*.act") as captured:
        captured.run(torch.randn(2, 4))
        assert model.finished == 1
        x = torch.randn(3, 4)
        captured.run(x)
        assert model.finished == 1
        stopped = dict(captured)
        model(x)
        assert model.finished == 2
        for name in captured.layers:
            torch.testing.assert_close(stopped[name], captured[name], rtol=0, atol=0)
        captured.run(x)
        model.blocks[0](x)  # a pass that was ended is over
        model.blocks[0](x)


def test_a_run_that_ends_early_leaves_nothing_to_the_garbage_collector() -> None:
    model = Model()
    with uf.capture(model, "blocks.*.act") as captured:
        gc.disable()
        try:
            for _ in range(3):
                captured.run(torch.randn(2, 4))
                alive = [weakref.ref(captured.pop(name)) for name in captured.layers]
                assert [x() for x in alive] == [None, None]
        finally:
            gc.enable()


def test_run_names_a_layer_that_is_not_reached() -> None:
    with (
        uf.capture(Model(), "blocks") as captured,
        pytest.raises(InputError, match="did not reach layer 'blocks'"),
    ):
        captured.run(torch.randn(2, 4))


def test_a_run_is_heard_by_its_own_capture_alone() -> None:
    model = Model()
    with uf.capture(model, "*.act") as one, uf.capture(model, "*.0.up") as other:
        one.run(torch.randn(2, 4))
        assert len(other) == 0
        other.run(torch.randn(3, 4))
        assert one["blocks.0.act"].shape == (2, 6)
        model(torch.randn(5, 4))
        assert {len(x) for x in (*one.values(), *other.values())} == {5}


def test_two_threads_in_one_model_are_refused() -> None:
    waiting, go = threading.Event(), threading.Event()

    class Waits(nn.GELU):
        def forward(self, x: Tensor) -> Tensor:
            if threading.current_thread() is not threading.main_thread():
                waiting.set()
                go.wait(60)
            return super().forward(x)

    model, x = Model(Waits()), torch.randn(3, 4)
    with uf.capture(model, "blocks.*.act") as captured:
        thread = threading.Thread(target=model, args=(x,))
        thread.start()
        waiting.wait(60)
        with pytest.raises(InputError, match=r"^hooks: the model runs in two threads at once"):
            model(2 * x)
        go.set()
        thread.join()
        assert torch.equal(captured["blocks.0.act"], model.blocks[0].act(model.blocks[0].up(x)))
        model(2 * x)  # one after the other
        captured.run(x)
        kept = captured["blocks.0.act"].clone()
        other = threading.Thread(target=model, args=(3 * x,))  # not the run's
        other.start()
        other.join()
        assert torch.equal(captured["blocks.0.act"], kept)


def test_a_pattern_that_matches_nothing_is_answered_with_names_like_it() -> None:
    message = (
        r"hooks: no module matches 'layers\.\*\.act:input'; there are 'blocks\.0\.act',"
        r" 'blocks\.1\.act', .* and 4 more"
    )
    model = Model()
    with (
        pytest.raises(InputError, match=message),
        uf.capture(model, ["*.up", "layers.*.act:input"]),
    ):
        pass
    assert hooks_of(model) == 0
    with pytest.raises(InputError, match="no modules within"), uf.capture(nn.ReLU(), "*"):
        pass


@pytest.mark.parametrize(
    ("model", "hooks", "error", "message"),
    [
        (Model(), [], InputError, "hooks: got no patterns"),
        (Model(), [3], TypeError, "hooks: expected glob patterns, got int"),
        (len, "*", TypeError, r"model: expected a torch.nn.Module, got builtin"),
    ],
)
def test_arguments(model: Any, hooks: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message), uf.capture(model, hooks):
        pass
