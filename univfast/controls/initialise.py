"""A fresh copy of a model, of random weights."""

from __future__ import annotations

import copy
import hashlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from univfast.checks import as_seed
from univfast.controls.shifts import shifts_of
from univfast.errors import InputError
from univfast.inputs.plain import plain_tensor
from univfast.machine.torch_state import in_plain_state
from univfast.networks.wrapping import as_written, is_stand_in, own_name

__all__ = ["initialise", "weights_digest"]

M = TypeVar("M", bound=nn.Module)

# Of each parameter, that tell a model from others.
_SAMPLES = 16
# What modules of torch call the method that draws their parameters.
_RESETS = ("reset_parameters", "_reset_parameters")
_OWN = "give controls that you made yourself"


@in_plain_state
def initialise(model: M, seed: int, side: str = "") -> M:
    """A model of the same architecture that learned nothing.

    Models of Hugging Face transformers are made anew from their configuration. Others are copied;
    every module that has ``reset_parameters`` then draws its parameters, those within it first, and
    resets what it learned beside them, as running means. Other buffers are taken to be constants.

    The weights follow from ``seed``, ``side`` and the model's own weights together: two models of
    one configuration get different ones. They are drawn on the CPU, so that they are the same
    wherever the model is. Its device, dtypes and modes are the model's, which is not modified.

    Args:
        model: trained.
        seed: of the weights, from 0.
        side: another text, another network, of one model and seed.

    Raises:
        InputError: the model is a control itself; a parameter that no module draws, or a model that
            cannot be made anew or copied; named.
        TypeError: ``model`` is no module, or ``seed`` no integer.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if shifts_of(model):
        raise InputError("model: is a control itself; give the trained model")
    seed = as_seed(seed)
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise InputError(
                f"model: parameter {name!r} of a lazy module has no shape yet; run the model on a"
                " batch first"
            )
    with _drawing(f"control:{seed}:{side}:".encode() + weights_digest(model)):
        fresh: M = _from_configuration(model) if _of_transformers(model) else _reset_copy(model)
    for parameter, like in zip(fresh.parameters(), model.parameters(), strict=True):
        parameter.data = parameter.data.to(like.device, like.dtype)
        parameter.requires_grad_(like.requires_grad)
    pairs = zip(_written(fresh), _written(model), strict=True)
    for own, theirs in pairs:
        own.training = theirs.training
        for name, buffer in theirs._buffers.items():
            if buffer is not None and own._buffers.get(name) is not None:
                own._buffers[name] = own._buffers[name].to(buffer.device)  # type: ignore[union-attr]
    return fresh


@in_plain_state
def weights_digest(model: nn.Module) -> bytes:
    """Tells models by some values of each of their parameters: cheap, where a hash of all is not.

    Not by those of modules that share one, and not by shifts.
    """
    digest = hashlib.sha256()
    for name, value in model.named_parameters():
        digest.update(repr((own_name(name), tuple(value.shape), str(value.dtype))).encode())
        flat = plain_tensor(value, f"model: parameter {name!r}").reshape(-1)
        some = flat[:: max(1, len(flat) // _SAMPLES)][:_SAMPLES]
        digest.update(some.cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.digest()


@contextmanager
def _drawing(purpose: bytes) -> Iterator[None]:
    """Random numbers of the CPU that follow from ``purpose``; afterwards the caller's go on."""
    # torch's generator uses 32 bits of a seed only, so that it is hashed.
    seed = int.from_bytes(hashlib.sha256(purpose).digest()[:4], "little")
    # torch.manual_seed would also reseed the CUDA generators, which fork_rng leaves alone here.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        yield


def _of_transformers(model: nn.Module) -> bool:
    """Whether a model is one of Hugging Face transformers, which is then imported."""
    modelling = sys.modules.get("transformers.modeling_utils")
    return modelling is not None and isinstance(model, modelling.PreTrainedModel)


def _from_configuration(model: M) -> M:
    before = torch.get_default_dtype()
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), before)
    try:
        # As the library loads a model: 4 bytes a weight of a large one would be too many.
        torch.set_default_dtype(dtype)
        with warnings.catch_warnings(), torch.device("cpu"):
            warnings.simplefilter("ignore")
            fresh: M = type(model)(copy.deepcopy(model.config))
    except Exception as error:  # what a constructor of any architecture raises
        raise InputError(
            f"model: {type(model).__name__} cannot be made from its configuration "
            f"({_one_line(error)}); {_OWN}"
        ) from error
    finally:
        torch.set_default_dtype(before)
    own, theirs = _described(fresh), _described(model)
    if own != theirs:
        name = min({key for key, _ in own.items() ^ theirs.items()})
        raise InputError(
            f"model: {name!r} is not as its configuration says, so that it cannot be re-initialised"
            f"; {_OWN}"
        )
    return fresh


def _described(model: nn.Module) -> dict[str, object]:
    """Modules by type, parameters by shape."""
    modules = {own_name(x): type(module).__qualname__ for x, module in model.named_modules()}
    return {**modules, **{own_name(x): tuple(p.shape) for x, p in model.named_parameters()}}


def _reset_copy(model: M) -> M:
    try:
        fresh = copy.deepcopy(model)
    except Exception as error:  # whatever the parts of a module raise
        raise InputError(f"model: cannot be copied ({_one_line(error)}); {_OWN}") from error
    fresh.cpu()
    as_written(fresh)
    for parameter in fresh.parameters():
        parameter.grad = None
        if parameter.is_floating_point():
            parameter.fill_(torch.nan)  # so that what nothing draws is found
    for module in _inner_first(fresh):
        reset = next((getattr(module, x) for x in _RESETS if hasattr(module, x)), None)
        if callable(reset):
            try:
                reset()
            except Exception as error:  # of a module of the user's own
                raise InputError(
                    f"model: reset_parameters of a {type(module).__name__} fails "
                    f"({_one_line(error)}); {_OWN}"
                ) from error
    for name, parameter in fresh.named_parameters():
        if not parameter.is_floating_point() or bool(parameter.isnan().any()):
            owner = type(fresh.get_submodule(name.rpartition(".")[0])).__name__
            raise InputError(
                f"model: parameter {name!r} cannot be re-initialised, as {owner} has no"
                f" reset_parameters that draws it; {_OWN}"
            )
    return fresh


def _written(model: nn.Module) -> list[nn.Module]:
    """All modules but wrappers, which a control does without."""
    return [module for module in model.modules() if not is_stand_in(module)]


def _inner_first(module: nn.Module) -> Iterator[nn.Module]:
    """As constructors run: what is within a module comes before it, which may overwrite it."""
    for child in module.children():
        yield from _inner_first(child)
    if not is_stand_in(module):  # which has the methods of what is within it
        yield module


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else f"{text[:156]} ..."
