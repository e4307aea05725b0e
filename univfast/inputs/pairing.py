"""Which layers of one model are compared with which of another."""

from __future__ import annotations

import fnmatch
import glob
from collections.abc import Mapping
from dataclasses import replace

from univfast.errors import InputError
from univfast.inputs.arrays import same_order
from univfast.inputs.file_names import parts_among
from univfast.inputs.layers import LONE_LAYER, Activations, Layer
from univfast.inputs.numbering import counts_up

__all__ = [
    "CHOOSE",
    "all_layers",
    "check_sources",
    "check_whole",
    "chosen_layers",
    "in_order",
    "match_layers",
]

# Of a capture, what its tokens follow from, and how it is given.
_OPTIONS = {"context": "context=N", "skip": "skip=", "positions": "positions="}
CHOOSE = "layers=GLOB"
"""Of stored activations, what chooses layers."""
_SHOWN = 6  # layer names in an error before "and N more": it has one line


def match_layers(
    a: Activations, b: Activations, pattern: str | None, choose: str = CHOOSE
) -> list[tuple[Layer, Layer]]:
    """Pairs of layers of equal name, in the order of ``a``, for matching by index.

    Args:
        a: one model. Where both have a single layer and one of them is a lone tensor, which has no
            name of its own, these are paired.
        b: the other.
        pattern: only layers whose name matches this glob (``*``, ``?``, ``[...]``, case matters).
        choose: the arguments that choose layers, for errors.

    Raises:
        InputError: other layers in one than in the other, other token counts or widths, or
            captures of other tokens.
    """
    both = f"{a.name} and {b.name}"
    check_sources(a, b)
    layers_a, layers_b = chosen_layers(a, pattern), chosen_layers(b, pattern)
    if len(layers_a) == len(layers_b) == 1 and LONE_LAYER in (*layers_a, *layers_b):
        pairs = list(zip(layers_a.values(), layers_b.values(), strict=True))
    else:
        _check_names(a.name, layers_a, b.name, layers_b, choose)
        pairs = [(layer, layers_b[name]) for name, layer in layers_a.items()]
    for one, other in pairs:
        _check_pair(both, one, other)
    _check_tokens(both, [one for one, _ in pairs], choose)
    return pairs


def in_order(a: Activations, b: Activations) -> Activations:
    """``b`` with its layers called as those of ``a`` are, in order.

    For layers that the user named in both: as they are, where the names are the same or there are
    more in one than in the other.
    """
    if {*a.layers} == {*b.layers} or len(a.layers) != len(b.layers):
        return b
    return replace(b, layers=dict(zip(a.layers, b.layers.values(), strict=True)))


def all_layers(
    a: Activations, b: Activations, pattern: str | None, choose: str = CHOOSE
) -> tuple[list[Layer], list[Layer]]:
    """The layers of both models, for matching over all pairs: any names, widths and numbers.

    Args:
        a: one model.
        b: the other.
        pattern: only layers whose name matches this glob, in either model.
        choose: the arguments that choose layers, for errors.

    Raises:
        InputError: token counts or their order differ, or captures are of other tokens.
    """
    check_sources(a, b)
    layers_a, layers_b = (list(chosen_layers(model, pattern).values()) for model in (a, b))
    for model, layers in ((a.name, layers_a), (b.name, layers_b)):
        _check_tokens(model, layers, choose)
        for layer in layers[1:]:
            _check_same_tokens(model, layers[0], layer)
    _check_same_tokens(f"{a.name} and {b.name}", layers_a[0], layers_b[0])
    return layers_a, layers_b


def check_sources(a: Activations, b: Activations) -> None:
    """Refuses activations that say themselves that they are of other tokens.

    Raises:
        InputError: naming what differs.
    """
    if a.test_set is not None and b.test_set is not None and a.test_set != b.test_set:
        raise InputError(
            f"{a.name} and {b.name}: were captured on different test sets ({a.test_set} and "
            f"{b.test_set}); train both on the same data"
        )
    if a.captured is not None and b.captured is not None:
        _check_captured(f"{a.name} and {b.name}", a.captured, b.captured)
    if a.ids is not None and b.ids is not None:
        _check_ids(f"{a.name} and {b.name}", a, b)
    _check_parts(a, b)


def _check_parts(a: Activations, b: Activations) -> None:
    """Refuses files that are numbered otherwise, unless both are counted from the start."""
    if not (a.parts and b.parts) or a.parts == b.parts:
        return
    if all(_are_counted(x.parts) for x in (a, b)):
        return
    one, other = next(
        ((x, y) for x, y in zip(a.parts, b.parts, strict=False) if x != y),
        (f"{len(a.parts)} files", f"{len(b.parts)}"),
    )
    raise InputError(
        f"{a.name} and {b.name}: their files are numbered otherwise ({one} and {other}), so that"
        " they may hold other tokens; keep the same files of both"
    )


def _are_counted(parts: tuple[str, ...]) -> bool:
    numeric = all(part.isdecimal() for part in parts)
    return numeric and counts_up([int(part) for part in parts])


