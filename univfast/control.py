"""`control`: a network of the same architecture that learned nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from univfast.controls import find_sites, initialise, match_rates
from univfast.errors import InputError
from univfast.feeding import has_tokens, with_masks
from univfast.networks.calls import given_to
from univfast.networks.wrapping import network_of, unwrapped
from univfast.option import as_axis
from univfast.stacks import tokens_of

if TYPE_CHECKING:
    from univfast.experiment import TrainedModel

__all__ = ["control"]

M = TypeVar("M", "nn.Module", "TrainedModel")


def control(
    model: M,
    seed: int = 0,
    *,
    match_rate: bool = True,
    batches: Iterable[Any] | None = None,
    hooks: str | Sequence[str] | None = None,
    inputs: Callable[[Any], Any] | None = None,
    mask: Callable[[Any], object] | Iterable[object] | None = None,
    axis: int | None = None,
) -> M:
    """A control of a model: of its architecture, with random weights, so that it learned nothing.

    What two trained networks share beyond what each shares with the other's controls, they learned.
    Untrained neurons mostly fire far more often than trained ones, which alone makes them look less
    alike; so each is shifted, before its activation function, to be active as often as the trained
    neuron of its number.

    A model of Hugging Face transformers is made anew from its configuration. Any other is copied,
    and each module with ``reset_parameters`` draws its parameters anew. The weights follow from the
    seed and the model's own weights together, and are the same on every device; the model, and the
    state of torch's random numbers, are left as they are.

    ``uf.control(model, 1, batches=batches, hooks="transformer.h.*.mlp.act")``

    Args:
        model: trained: any `torch.nn.Module`; or a `TrainedModel` of `univfast.experiment`, which
            has a text of its own and needs no batches.
        seed: of the weights, from 0: of several controls, 0, 1, 2, ...
        match_rate: whether to shift the neurons. On a pilot of at most 16,384 tokens the share
            above 0, of what goes into the activation function, then equals the trained neuron's;
            one that is dead there stays dead. The shifts stay on the control, as hooks.
        batches: the pilot, as `correlate_models` takes batches; those after it are not read, but an
            iterator has then given some.
        hooks: the layers, as `capture` takes them: modules that do as ReLU, GELU or SiLU do to each
            value, or whose output goes into such a module, or into torch's function of that name.
        inputs: of each of ``batches`` gives the batch, as `correlate_models` takes it.
        mask: of the batches, as `correlate_models` takes it.
        axis: of neurons, as `capture` takes it; rates are matched on the last one alone.

    Returns:
        The control, on the model's devices, in its dtypes, its modules in the modes of the model's.

    Raises:
        InputError: no batches or hooks to match rates by, or some without matching; a layer whose
            rates cannot be matched; a parameter that nothing draws anew; a model that is a
            rate-matched control itself. Named.
        TypeError: an argument of another type.
    """
    model = unwrapped(model)
    given = {"batches": batches, "hooks": hooks, "inputs": inputs, "mask": mask, "axis": axis}
    named = [name for name, value in given.items() if value is not None]
    if not isinstance(model, nn.Module):
        from univfast.experiment import TrainedModel, control_of

        if not isinstance(model, TrainedModel):
            kind = type(model).__name__
            raise TypeError(f"model: expected a torch.nn.Module or a TrainedModel, got {kind}")
        if named:
            raise InputError(f"{named[0]}: a TrainedModel has its own test set; leave it out")
        return control_of(model, seed, match_rate)
    if not match_rate:
        if named:
            raise InputError(
                f"{named[0]}: is what rates are matched by; leave it out, or match_rate=False"
            )
        return initialise(model, seed)
    if batches is None or hooks is None:
        raise InputError(
            "match_rate: needs batches and hooks, on which neurons are made as active as the"
            " model's; give both, or match_rate=False for a plain control"
        )
    network_of(model)
    pairs = (
        pair for pair in with_masks(given_to(batches, inputs), mask, [model]) if has_tokens(pair[0])
    )
    fresh = initialise(model, seed)
    first = next(pairs, None)
    if first is None:
        raise InputError(
            "batches: there are none with tokens; give at least one (an iterator can be used only"
            " once)"
        )
    sites = find_sites(fresh, hooks, first[0], axis=as_axis("axis", axis))
    if mask is None:
        layers = dict.fromkeys(site.layer for site in sites)
        tokens = tokens_of(first[0], [(model, layers)])
        chained = ((x, tokens_of(x, [(model, layers)]).mask) for x, _ in chain([first], pairs))
        match_rates(model, fresh, sites, chained, tokens.name)
        return fresh
    match_rates(model, fresh, sites, chain([first], pairs), "mask")
    return fresh
