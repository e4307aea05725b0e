"""Activations of live models: what the chosen modules of one forward pass gave or were given."""

from __future__ import annotations

import fnmatch
import re
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from univfast.channels import ChannelPass, neurons_last, says_axis, tells_axis
from univfast.errors import InputError
from univfast.inputs.plain import plain_tensor
from univfast.machine.torch_state import PlainState, not_compiled
from univfast.networks.eagerly import eagerly
from univfast.networks.wrapping import in_parts, is_part, named_modules, runs_whole, unwrapped
from univfast.option import as_axis

__all__ = ["Captured", "Site", "capture", "sites_of"]

_INPUT = ":input"
_SHOWN = 6  # module names in an error


class _Enough(Exception):  # noqa: N818 - it is no error
    """Ends a forward pass in which every layer has been captured."""


@dataclass(frozen=True)
class Site:
    """Where activations are taken: a module's output, or its first input.

    Attributes:
        layer: the module's name, with ``:input`` at its end for what it is called with.
        module: that gives them, or takes them.
        is_input: whether it takes them.
    """

    layer: str
    module: nn.Module
    is_input: bool


class Captured(Mapping[str, Tensor]):
    """The activations ``[..., neurons]`` of the latest forward pass, by layer name.

    Holds only the layers that a pass has reached; each pass of the whole model forgets the one
    before. `capture` makes it.
    """

    def __init__(self, model: nn.Module, sites: Sequence[Site], axis: int | None = None) -> None:
        self._model, self._sites, self._axis = model, sites, axis
        self._channels = ChannelPass()
        self.moved: set[str] = set()
        """Layers whose neurons the model has on another axis than the last."""
        # Each with its version at the hook; None for a copy, which nothing else can change.
        self._kept: dict[str, tuple[Tensor, int | None]] = {}
        self._seen: set[str] = set()  # in this pass of the whole model
        self._in_pass = False
        self._ran_whole = False
        self._never_ends_early, self._in_parts = runs_whole(model), in_parts(model)
        # Threads: that whose pass is under way, and that which `run` was called in.
        self._passing: dict[str, int] = {}
        self._runner: int | None = None

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where the hooks match, in the order of the model's modules."""
        return tuple(self._sites)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of all layers that the hooks match, in the order of the model's modules."""
        return tuple(site.layer for site in self._sites)

    def __getitem__(self, layer: str) -> Tensor:
        """The activations of a layer: the model's own memory, not to be written to.

        Raises:
            KeyError: no such layer, or no forward pass has reached it.
            InputError: the model has modified them in place since.
        """
        tensor, version = self._kept[layer]
        if version is not None and tensor._version != version:
            raise InputError(
                f"hooks: layer {layer!r} was modified in place after it was captured, as"
                " nn.ReLU(inplace=True) does; hook the module that does it, or make it a copy"
            )
        return tensor

    def __iter__(self) -> Iterator[str]:
        return (layer for layer in self.layers if layer in self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def pop(self, layer: str) -> Tensor:
        """The activations of a layer, no longer kept here. Raises what ``[layer]`` does."""
        tensor = self[layer]
        del self._kept[layer]
        return tensor

    def run(self, *args: Any, **kwargs: Any) -> None:
        """Runs the model, without gradients, until every layer is captured.

        The first run is complete, so that a module that is called twice is found. Later ones end
        with the last layer: the logits of a language model take more memory than all before. So a
        module that is called again after it, in a later run only, is not found. Where several
        captures have hooks in the same modules, a run is heard by its own alone.

        Raises:
            InputError: a layer that the forward pass did not reach, or one that is called twice.
        """
        running = _running.set(self)
        self._runner = threading.get_ident()
        try:
            with torch.no_grad():
                self._model(*args, **kwargs)
        except _Enough:
            pass
        finally:
            _running.reset(running)
        for layer in self.layers:
            if layer not in self._kept:
                raise InputError(
                    f"hooks: the forward pass did not reach layer {layer!r}; hook modules that the"
                    " model calls, and not functions that it calls with their weights"
                )
        self._ran_whole = True

    def end_early(self) -> None:
        """Has the first run end with the last layer too: no module is known to be called twice."""
        self._ran_whole = True

    def _attach(self, stack: ExitStack) -> None:
        """Adds the hooks, which the stack removes."""
        stack.callback(self._kept.clear)
        model = self._model
        stack.enter_context(model.register_forward_pre_hook(self._begin))
        stack.enter_context(model.register_forward_hook(self._end, always_call=True))
        self._watch_channels(stack)
        for site in self._sites:
            if site.is_input:
                handle = site.module.register_forward_pre_hook(partial(self._take_input, site))
            else:
                handle = site.module.register_forward_hook(partial(self._take_output, site))
            stack.enter_context(handle)

    def _watch_channels(self, stack: ExitStack) -> None:
        """Has all modules say which axis their channels are on, where some are not on the last."""
        modules = list(self._model.modules())
        if self._axis is None and any(tells_axis(module) for module in modules):
            for module in filter(says_axis, modules):
                stack.enter_context(module.register_forward_pre_hook(self._see_input))
                stack.enter_context(module.register_forward_hook(self._see_output))

    @not_compiled
    def _see_input(self, module: nn.Module, args: tuple[object, ...]) -> None:
        if args and isinstance(args[0], Tensor) and self._listens():
            self._channels.saw(module, args[0], is_input=True)

    @not_compiled
    def _see_output(self, module: nn.Module, args: object, output: object) -> None:
        if isinstance(output, Tensor) and self._listens():
            self._channels.saw(module, output, is_input=False)

    def _begin(self, model: nn.Module, args: object) -> None:
        if self._listens():
            own = threading.get_ident()
            if self._passing.setdefault("thread", own) != own:
                raise InputError(
                    "hooks: the model runs in two threads at once, whose activations cannot be told"
                    " apart; run it in one, or give each thread a model of its own"
                )
            self._kept.clear()
            self._seen.clear()
            self._channels = ChannelPass()
            self._in_pass = True

    def _end(self, model: nn.Module, args: object, output: object) -> None:
        if self._listens() and self._passing.get("thread") == threading.get_ident():
            self._in_pass = False
            del self._passing["thread"]

    def _listens(self) -> bool:
        running = _running.get()
        if running is None:  # of the thread that runs it, or of any where none does
            return self._runner in (None, threading.get_ident())
        return running is self

    @not_compiled
    def _take_input(self, site: Site, module: nn.Module, args: tuple[object, ...]) -> None:
        self._take(site, args, f"called with no tensor by position but {_described(args)}")

    @not_compiled
    def _take_output(self, site: Site, module: nn.Module, args: object, output: object) -> None:
        self._take(site, output, f"gave no tensor but {_described(output)}")

    def _take(self, site: Site, value: object, wrong: str) -> None:
        if not self._listens():
            return
        if self._in_pass and site.layer in self._seen:
            raise InputError(
                f"hooks: layer {site.layer!r} was called twice in one forward pass, so its"
                " activations cannot be told apart; hook the :input of the modules after it, or"
                " give each block a module of its own"
            )
        self._seen.add(site.layer)
        tensor = _first_tensor(value)
        if tensor is None:
            raise InputError(f"hooks: layer {site.layer!r} {wrong}; hook another module")
        if self._in_parts and is_part(tensor):
            raise InputError(
                f"hooks: layer {site.layer!r} gave each process of a tensor-parallel model a tensor"
                " of its own, which may be a part of its neurons; run the model whole, or have its"
                " plan give distributed tensors there (use_local_output=False)"
            )
        kept = plain_tensor(tensor, f"hooks: layer {site.layer!r}")
        plain, axis = kept, self._axis
        kept = neurons_last(site.layer, site.module, site.is_input, plain, axis, self._channels)
        if kept is not plain:
            self.moved.add(site.layer)
        # Tensors of inference mode have no version that would tell of a change.
        copied = kept.is_inference()
        if copied:
            with PlainState():
                kept = kept.clone()
        self._kept[site.layer] = kept, None if copied else kept._version
        ends_early = self._ran_whole and not self._never_ends_early
        if ends_early and _running.get() is self and len(self._kept) == len(self._sites):
            raise _Enough


# The capture whose `run` this thread is in.
_running: ContextVar[Captured | None] = ContextVar("univfast_running", default=None)


@contextmanager
def capture(
    model: nn.Module, hooks: str | Sequence[str], *, axis: int | None = None
) -> Iterator[Captured]:
    """Captures activations of a model in every forward pass within the block.

    ``with uf.capture(model, "transformer.h.*.mlp.act") as captured: model(ids)``, and
    ``captured["transformer.h.0.mlp.act"]`` is ``[..., neurons]``. The model is called as usual, as
    a whole or in part. Call the model, not its ``.forward``: that passes its own hooks by, so that
    the pass before is not forgotten, and a module that is called twice not found. Afterwards its
    hooks are removed and the activations forgotten, also where the block raises.

    Args:
        model: any module: plain, of Hugging Face transformers, a TransformerLens model. One that
            was compiled, or is in a wrapper of data parallel, is hooked as if it were not, by its
            own names, and runs uncompiled within the block (``docs/live-modules.md``).
        hooks: glob patterns (``*``, which crosses dots, ``?``, ``[...]``; case matters) of names in
            ``model.named_modules()``; those without a forward, such as ``nn.ModuleList``, match
            only their full name, as nothing calls them. A layer is a module's output, the first
            tensor of it where it is a tuple, a list or a mapping; with ``:input`` at the end of the
            pattern, and of the layer's name, it is the first tensor that the module is called with
            by position.
        axis: the one that neurons are on, in layers whose module's class does not say: 1 for
            channels first, -1 for the last. None for the last one, where nothing speaks against
            it: four axes or more, and what comes after a convolution, are refused without. Classes
            of torch whose channels are on another axis say so: convolutions and their norms.

    Yields:
        The activations of the latest forward pass, with neurons on the last axis, detached and not
        copied (but for those of inference mode, which are).

    Raises:
        InputError: a model that was scripted, traced or exported; a pattern that matches nothing; a
            module that stands under several names or is called twice in a forward pass, or in two
            threads at once, whose activations could not be told apart; a module that gives no
            tensor, or one that is no plain memory (sparse, nested, masked, quantized, of a
            transform of ``torch.func``). A distributed one is made whole, which all processes do.
        TypeError: ``model``, ``hooks`` or ``axis`` of another type.
    """
    found = unwrapped(model)
    captured = Captured(found, sites_of(found, hooks), as_axis("axis", axis))
    with ExitStack() as stack:
        stack.enter_context(eagerly())
        captured._attach(stack)
        yield captured


def sites_of(model: nn.Module, hooks: str | Sequence[str]) -> list[Site]:
    """Where hooks of a model are, as `capture` takes them, in the order of its modules.

    Raises:
        InputError: a pattern that matches nothing, or a module that stands under several names.
        TypeError: ``model`` or ``hooks`` of another type.
    """
    found = unwrapped(model)
    if not isinstance(found, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(found).__name__}")
    return _sites(found, _patterns(hooks))


def _patterns(hooks: str | Sequence[str]) -> list[str]:
    patterns = [hooks] if isinstance(hooks, str) else list(hooks)
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"hooks: expected glob patterns, got {type(pattern).__name__}")
    if not patterns:
        raise InputError("hooks: got no patterns; give at least one")
    return patterns


