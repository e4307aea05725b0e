"""What is registered shows everywhere: choices, help, messages, docs, and the work itself."""

from __future__ import annotations

import csv
import importlib.util
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from click import Context
from numpy.typing import NDArray

import univfast as uf
from support import ROOT
from support.saved_results import as_cells
from univfast import options, reference
from univfast.cli import main
from univfast.cli.main import cli
from univfast.columns import COLUMNS, PUBLISHED, Column
from univfast.inputs.formats import FORMATS, FileFormat, SourceFile
from univfast.inputs.stored import Stored, from_numpy
from univfast.nulls.kinds import ROTATIONS, Rotation, RotationKind
from univfast.nulls.rotations import HadamardRotations
from univfast.registry import Registry, resolve
from univfast.report.files import load
from univfast.search.matchings import MATCHINGS, Match, Matching

Array = NDArray[np.float64]

DOCS = ROOT / "docs"
UNFILLED = re.compile(r"\{(?!2\}|(layer|shard|rank|batch|part)\})")  # patterns of files have such


def docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", DOCS / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def activations(seed: int = 0, neurons: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(400, neurons, generator=generator, dtype=torch.float64)
    b = torch.randn(400, neurons, generator=generator, dtype=torch.float64)
    b[:, :6] += 2 * a[:, 6:12]
    return a, b


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    paths = str(tmp_path / "a.pt"), str(tmp_path / "b.pt")
    for path, x in zip(paths, activations(), strict=True):
        torch.save(x, path)
    return paths


