"""What all figures share: size, colours, and words in them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

# Okabe and Ito's palette, whose colours stay apart under every common colour blindness. The green
# is the darkest of those used, so it also stands out in grey print.
GREEN = "#009e73"  # universal neurons
BLUE = "#56b4e9"  # all other neurons, and the correlation
ORANGE = "#d55e00"  # the baseline, and what chance gives
LINE = "0.45"  # seen on a white and on a black background

DPI = 130
# With what the default font lacks: other scripts and signs, on Linux, macOS and Windows.
_MORE_FONTS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "WenQuanYi Zen Hei", "Noto Emoji", "Symbola"),
    *("Arial Unicode MS", "Hiragino Sans", "Apple Symbols"),
    *("Microsoft YaHei", "Malgun Gothic", "Segoe UI Symbol", "Segoe UI Emoji"),
)
NAME_LENGTH = 26  # characters of a name that is drawn; "transformer.h.11.mlp.act" has 24


Size = tuple[float, float]
"""Width and height of a figure in inches."""


def new_figure(default: Size, size: Size | None) -> Figure:
    """An empty figure of this size, or the default one."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12, wspace=0.04)
    return Figure(figsize=size or default, dpi=DPI, layout=layout)


def array(tensor: torch.Tensor) -> NDArray[Any]:
    """The tensor's values."""
    return np.asarray(tensor.detach().cpu().numpy())


def say(axes: Axes, message: str) -> None:
    """Writes ``message`` in place of a plot that cannot be drawn."""
    axes.text(0.5, 0.5, message, transform=axes.transAxes, ha="center", va="center")
    axes.set_xticks([])
    axes.set_yticks([])


def nothing_to_draw(summary: Mapping[str, Any]) -> str:
    """Why no neuron has a correlation, or an excess."""
    if summary["dead"] + summary["unmatched"] < summary["neurons"]:
        return "No baseline: computed with rotation none.\nNothing to compare the correlation with."
    if summary["unmatched"]:
        return f"No neuron has a correlation:\n{_dead_and_unmatched(summary)}."
    return "No live neurons:\nevery neuron is constant, so none has a correlation."


def say_left_out(figure: Figure, summary: Mapping[str, Any]) -> None:
    """Writes below which neurons are not in the picture, if there are any."""
    if summary["dead"] + summary["unmatched"]:
        message = f"Neurons left out: {_dead_and_unmatched(summary)}."
        figure.supxlabel(message, fontsize="small", color=LINE)


def _dead_and_unmatched(summary: Mapping[str, Any]) -> str:
    counts = ((summary["dead"], "dead"), (summary["unmatched"], "without a partner"))
    return ", ".join(f"{count:,} {what}" for count, what in counts if count)


def legend_below(axes: Axes, markerscale: float = 1.0) -> None:
    """A legend under the axes, where it can hide no neuron."""
    lines = axes.get_xlabel().count("\n")
    legend = axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.12 - 0.04 * lines),
        ncols=2,
        frameon=False,
        fontsize="small",
        markerscale=markerscale,
    )
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1.0)


def short_names(names: Sequence[str]) -> list[str]:
    """Names from the user, fit to be drawn: in one line, and so short that they leave room.

    Where they are too long, the words that all of them begin or end with are left out, as they tell
    none from another. Draw them with ``parse_math=False``: a ``$`` is no formula.
    """
    clean = [_one_line(name) for name in names]
    if len(set(clean)) > 1 and max(map(len, clean)) > NAME_LENGTH:
        words = [re.findall(r"[^\W_]+|[\W_]", name) for name in clean]
        first = _common(words)
        last = _common([name[first:][::-1] for name in words])
        clean = [
            ("…" if first else "") + "".join(name[first : len(name) - last]) + ("…" if last else "")
            for name in words
        ]
    half = NAME_LENGTH // 2
    return [n if len(n) <= NAME_LENGTH else f"{n[: half - 1]}…{n[-half:]}" for n in clean]


def _common(names: Sequence[Sequence[str]]) -> int:
    """How many words all of them begin with."""
    same = [len(set(words)) == 1 for words in zip(*names, strict=False)]
    return [*same, False].index(False)


def _one_line(name: str) -> str:
    """Without line breaks and what cannot be drawn: control characters, half characters.

    What no font here has, as emoji, is called by its name: ``<snowflake>``.
    """
    text = " ".join(name.encode("utf-8", "replace").decode("utf-8").split())
    return "".join(_drawable(char) if char.isprintable() else "?" for char in text)


def _drawable(char: str) -> str:
    if char.isascii() or ord(char) in _characters():
        return char
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Cf"):
        return ""  # joins or varies what stands before it
    code = f"U+{ord(char):04X}"
    name = unicodedata.name(char, code).lower()
    return f"<{code if 'ideograph' in name or 'syllable' in name else name}>"


def set_fonts(figure: Figure) -> Figure:
    """The figure, whose texts take from other fonts what the first lacks."""
    from matplotlib.text import Text

    families = [name for name, _ in _fonts()]
    for text in figure.findobj(Text):
        if isinstance(text, Text):
            text.set_fontfamily(families)
    return figure


@cache
def _fonts() -> tuple[tuple[str, str], ...]:
    """Name and path of the font of figures, and of those that others' scripts are in, if here."""
    from matplotlib import font_manager

    first = font_manager.findfont(font_manager.FontProperties())
    known = {entry.name: entry.fname for entry in font_manager.fontManager.ttflist}
    return (
        (font_manager.get_font(first).family_name, first),
        *((name, known[name]) for name in _MORE_FONTS if name in known),
    )


@cache
def _characters() -> frozenset[int]:
    """Those that the fonts of figures have."""
    from matplotlib import font_manager

    return frozenset(
        code for _, path in _fonts() for code in font_manager.get_font(path).get_charmap()
    )
