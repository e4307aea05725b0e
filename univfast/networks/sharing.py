"""Whether two networks have parameters in common, which makes their neurons alike."""

from __future__ import annotations

from torch import nn

__all__ = ["shared_parameters"]


def shared_parameters(a: nn.Module, b: nn.Module, names: tuple[str, str]) -> list[str]:
    """A line where two networks are partly one; none where they are not, or are wholly one.

    That of a module with itself is asked for; a model of ``peft`` and its base are one by mistake.
    """
    if a is b:
        return []
    own = {_memory(x) for x in b.parameters()}
    parameters = list(a.named_parameters())
    both = [name for name, x in parameters if _memory(x) in own]
    if not both:
        return []
    return [
        f"{names[0]} and {names[1]} share {len(both)} of {len(parameters)} parameters (first"
        f" {both[0]!r}), so that their neurons are alike for no other reason; where adapters or"
        " changes were put into one model, compare it with a copy.deepcopy made before"
    ]


def _memory(parameter: nn.Parameter) -> tuple[object, ...]:
    """Where a parameter is; tensors without memory of their own are told by the object."""
    try:
        place = parameter.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # of what wraps other tensors
        place = 0
    return (place, parameter.storage_offset(), parameter.shape) if place else (id(parameter),)
