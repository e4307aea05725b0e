"""Help in panels, and what was meant by a word that is none."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any

import click
from rich_click import RichCommand, RichContext, RichGroup
from rich_click.rich_panel import RichOptionPanel

from univfast.option import PANELS, Panel, declared
from univfast.options import CorrelateOptions

__all__ = ["HELP", "HelpedCommand", "HelpedGroup", "meant"]

# Of options that commands alone have; "Input" is that of all others.
_PANELS: dict[str, Panel] = {
    **dict.fromkeys(("--controls", "--match-rate", "--repeats", "--mean-tokens"), "Nulls"),
    **dict.fromkeys(("--learned", "--layer", "--top"), "Matching"),
    **dict.fromkeys(
        ("--text", "--hooks", "--hooks-b", "--context", "--bos", "--max-tokens", "--skip"),
        "Live models",
    ),
    **dict.fromkeys(("--positions", "--site", "--unembedding"), "Live models"),
    **dict.fromkeys(("--device", "--batch-tokens"), "Compute"),
    "--timeout": "Long runs",
    **dict.fromkeys(("--out", "--columns", "--json", "--all", "--quiet", "--color"), "Output"),
    **dict.fromkeys(("--kinds", "--limit", "--to", "--dtype", "--shard-tokens"), "Output"),
    **dict.fromkeys(("--layer-number", "--help", "--version"), "Output"),
    **dict.fromkeys(("--steps", "--samples", "--half", "--weight-decay", "--sparsity"), "Training"),
    **dict.fromkeys(("--d-model", "--d-mlp", "--heads", "--untrained"), "Training"),
    **dict.fromkeys(("train --layers", "train --seed"), "Training"),
    "bench --neurons": "Input",
    "weights --top-k": "Output",
}

_ALSO_CALLED = {"gpu": "cuda"}

# Widths and colours are those of the terminal, whatever other programs are told.
HELP: dict[str, Any] = {
    "enable_theme_env_var": False,
    "width": None,
    "max_width": None,
    "force_terminal": None,
    "theme": "default-slim",
    "text_markup": None,
    "text_emojis": False,
    "options_table_column_types": ["opt_all_metavar", "help"],
    "options_table_help_sections": ["help", "default", "required"],
    "style_option_default": "",
    "default_string": "\\[default: {}]",
    "text_paragraph_linebreaks": "\n\n",
}


def _panel(command: str, option: click.Option) -> Panel:
    """Where an option stands."""
    name = max(option.opts, key=len)
    found = _PANELS.get(f"{command} {name}", _PANELS.get(name))
    if found is None:
        known = declared(CorrelateOptions).get(option.name or "")
        found = "Input" if known is None else known[1].panel
    return found


class HelpedCommand(RichCommand):
    """A command whose help has its options in panels, and its examples as they are typed."""

    context_class = RichContext
    # Not that of rich_click, which draws errors, and loses what interrupted.
    main = click.Command.main

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """All parameters; options know their panels."""
        found = super().get_params(ctx)
        for parameter in found:
            if isinstance(parameter, click.Option):
                parameter.panel = _panel(self.name or "", parameter)  # type: ignore[attr-defined]
        return found

    def get_help(self, ctx: click.Context) -> str:
        """The help, without spaces at the ends of lines."""
        return "\n".join(line.rstrip() for line in super().get_help(ctx).splitlines())

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """The panels that have options, in their order."""
        if not self.panels:
            self.panels = [RichOptionPanel(name) for name in PANELS]
        super().format_options(ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Lines as they are; commands that are longer go on as in a shell."""
        from rich.text import Text

        lines = (self.epilog or "").replace("\b\n", "").splitlines()
        for line in lines:
            parts = _continued(line, formatter.width) if line.startswith("  ") else [line]
            formatter.write(Text("\n".join(parts)))


class HelpedGroup(HelpedCommand, RichGroup):
    """Several commands, helped as each of them."""


def _continued(command: str, width: int) -> list[str]:
    """The lines of a command."""
    lines, indent = [""], "  "
    for word in command.split():
        if lines[-1] and len(indent) + len(lines[-1]) + 1 + len(word) > width - 2:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    ends = [" \\"] * (len(lines) - 1) + [""]
    return [
        f"{indent if i == 0 else indent * 3}{line}{end}"
        for i, (line, end) in enumerate(zip(lines, ends, strict=True))
    ]


def meant(message: str) -> str:
    """A message about a word that is none of some, with those that are like it.

    Of click, and of types of options here: ``'bset' is not one of 'index', 'best'.``
    """
    found = re.search(r"'([^']*)' is (?:not one|none) of ((?:'?[\w.-]+'?(?:, )?)+)\.?$", message)
    if found is None:
        return message
    word = found[1].lower()
    words = re.findall(r"[\w.-]*\w", found[2])
    like = get_close_matches(_ALSO_CALLED.get(word, word), words, n=1)
    return f"{message.removesuffix('.')}; did you mean {like[0]!r}?" if like else message
