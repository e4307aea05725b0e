"""What stands around a module, and what cannot be hooked or run at all.

Hooks are added to a module after it was made, so that they are heard only where Python calls the
module: not in what was scripted, traced or exported, and, of what was compiled, only where it is
run as it was before (`univfast.networks.eagerly`).
"""

from __future__ import annotations

import sys
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from univfast.errors import InputError

__all__ = [
    "as_written",
    "in_parts",
    "is_part",
    "is_stand_in",
    "named_modules",
    "network_of",
    "own_name",
    "runs_whole",
    "submodule",
    "unwrapped",
]

N = TypeVar("N")

# What wrappers call the module that they stand in for, under its own name.
_STAND_INS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
_INSTEAD = "pass the nn.Module that it was made of"


def unwrapped(model: N, name: str = "model") -> N:
    """The module that a wrapper runs, of its own names: compiled, or in data parallel.

    What is no wrapper is given back, of whatever type it is.

    Args:
        model: of any type.
        name: what to call it in errors.

    Raises:
        InputError: it was scripted, traced or exported, so that hooks are not heard.
    """
    inner = _within(model)
    while inner is not None:
        model, inner = inner, _within(inner)  # type: ignore[assignment]
    kind = type(model).__name__
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(f"{name}: is a scripted or traced module ({kind}); {_INSTEAD}")
    exported = sys.modules.get("torch.export")
    if exported is not None and isinstance(model, exported.ExportedProgram):
        raise InputError(f"{name}: is an exported program ({kind}); {_INSTEAD}")
    if isinstance(model, torch.fx.GraphModule) and not _calls_modules(model):
        raise InputError(
            f"{name}: is a graph of operations, as torch.export makes, which calls no modules"
            f" ({kind}); {_INSTEAD}"
        )
    return model


def network_of(model: object, name: str = "model") -> nn.Module:
    """As `unwrapped`, of a module that can be run.

    Raises:
        InputError: it cannot be hooked, or has no forward or no values.
        TypeError: it is no module.
    """
    found = unwrapped(model, name)
    kind = type(found).__name__
    if not isinstance(found, nn.Module):
        raise TypeError(f"{name}: expected a torch.nn.Module, got {kind}")
    if getattr(getattr(found, "forward", None), "__func__", None) is nn.Module.forward:
        raise InputError(
            f"{name}: {kind} has no forward, which is what is run; pass a module that has one, as"
            " of a class whose forward calls the method that you use"
        )
    for own, parameter in found.named_parameters():
        if is_lazy(parameter):
            raise InputError(
                f"{name}: parameter {own!r} of a lazy module has no shape yet; run the model on a"
                " batch first"
            )
        if parameter.is_meta and not _is_offloaded(found):
            raise InputError(
                f"{name}: parameter {own!r} is on the meta device, without values; load the"
                " weights first"
            )
    return found


def named_modules(model: nn.Module) -> dict[str, nn.Module]:
    """All modules by name, as if no part of the model was compiled or wrapped.

    A module that stands under several names is there under each; the model itself has none.
    """
    found = {}
    for name, module in model.named_modules(remove_duplicate=False):
        # A stand-in comes before what it stands for, and gives its name to that.
        found[own_name(name)] = module
    found.pop("", None)
    return found


def own_name(name: str) -> str:
    """The name of a module or parameter, as if no part of the model was compiled or wrapped."""
    return ".".join(part for part in name.split(".") if part not in _STAND_INS)


def is_stand_in(module: nn.Module) -> bool:
    """Whether a part of a model is a wrapper, which has no parameters of its own."""
    return any(name in module._modules for name in _STAND_INS)


def as_written(model: nn.Module) -> None:
    """Has parts of a copy of a model be as they were before they were compiled.

    What was compiled of the model may be taken for the copy's, hears no hooks that are added, and
    where it stands for a forward, is still that of the model.
    """
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if child is not None and "_orig_mod" in child._modules:
                module._modules[name] = child._modules["_orig_mod"]
        compiled = hasattr(vars(module).get("forward"), "_torchdynamo_orig_callable")
        if compiled and not is_stand_in(module):
            del module.forward


def submodule(model: nn.Module, name: str) -> nn.Module:
    """A module by its name in `named_modules`; the model itself has none."""
    return named_modules(model)[name] if name else model


def runs_whole(model: nn.Module) -> bool:
    """Whether a pass must come to its end: what gathered weights for it gives them up there."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    kinds = () if fsdp is None else (fsdp.FSDPModule, fsdp.FullyShardedDataParallel)
    return _is_offloaded(model) or any(isinstance(x, kinds) for x in model.modules())


def in_parts(model: nn.Module) -> bool:
    """Whether layers may give each process a part of their neurons, as in tensor parallel."""
    distributed = sys.modules.get("torch.distributed.tensor")
    if distributed is None:
        return False
    return any(
        getattr(module, "_distribute_module_applied", False)
        and any(_is_shared(x, distributed.DTensor) for x in module.parameters())
        for module in model.modules()
    )


def is_part(value: Tensor) -> bool:
    """Whether a tensor of a model `in_parts` may be one process's part: it says nothing else."""
    distributed = sys.modules.get("torch.distributed.tensor")
    return distributed is None or not isinstance(value, distributed.DTensor)


def _is_shared(parameter: nn.Parameter, kind: type[Any]) -> bool:
    values: Any = parameter if isinstance(parameter, kind) else parameter.data
    return isinstance(values, kind) and values.device_mesh.size() > 1


def _within(model: object) -> nn.Module | None:
    """What a wrapper runs; None of what is none."""
    found: object = None
    compiler = sys.modules.get("torch._dynamo.eval_frame")
    if compiler is not None and isinstance(model, compiler.OptimizedModule):
        found = model._orig_mod
    elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        found = model.module
    return found if isinstance(found, nn.Module) else None


def _calls_modules(graph: torch.fx.GraphModule) -> bool:
    # Exported ones have one that looks at what they are called with.
    called = {node.target for node in graph.graph.nodes if node.op == "call_module"}
    return bool(called - {"_guards_fn"})


def _is_offloaded(model: nn.Module) -> bool:
    """Whether accelerate brings weights to the device while the model runs."""
    return any(hasattr(module, "_hf_hook") for module in model.modules())
