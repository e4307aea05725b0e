"""The `univfast` command: its subcommands, and what every error looks like."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import click

from univfast.cli.ablate import ablate
from univfast.cli.bench import bench
from univfast.cli.capture import capture
from univfast.cli.control import control
from univfast.cli.correlate import correlate, report
from univfast.cli.experiment import demo, train
from univfast.cli.export import export
from univfast.cli.failures import INTERRUPTED, told
from univfast.cli.help import HELP, HelpedGroup, meant
from univfast.cli.info import info
from univfast.cli.printing import check_said, complain, forget
from univfast.cli.show import show
from univfast.cli.weights import weights
from univfast.machine.limits import check_limits

__all__ = ["cli", "main"]

BAD_INPUT = 2
BROKEN_PIPE = 141  # as of programs that SIGPIPE ends


@click.group(
    cls=HelpedGroup,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 120,
        "rich_help_config": HELP,
    },
    epilog="Start with 'univfast demo', which needs no data. 'univfast COMMAND --help' tells more.",
)
@click.version_option(package_name="univfast", prog_name="univfast")
def cli() -> None:
    """Finds universal neurons: the neurons that two independently trained networks both learned.

    univfast correlates the neurons of two models on the same tokens, compares each correlation with
    what a random rotation of the second model gives, and says which neurons are universal and how
    many would have been flagged by chance.
    """
    check_limits()


for command in (
    *(demo, train, capture, control, correlate, report),
    *(show, export, weights, ablate, info, bench),
):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status.

    0: done. 2: bad usage or bad input, or what the machine refuses, said in one line on stderr.
    130: interrupted. 141: who read the output has gone. Bugs are raised as they are.
    """
    forget()
    try:
        with _plain_torch():
            given = sys.argv[1:] if arguments is None else [*arguments]
            # What was typed, for commands that record it.
            status = cli.main(args=given, prog_name="univfast", standalone_mode=False, obj=given)
        check_said()
        # Not standalone, click returns the status of --help and --version, and a command's result.
        return status if isinstance(status, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return BAD_INPUT
    except click.ClickException as error:
        return _fail(meant(error.format_message()))
    except (click.Abort, KeyboardInterrupt) as error:
        # click makes the one of the other. A run that saved its state says where.
        cause = error.__cause__ if isinstance(error, click.Abort) else error
        complain(str(cause or "") or "Interrupted.")
        return INTERRUPTED
    except (BrokenPipeError, SystemExit) as error:
        if isinstance(error, SystemExit) and error.code != 1:  # 1: what click makes of the other
            raise
        return BROKEN_PIPE
    except Exception as error:
        if (message := told(error)) is None:
            raise
        return _fail(message)


def _plain_torch() -> AbstractContextManager[None]:
    """For where torch was imported, and something set for it, before; help does without torch."""
    if "torch" not in sys.modules:
        return nullcontext()
    from univfast.machine.torch_state import PlainState

    return PlainState()


def _fail(message: str) -> int:
    complain("Error: " + " ".join(message.split()))
    return BAD_INPUT
