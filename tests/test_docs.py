"""The documentation: its Python runs, its commands are commands, its examples run to their end."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import torch

import univfast as uf
from support import ROOT
from univfast.cli.main import cli

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
EXAMPLES = sorted((DOCS / "examples").glob("*.py"))


def commands(page: Path) -> Iterator[list[str]]:
    """Each call of the command line in a page's shell blocks."""
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL):
        text = re.sub(r"\\\n\s*", " ", re.sub(r"\$\w+", "0", block))
        for line in text.splitlines():
            found = re.search(r"(?:^|&& |-m |\s)univfast (?!docs)(.+)$", line.split("  #")[0])
            if found and not line.lstrip().startswith(("#", "pip install", "import", "git")):
                yield shlex.split(re.sub(r"[;&|>].*$", "", found[1]))


ALL = [(page, arguments) for page in PAGES for arguments in commands(page)]


@pytest.mark.parametrize(
    ("page", "arguments"), ALL, ids=[f"{page.stem}: {' '.join(a)}"[:90] for page, a in ALL]
)
def test_commands_are_commands(page: Path, arguments: list[str]) -> None:
    """Each has the options and values that the page gives it; what they do, other tests show."""
    name, *rest = arguments
    command = cli.commands.get(name)
    if command is None:
        assert name.startswith("-"), f"{page.name}: no command {name!r}"
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.path.exists", lambda path: True)
        try:
            command.make_context(name, list(rest))
        except (click.exceptions.Exit, click.exceptions.MissingParameter):
            pass
        except click.ClickException as error:
            pytest.fail(f"{page.name}: univfast {' '.join(arguments)}: {error.format_message()}")


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    """To files, and to headings of pages; of other sites nothing is said."""
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, heading = link.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), f"{page.name}: {link}"
        if heading:
            heads = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
            assert heading in slugs, f"{page.name}: {link}"


def test_there_are_commands() -> None:
    assert len(ALL) > 20


def python_blocks(page: Path) -> list[tuple[str, str]]:
    """Code, and what the page says that it prints."""
    return re.findall(r"```python\n(.*?)```\n(?:\n```\n(.*?)```)?", page.read_text(), re.DOTALL)


# Pages whose blocks are about a model, batches and a result that a reader has.
PREPARED = ("ablation", "contexts", "weights")


def prepared() -> dict[str, object]:
    """A small language model, token ids, and the saved result of it beside another one."""
    transformers = pytest.importorskip("transformers")
    sizes = {
        "n_layer": 1,
        "n_head": 2,
        "n_embd": 16,
        "vocab_size": 50,
        "n_positions": 32,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    model, other = (
        transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).eval() for _ in range(2)
    )
    batches = [torch.randint(50, (8, 16)) for _ in range(3)]
    hooks = "transformer.h.*.mlp.act"
    result = uf.correlate_models(model, other, batches, hooks=hooks, threshold=-0.5, details=True)
    result.save("result/")
    return {"uf": uf, "model": model, "batches": batches, "result": result, "tokenizer": None}


# Pages whose blocks are about files and models that readers have; tests of these run them:
# test_docs_directories.py, stores/test_stores_page.py, cli/test_your_model.py.
ELSEWHERE = ("directories", "stores", "your-model")


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if python_blocks(page) and page.stem not in ELSEWHERE],
    ids=lambda page: page.stem,
)
def test_python_runs_and_prints_what_the_page_says(
    page: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The blocks of a page go on from one another."""
    monkeypatch.chdir(tmp_path)
    names = prepared() if page.stem in PREPARED else {}
    for code, printed in python_blocks(page):
        exec(compile(code, page.name, "exec"), names)
        said = capsys.readouterr().out
        assert not printed or said == printed


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples(example: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", example],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "universal" in done.stdout
