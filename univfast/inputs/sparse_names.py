"""Which arrays of a file belong together as sparse features: by their names, dtypes and shapes.

A value that stands apart from the number of its feature says nothing: read as neurons, the ranks of
values would be compared. So what may be such a value is read as nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TypeAlias

import numpy as np
import torch

from univfast.errors import InputError
from univfast.inputs.sparse import SparseStored
from univfast.inputs.sparse_entries import Coo, Csr, Rows, TopK, column
from univfast.inputs.stored import Stored

__all__ = ["Found", "Noted", "join_sparse", "said_integers", "says_width"]


class Noted(tuple[int, ...]):
    """Integers that are said beside the arrays of a file, and are none of them."""

    __slots__ = ()


Found: TypeAlias = Stored | SparseStored | InputError
"""What stands in a file under a name."""

_INDICES = (
    *("top_indices", "topk_indices", "top_k_indices", "top_idx", "topk_idx", "top_inds"),
    *("topk_inds", "latent_indices", "latent_idx", "feature_indices", "feature_idx", "indices"),
    *("idx", "inds"),
)
_VALUES = (
    *("top_acts", "top_activations", "top_values", "top_vals", "topk_acts", "topk_activations"),
    *("topk_values", "topk_vals", "top_k_acts", "top_k_activations", "top_k_values", "top_k_vals"),
    *("latent_acts", "latent_activations", "latent_values", "feature_acts", "feature_activations"),
    *("feature_values", "values", "vals", "activations", "acts", "data"),
)
_LOCATIONS = "locations"  # of delphi: sample, position, feature
_TOKENS = "tokens"
_CSR = (("crow_indices", "col_indices"), ("indptr", "indices"))
_COO = (("row", "col"), ("rows", "cols"), ("row_indices", "col_indices"))
_WIDTHS = (
    *("num_latents", "n_latents", "d_sae", "num_features", "n_features", "dict_size", "d_dict"),
    "width",
)
_SHAPES = ("shape", "size")
_SAID = (*_WIDTHS, *_SHAPES)
_ALL = {*_INDICES, *_VALUES, _LOCATIONS, _TOKENS, *_SAID, *sum((*_CSR, *_COO), ())}
# As little as can be stands before, or top_indices would be the indices of something called top.
_NAME = re.compile(rf"(?:(.+?)[./_-])??({'|'.join(sorted(_ALL, key=len, reverse=True))})")
_INTEGERS = (
    *(torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint8, torch.uint16, torch.uint32),
)
_LOOKED_AT = 16  # tokens, for what their numbers may be
_MOST_AXES = 8  # of what says a shape


def says_width(name: str) -> bool:
    """Whether what stands under this name may say how many features there are."""
    found = _NAME.fullmatch(name)
    return found is not None and found[2] in _SAID


def said_integers(value: object) -> tuple[int, ...]:
    """A number, or a shape; empty where it is neither."""
    found = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    whole = all(isinstance(x, (int, np.integer)) and not isinstance(x, bool) for x in found)
    return tuple(map(int, found)) if whole else ()


@dataclass
class _Group:
    """Arrays whose names have one beginning, by the end of their names; and what numbers say."""

    layer: str
    where: str
    names: dict[str, str] = field(default_factory=dict)
    arrays: dict[str, Stored] = field(default_factory=dict)
    said: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def of(self, end: str, axes: int, integers: bool = True) -> Stored | None:
        """The array of this name that has so many axes at least; of integers, or of any dtype."""
        found = self.arrays.get(end)
        if found is None or (integers and found.dtype not in _INTEGERS):
            return None
        return found if len(found.data.shape) >= axes else None


def join_sparse(
    found: Mapping[str, Stored | SparseStored | InputError | tuple[int, ...]], lone: str, where: str
) -> dict[str, Found]:
    """Arrays by name, those that are sparse features joined to one, in the order of the first.

    Args:
        found: arrays by name; and, under names that `says_width` knows, integers.
        lone: what to call the features where their arrays have no name before ``top_acts``.
        where: what begins an error, the file or the argument.

    What cannot be told apart is an error, with both readings.

    Raises:
        InputError: an array belongs to two layers, or two layers have one name.
    """
    joined: dict[str, SparseStored | InputError] = {}
    layers: dict[str, str] = {}  # of each array that is a part
    misfits: dict[str, InputError] = {}
    for group in _groups(found, lone, where).values():
        forms = list(_forms(group))
        if len(forms) > 1:
            readings = " or ".join(_listed(group, names) for names, _ in forms)
            raise InputError(
                f"{group.where}: may be made of {readings}; save one of these, or rename the other"
            )
        for names, made in forms:
            joined[group.layer] = _said_wrongly(group) or made
            parts = [group.names[end] for end in names]
            if group.layer in found and group.layer not in parts:
                raise InputError(
                    f"{group.where}: is an array, and made of {_listed(group, names)}; rename one"
                )
            layers.update(dict.fromkeys(parts, group.layer))
        if not forms:
            misfits.update(_misfits(group, where))
    arrays: dict[str, Found] = {}
    for name, value in found.items():
        if name in layers:
            arrays[layers[name]] = joined[layers[name]]
        elif isinstance(value, Noted) or (
            joined and says_width(name) and _numbers(value) is not None
        ):
            continue
        elif isinstance(value, (SparseStored, InputError)):
            arrays[name] = value
        elif isinstance(value, Stored):
            arrays[name] = misfits.get(name) or _apart(name, value, found, where)
        else:
            error = f"{where}: layer {name!r} is a number, not a tensor; save tensors alone"
            arrays[name] = InputError(error)
    return arrays


def _groups(
    found: Mapping[str, Stored | SparseStored | InputError | tuple[int, ...]], lone: str, where: str
) -> dict[str | None, _Group]:
    groups: dict[str | None, _Group] = {}
    for name, value in found.items():
        match = _NAME.fullmatch(name)
        if match is None:
            continue
        layer = match[1] or lone
        group = groups.setdefault(match[1], _Group(layer, f"{where}: layer {layer!r}"))
        end = match[2]
        group.names[end] = name
        if end in _SAID:
            said = _numbers(value)
            if said is not None:
                group.said[end] = said
        elif isinstance(value, Stored):
            group.arrays[end] = value
    shared = groups.get(None)
    for group in groups.values():
        if shared is not None:  # what is said once is said of all
            group.said = {**shared.said, **group.said}
            if _TOKENS in shared.arrays:
                group.arrays.setdefault(_TOKENS, shared.arrays[_TOKENS])
                group.names.setdefault(_TOKENS, shared.names[_TOKENS])
    return groups


def _numbers(value: Stored | SparseStored | InputError | tuple[int, ...]) -> tuple[int, ...] | None:
    """The integers that say a width or a shape; None where it is something else."""
    if isinstance(value, tuple):
        return value
    if isinstance(value, (SparseStored, InputError)):
        return None
    few = len(value.data.shape) <= 1 and prod(value.data.shape) <= _MOST_AXES
    if not few or value.dtype not in _INTEGERS:
        return None
    return tuple(int(x) for x in value.tensor().flatten().tolist())


def _forms(group: _Group) -> Iterator[tuple[tuple[str, ...], SparseStored | InputError]]:
    """What sparse features the arrays may be: the ends of their names, and what they make."""
    for end in _VALUES:
        values = group.of(end, 1, integers=False)
        if values is None:
            continue
        for ends, made in (
            _top_forms(group, values) if values.data.ndim > 1 else _lists(group, values)
        ):
            yield (*ends, end), made


def _said_wrongly(group: _Group) -> InputError | None:
    """What is said beside, where that is said in two ways or can be of no array."""
    shapes = {end: list(group.said[end]) for end in _SHAPES if end in group.said}
    if len({*map(tuple, shapes.values())}) > 1:
        said = " and ".join(f"{shape} by {end}" for end, shape in shapes.items())
        return InputError(f"{group.where}: has shape {said}; mend one of them")
    for end, sizes in group.said.items():
        if min(sizes, default=0) < 0:
            shown = list(sizes) if end in _SHAPES else sizes[0]
            return InputError(f"{group.where}: its {end} is {shown}, and cannot be negative")
    return None


def _misfits(group: _Group, where: str) -> Iterator[tuple[str, InputError]]:
    """Numbers of features and values whose shapes do not belong together, by name."""
    indices = next((end for end in _INDICES if group.of(end, 1) is not None), None)
    values = next((end for end in _VALUES if group.of(end, 1, integers=False) is not None), None)
    if indices is None or values is None:
        return
    shapes = [tuple(group.arrays[end].data.shape) for end in (indices, values)]
    error = (
        f"{where}: {group.names[indices]!r} {list(shapes[0])} and {group.names[values]!r}"
        f" {list(shapes[1])} do not fit: of the k largest both are [..., k]; of entries, numbers"
        " are [axes, entries] and values [entries]; save them so, or rename what is something else"
    )
    yield group.names[indices], InputError(error)
    # As hybrid sparse tensors have rows of values, whose tokens the numbers are.
    if len(shapes[0]) > 1 and len(shapes[1]) > 1 and shapes[0][1:] == shapes[1][:1]:
        yield group.names[values], InputError(error)


def _top_forms(
    group: _Group, values: Stored
) -> Iterator[tuple[tuple[str, ...], SparseStored | InputError]]:
    """Of values ``[..., k]``."""
    for end in _INDICES:
        indices = group.of(end, 2)
        if indices is not None and indices.data.shape == values.data.shape:
            yield (end,), _stored(group, TopK(indices, values), tuple(values.data.shape[:-1]))


def _lists(
    group: _Group, values: Stored
) -> Iterator[tuple[tuple[str, ...], SparseStored | InputError]]:
    """Of values ``[entries]``."""
    count = tuple(values.data.shape)

    def list_of(end: str) -> Stored | None:
        found = group.of(end, 1)
        return found if found is not None and tuple(found.data.shape) == count else None

    for end in _INDICES:
        indices = group.of(end, 2)
        axes = 0 if indices is None else len(indices.data)
        if indices is not None and axes > 1 and tuple(indices.data.shape) == (axes, *count):
            yield (end,), _coo(group, [Rows(_row(indices, i)) for i in range(axes)], values)
    for starts_end, end in _CSR:
        starts, features = group.of(starts_end, 1), list_of(end)
        if starts is not None and features is not None and starts.data.ndim == 1:
            entries = Csr(starts, features, values)
            yield (starts_end, end), _stored(group, entries, (entries.tokens,))
    for rows_end, end in _COO:
        rows, features = list_of(rows_end), list_of(end)
        if rows is not None and features is not None:
            yield (rows_end, end), _coo(group, [Rows(rows), Rows(features)], values)
    locations = group.of(_LOCATIONS, 2)
    if locations is not None and tuple(locations.data.shape) == (*count, 3):
        tokens = (_TOKENS,) if group.of(_TOKENS, 2) is not None else ()
        yield (_LOCATIONS, *tokens), _located(group, locations, values)


def _row(stored: Stored, at: int) -> Stored:
    return Stored(stored.data[at], stored.dtype, stored.mapped)


def _coo(group: _Group, axes: list[Rows], values: Stored) -> SparseStored | InputError:
    shape = _shape(group)
    if shape is None:
        return _no_tokens(group, f"as shape, [{'tokens' if len(axes) == 2 else '...'}, features]")
    if len(shape) != len(axes):
        return InputError(
            f"{group.where}: has numbers along {len(axes)} axes, and its shape is {list(shape)};"
            " mend one of them"
        )
    *rows, features = axes
    entries = Coo(rows, shape[:-1], features, Rows(values), sums=True)
    return _stored(group, entries, shape[:-1])


def _located(group: _Group, locations: Stored, values: Stored) -> SparseStored | InputError:
    shape, tokens = _shape(group), group.of(_TOKENS, 2)
    leading = None if shape is None else shape[:-1]
    if leading is None and tokens is not None:
        leading = tuple(tokens.data.shape)
    if leading is None or len(leading) != 2:
        return _no_tokens(group, "as tokens, [samples, positions]")
    axes = [column(locations, 0), column(locations, 1)]
    entries = Coo(axes, leading, column(locations, 2), Rows(values), sums=False)
    return _stored(group, entries, leading, tokens)


def _no_tokens(group: _Group, how: str) -> InputError:
    return InputError(
        f"{group.where}: is of sparse features, and does not say of how many tokens; save that"
        f" beside, {how}"
    )


def _shape(group: _Group) -> tuple[int, ...] | None:
    return next((group.said[end] for end in _SHAPES if end in group.said), None)


def _stored(
    group: _Group,
    entries: TopK | Csr | Coo,
    leading: tuple[int, ...],
    tokens: Stored | None = None,
) -> SparseStored | InputError:
    """With the width that is said beside, if what is said agrees."""
    widths = {end: group.said[end][0] for end in _WIDTHS if len(group.said.get(end, ())) == 1}
    shape = _shape(group)
    if shape is not None and prod(shape[:-1]) == prod(leading):
        widths["shape"] = shape[-1]
    elif shape is not None:
        error = f"{group.where}: has {prod(leading)} tokens, and its shape is {list(shape)}"
        return InputError(f"{error}; mend one of them")
    if len({*widths.values()}) > 1:
        said = " and ".join(f"{width} by {end}" for end, width in widths.items())
        return InputError(f"{group.where}: has {said} features; mend one of them")
    said, width = next(iter(widths.items()), ("", None))
    parts = tuple(group.names.values())
    return SparseStored(group.where, entries, leading, width, said, parts, tokens)


def _apart(name: str, value: Stored, found: Mapping[str, object], where: str) -> Found:
    """An array, if it is not as likely the values of features whose numbers stand beside."""
    shape = tuple(value.data.shape)
    if len(shape) < 2 or 0 in shape or not value.dtype.is_floating_point:
        return value
    for other, beside in found.items():
        if not isinstance(beside, Stored) or beside.dtype not in _INTEGERS:
            continue
        if tuple(beside.data.shape) == shape and _numbers_features(beside):
            return InputError(
                f"{where}: layer {name!r} may be neurons, or the largest features of each"
                f" token whose numbers are in {other!r} of the same shape; save it alone if it"
                " is neurons, or call them top_acts and top_indices"
            )
    return value


def _numbers_features(stored: Stored) -> bool:
    """Whether rows of integers may be the numbers of features: each once, and beyond the rank."""
    rows = Rows(stored, 1)
    places = sorted({i * (len(rows) - 1) // (_LOOKED_AT - 1) for i in range(_LOOKED_AT)})
    some = torch.cat([rows.read(i, i + 1).long().cpu() for i in places])
    once = bool((some.sort(dim=1).values.diff(dim=1) > 0).all())
    return once and int(some.min()) >= 0 and int(some.max()) >= some.shape[1]


def _listed(group: _Group, ends: tuple[str, ...]) -> str:
    names = [repr(group.names[end]) for end in ends]
    return f"{', '.join(names[:-1])} and {names[-1]}"
