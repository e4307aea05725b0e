"""What tests of reports are given."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text


@pytest.fixture
def pictures_of_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time: where it is not the point, a picture is the text in it."""

    def text_bytes(figure: Figure) -> bytes:
        texts = [text for text in figure.findobj(Text) if isinstance(text, Text)]
        return "\n".join(text.get_text() for text in texts).encode("utf-8", "replace")

    monkeypatch.setattr("univfast.report.plots.png_bytes", text_bytes)
    monkeypatch.setattr("univfast.report.html.png_bytes", text_bytes)
