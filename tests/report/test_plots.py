"""The pictures of small made-up results: every neuron, every flag, and words that fit."""

from __future__ import annotations

import re
import warnings
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from support.made_up import NAMES, made_up
from support.pictured import CASES, Page
from univfast.errors import InputError
from univfast.report.html import report_html
from univfast.report.pictures.canvas import GREEN, NAME_LENGTH, short_names
from univfast.report.pictures.layers import MOST_PANELS
from univfast.report.plots import (
    correlation_figure,
    excess_figure,
    figures,
    layers_figure,
    models_figure,
    png_bytes,
)


def green_dots(axes: Any) -> int:
    return sum(
        len(dots.get_offsets())
        for dots in axes.collections
        if len(dots.get_offsets()) and to_hex(dots.get_facecolor()[0]) == GREEN
    )


def bars(axes: Any, colour: str | None = None) -> list[tuple[float, float]]:
    """Left edge and height of each bar that is not empty, of one colour or of all."""
    return [
        (bar.get_x(), bar.get_height())
        for bar in axes.patches
        if hasattr(bar, "get_height")
        and bar.get_height() > 0
        and (colour is None or to_hex(bar.get_facecolor()) == colour)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_draws_every_neuron_and_every_flag(case: str) -> None:
    result = CASES[case]
    flagged = int(result.universal.sum())
    comparable = int(result.excess.isfinite().sum())
    figure, excess = correlation_figure(result), excess_figure(result)

    dots, histograms = figure.axes[:2]  # a density has a bar of colours behind them
    shown = [x for x in dots.collections if x.get_array() is None]
    dense = [np.ma.filled(x.get_array(), 0).sum() for x in dots.collections if x not in shown]
    assert sum(len(np.asarray(x.get_offsets())) for x in shown) + sum(dense) == comparable
    assert sum(height for _, height in bars(histograms)) == int(result.correlation.isfinite().sum())
    assert sum(height for _, height in bars(excess.axes[0])) == comparable
    assert sum(height for _, height in bars(excess.axes[0], GREEN)) == flagged
    if comparable:
        assert green_dots(dots) == flagged


def test_threshold_lines_stand_at_the_threshold() -> None:
    result = made_up(threshold=0.3)
    dots: Any = correlation_figure(result).axes[0]
    lines = {line.get_linestyle(): line for line in dots.lines}
    assert (lines["-"].get_xy1(), lines["-"].get_slope()) == ((0, 0), 1)
    assert (lines["--"].get_xy1(), lines["--"].get_slope()) == ((0, 0.3), 1)

    axes: Any = excess_figure(result).axes[0]
    assert list(axes.lines[0].get_xdata()) == [0.3, 0.3]
    assert min(left for left, _ in bars(axes, GREEN)) >= 0.3 - 1e-12


def test_axes_are_equal_and_hold_every_dot_and_the_threshold() -> None:
    for planted in (0, 40):
        dots = correlation_figure(made_up(planted=planted)).axes[0]
        low, high = dots.get_xlim()
        assert dots.get_ylim() == (low, high)
        assert dots.get_aspect() == 1
        assert low < -0.3
        assert high > 0.5
        for collection in dots.collections:
            offsets = np.asarray(collection.get_offsets())
            assert ((offsets > low) & (offsets < high)).all()


def outline(axes: Any) -> np.ndarray[Any, Any] | None:
    steps = [patch for patch in axes.patches if hasattr(patch, "get_data")]
    return np.asarray(steps[0].get_data().values) if steps else None


def test_chance_is_scaled_to_the_number_of_neurons() -> None:
    heights = outline(excess_figure(made_up(dead=7)).axes[0])
    assert heights is not None
    assert np.nansum(heights) == pytest.approx(500 - 7)
    assert outline(excess_figure(made_up(draws=1)).axes[0]) is None


def test_title_gives_the_flags_and_the_chance_count() -> None:
    result = made_up()
    result.summary["universal_by_chance"] = 3.4
    assert excess_figure(result).axes[0].get_title() == (
        "40 of 500 neurons universal\n3.4 expected by chance"
    )
    assert "needs at least two draws" in excess_figure(made_up(draws=1)).axes[0].get_title()


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("no baseline", "rotation none"),
        ("several, no baseline", "rotation none"),
        ("all dead", "every neuron is constant"),
        ("several, all dead", "every neuron is constant"),
        ("nobody has a partner", "2 dead, 10 without a partner"),
    ],
)
def test_says_why_there_is_nothing_to_draw(case: str, message: str) -> None:
    for figure in (correlation_figure(CASES[case]), excess_figure(CASES[case])):
        assert message in figure.axes[0].texts[0].get_text()


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_says_which_neurons_are_left_out(case: str) -> None:
    summary = CASES[case].summary
    for draw in figures(CASES[case]).values():
        note = draw().get_supxlabel()
        counts = [int(number) for number in re.findall(r"\d+", note)]
        assert counts == [count for count in (summary["dead"], summary["unmatched"]) if count]
        assert ("without a partner" in note) == (summary["unmatched"] > 0)