def _sites(model: nn.Module, patterns: Sequence[str]) -> list[Site]:
    """Where the patterns match, in the order of modules; a module's input before its output."""
    modules = named_modules(model)
    globs = {
        pattern: (pattern.removesuffix(_INPUT), pattern.endswith(_INPUT)) for pattern in patterns
    }
    for pattern, (glob, _) in globs.items():
        if not any(_matches(name, module, glob) for name, module in modules.items()):
            raise InputError(f"hooks: no module matches {pattern!r}; {_nearest(glob, [*modules])}")
    sites = [
        Site(name + _INPUT if is_input else name, module, is_input)
        for name, module in modules.items()
        for is_input in (True, False)
        if any(_matches(name, module, g) for g, kind in globs.values() if kind is is_input)
    ]
    _check_own_modules(modules, sites)
    for site in sites:
        if isinstance(site.module, torch.jit.ScriptModule):
            raise InputError(
                f"hooks: layer {site.layer!r} is a scripted or traced module, which takes no hooks;"
                " put the nn.Module that it was made of in its place"
            )
    return sites


def _matches(name: str, module: nn.Module, glob: str) -> bool:
    # Containers have torch's own forward, which only raises: a wildcard does not mean them.
    forward = getattr(module, "forward", None)  # scripted modules may have none
    called = getattr(forward, "__func__", None) is not nn.Module.forward
    return name == glob or (called and fnmatch.fnmatchcase(name, glob))


def _check_own_modules(modules: Mapping[str, nn.Module], sites: Sequence[Site]) -> None:
    names = defaultdict(list)
    for name, module in modules.items():
        names[id(module)].append(name)
    for site in sites:
        first, *others = names[id(site.module)]
        if others:
            raise InputError(
                f"hooks: {first!r} and {others[0]!r} are one module, so its activations cannot be"
                " told apart; hook the :input of the modules after it, or give each block a module"
                " of its own"
            )


def _nearest(glob: str, names: list[str]) -> str:
    """The names that have most words of the pattern."""
    if not names:
        return "the model has no modules within"
    words = set(re.findall(r"\w+", glob))
    ranked = sorted(names, key=lambda name: -sum(word in name for word in words))
    shown = ", ".join(repr(name) for name in ranked[:_SHOWN])
    return f"there are {shown}" + (f" and {len(names) - _SHOWN} more" if ranked[_SHOWN:] else "")


def _first_tensor(value: object) -> Tensor | None:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return next((x for x in value if isinstance(x, Tensor)), None)
    return None


def _described(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of ({', '.join(type(x).__name__ for x in value)})"
    return f"a {type(value).__name__}"
