"""Neurons of a live model that are set to numbers while it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from univfast.errors import InputError
from univfast.hooks import Site
from univfast.machine.torch_state import PlainState, not_compiled
from univfast.networks.eagerly import eagerly

__all__ = ["Replaced", "Replacing", "replacing"]

Replaced = Mapping[str, tuple[Tensor, Tensor]]
"""By layer, numbers of neurons, int64 ``[n]``, and what each is set to, ``[n]``."""


class Replacing:
    """What neurons of a model are set to, in every forward pass; at first none is."""

    def __init__(self) -> None:
        self._replaced: Replaced = {}

    @contextmanager
    def of(self, replaced: Replaced) -> Iterator[None]:
        """A block in which these neurons, and no others, are set to these values.

        On every token of every pass, in the dtype of the layer; the model's own memory is not
        written to.
        """
        self._replaced = replaced
        try:
            yield
        finally:
            self._replaced = {}

    @not_compiled
    def _input(
        self, site: Site, module: nn.Module, args: tuple[object, ...]
    ) -> tuple[object, ...] | None:
        if site.layer not in self._replaced:
            return None
        place = next((i for i, x in enumerate(args) if isinstance(x, Tensor)), 0)
        return *args[:place], self._with(site, args[place]), *args[place + 1 :]

    @not_compiled
    def _output(self, site: Site, module: nn.Module, args: object, output: object) -> Tensor | None:
        return self._with(site, output) if site.layer in self._replaced else None

    def _with(self, site: Site, value: object) -> Tensor:
        """What goes on in place of a layer's activations."""
        if not isinstance(value, Tensor):
            raise InputError(
                f"hooks: layer {site.layer!r} gives a {type(value).__name__}, in which no neuron"
                " can be set; hook a module that gives one tensor"
            )
        neurons, values = self._replaced[site.layer]
        with PlainState():
            changed = value.detach().clone()
            changed[..., neurons.to(value.device)] = values.to(value.device, value.dtype)
        return changed


@contextmanager
def replacing(model: nn.Module, sites: Sequence[Site]) -> Iterator[Replacing]:
    """Hooks of a model at these sites, for as long as the block lasts.

    Raises within a forward pass:
        InputError: a module gives, or is given, no tensor.
    """
    found = Replacing()
    with ExitStack() as stack:
        stack.enter_context(eagerly())
        for site in sites:
            if site.is_input:
                handle = site.module.register_forward_pre_hook(partial(found._input, site))
            else:
                handle = site.module.register_forward_hook(partial(found._output, site))
            stack.enter_context(handle)
        stack.enter_context(torch.no_grad())
        yield found