def test_counts_are_logarithmic_only_where_small_bars_would_vanish() -> None:
    assert excess_figure(CASES["normal"]).axes[0].get_yscale() == "linear"
    assert excess_figure(CASES["large"]).axes[0].get_yscale() == "log"


@pytest.mark.parametrize(
    ("case", "baseline", "correlation"),
    [
        ("normal", "r with the same neuron of a randomly rotated B", "r with the same neuron of B"),
        (
            "best",
            "highest r with any neuron of a randomly rotated B",
            "highest r with any neuron of B",
        ),
        ("one-to-one", "r with the partner in a randomly rotated B", "r with the partner in B"),
        (
            "several, best",
            "highest r with any neuron of a randomly rotated model (mean over 2 models and",
            "highest r with any neuron of a model (mean over 2 models)",
        ),
    ],
)
def test_axes_say_what_is_measured(case: str, baseline: str, correlation: str) -> None:
    axes = correlation_figure(CASES[case]).axes[0]
    x, y = (label.replace("\n", " ") for label in (axes.get_xlabel(), axes.get_ylabel()))
    assert y == f"correlation: {correlation}"
    draws = "5 draws)" if case.startswith("several") else "(mean over 5 draws)"
    assert x == f"baseline: {baseline} {draws}"
    one_draw = correlation_figure(CASES["one draw"]).axes[0]
    assert "mean" not in one_draw.get_xlabel()


@pytest.mark.slow
def test_which_figures_a_result_has() -> None:
    assert list(figures(CASES["normal"])) == ["correlation", "excess"]
    assert list(figures(CASES["best"])) == ["correlation", "excess", "layers"]
    assert list(figures(CASES["several, by index"])) == ["correlation", "excess", "models"]
    assert list(figures(CASES["several, best"])) == ["correlation", "excess", "layers", "models"]
    for case in ("best", "several, best"):
        for name, draw in figures(CASES[case]).items():
            assert png_bytes(CASES[case].plot(name)) == png_bytes(draw())
    with pytest.raises(InputError, match="'models', this result has 'correlation', 'excess'"):
        CASES["normal"].plot("models")


def panels(figure: Any) -> list[Any]:
    return [axes for axes in figure.axes if axes.images and axes.get_label() != "<colorbar>"]


def tick_labels(axis: Any) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def counts(axes: Any) -> list[list[int]]:
    return np.asarray(axes.images[0].get_array()).astype(int).tolist()


@pytest.mark.parametrize("case", ["best", "one-to-one", "several, best"])
def test_heat_maps_show_the_matches_of_live_neurons(case: str) -> None:
    result = CASES[case]
    figure = layers_figure(result)
    tables = result.summary["match_layers"]
    tables = tables if isinstance(tables, list) else [tables]
    assert len(panels(figure)) == len(tables)
    for axes, table in zip(panels(figure), tables, strict=True):
        assert counts(axes) == table["counts"]
        # An image has its first row at the top and its first column on the left.
        assert axes.get_ylim()[0] > axes.get_ylim()[1]
        assert tick_labels(axes.yaxis) == table["rows"]
        assert tick_labels(axes.xaxis) == table["columns"]
        written = {(*text.get_position(),): text.get_text() for text in axes.texts}
        assert written == {
            (j, i): str(count)
            for i, row in enumerate(table["counts"])
            for j, count in enumerate(row)
        }
    one = result.by_model[0] if result.by_model else result
    live = [i for i, r in enumerate(one.correlation.tolist()) if r == r]
    first = [i for i in live if (one.layer[i], one.match_layer[i]) == ("mlp.0", "mlp.1")]
    assert counts(panels(figure)[0])[0][1] == len(first) > 0
    assert np.sum(counts(panels(figure)[0])) == len(live)


def test_heat_maps_are_named_by_model_and_share_their_colours() -> None:
    first, second = panels(layers_figure(CASES["several, best"]))
    assert (first.get_title(), second.get_title()) == ("b.pt", "c.pt")
    highest = max(max(map(max, counts(axes))) for axes in (first, second))
    assert first.images[0].get_clim() == second.images[0].get_clim() == (0, highest)


