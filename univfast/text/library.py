"""The transformers library: imported when needed, silent, and its errors in one line."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from univfast.errors import InputError

__all__ = ["LOCAL", "one_line", "quiet_transformers", "silent"]

# Offline, and no code that a directory brings is ever run.
LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}

_CRITICAL = 50  # of `logging`: the library logs nothing so high


@contextmanager
def quiet_transformers(directory: str, remedy: str) -> Iterator[Any]:
    """The library, for work on a directory; it says nothing while the block runs.

    Raises:
        InputError: it is not installed; or for whatever it raises, naming the directory.
    """
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            f"{directory}: a directory of a model needs the transformers library ({error}); "
            "pip install 'univfast[transformers]'"
        ) from error
    try:
        with silent():
            yield transformers
    except InputError:
        raise
    except Exception as error:  # damaged files make it raise almost anything
        if "custom code" in str(error):
            raise InputError(
                f"{directory}: brings its own code (auto_map in config.json), which is never run; "
                "use a model whose architecture transformers has"
            ) from error
        raise InputError(f"{directory}: cannot be loaded ({one_line(error)}); {remedy}") from error


@contextmanager
def silent() -> Iterator[None]:
    """No bars, logs or warnings while the block runs the library or a model of it."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(_CRITICAL)
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def one_line(error: Exception) -> str:
    """What an exception of another library says, as a part of a line."""
    text = str(error).strip() or type(error).__name__
    return textwrap.shorten(text, 160, placeholder=" ...").rstrip(".")
