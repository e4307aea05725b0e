"""The house: every room has its map, imports go downhill, and no file grows too long."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import ROOT

PACKAGE = ROOT / "univfast"

# From the ground up: a room imports from rooms on lower floors alone. The modules in front, which
# users import, stand on floors of their own (no circles); here only the rooms behind count.
FLOORS = (
    ("native",),
    ("machine",),
    ("nulls",),
    ("inputs",),
    ("stores",),
    ("networks",),
    ("controls",),
    ("sums", "experiment", "text"),
    ("search",),
    ("runs", "reference"),
    ("features", "neuron_weights", "ablation"),
    ("contexts",),
    ("report",),
    ("bench",),
    ("cli",),
)
LINES = 400


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts).removesuffix(".__init__"), path


def imports(name: str, path: Path) -> set[str]:
    """Modules of the package that a module imports when it is imported itself."""
    known = dict(modules())
    found = set()
    pending: list[ast.stmt] = list(ast.parse(path.read_text()).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, (ast.If, ast.Try, ast.With)):
            pending += node.body
        if isinstance(node, ast.ImportFrom) and node.module and node.module in known:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {*(inside & known.keys()), *({node.module} if inside - known.keys() else ())}
    return found - {name, "univfast"}


def room(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if len(parts) > 2 or (PACKAGE / parts[-1]).is_dir() else None


def test_every_room_has_a_floor() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == {name for floor in FLOORS for name in floor}


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=[name for name, _ in modules()])
def test_imports_go_downhill(name: str, path: Path) -> None:
    floor = {each: number for number, floor in enumerate(FLOORS) for each in floor}
    paths = dict(modules())
    own = room(name)
    if own is None:
        return
    pending, seen = imports(name, path), set()
    while pending:
        other = pending.pop()
        seen.add(other)
        theirs = room(other)
        if theirs is None:  # in front: what it brings counts too
            pending |= imports(other, paths[other]) - seen
        elif theirs != own:
            assert floor[theirs] < floor[own], f"{name} imports {other}"


def test_no_imports_go_round() -> None:
    left = {name: imports(name, path) for name, path in modules()}
    while left:
        done = {name for name, needs in left.items() if not needs & left.keys()}
        assert done, f"in a circle, or above one: {sorted(left)}"
        left = {name: needs for name, needs in left.items() if name not in done}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("__init__.py")), ids=lambda p: p.parent.name)
def test_maps_are_complete(path: Path) -> None:
    """The docstring of a folder names every module in it, and none that is not there."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    rows = re.findall(r"^(``.*?``)  ", text, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"``(\w+)``", row)}
    there = {other.stem for other in path.parent.glob("*.py")} - {"__init__", "__main__"}
    folders = {other.parent.name for other in path.parent.glob("*/__init__.py")}
    if path.parent == PACKAGE:  # its rooms stand in the way of the data above
        assert there <= named <= there | folders
        assert all(f"``{folder}``" in text for folder in folders)
    else:
        assert named == there | folders


# What makes a tensor of what torch has as default, where nothing else is said.
FACTORIES = {
    *("arange", "as_tensor", "asarray", "empty", "empty_strided", "eye", "full", "linspace"),
    *("logspace", "ones", "rand", "randint", "randn", "randperm", "scalar_tensor", "tensor"),
    *("tril_indices", "triu_indices", "zeros"),
}


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=[name for name, _ in modules()])
def test_allocations_say_dtype_and_device(name: str, path: Path) -> None:
    """For users may have set other defaults, and the core takes memory for what it is told."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("torch."):
            said = {keyword.arg for keyword in node.keywords}
            if ast.unparse(node.func).removeprefix("torch.") in FACTORIES:
                assert {"dtype", "device"} <= said, f"{path}:{node.lineno}"
    for statement in tree.body:  # made while the module is imported, in whatever state torch is
        made = [ast.unparse(x.func) for x in ast.walk(statement) if isinstance(x, ast.Call)]
        if isinstance(statement, (ast.Assign, ast.AnnAssign)):
            assert not {f"torch.{each}" for each in FACTORIES} & {*made}, f"{path}"


def long_files() -> list[Path]:
    folders = ("univfast", "csrc", "tests", "benchmarks", "docs")
    sources = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    endings = {".py", ".pyi", ".h", ".cpp", ".cu", ".cuh", ".inc", ".sh"}
    return [
        path
        for path in sources
        if path.suffix in endings and len(path.read_text().splitlines()) > LINES
    ]


def test_no_file_is_too_long() -> None:
    assert [str(path.relative_to(ROOT)) for path in long_files()] == []


def test_no_two_test_files_have_one_name() -> None:
    """For pytest takes them for one module, where both are given."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted({*names})
