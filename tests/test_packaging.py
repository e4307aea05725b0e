"""What is installed: versions, types, stubs, and that the border stays where it is."""

from __future__ import annotations

import ast
import re
import sys
from importlib import metadata, resources

import pytest

import univfast
from support import ROOT
from support.processes import python
from univfast import _native


def test_the_version_is_that_of_pyproject() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    (version,) = re.findall(r'^version = "(.+)"$', text, re.MULTILINE)
    assert univfast.__version__ == metadata.version("univfast") == version
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()
    assert f'version: "{version}"' in (ROOT / "conda" / "recipe.yaml").read_text()


def test_types_are_shipped() -> None:
    assert resources.files("univfast").joinpath("py.typed").is_file()
    assert resources.files("univfast").joinpath("_native.pyi").is_file()


def test_what_the_report_is_made_of_is_shipped() -> None:
    web = resources.files("univfast.report.web")
    for name in ("page.html", "report.css", "values.js", "charts.js", "page.js", "beside.js"):
        assert web.joinpath(name).is_file(), name


def test_the_stub_names_what_the_module_has() -> None:
    def declared(body: list[ast.stmt]) -> set[str]:
        names = set()
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names.add(node.name)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(node.target.id)
        return names

    stub = ast.parse((ROOT / "univfast" / "_native.pyi").read_text()).body
    (cuda,) = [node for node in stub if isinstance(node, ast.ClassDef) and node.name == "_Cuda"]
    public = {name for name in vars(_native) if not name.startswith("_")}
    assert declared(stub) - {"_Cuda"} == public
    assert declared(cuda.body) == {name for name in vars(_native.cuda) if name[0] != "_"}


def test_lower_bounds_have_no_caps() -> None:
    for requirement in metadata.requires("univfast") or []:
        assert "<" not in requirement.split(";")[0]
        assert "==" not in requirement.split(";")[0]


def test_constraints_pin_every_need() -> None:
    pinned = {
        line.split("==")[0].lower()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    for requirement in metadata.requires("univfast") or []:
        assert re.split(r"[>;\[ ]", requirement)[0].lower() in pinned, requirement


def test_public_names_are_there_and_documented() -> None:
    for name in univfast.__all__:
        assert getattr(univfast, name).__doc__, name
        kind = getattr(univfast, name)
        methods = [x for x in dir(kind) if not x.startswith("_")] if isinstance(kind, type) else []
        for method in methods if kind is not univfast.InputError else []:
            value = getattr(kind, method)
            assert value is None or not callable(value) or value.__doc__, f"{name}.{method}"
    assert set(univfast.__all__) <= set(dir(univfast))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        univfast.nothing  # noqa: B018


def test_the_core_knows_neither_python_nor_torch_but_for_one_file() -> None:
    sources = [path for path in (ROOT / "csrc").rglob("*") if path.is_file()]
    python = {path.name for path in sources if "pybind11" in path.read_text()}
    assert python == {"module.cpp"}
    for path in sources:
        assert not re.search(r"#include <(torch|ATen|c10)", path.read_text()), path


@pytest.mark.slow
def test_a_missing_extension_says_what_to_do() -> None:
    code = "import sys; sys.modules['univfast._native'] = None; import univfast.native"
    assert "pip install" in python(code).stderr


@pytest.mark.slow
def test_what_is_imported_is_asked_for() -> None:
    """Everything but what has an extra of its own comes with a plain installation."""
    imported = set()
    for path in (ROOT / "univfast").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                imported.add(node.module.split(".")[0])
    needs = metadata.requires("univfast") or []
    plain = {
        re.split(r"[<>=!~\[; ]", need)[0].lower().replace("-", "_")
        for need in needs
        if "extra ==" not in need
    }
    # typing_extensions is for type checkers alone, which bring it.
    optional = {"pandas", "peft", "pyarrow", "transformers", "typing_extensions"}
    optional |= {"h5py", "huggingface_hub", "zarr"}  # transformers brings the hub
    assert imported - set(sys.stdlib_module_names) - {"univfast", *optional} == plain
