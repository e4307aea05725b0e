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


def shape_warnings(models: Iterable[tuple[str, Layout]], tokens: int) -> list[str]:
    """Of each model that has layers of more neurons than there are tokens, or of one neuron.

    Args:
        models: their names and layers.
        tokens: that were used.
    """
    found = []
    for name, layout in models:
        layers = layout.by_name()
        wide = [layer for layer, width in layers.items() if width > tokens]
        narrow = [layer for layer, width in layers.items() if width == 1]
        if wide:
            found.append(
                f"{name}: {_layers(wide)} {tokens:,} tokens for {layers[wide[0]]:,} neurons, fewer"
                " than neurons; if rows are neurons and columns tokens, give axis=0"
            )
        if narrow:
            found.append(
                f"{name}: {_layers(narrow)} a single neuron, and {tokens:,} tokens; if neurons are"
                " on another axis, give that, as axis=0"
            )
    return found


def sparse_warnings(rotated: Iterable[tuple[str, Sequence[Layer]]]) -> list[str]:
    """Of each model that is rotated for a search, and has layers of sparse features.

    Args:
        rotated: their names and layers.
    """
    return [
        f"{name}: layer {sparse[0].name!r} is of sparse features, of which rotations mix those that"
        " are never active together: the baseline, and what it gives by chance, say little; give"
        " controls_b, and rotation='none'"
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
