"""Options of commands, from where they are declared (`univfast.options`) and registered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, get_args

import click

from univfast.checks import check_path
from univfast.cli.help import HelpedCommand
from univfast.errors import InputError
from univfast.option import declared as declared_in
from univfast.options import CorrelateOptions
from univfast.registry import Registry

__all__ = [
    "PATH",
    "PATHS",
    "Command",
    "RegistryChoice",
    "device_option",
    "every_option",
    "figures_option",
    "match_rate_option",
    "option",
    "quiet_option",
]

_Command = TypeVar("_Command", bound=Callable[..., Any])


class _Path(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """The path of a file or directory; ``docs`` and such words of an option are paths too."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        path = str(value)
        if isinstance(param, click.Option) and path.startswith("--"):
            self.fail(f"{path!r} is an option; give a path before it, or ./{path}", param, ctx)
        if path == "~" or path.startswith("~/"):
            # No shell replaces it behind '=', or in quotes.
            here = f"{path!r} is in the working directory here"
            self.fail(f"{here}; write $HOME{path[1:]}, or ./{path} if you mean that", param, ctx)
        try:
            check_path("path", path)
        except InputError as error:
            self.fail(str(error).removeprefix("path: "), param, ctx)
        return path


PATH = _Path()

quiet_option = click.option("--quiet", is_flag=True, help="Print no text and show no progress.")


def _formats(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    from univfast.report.plots import as_formats

    try:
        return as_formats("figures", value)
    except InputError as error:
        raise click.BadParameter(str(error).removeprefix("figures: ")) from error


figures_option = click.option(
    "--figures",
    default="png",
    show_default=True,
    metavar="FORMATS",
    callback=_formats,
    help="Formats of the pictures: png, svg, pdf, or several with commas between.",
)

every_option = click.option(
    "--all",
    "every",
    is_flag=True,
    help="Print all layers, and not only the 12 with the most universal neurons.",
)

match_rate_option = click.option(
    "--match-rate/--no-match-rate",
    default=True,
    show_default=True,
    help="Shift the neurons of a control to be active as often as those of its model. As they are"
    " drawn, they mostly are far more often.",
)


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
    kind, declared = declared_in(CorrelateOptions)[name]
    kinds = {kind, *get_args(kind)}
    settings: dict[str, Any] = {"help": declared.help, "metavar": declared.metavar}
    if declared.choices is not None:
        settings.update(cls=_RegistryOption, type=RegistryChoice(declared.choices))
    elif declared.values:
        settings["type"] = click.Choice(declared.values)
    elif declared.path:
        settings["type"] = PATH
    elif bool in kinds:
        settings["is_flag"] = True
    elif float in kinds and declared.low is not None:
        settings["type"] = click.FloatRange(min=declared.low)
    else:
        settings["type"] = next((x for x in (int, float) if x in kinds), str)
    default = declared.default
    if default is not None and bool not in kinds:
        whole = isinstance(default, float) and default.is_integer()
        settings.update(default=int(default) if whole else default, show_default=True)
    return click.option(f"--{name.replace('_', '-')}", **{**settings, **changes})


class RegistryChoice(click.Choice[str]):
    """The names in a registry, whatever is in it when the command runs."""

    def __init__(self, registry: Registry[Any]) -> None:
        self.registry = registry
        super().__init__([])

    @property
    def choices(self) -> tuple[str, ...]:
        return tuple(self.registry)

    @choices.setter
    def choices(self, value: object) -> None:
        """Set by click, which is not asked."""


class _RegistryOption(click.Option):
    """An option whose help says, for ``{choices}``, what each entry of its registry is."""

    def _said(self) -> str | None:
        registry: Registry[Any] = self.type.registry  # type: ignore[attr-defined]
        choices = ". ".join(f"'{entry.name}': {entry.help}" for entry in registry.values())
        return None if self._help is None else self._help.format(choices=choices)

    def _say(self, value: str | None) -> None:
        self._help = value

    help = property(_said, _say)


class _Paths(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Several paths that one option was given, which `Command` has joined."""

    name = "paths"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        paths = value.split(_JOINT) if isinstance(value, str) else value
        return tuple(PATH.convert(path, param, ctx) for path in paths)


# No path holds it.
_JOINT = "\0"
PATHS = _Paths()


class Command(HelpedCommand):
    """A command whose help names, for ``{files}``, the files that are read.

    Options of type `PATHS` take all arguments up to the next option.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        names = {name for x in self.params if x.type is PATHS for name in x.opts}
        joined: list[str] = []
        rest = list(args)
        while rest:
            joined.append(rest.pop(0))
            if joined[-1] == "--":
                break
            if joined[-1] in names:
                taken = []
                while rest and not rest[0].startswith("-"):
                    taken.append(rest.pop(0))
                if not taken:  # else the next option would be taken for a path
                    message = f"Option {joined[-1]!r} requires an argument."
                    raise click.BadOptionUsage(joined[-1], message, ctx)
                joined.append(_JOINT.join(taken))
        return super().parse_args(ctx, [*joined, *rest])

    def _said(self) -> str | None:
        from univfast.inputs.formats import files_in_words

        return None if self._help is None else self._help.replace("{files}", files_in_words())

    def _say(self, value: str | None) -> None:
        self._help = value

    help = property(_said, _say)
