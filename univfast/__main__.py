"""The command line as a process: ``python -m univfast``, and the script ``univfast``."""

from __future__ import annotations

import atexit
import os
import sys

# Little is imported before signals are taken care of.
from univfast.machine.signals import end_at_once

__all__ = ["run"]

BUG = 1


def run() -> None:
    """Runs the command line of this process, and ends the process.

    Its exit status is that of `univfast.cli.main`, 1 for a bug of univfast, and 128 and its number
    for a signal.
    """
    _open_streams()
    end_at_once()
    # Pictures are drawn to files; Matplotlib would refuse, when it is imported, what it cannot use.
    os.environ["MPLBACKEND"] = "agg"
    try:
        from univfast.cli.main import main

        status = main()
    except Exception as error:
        from univfast.cli.failures import internal
        from univfast.cli.printing import complain

        complain("Error: " + internal(error))
        status = BUG
    if sys.gettrace() or sys.getprofile():  # a debugger or profiler has more to do
        sys.exit(status)
    # To take down torch takes a second, in which threads of its own may fail.
    atexit._run_exitfuncs()
    os._exit(status)


def _open_streams() -> None:
    """Has all three streams be there, and print whatever they are given."""
    # The system gives a file the lowest number that is free: these get theirs, and no other file
    # gets what libraries print.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
        elif mode == "w":  # a name that is no text, or not in this encoding, is still told
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    run()