@pytest.mark.slow
def test_at_most_six_heat_maps() -> None:
    result = made_up(neurons=40, planted=0, others=[NAMES] * 8, match="best")
    figure = layers_figure(result)
    assert [axes.get_title() for axes in panels(figure)] == [f"{x}.pt" for x in "bcdefg"]
    assert len(panels(figure)) == MOST_PANELS
    assert "first 6 of 8 models" in figure.get_suptitle()
    assert "of the first 6 models" in Page(report_html(result)).text
    few = layers_figure(made_up(neurons=40, planted=0, others=[NAMES] * 4, match="best"))
    assert len(panels(few)) == 4
    assert "of" not in few.get_suptitle()


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 2, 12, 48, 130])
@pytest.mark.parametrize("columns", [1, 6, 48])
def test_heat_maps_of_any_size_are_tidy(rows: int, columns: int) -> None:
    names = [f"model.language_model.layers.{i}.mlp.down_proj:input" for i in range(columns)]
    result = made_up(2000, 0, match="best", layers=[f"h.{i}" for i in range(rows)], others=[names])
    figure = layers_figure(result)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    (axes,) = panels(figure)
    box = figure.bbox
    for axis, along in ((axes.xaxis, "x"), (axes.yaxis, "y")):
        boxes = sorted(
            (label.get_window_extent(renderer) for label in axis.get_ticklabels()),
            key=lambda extent, along=along: getattr(extent, f"{along}0"),
        )
        for before, after in pairwise(boxes):
            assert getattr(before, f"{along}1") <= getattr(after, f"{along}0") + 1
        assert all(box.x0 <= b.x0 and b.x1 <= box.x1 for b in boxes)
        assert all(box.y0 <= b.y0 and b.y1 <= box.y1 for b in boxes)
    cell = axes.get_window_extent(renderer).width / columns
    height = axes.get_window_extent(renderer).height / rows
    for text in axes.texts:
        extent = text.get_window_extent(renderer)
        assert extent.width < cell
        assert extent.height < height + 2
    assert len(axes.texts) == (rows * columns if rows <= 12 and columns <= 6 else 0)
    assert max(figure.get_size_inches()) < 11
    title = figure._suptitle.get_window_extent(renderer)  # type: ignore[attr-defined]
    assert box.x0 <= title.x0
    assert title.x1 <= box.x1


def test_names_are_no_formulas_and_break_no_picture() -> None:
    hostile = ["$\\frac{$", "a_$x^$_b", "\u5c42\n1", "b\udcff", "", "x" * 400]
    result = made_up(60, 0, match="best", layers=hostile, others=[hostile] * 2, models=hostile[:3])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert png_bytes(layers_figure(result))
    axes = panels(layers_figure(result))[0]
    for label in [*axes.get_xticklabels(), *axes.get_yticklabels(), axes.title]:
        assert not label.get_parse_math()
    assert tick_labels(axes.xaxis)[:2] == hostile[:2]


def test_long_names_keep_what_tells_them_apart() -> None:
    layers = [f"model.language_model.layers.{i}.mlp.down_proj:input" for i in (1, 10, 11)]
    assert short_names(layers) == ["…1…", "…10…", "…11…"]
    assert short_names(["h.10.mlp", "h.11.mlp"]) == ["h.10.mlp", "h.11.mlp"]
    # Nothing in common, one name alone, or the same name twice.
    assert short_names(["a" * 99, "b"]) == ["a" * 12 + "…" + "a" * 13, "b"]
    assert short_names(["a" * 50]) == short_names(["a" * 50] * 2)[:1]
    assert len(short_names([layers[0]])[0]) == NAME_LENGTH
    assert short_names(["a\x07b\nc", "b\udcff"]) == ["a?b c", "b?"]
    # A word that all begin and end with is left out once.
    assert short_names(["very.long.name.of.a.layer", "very.long.name.of.a.layer.layer.of"])[0] != ""


@pytest.mark.parametrize("case", ["several, by index", "several, best", "several, no baseline"])
def test_smallest_against_largest(case: str) -> None:
    result = CASES[case]
    axes: Any = models_figure(result).axes[0]
    shown = np.concatenate([np.asarray(dots.get_offsets()) for dots in axes.collections])
    live = result.correlation.isfinite()
    r = torch.stack([one.correlation for one in result.by_model])[:, live]
    expected = torch.stack([r.amax(dim=0), r.amin(dim=0)], dim=1).numpy()
    np.testing.assert_array_equal(shown[np.lexsort(shown.T)], expected[np.lexsort(expected.T)])
    assert green_dots(axes) == int(result.universal.sum())
    assert (axes.lines[0].get_xy1(), axes.lines[0].get_slope()) == ((0, 0), 1)
    assert axes.get_xlim() == axes.get_ylim()
    assert "2 models" in axes.get_xlabel()
