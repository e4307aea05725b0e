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

__all__ = ["RateSite", "find_sites", "watching"]

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
    model: nn.Module, layers: Sequence[str], run: Callable[[], None]
) -> dict[str, RateSite]:
    """The sites of layers, by place.

    A layer is one where its module, of whichever class, is a function of single values with the
    sign of ReLU, GELU and SiLU, and near 0 below it; or where its module's output goes into such a
    module, or into torch's function of that name: it is then the pre-activation.

    Args:
        model: a network that may be probed.
        layers: as hooks name them.
        run: runs the network once.

    Raises:
        InputError: a layer that is none; names it and its module's class.
    """
    consumers = _consumers(model, [layer for layer in layers if not layer.endswith(INPUT)], run)
    found = {}
    for layer in layers:
        name = layer.removesuffix(INPUT)
        module = model.get_submodule(name)
        if _is_activation(module):
            site = RateSite(layer, name + INPUT, module.forward)
        elif layer in consumers:
            site = RateSite(layer, layer, consumers[layer])
        else:
            raise InputError(
                f"hooks: rates cannot be matched at layer {layer!r} ({type(module).__name__}), no"
                " module like ReLU, GELU or SiLU, nor one whose output goes into such; hook those,"
                " or make plain controls (match_rate=False, --no-match-rate)"
            )
        found[site.place] = site
    return found


@contextmanager
def watching(model: nn.Module, place: str, take: Callable[[Tensor], None]) -> Iterator[None]:
    """Calls ``take`` with the values at a place, as they are made."""
    module = model.get_submodule(place.removesuffix(INPUT))
    if place.endswith(INPUT):
        handle = module.register_forward_pre_hook(lambda module, args: take(args[0]))
    else:
        handle = module.register_forward_hook(lambda module, args, output: take(output))
    with handle:
        yield


def _is_activation(module: nn.Module) -> bool:
    """Whether a module maps single values as ReLU, GELU and SiLU do: 0 to 0, with their sign."""
    if next(module.children(), None) is not None or [*module.parameters(), *module.buffers()]:
        return False
    x = torch.tensor([[-10.0, -2.0, -0.5, 0.0, 0.5, 2.0, 5.0]])
    try:
        with torch.no_grad():
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


def _consumers(
    model: nn.Module, names: Sequence[str], run: Callable[[], None]
) -> dict[str, Activation]:
    """Modules' outputs that go into an activation function, by name, with the function."""
    # Held until the end, so that no two have one address.
    outputs: dict[int, tuple[str, Tensor]] = {}
    found: dict[str, Activation] = {}

    def gave(name: str, output: object) -> None:
        if isinstance(output, Tensor):
            outputs[output.data_ptr()] = name, output

    def took(function: Activation, value: object) -> None:
        if isinstance(value, Tensor) and value.data_ptr() in outputs:
            name, output = outputs[value.data_ptr()]
            if value.shape == output.shape:
                found.setdefault(name, function)

    class Watch(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if args and getattr(func, "__name__", "") in _FUNCTIONS:
                took(partial(func, **(kwargs or {})), args[0])
            return func(*args, **(kwargs or {}))

    with ExitStack() as stack:
        for name in names:
            stack.enter_context(
                model.get_submodule(name).register_forward_hook(
                    lambda module, args, output, name=name: gave(name, output)
                )
            )
        for module in model.modules():
            if _is_activation(module):
                stack.enter_context(
                    module.register_forward_pre_hook(
                        lambda module, args: took(module.forward, args[0] if args else None)
                    )
                )
        stack.enter_context(Watch())
        run()
    return found
