"""Options of commands, from where they are declared (`univfast.options`) and registered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, get_args

import click

from univfast import options as declarations
from univfast.registry import Registry

__all__ = ["PATH", "Command", "RegistryChoice", "device_option", "option", "quiet_option"]

_Command = TypeVar("_Command", bound=Callable[..., Any])

PATH = click.Path(path_type=str)

quiet_option = click.option("--quiet", is_flag=True, help="Print no text and show no progress.")


def device_option(text: str, default: str | None = None) -> Callable[[_Command], _Command]:
    """``--device``; where to compute, on the command line."""
    return click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda"]),
        default=default,
        show_default=default is not None,
        help=text,
    )


def option(name: str, **changes: Any) -> Callable[[_Command], _Command]:
    """An option of `univfast.correlate` as one of a command: ``top_k`` is ``--top-k``.

    Args:
        name: as `univfast.options` declares it.
        changes: what is different on the command line, as `click.option` takes it.
    """
    kind, declared = declarations.declared(declarations.CorrelateOptions)[name]
    settings: dict[str, Any] = {"help": declared.help, "metavar": declared.metavar}
    if declared.choices is not None:
        settings.update(cls=_RegistryOption, type=RegistryChoice(declared.choices))
    elif declared.values:
        settings["type"] = click.Choice(declared.values)
    elif declared.metavar == "FILE":
        settings["type"] = PATH
    elif kind is bool:
        settings.update(is_flag=True)
    else:
        settings["type"] = next((x for x in (kind, *get_args(kind)) if x in (int, float)), str)
    if declared.default is not None and kind is not bool:
        settings.update(default=declared.default, show_default=True)
    return click.option(f"--{name.replace('_', '-')}", **{**settings, **changes})


class RegistryChoice(click.Choice[str]):
    """The names in a registry, whatever is in it when the command runs."""

    def __init__(self, registry: Registry[Any]) -> None:
        self._registry = registry
        super().__init__([])

    @property
    def choices(self) -> tuple[str, ...]:
        return tuple(self._registry)

    @choices.setter
    def choices(self, value: object) -> None:
        """Set by click, which is not asked."""

    @property
    def entries(self) -> Registry[Any]:
        return self._registry


class _RegistryOption(click.Option):
    """An option whose help says what each entry of its registry is."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        assert isinstance(self.type, RegistryChoice)
        template = self.help or ""
        entries = self.type.entries.values()
        choices = ". ".join(f"'{entry.name}': {entry.help}" for entry in entries)
        try:
            self.help = template.format(choices=choices)
            return super().get_help_record(ctx)
        finally:
            self.help = template


class Command(click.Command):
    """A command whose help names the files that are read: ``{files}``."""

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from univfast.inputs.formats import files_in_words

        template = self.help or ""
        try:
            self.help = template.replace("{files}", files_in_words())
            super().format_help_text(ctx, formatter)
        finally:
            self.help = template
