"""Neurons that are named, as ``mlp.0/19``, among the records of a file."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence

from univfast.contexts.records import PairRecord, contexts_file, read_records
from univfast.errors import InputError

__all__ = ["neuron_named", "selected_records"]

_NEAREST = 3


def neuron_named(name: str) -> tuple[str, int]:
    """The layer and the number of ``LAYER/NEURON``; a layer may have slashes in its name.

    Raises:
        InputError: it is no such name.
    """
    layer, slash, number = name.rpartition("/")
    if not slash or not (number.isascii() and number.isdigit()) or len(number) > 18:
        raise InputError(f"{name!r}: names no neuron; give LAYER/NEURON, such as mlp.0/19")
    return layer, int(number)


def selected_records(path: str | os.PathLike[str], names: Sequence[str]) -> list[PairRecord]:
    """The records of the neurons of A that are named, in the order of their names.

    With several other models, a neuron has a record a model.

    Raises:
        InputError: a name is none, or of a neuron that has no record; names the nearest that have.
    """
    wanted = {name: neuron_named(name) for name in names}
    found: dict[tuple[str, int], list[PairRecord]] = {key: [] for key in wanted.values()}
    there: dict[str, set[int]] = {}
    for record in read_records(path):
        there.setdefault(record.layer, set()).add(record.neuron)
        if (record.layer, record.neuron) in found:
            found[record.layer, record.neuron].append(record)
    for name, key in wanted.items():
        if not found[key]:
            raise _missing(name, key, there, path)
    return [record for records in found.values() for record in records]


def _missing(
    name: str, key: tuple[str, int], there: dict[str, set[int]], path: str | os.PathLike[str]
) -> InputError:
    pairs = sum(map(len, there.values()))
    return InputError(
        f"{name}: is not among the {pairs:,} neurons of A in {contexts_file(path)}; nearest:"
        f" {', '.join(_nearest(*key, there)) or 'none'}"
    )


def _nearest(layer: str, neuron: int, there: dict[str, set[int]]) -> list[str]:
    close = difflib.get_close_matches(layer, there, n=_NEAREST, cutoff=0.0)
    nearest = [layer] if layer in there else close[:1]
    return [
        f"{one}/{number}"
        for one in nearest
        for number in sorted(there[one], key=lambda other: (abs(other - neuron), other))[:_NEAREST]
    ]
