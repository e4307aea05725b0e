"""Which neurons are taken out of a network, and where in it they are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from univfast.checks import as_integer
from univfast.errors import InputError
from univfast.hooks import Site
from univfast.machine.torch_state import in_plain_state
from univfast.result import CorrelationResult

__all__ = ["Chosen", "choose", "paired"]

_SHOWN = 3  # names of layers in an error


@dataclass(frozen=True)
class Chosen:
    """Neurons by layer.

    Attributes:
        word: what they are: ``"universal"``, ``"learned"`` or ``"chosen"``.
        flagged: their numbers, int64 ``[n]`` in rising order, n at least 1.
        apart: those that no random set takes, int64: flagged, universal or dead ones.
        widths: neurons of each layer, where that is known.
        ranked: the most notable first: layer, number and excess, None where that is not known.
    """

    word: str
    flagged: dict[str, Tensor]
    apart: dict[str, Tensor]
    widths: dict[str, int] = field(default_factory=dict)
    ranked: list[tuple[str, int, float | None]] = field(default_factory=list)


@in_plain_state
def choose(
    neurons: CorrelationResult | Mapping[str, Iterable[int]],
    layers: Sequence[str] | None,
    learned: bool,
) -> Chosen:
    """The neurons to take out.

    Args:
        neurons: a result, whose universal neurons of A they are; or numbers by layer.
        layers: of these layers alone; None for all that have some.
        learned: those of a result that are learned, too.

    Raises:
        InputError: there are none, or not of such a layer; a result without controls has none that
            are learned; a number that is none.
        TypeError: ``neurons`` is neither.
    """
    if isinstance(neurons, CorrelationResult):
        found = _of_result(neurons, learned)
        names = list(dict.fromkeys(neurons.layer))
    elif isinstance(neurons, Mapping):
        if learned:
            raise InputError("learned: is a column of a result; leave it out, or give a result")
        found = _of_numbers(neurons)
        names = list(found.flagged)
    else:
        kind = type(neurons).__name__
        raise TypeError(f"neurons: expected a result, or numbers by layer, got {kind}")
    if not found.flagged:
        do = "name some" if found.word == "chosen" else "correlate with a lower threshold"
        raise InputError(f"neurons: none is {found.word}, so there is nothing to take out; {do}")
    return found if layers is None else _of_layers(found, names, layers)


def _of_result(result: CorrelationResult, learned: bool) -> Chosen:
    word = "learned" if learned else "universal"
    if learned and result.learned is None:
        raise InputError(
            "learned: the result was not compared with controls, and says of no neuron that it was"
            " learned; correlate with controls, or leave it out"
        )
    flags = result.universal if result.learned is None or not learned else result.learned
    flagged, apart, widths = {}, {}, {}
    names = torch.tensor(
        [number for number, layer in _numbered(result.layer)], dtype=torch.int64, device="cpu"
    )
    for number, layer in enumerate(dict.fromkeys(result.layer)):
        rows = names == number
        own = result.neuron[rows]
        widths[layer] = int(own.max()) + 1
        apart[layer] = own[(result.universal | result.dead | flags)[rows]].sort().values
        if bool(flags[rows].any()):
            flagged[layer] = own[flags[rows]].sort().values
    rows = flags.nonzero().flatten()
    order = rows[result.excess[rows].nan_to_num(nan=-torch.inf).argsort(descending=True)]
    ranked: list[tuple[str, int, float | None]] = [
        (result.layer[i], int(result.neuron[i]), float(result.excess[i])) for i in order.tolist()
    ]
    return Chosen(word, flagged, apart, widths, ranked)


def _numbered(layers: Sequence[str]) -> list[tuple[int, str]]:
    """Each name with its number, in the order that they come first."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(layers))}
    return [(numbers[name], name) for name in layers]


def _of_numbers(neurons: Mapping[str, Iterable[int]]) -> Chosen:
    flagged: dict[str, Tensor] = {}
    ranked: list[tuple[str, int, float | None]] = []
    for layer, given in neurons.items():
        if not isinstance(layer, str):
            raise TypeError(f"neurons: names of layers are str, got {type(layer).__name__}")
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise TypeError(f"neurons: expected numbers of layer {layer!r}, got {type(given)}")
        numbers = [as_integer(f"neurons: layer {layer!r}", x, 0, 2**63 - 1) for x in given]
        if len({*numbers}) < len(numbers):
            raise InputError(f"neurons: layer {layer!r} has a number twice; give each once")
        if numbers:
            ranked += [(layer, number, None) for number in numbers]
            flagged[layer] = torch.tensor(sorted(numbers), dtype=torch.int64, device="cpu")
    return Chosen("chosen", flagged, dict(flagged), {}, ranked)


def _of_layers(found: Chosen, names: Sequence[str], layers: Sequence[str]) -> Chosen:
    """Those of some layers."""
    if isinstance(layers, str):
        raise TypeError("layers: expected a list of names, got a str; put it into a list")
    for layer in layers:
        if layer not in names:
            raise InputError(
                f"layers: there is no layer {layer!r}; there are {_listed(names)}; name one of them"
            )
        if layer not in found.flagged:
            raise InputError(
                f"layers: layer {layer!r} has no {found.word} neuron; name one of"
                f" {_listed([*found.flagged])}"
            )
    return Chosen(
        found.word,
        {name: x for name, x in found.flagged.items() if name in layers},
        {name: x for name, x in found.apart.items() if name in layers},
        found.widths,
        [each for each in found.ranked if each[0] in layers],
    )


def paired(chosen: Chosen, sites: Sequence[Site]) -> dict[str, Site]:
    """The site of each layer that has chosen neurons.

    It is of the layer's name; or, where no layer is called as a site is, and names of both sides
    have one number each, none twice, and every layer of the result has a site of its number, of
    that number: ``mlp.3`` is ``blocks.3.mlp.relu``.

    Raises:
        InputError: a layer has none, or it is open which.
    """
    names = [*chosen.flagged]
    by_name = {site.layer: site for site in sites}
    if any(name in by_name for name in names):
        missing = [name for name in names if name not in by_name]
    else:
        by_number = {_number(site.layer): site for site in sites}
        layers = [*(chosen.widths or names)]
        numbers = {_number(name) for name in layers}
        clear = None not in by_number and len(by_number) == len(sites)
        if clear and len(numbers) == len(layers) and numbers <= by_number.keys():
            return {name: by_number[_number(name)] for name in names}
        missing = names
    if missing:
        raise InputError(
            f"hooks: layer {missing[0]!r} is none of those that they match"
            f" ({_listed([*by_name])}); hook the modules whose activations were correlated"
        )
    return {name: by_name[name] for name in names}


def _number(name: str) -> int | None:
    """The one number in a name; None where there is not one."""
    found = re.findall(r"\d+", name)
    return int(found[0]) if len(found) == 1 else None


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more
