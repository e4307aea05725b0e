"""How the documentation is built: `sphinx-build -W --keep-going -b html docs build/docs`."""

from __future__ import annotations

import re
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

project = "univfast"
author = "The univfast authors"
release = installed("univfast")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["examples/README.md"]
source_suffix = {".md": "markdown"}
myst_heading_anchors = 4
# What stands in single back quotes in docstrings is a name, of the package or not.
default_role = "py:obj"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autoclass_content = "both"
napoleon_google_docstring = True
napoleon_use_ivar = True
html_theme = "furo"
html_title = f"univfast {release}"
html_show_sourcelink = False


def _links(app: Any, path: Path, parent: str, content: list[str]) -> None:
    """Links of what stands outside of this folder: to pages here, or to nothing but their words."""
    text = content[0]
    text = text.replace("](docs/", "](").replace("](benchmarks/README.md", "](benchmarks.md")
    text = text.replace("](README.md", "](index.md").replace("](../docs/", "](")
    content[0] = re.sub(r"\[([^]]+)\]\((?:csrc|tests|\.ci|univfast|CITATION)[^)]*\)", r"\1", text)


def setup(app: Any) -> None:
    """What Sphinx calls."""
    app.connect("include-read", _links)
