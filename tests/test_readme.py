"""README's Python runs, and prints what README says it prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support import ROOT

README = (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_python_examples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```python\n(.*?)```\n(?:\n```\n(.*?)```)?", README, re.DOTALL)
    assert len(examples) == 3
    names: dict[str, object] = {}
    for code, printed in examples:
        exec(compile(code, "README.md", "exec"), names)
        assert capsys.readouterr().out == printed
    assert (tmp_path / "result" / "report.html").exists()
