"""Style, scripts and template of a page, and the policy that they run under."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from jinja2 import Environment, StrictUndefined, Template

__all__ = ["policy", "scripts", "style", "template"]

# BokehJS draws, its API makes models without Python, and ours says which. Its widgets and tables
# are not in the page: the browser's own do, are styled as the rest, and spare 700 kB.
_BOKEH = ("bokeh.min.js", "bokeh-api.min.js")
_LEVELS = 9  # of a token's colour, each half of its own, at most such that text stays legible


@cache
def template() -> Template:
    """The page; it escapes whatever is not marked as HTML."""
    text = _own("page.html")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(text)


@cache
def style() -> str:
    """The style sheet."""
    strengths = (
        f".{half}{level} {{ --{half}: {0.07 * level:.2f}; }}\n"
        for half in "ab"
        for level in range(1, _LEVELS + 1)
    )
    return _own("report.css") + "".join(strengths)


@cache
def scripts(own: str) -> tuple[str, ...]:
    """The scripts, in the order that they run in; ``own`` is the last one's name."""
    import bokeh  # here, as only pages need it

    folder = files(bokeh) / "server" / "static" / "js"
    bundles = (_inline((folder / name).read_text(encoding="utf-8")) for name in _BOKEH)
    return (*bundles, *(_inline(_own(name)) for name in ("values.js", "charts.js", own)))


@cache
def policy(own: str) -> str:
    """What the browser may do: run these very scripts, and load nothing."""
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts(own))
    allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    # Bokeh puts style elements of its own into its charts.
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:"


def _own(name: str) -> str:
    return (files("univfast.report.web") / name).read_text(encoding="utf-8")


def _inline(script: str) -> str:
    """A script that may stand in a page: without what would end it, or name a file to load."""
    script = re.sub(r"^//# sourceMappingURL=.*$", "", script, flags=re.MULTILINE)
    return script.replace("\r\n", "\n").replace("</script", r"<\/script").replace("<!--", r"<\!--")
