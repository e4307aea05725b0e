"""What lies on the Hugging Face hub, where a name asks for it outright: ``hf://org/name@revision``.

A name without ``hf://`` is always a path. huggingface_hub does the work, with its cache (HF_HOME),
endpoint (HF_ENDPOINT) and token (HF_TOKEN, or ``hf auth login``).
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from univfast.errors import InputError

__all__ = ["Snapshot", "fetch", "is_hub_name"]

PREFIX = "hf://"
_FORM = "hf://ORG/NAME@REVISION, or hf://datasets/ORG/NAME@REVISION, and behind it /FOLDER"
_PART = r"[\w.-]+"
_NAME = re.compile(
    rf"hf://(?P<datasets>datasets/)?(?!datasets/)(?P<repo>{_PART}/{_PART})"
    rf"(?:@(?P<revision>[^/@\s]+))?(?:/(?P<folder>[^@]*[^@/]))?/?"
)
_MAIN = "main"
# Of a model: what says what it is, its weights and its tokenizer. Weights that are pickled are
# fetched only where there are no others.
_OF_MODEL = (".json", ".safetensors", ".model", ".txt", ".jinja")
_PICKLED = (".bin",)
_NOT_REACHED = {
    "OfflineModeIsEnabled",
    "ConnectError",
    "ConnectionError",
    "TimeoutException",
    "Timeout",
}
_STAGE = re.compile(r"\d+_\w+")  # a folder of a sentence encoder, as 1_Pooling
_NOT_DATA = (".md", ".py", ".gitattributes", ".gitignore")


@dataclass(frozen=True)
class Snapshot:
    """What was fetched.

    Attributes:
        path: where it is, a file or directory.
        name: as it was asked for.
        revision: the hash of its commit.
    """

    path: str
    name: str
    revision: str

    def about(self) -> dict[str, object]:
        """For reports."""
        return {"hub": self.name, "revision": self.revision}


@dataclass(frozen=True)
class _Wanted:
    name: str
    repo: str
    kind: str
    revision: str | None
    folder: str


def is_hub_name(source: object) -> bool:
    """Whether a name asks for something on the hub."""
    return isinstance(source, str) and source.startswith(PREFIX)


@lru_cache
def fetch(name: str) -> Snapshot:
    """Downloads what a name stands for, if it is not in the cache; once in a process.

    Where it has no revision, that of ``main`` is taken, and a warning says which that is.

    Raises:
        InputError: the name is none, or what it stands for cannot be had.
    """
    wanted = _parsed(name)
    with _library(name) as library, _quiet_bars(library):
        files = _files(library, wanted)
        patterns: dict[str, object] = {}
        if files is not None:
            patterns = {"allow_patterns": _needed(wanted, files)}
        elif wanted.kind == "model":  # all that is known of what is in the cache
            patterns = {"allow_patterns": "config.json"}
        folder: str = library.snapshot_download(
            wanted.repo,
            repo_type=wanted.kind,
            revision=wanted.revision or _MAIN,
            local_files_only=files is None,
            library_name="univfast",
            **patterns,
        )
    revision = os.path.basename(folder)
    if wanted.revision is None:
        warnings.warn(f"{name}: is at commit {revision} of main", stacklevel=2)
    path = os.path.join(folder, *wanted.folder.split("/")) if wanted.folder else folder
    return Snapshot(path, name, revision)


def _parsed(name: str) -> _Wanted:
    found = _NAME.fullmatch(name)
    if found is None or ".." in name.split("/"):
        raise InputError(f"{name}: is no name on the hub; write {_FORM}")
    kind = "dataset" if found["datasets"] else "model"
    revision = found["revision"]
    revision = None if revision is None else revision.replace("%2F", "/")
    return _Wanted(name, found["repo"], kind, revision, found["folder"] or "")


@contextmanager
def _library(name: str) -> Iterator[Any]:
    """The library of the hub; what it raises becomes one line."""
    try:
        import huggingface_hub
        from huggingface_hub import errors, utils  # noqa: F401 - its parts are brought in by this
    except ImportError as error:
        raise InputError(
            f"{name}: needs the huggingface_hub library ({error}); pip install"
            " 'univfast[transformers]'"
        ) from error
    try:
        yield huggingface_hub
    except InputError:
        raise
    except errors.GatedRepoError as error:
        raise InputError(
            f"{name}: asks for an agreement first; accept it on its page, and log in (hf auth"
            " login, or HF_TOKEN)"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InputError(f"{name}: there is no such revision; check it") from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"{name}: is not on the hub, or not for you to see; check the name, or log in (hf auth"
            " login, or HF_TOKEN)"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise InputError(
            f"{name}: the hub cannot be reached, and it is not in the cache; download it where"
            " there is a network, and give its directory"
        ) from error
    except Exception as error:  # of the library, of what it sends by, and of the disk
        text = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(
            f"{name}: cannot be fetched ({text}); download it otherwise, and give its directory"
        ) from error


@contextmanager
def _quiet_bars(library: Any) -> Iterator[None]:
    """No bars but on a terminal."""
    bars = library.utils
    if (sys.stderr is not None and sys.stderr.isatty()) or bars.are_progress_bars_disabled():
        yield
        return
    bars.disable_progress_bars()
    try:
        yield
    finally:
        bars.enable_progress_bars()


def _files(library: Any, wanted: _Wanted) -> list[str] | None:
    """The files that are there; None where the hub is not reached."""
    errors, revision = library.errors, wanted.revision or _MAIN
    try:
        info = library.HfApi().repo_info(wanted.repo, repo_type=wanted.kind, revision=revision)
    except errors.HfHubHTTPError as error:
        if error.response.status_code < 500:
            raise
        return None
    except Exception as error:  # of whichever library it sends by
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if kinds.isdisjoint(_NOT_REACHED):
            raise
        return None
    return [file.rfilename for file in info.siblings or ()]


def _needed(wanted: _Wanted, files: Sequence[str]) -> list[str]:
    """Those of the files that are read.

    Raises:
        InputError: there are none.
    """
    start = f"{wanted.folder}/" if wanted.folder else ""
    inside = [file for file in files if file == wanted.folder or file.startswith(start)]
    if wanted.kind == "dataset":
        needed = [file for file in inside if not file.endswith(_NOT_DATA)]
    else:
        whole = [file for file in inside if _is_of_model(file.removeprefix(start))]
        weights = (".safetensors",) if any(x.endswith(".safetensors") for x in whole) else _PICKLED
        needed = [file for file in whole if file.endswith((*_OF_MODEL, *weights))]
    if not needed:
        raise InputError(f"{wanted.name}: has no file that could be read; check the name")
    return needed


def _is_of_model(file: str) -> bool:
    """Whether a file is where a model has it, and not a copy of it for something else."""
    folder, _, _ = file.rpartition("/")
    return not folder or _STAGE.fullmatch(folder) is not None