def out_of(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    assert main(arguments) == status
    out, err = capsys.readouterr()
    return " ".join((out + err).split())


# ---- a toy of each -------------------------------------------------------------------------------


def permutation(generator: np.random.Generator, neurons: int) -> Array:
    return np.eye(neurons)[generator.permutation(neurons)]


SHUFFLE = RotationKind(
    "shuffle",
    help="neurons in another order",
    meaning="R is a random permutation.",
    maker=permutation,
    draw_matrices=1,
)


def test_a_rotation(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    a, b = activations()
    with ROTATIONS.having(SHUFFLE):
        for match in ("index", "best", "one-to-one"):
            chosen: Any = {"match": match, "rotation": "shuffle", "draws": 3}
            result = uf.correlate(a, b, **chosen)
            r, expected = reference.correlate(a.numpy(), b.numpy(), **chosen)
            np.testing.assert_allclose(result.correlation.numpy(), r, rtol=0, atol=1e-12)
            np.testing.assert_allclose(result.baseline, expected.baseline, rtol=0, atol=1e-12)
        # The highest r among neurons in another order is the highest r.
        assert uf.correlate(a, b, match="best", rotation="shuffle").excess.abs().max() < 1e-12  # type: ignore[arg-type]
        shown = out_of(capsys, "correlate", "--help")
        assert f"<{'|'.join(ROTATIONS)}>" in shown
        assert "'shuffle': neurons in another order" in shown
        out = Path(files[0]).parent / "out"
        out_of(capsys, "correlate", *files, "--rotation", "shuffle", "--out", str(out))
        assert json.loads((out / "summary.json").read_text())["rotation"]["kind"] == "shuffle"
        assert SHUFFLE.meaning in (out / "report.html").read_text()
        with pytest.raises(uf.InputError, match=r"expected one of hadamard, .*, shuffle$"):
            uf.correlate(a, b, rotation="shuffles")  # type: ignore[arg-type]
        assert "| `shuffle` | neurons in another order. R is" in docs().page()
    assert "shuffle" not in out_of(capsys, "correlate", "--help")


def test_a_structured_rotation() -> None:
    """Wide layers are rotated by its class, narrow ones by its matrix."""
    made = []

    class Flipped(HadamardRotations):
        def __init__(self, neurons: int, draws: range, seed: int, layer: str) -> None:
            made.append(neurons)
            super().__init__(neurons, draws, seed + 1, layer)

    kind = RotationKind("flipped", "", "", permutation, structured=Flipped)
    with ROTATIONS.having(kind):
        uf.correlate(*activations(neurons=24), rotation="flipped")  # type: ignore[arg-type]
        assert set(made) == {24}
        uf.correlate(*activations(neurons=15), rotation="flipped")  # type: ignore[arg-type]
        assert set(made) == {24}
    with pytest.raises(ValueError, match="'dense': draw_matrices must say"):
        RotationKind("dense", "", "", permutation)


def in_reverse(r: Array) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    rows = np.arange(min(r.shape))
    return rows, r.shape[1] - 1 - rows


def in_reverse_exactly(r: Array) -> tuple[NDArray[np.int64], Array]:
    match = r.shape[1] - 1 - np.arange(len(r))
    return match, np.asarray(r[np.arange(len(r)), match])


MIRROR = Matching(
    "mirror",
    help="the first goes with the last",
    doc="neuron i of A with the i-th from the last of B",
    statistic="r with the mirrored neuron of {}",
    axis="mirrored r",
    partner="mirror image",
    meaning="of a neuron of A with its mirror image in B.",
    baseline="They are mirrored anew.",
    dead="A neuron without variance in A.",
    reference=in_reverse_exactly,
    assign=in_reverse,
    most_neurons=100,
)


def test_a_matching(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    a, b = activations()
    chosen: Any = {"match": "mirror", "draws": 3}
    with MATCHINGS.having(MIRROR):
        result = uf.correlate(a, b, **chosen)
        r, expected = reference.correlate(a.numpy(), b.numpy(), **chosen)
        assert result.match_neuron.tolist() == list(range(23, -1, -1))
        np.testing.assert_allclose(result.correlation.numpy(), r, rtol=0, atol=1e-12)
        np.testing.assert_allclose(result.excess, expected.excess, rtol=0, atol=1e-12)
        shown = out_of(capsys, "correlate", "--help")
        assert f"<{'|'.join(MATCHINGS)}>" in shown
        assert "'mirror': the first goes with the last" in shown
        out = Path(files[0]).parent / "out"
        out_of(capsys, "correlate", *files, "--match", "mirror", "--out", str(out))
        report = (out / "report.html").read_text()
        assert MIRROR.meaning in report
        assert MIRROR.baseline in report
        with pytest.raises(uf.InputError, match=r"expected one of index, .*, mirror$"):
            uf.correlate(a, b, match="mirrors")  # type: ignore[arg-type]
        with pytest.raises(uf.InputError, match="'mirror' of 101 and 101 neurons would take"):
            uf.correlate(*activations(neurons=101), **chosen)
        assert "| `mirror` | the first goes with the last |" in docs().page()


def test_a_column(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    twice = Column(
        "twice",
        "number",
        "two times the excess",
        ("neurons", "matches", "top"),
        value=lambda result: 2 * result.excess,
    )
    with COLUMNS.having(twice):
        result = uf.correlate(*files, match="best")
        assert result.columns()["twice"] == (2 * result.excess).tolist()
        assert result.to_pandas()["twice"].tolist() == (2 * result.excess).tolist()
        out = Path(files[0]).parent / "out"
        result.save(out)
        for table in ("neurons.csv", "matches.csv"):
            with open(out / table, encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            assert [float(row["twice"]) for row in rows] == as_cells(2 * result.excess).tolist()
        with open(out / "top.csv", encoding="utf-8", newline="") as file:
            first = [row for row in csv.DictReader(file) if row["rank"] == "1"]
        assert [float(row["twice"]) for row in first] == as_cells(2 * result.excess).tolist()
        loaded = load(out)
        assert loaded.columns()["twice"] == (2 * loaded.excess).tolist()
        assert "| `twice` | number | two times the excess |" in docs().page()
    assert load(out).columns().keys() == {
        column.name
        for column in COLUMNS.values()
        if "neurons" in column.tables and column.only == "always"
    }


def test_a_published_column(files: tuple[str, str]) -> None:
    half = Column("half", "number", "half the excess", value=lambda result: result.excess / 2)
    result = uf.correlate(*files, match="best")
    with PUBLISHED.having(half):
        out = Path(files[0]).parent / "out"
        result.save(out, columns="published")
        with open(out / "published.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [float(row["half"]) for row in rows] == as_cells(result.excess / 2).tolist()
        assert "| `half` | number | half the excess |" in docs().page()


def test_results_from_before_a_column_are_read(
    files: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(files[0]).parent / "out"
    uf.correlate(*files).save(out)
    monkeypatch.setattr(uf.CorrelationResult, "later", None, raising=False)
    for dtype, absent in (("number", "nan"), ("text", "")):
        with COLUMNS.having(Column("later", dtype, "what came later", since=2)):
            assert [str(cell) for cell in load(out).columns()["later"]] == [absent] * 24
            assert "| `later` | " in docs().page()
    with (
        COLUMNS.having(Column("lost", "number", "what a result of schema 1 has")),
        pytest.raises(uf.InputError, match="does not hold a saved result"),
    ):
        load(out)


def read_lines(file: SourceFile, lone: str) -> dict[str, Stored]:
    text = file.mapped.bytes.tobytes().decode().splitlines()[1:]
    return {lone: from_numpy(np.array([line.split() for line in text], dtype=float), file.path)}


LINES = FileFormat(
    "lines",
    suffixes=(".lines",),
    help="a line of numbers a token",
    is_that=lambda file: file.start.startswith(b"#lines"),
    reader=read_lines,
)


def test_a_file_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = activations()
    paths = [str(tmp_path / name) for name in ("a.lines", "b.lines")]
    for path, x in zip(paths, (a, b), strict=True):
        rows = "\n".join(" ".join(map(repr, row)) for row in x.tolist())
        Path(path).write_text(f"#lines\n{rows}\n")
    with FORMATS.having(LINES):
        found = uf.correlate(*paths)
        assert torch.equal(found.correlation, uf.correlate(a, b).correlation)
        assert ".lines (a line of numbers a token) file" in out_of(capsys, "correlate", "--help")
        (tmp_path / "noise").write_bytes(b"noise" * 10)
        with pytest.raises(uf.InputError, match=r" or \.lines file$"):
            uf.correlate(tmp_path / "noise", paths[1])
        (tmp_path / "empty").mkdir()
        with pytest.raises(uf.InputError, match=r"looked for .*, \.lines files"):
            uf.correlate(tmp_path / "empty", paths[1])
        assert "| `.lines` | a line of numbers a token |" in docs().page()
    with pytest.raises(uf.InputError, match="is not a file of activations"):
        uf.correlate(*paths)


# ---- the registries ------------------------------------------------------------------------------


def test_the_types_name_what_is_registered() -> None:
    assert get_args(Rotation) == tuple(ROTATIONS)
    assert get_args(Match) == tuple(MATCHINGS)


def test_the_docs_are_current() -> None:
    assert (DOCS / "choices.md").read_text() == docs().page()


@pytest.mark.parametrize(
    ("references", "name"),
    [
        ([kind.maker for kind in ROTATIONS.values()], "maker"),
        ([matching.reference for matching in MATCHINGS.values()], "reference"),
        ([matching.assign for matching in MATCHINGS.values()], "assign"),
        ([known.reader for known in FORMATS.values()], "reader"),
    ],
)
def test_what_entries_refer_to_is_there(references: list[Any], name: str) -> None:
    assert all(callable(resolve(reference)) for reference in references if reference), name


def test_every_column_is_in_a_result() -> None:
    result = uf.correlate(*activations(), match="best")
    fields = get_type_hints(type(result), localns={"pd": Any, "Figure": Any})
    for column in COLUMNS.values():
        if "neurons" in column.tables and column.value is None:
            assert column.name in fields
    assert list(result.published_columns()) == [
        column.name for column in PUBLISHED.values() if column.only == "always"
    ]


def test_a_name_is_taken_once() -> None:
    registry = Registry("rotation", [SHUFFLE])
    with pytest.raises(ValueError, match="rotation: there is a 'shuffle' already"):
        registry.add(SHUFFLE)


# ---- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda: uf.correlate(*activations(), treshold=0.4),  # type: ignore[call-arg]
        lambda: uf.correlate_models(None, None, [], hooks="x", treshold=0.4),  # type: ignore[call-arg,arg-type]
        lambda: uf.PairedCorrelation(5, treshold=0.4),  # type: ignore[call-arg]
        lambda: uf.AllPairsCorrelation({"x": 1}, {"x": 1}, treshold=0.4),  # type: ignore[call-arg]
    ],
)
def test_an_unknown_option_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises(TypeError, match=r"\(\) got an unexpected keyword argument 'treshold'"):
        call()


@pytest.mark.parametrize(
    ("function", "group"),
    [
        (uf.correlate, options.CorrelateOptions),
        (uf.correlate_models, options.ModelOptions),
        (uf.PairedCorrelation, options.PairedOptions),
        (uf.AllPairsCorrelation, options.AllPairsOptions),
    ],
)
def test_options_stand_in_signatures_and_docstrings(function: Any, group: type) -> None:
    parameters = inspect.signature(function).parameters
    for name, (_, option) in options.declared(group).items():
        assert parameters[name].default == option.default
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert f"\n        {name}: " in function.__doc__
    assert not UNFILLED.search(function.__doc__)


@pytest.mark.parametrize("function", [uf.correlate, uf.correlate_models])
def test_types_can_be_asked_for(function: Any) -> None:
    hints = get_type_hints(function)
    assert get_args(hints["match"]) == tuple(MATCHINGS)
    assert hints["return"] is uf.CorrelationResult


def test_classes_that_derive_have_their_own_signature() -> None:
    class Narrow(uf.PairedCorrelation):
        def __init__(self, width: int) -> None:
            super().__init__(width, draws=1)

    assert list(inspect.signature(Narrow).parameters) == ["width"]
    assert "seed" in inspect.signature(uf.PairedCorrelation.__init__).parameters


def test_help_is_whole_wherever_it_is_asked_for() -> None:
    info = cli.commands["correlate"].to_info_dict(Context(cli))
    texts = [info["help"], *(param.get("help") or "" for param in info["params"])]
    assert not any(UNFILLED.search(text) for text in texts)


def test_the_command_line_has_what_is_declared(capsys: pytest.CaptureFixture[str]) -> None:
    shown = out_of(capsys, "correlate", "--help")
    for name, (_, option) in options.declared(options.CorrelateOptions).items():
        if not option.help:  # of Python alone
            continue
        assert f"--{name.replace('_', '-')} " in shown
        if option.help and option.choices is None:
            # Lines are broken behind hyphens too.
            assert option.help.split("  [")[0].replace("- ", "-") in shown.replace("- ", "-")
