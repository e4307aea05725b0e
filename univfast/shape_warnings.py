"""What may be wrong with a result: rows and columns swapped, a null that says little."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

from univfast.errors import UnivfastWarning
from univfast.inputs.layers import Layer
from univfast.inputs.layout import Layout
from univfast.inputs.sparse import SparseLayer
from univfast.result import CorrelationResult

__all__ = ["shape_warnings", "sparse_warnings", "warn_of"]


def shape_warnings(
    models: Iterable[tuple[str, Layout]], tokens: int, axis: int | None
) -> list[str]:
    """Of each model that has layers of more neurons than there are tokens, or of one neuron.

    Args:
        models: their names and layers.
        tokens: that were used.
        axis: that neurons were said to be on; None where nobody did.
    """
    found = []
    swapped = "if rows are neurons and columns tokens, give axis=0"
    other = "if neurons are on another axis, give that, as axis=0"
    if axis is not None:
        swapped = other = f"if neurons are on another axis than axis={axis}, give that"
    for name, layout in models:
        layers = layout.by_name()
        wide = [layer for layer, width in layers.items() if width > tokens]
        narrow = [layer for layer, width in layers.items() if width == 1]
        if wide:
            found.append(
                f"{name}: {_layers(wide)} {tokens:,} tokens for {layers[wide[0]]:,} neurons, fewer"
                f" than neurons; {swapped}"
            )
        if narrow:
            found.append(
                f"{name}: {_layers(narrow)} a single neuron, and {tokens:,} tokens; {other}"
            )
    return found


def sparse_warnings(rotated: Iterable[tuple[str, Sequence[Layer]]], controlled: bool) -> list[str]:
    """Of each model that is rotated for a search, and has layers of sparse features.

    Args:
        rotated: their names and layers.
        controlled: whether the result has controls.
    """
    null = "for controls are their null" if controlled else "and controls_b= for a null"
    return [
        f"{name}: layer {sparse[0].name!r} is of sparse features, of which rotations mix those that"
        " are never active together: the baseline, and what it gives by chance, say little; give"
        f" rotation='none', {null}"
        for name, layers in rotated
        if (sparse := [layer for layer in layers if isinstance(layer, SparseLayer)])
    ]


def _layers(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"layer {names[0]!r}{more} {'have' if more else 'has'}"


def warn_of(result: CorrelationResult, stacklevel: int) -> None:
    """Warns of what a result says may be wrong; ``stacklevel`` as of `warnings.warn` here."""
    for warning in result.summary["warnings"]:
        warnings.warn(warning, UnivfastWarning, stacklevel=stacklevel + 1)
    controls = result.summary["controls"]
    for warning in [] if controls is None else controls["warnings"]:
        warnings.warn(warning, stacklevel=stacklevel + 1)
