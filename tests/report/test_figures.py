"""Figures for papers: axes that can be compared, densities, sizes, formats, fonts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.made_up import made_up
from support.saved_results import files
from univfast.errors import InputError
from univfast.report.files import redraw
from univfast.report.pictures.canvas import short_names
from univfast.report.pictures.marks import bin_edges, fixed_range
from univfast.report.plots import figure_bytes
from univfast.result import CorrelationResult


@pytest.mark.parametrize(
    ("values", "ends"),
    [
        ([0.1, 0.9], (-0.2, 1.0)),
        ([-0.2, 1.0], (-0.2, 1.0)),
        ([-0.21, 0.5], (-0.4, 1.0)),
        ([-0.1, 1.3], (-0.2, 1.4)),
        ([-1.0, 1.0], (-1.0, 1.0)),
    ],
)
def test_axes_are_the_same_unless_a_number_lies_beyond(
    values: list[float], ends: tuple[float, float]
) -> None:
    assert fixed_range(np.array(values)) == pytest.approx(ends)
    edges = bin_edges(np.array(values), 0.5)
    assert np.diff(edges) == pytest.approx(0.02)
    assert np.abs(edges - 0.5).min() < 1e-12
    assert edges[0] <= ends[0] + 1e-9
    assert edges[-1] >= ends[1] - 1e-9


def test_two_results_have_the_same_axes() -> None:
    """The left panel and the excess, of results whose numbers are spread otherwise."""
    limits = []
    for planted in (0, 20):
        result = made_up(60, planted, match="best")
        result = with_values(result, np.linspace(0.0, 0.4 + planted / 50, 60))
        limits.append((result.plot().axes[0].get_xlim(), result.plot("excess").axes[0].get_xlim()))
    assert limits[0] == limits[1]
    assert limits[0][0] == (-0.2, 1.0)


def with_values(result: CorrelationResult, r: Any) -> CorrelationResult:
    result.correlation[:] = result.excess[:] = result.correlation.new_tensor(r)
    result.baseline[:] = 0
    assert result.null_excess is not None
    result.null_excess.clamp_(-0.1, 0.1)
    return result


def test_many_neurons_are_a_density_and_universal_ones_dots() -> None:
    result = made_up(12_000, 30, match="best")
    dots: Any = result.plot().axes[0]
    mesh = [found for found in dots.collections if found.get_array() is not None]
    assert len(mesh) == 1
    others = int((result.excess.isfinite() & ~result.universal).sum())
    assert int(np.ma.filled(mesh[0].get_array(), 0).sum()) == others
    scattered = [len(x.get_offsets()) for x in dots.collections if x is not mesh[0]]
    assert scattered == [int(result.universal.sum())]
    few: Any = made_up(4_000, 30, match="best").plot().axes[0]
    assert all(found.get_array() is None for found in few.collections)


def test_the_scale_of_counts_is_asked_for_or_said() -> None:
    small, large = made_up(300, 10), made_up(6_000, 10)
    for result, scale, expected in (
        (small, None, "linear"),
        (small, "log", "log"),
        (large, None, "log"),
        (large, "linear", "linear"),
    ):
        for kind, place in (("excess", 0), ("correlation", 1)):
            axes = result.plot(kind, scale=scale).axes[place]
            assert axes.get_yscale() == expected
            assert ("logarithmic" in axes.get_ylabel()) == (expected == "log")


def test_sizes_are_in_inches() -> None:
    result = made_up(60, 5, match="best")
    for kind in ("correlation", "excess", "layers"):
        assert tuple(result.plot(kind, size=(3.5, 2.5)).get_size_inches()) == (3.5, 2.5)


@pytest.mark.parametrize(
    ("style", "message"),
    [
        ({"size": (0, 1)}, "size: got"),
        ({"size": (101, 1)}, "size: got"),
        ({"scale": "cubic"}, "scale: "),
        ({"kind": "layers", "scale": "log"}, "scale: is for counts"),
    ],
)
def test_styles_that_cannot_be(style: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        made_up(60, 5, match="best").plot(**style)


def test_a_size_is_two_numbers() -> None:
    with pytest.raises(TypeError, match=r"^size: expected width and height"):
        made_up(60, 5).plot(size=3)  # type: ignore[arg-type]


def test_what_no_font_has_is_called_by_its_name() -> None:
    names = short_names(["mlp \N{SAUROPOD}", "a\N{COMBINING ACUTE ACCENT}b", "\U00020000x"])
    assert names[0] in ("mlp <sauropod>", "mlp \N{SAUROPOD}")
    assert names[2] in ("<U+20000>x", "\U00020000x")


@pytest.mark.slow
@pytest.mark.filterwarnings("error:Glyph")
def test_every_format_is_written_and_the_same_each_time(tmp_path: Path) -> None:
    result = made_up(60, 5, match="best", layers=("mlp \N{SAUROPOD}", "\N{SNOWFLAKE}"))
    result.save(tmp_path, figures=("pdf", "svg"))
    begins = {"pdf": b"%PDF-", "svg": b"<?xml"}
    for name in ("correlation", "excess", "layers"):
        assert not (tmp_path / f"{name}.png").exists()
        for kind, begin in begins.items():
            content = (tmp_path / f"{name}.{kind}").read_bytes()
            assert content.startswith(begin)
            assert content == figure_bytes(result.plot(name), kind)
    before = files(tmp_path)
    redraw(tmp_path, ("pdf", "svg"))
    assert files(tmp_path) == before
    result.save(tmp_path)
    assert {x.suffix for x in tmp_path.iterdir()} == {".png", ".html", ".json", ".csv", ".npy"}


@pytest.mark.parametrize(
    ("formats", "error"),
    [(("tif",), InputError), ((), InputError), (3, TypeError), ("png;svg", InputError)],
)
def test_other_formats_are_refused(formats: Any, error: type, tmp_path: Path) -> None:
    with pytest.raises(error, match=r"^figures: "):
        made_up(60, 5).save(tmp_path / "out", figures=formats)
    assert not (tmp_path / "out").exists()
