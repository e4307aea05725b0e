"""Where the input of an activation function can be shifted: found by probing, and by watching."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from univfast.controls.shifts import INPUT
from univfast.errors import InputError
from univfast.feeding import evaluating, run_batch
from univfast.hooks import capture
from univfast.machine.torch_state import PlainState
from univfast.networks.wrapping import submodule

__all__ = ["RateSite", "find_sites", "is_activation", "replacing", "watching"]

# Torch's own functions of one argument that are called without a module.
_FUNCTIONS = ("relu", "relu_", "gelu", "gelu_", "silu", "silu_")

Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class RateSite:
    """A layer whose rates can be matched.

    Attributes:
        layer: as hooks name it.
        place: where the shift goes.
        function: what the shifted values go into.
    """

    layer: str
    place: str
    function: Activation


def find_sites(
    network: nn.Module,
    hooks: str | Sequence[str],
    batch: object,
    name: str = "control",
    axis: int | None = None,
) -> list[RateSite]:
    """The layers of a network as sites, in the order in which they are run.

    A layer is one where its module, of whichever class, is a function of single values with the
    sign of ReLU, GELU and SiLU, and near 0 below it; or where its module's output goes into such a
    module, or into torch's function of that name: it is then the pre-activation.

    Args:
        network: which is probed, and run once.
        hooks: glob patterns of layers, as `univfast.hooks.capture` takes them.
        batch: what it takes.
        name: what to call it in errors.
        axis: of neurons, as `univfast.hooks.capture` takes it; shifts are for the last one alone.

    Raises:
        InputError: a layer that is none, named with its module's class; hooks that do not fit.
    """
    with (
        torch.no_grad(),
        evaluating(network=network),
        capture(network, hooks, axis=axis) as captured,
    ):
        layers = captured.layers
        outputs = [layer for layer in layers if not layer.endswith(INPUT)]
        modules = {layer: submodule(network, layer.removesuffix(INPUT)) for layer in layers}
        order: list[nn.Module] = []
        with ExitStack() as stack:
            for module in modules.values():
                stack.enter_context(module.register_forward_pre_hook(lambda m, _: order.append(m)))
            consumers = stack.enter_context(_watching_consumers(network, outputs))
            run_batch(captured, network, batch, name)
        for layer in captured.moved:
            raise InputError(
                f"hooks: rates cannot be matched at layer {layer!r}, whose neurons are not on its"
                " last axis; make plain controls (match_rate=False)"
            )
    found: list[RateSite] = []
    for layer, module in modules.items():
        if is_activation(module):
            site = RateSite(layer, layer.removesuffix(INPUT) + INPUT, module.forward)
        elif layer in consumers:
            site = RateSite(layer, layer, consumers[layer])
        else:
            raise InputError(
                f"hooks: rates cannot be matched at layer {layer!r} ({type(module).__name__}), no"
                " module like ReLU, GELU or SiLU, nor one whose output goes into such; hook those,"
                " or make plain controls (match_rate=False)"
            )
        if all(site.place != other.place for other in found):  # a module's input and output
            found.append(site)
    return sorted(found, key=lambda site: order.index(modules[site.layer]))


@contextmanager
def watching(model: nn.Module, place: str, take: Callable[[Tensor], None]) -> Iterator[None]:
    """Calls ``take`` with the values at a place, as they are made."""
    with replacing(model, place, take):
        yield


@contextmanager
def replacing(
    model: nn.Module, place: str, give: Callable[[Tensor], Tensor | None]
) -> Iterator[None]:
    """Has the values at a place replaced by what ``give`` makes of them, if anything."""

    def of_input(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        made = give(args[0])
        return None if made is None else (made, *args[1:])

    module = submodule(model, place.removesuffix(INPUT))
    if place.endswith(INPUT):
        handle = module.register_forward_pre_hook(of_input)
    else:
        handle = module.register_forward_hook(lambda module, args, output: give(output))
    with handle:
        yield


def is_activation(module: nn.Module) -> bool:
    """Whether a module maps single values as ReLU, GELU and SiLU do: 0 to 0, with their sign."""
    if next(module.children(), None) is not None or [*module.parameters(), *module.buffers()]:
        return False
    x = torch.tensor([[-10.0, -2.0, -0.5, 0.0, 0.5, 2.0, 5.0]], dtype=torch.float32, device="cpu")
    try:
        with PlainState():
            # Not by calling the module, which would call its hooks.
            y, alone = module.forward(x.clone()), module.forward(x[:, -1:].clone())
    except Exception:  # of a module that is something else
        return False
    if not isinstance(y, Tensor) or y.shape != x.shape or not bool(y.isfinite().all()):
        return False
    below, above = y[x <= 0], y[x > 0]
    kept_away = bool((below <= 0).all()) and bool((above > 0).all())
    # Below 0 it is near 0, unlike tanh and nothing at all; above, it grows.
    bounds = float(below[0]) >= -0.5 and float(y[0, -1]) >= 2.5
    return kept_away and bounds and torch.allclose(y[:, -1:], alone)


@contextmanager
def _watching_consumers(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Activation]]:
    """Has a dict filled with the functions that outputs of modules go into, by the modules' names.

    Of activation functions alone: modules, and torch's own.
    """
    # Held until the end, so that no two have one address.
    outputs: dict[int, tuple[str, Tensor]] = {}
    found: dict[str, Activation] = {}

    def gave(name: str, module: nn.Module, args: object, output: object) -> None:
        if isinstance(output, Tensor):
            outputs[output.data_ptr()] = name, output

    def took(function: Activation, value: object) -> None:
        if isinstance(value, Tensor) and value.data_ptr() in outputs:
            name, output = outputs[value.data_ptr()]
            if value.shape == output.shape:
                found.setdefault(name, function)

    def called(module: nn.Module, args: tuple[Any, ...]) -> None:
        took(module.forward, args[0] if args else None)

    class Watch(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if args and getattr(func, "__name__", "") in _FUNCTIONS:
                took(partial(func, **(kwargs or {})), args[0])
            return func(*args, **(kwargs or {}))

    with ExitStack() as stack:
        for name in names:
            gives = partial(gave, name)
            stack.enter_context(submodule(model, name).register_forward_hook(gives))
        for module in model.modules():
            if is_activation(module):
                stack.enter_context(module.register_forward_pre_hook(called))
        stack.enter_context(Watch())
        yield found