def _check_captured(both: str, a: Mapping[str, object], b: Mapping[str, object]) -> None:
    """Refuses captures of other tokens, naming the options that differ."""
    if all(a.get(name) == b.get(name) for name in ("text", "kept")):
        return
    differ = [name for name in _OPTIONS if a.get(name) != b.get(name)]
    if not differ:
        differ = ["text" if a.get("text") != b.get("text") else "mask"]
    values = [
        f"{name} ({_shown(a.get(name))} and {_shown(b.get(name))})" if name in _OPTIONS else name
        for name in differ
    ]
    remedy = ", ".join(_OPTIONS.get(name) or f"{name}=FILE" for name in differ)
    if differ == ["text"]:
        remedy += ", bos= and max_tokens="
    raise InputError(
        f"{both}: are captures of different tokens, which differ in {', '.join(values)}; capture "
        f"again, and give both the same {remedy}"
    )


def _check_ids(both: str, a: Activations, b: Activations) -> None:
    """Refuses other token ids, as far as both reach, where both models say that a token counts."""
    assert a.ids is not None
    assert b.ids is not None
    count = min(len(a.ids), len(b.ids))
    differ = a.ids[:count] != b.ids[:count]
    for keep in (a.keep, b.keep):
        if keep is not None and len(keep) >= count:
            differ = differ & keep[:count]
    if bool(differ.any()):
        at = int(differ.nonzero()[0, 0])
        raise InputError(
            f"{both}: are of other tokens, the ids of token {at} are {int(a.ids[at])} and "
            f"{int(b.ids[at])}; run both models on the same tokens"
        )


def _shown(value: object) -> str:
    return (",".join(value) if isinstance(value, list) else str(value or "")) or "none"


def chosen_layers(model: Activations, pattern: str | None) -> dict[str, Layer]:
    """The layers of a model whose names match a glob; all where there is none.

    Raises:
        InputError: none does, or what does is no layer; or there is no glob, and names may be of
            parts of layers.
    """
    if pattern is None:
        check_whole(model)

    def wanted(name: str) -> bool:
        return pattern is None or fnmatch.fnmatchcase(name, pattern)

    for name, error in model.unusable.items():
        if wanted(name):
            layers = "GLOB"
            if len(model.layers) == 1:
                layers = repr(glob.escape(*model.layers))
            raise InputError(f"{error}, or leave it out with layers={layers}")
    chosen = {name: layer for name, layer in model.layers.items() if wanted(name)}
    part = next(filter(wanted, model.made_of), None)
    if not chosen and part is not None:
        raise InputError(
            f"{model.name}: {part!r} is a part of the sparse features {model.made_of[part]!r}, made"
            f" of {_listed([x for x in model.made_of if model.made_of[x] == model.made_of[part]])};"
            " choose these by layers=GLOB"
        )
    if not chosen:
        raise InputError(
            f"{model.name}: no layer matches {pattern!r}; there are {_listed(list(model.layers))}"
        )
    return chosen


def check_whole(model: Activations) -> None:
    """Refuses layers that may be parts of one by their names, of what is stored by name.

    Raises:
        InputError: so they may be.
    """
    told = model.about is not None or model.captured is not None or model.by_pattern
    parts = None if told else parts_among(list(model.layers))
    if parts is not None:
        raise InputError(
            f"{model.name}: {parts[0]!r} and {parts[1]!r} may be parts of one layer, or two layers;"
            " save each layer as one array, or say that they are layers with layers='*'"
        )


def _check_names(
    name_a: str,
    layers_a: dict[str, Layer],
    name_b: str,
    layers_b: dict[str, Layer],
    choose: str,
) -> None:
    only_a = [name for name in layers_a if name not in layers_b]
    only_b = [name for name in layers_b if name not in layers_a]
    if only_a or only_b:
        only = [
            f"only {source} has {_listed(names)}"
            for source, names in ((name_a, only_a), (name_b, only_b))
            if names
        ]
        raise InputError(
            f"{name_a} and {name_b}: have different layers: {', '.join(only)}; "
            f"choose layers that both have with {choose}, or match over all with match='best'"
        )


def _check_pair(both: str, a: Layer, b: Layer) -> None:
    _check_same_tokens(both, a, b)
    if a.neurons != b.neurons:
        raise InputError(
            f"{both}: layer {_names(a, b)} has shape {list(a.shape)} and {list(b.shape)}, so "
            f"{a.neurons} and {b.neurons} neurons; match='index' needs equal widths, "
            "match='best' does not"
        )


def _check_same_tokens(where: str, a: Layer, b: Layer) -> None:
    if a.tokens != b.tokens:
        raise InputError(
            f"{where}: layer {_names(a, b)} has shape {list(a.shape)} and {list(b.shape)}, so "
            f"{a.tokens} and {b.tokens} tokens; run both models on the same tokens"
        )
    if not same_order(a.shape[:-1], b.shape[:-1]):
        raise InputError(
            f"{where}: layer {_names(a, b)} has shape {list(a.shape)} and {list(b.shape)}, so as "
            "many tokens in another order; order both models' axes alike"
        )


def _names(a: Layer, b: Layer) -> str:
    return repr(a.name) if a.name == b.name else f"{a.name!r} and {b.name!r}"


def _check_tokens(both: str, layers: list[Layer], choose: str) -> None:
    first = layers[0]
    for layer in layers:
        if layer.tokens != first.tokens:
            raise InputError(
                f"{both}: layers {first.name!r} and {layer.name!r} have {first.tokens} and "
                f"{layer.tokens} tokens; run the model on the same tokens for all layers, or "
                f"choose layers with {choose}"
            )


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
