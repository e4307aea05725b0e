"""The files of activations that are read: told by their content, each by its reader.

Whatever is wrong with one becomes an error of one line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from univfast.errors import InputError
from univfast.machine.reading import open_file, reading
from univfast.registry import Registry, resolve

if TYPE_CHECKING:
    from univfast.inputs.sparse import SparseStored
    from univfast.inputs.sparse_names import Found
    from univfast.inputs.stored import Stored
    from univfast.inputs.zip_files import Member

    # Called with the file and the name that a lone array gets; gives its arrays by name, with the
    # integers that say how many features there are; or the dict that it holds, where it is a model
    # file of ``univfast train``.
    Array = Stored | SparseStored | tuple[int, ...]
    Reader = Callable[["SourceFile", str], dict[str, Stored] | dict[str, Array] | dict[str, Any]]

__all__ = [
    "FORMATS",
    "FileFormat",
    "SourceFile",
    "files_in_words",
    "in_words",
    "read_file",
    "suffixes",
]

_START = 9  # bytes that tell a format; of a zip file, its members do


class SourceFile:
    """A file that is read: mapped, with what tells its format."""

    def __init__(self, path: str) -> None:
        from univfast.inputs.mapping import MappedFile

        self.path = path
        self.mapped = MappedFile(path)
        self.start = self.mapped.bytes[:_START].tobytes()

    @cached_property
    def members(self) -> list[Member] | None:
        """Of a zip file, in its order; None of any other."""
        from univfast.inputs.zip_files import zip_members

        if not self.start.startswith(b"PK"):
            return None
        with open_file(self.path) as file:
            return zip_members(self.path, file, self.mapped.bytes)


@dataclass(frozen=True)
class FileFormat:
    """A format of files.

    Attributes:
        name: of the format.
        suffixes: of the files that a directory is searched for.
        help: what is in such a file, in a few words, or nothing.
        is_that: whether a file is one, by its content; the first format that says so is taken.
        reader: reads it; ``"module:name"`` or a function.
    """

    name: str
    suffixes: tuple[str, ...]
    help: str
    is_that: Callable[[SourceFile], bool]
    reader: str | Reader

    def __post_init__(self) -> None:
        if not self.suffixes:
            raise ValueError(f"format {self.name!r}: has no suffix")


def _holds(file: SourceFile, name: str) -> bool:
    return any(member.name.endswith(name) for member in file.members or ())


def _is_pickle(file: SourceFile) -> bool:
    # Of protocol 2 or later, which PyTorch wrote before version 1.6. A .safetensors file begins
    # with the length of its header, which may be 128 bytes too.
    return file.start.startswith(b"\x80") and file.start[8:] != b"{"


FORMATS: Registry[FileFormat] = Registry(
    "format",
    [
        FileFormat(
            "torch",
            suffixes=(".pt", ".pth"),
            help="a tensor, or a dict of layer name to tensor",
            is_that=lambda file: _holds(file, "/data.pkl") or _is_pickle(file),
            reader="univfast.inputs.torch_files:read_torch",
        ),
        FileFormat(
            "npy",
            suffixes=(".npy",),
            help="an array",
            is_that=lambda file: file.start.startswith(b"\x93NUMPY"),
            reader="univfast.inputs.numpy_files:read_npy",
        ),
        FileFormat(
            "npz",
            suffixes=(".npz",),
            help="arrays by layer name",
            is_that=lambda file: file.members is not None,
            reader="univfast.inputs.numpy_files:read_npz",
        ),
        FileFormat(
            "safetensors",
            suffixes=(".safetensors",),
            help="tensors by layer name",
            is_that=lambda file: file.start[8:] == b"{",
            reader="univfast.inputs.safetensors_files:read_safetensors",
        ),
    ],
)


def suffixes() -> tuple[str, ...]:
    """Of all formats, in their order."""
    return tuple(suffix for known in FORMATS.values() for suffix in known.suffixes)


def in_words() -> str:
    """The formats, for a message."""
    first = [known.suffixes[0] for known in FORMATS.values()]
    return f"{', '.join(first[:-1])} or {first[-1]}"


def files_in_words() -> str:
    """The formats and what is in them, for a help text."""
    each = [f"{known.suffixes[0]} ({known.help})" for known in FORMATS.values()]
    return f"{', '.join(each[:-1])} or {each[-1]}"


def read_file(path: str, lone: str) -> dict[str, Found] | dict[str, Any]:
    """The arrays of a file by name, in its order; a lone array gets the name ``lone``.

    Arrays that are sparse features together are one, as `join_sparse` has it.

    The format is told by content, so any file name will do. Where the file is a model file of
    ``univfast train`` (``is_model_file``), the dict that was saved. Raises InputError.
    """
    from univfast.inputs.model_paths import is_model_file
    from univfast.inputs.sparse_names import join_sparse

    with reading(path, give=f"give one file ({in_words()})"):
        file = SourceFile(path)
        for known in FORMATS.values():
            if known.is_that(file):
                reader: Reader = resolve(known.reader)
                found = reader(file, lone)
                file.mapped.check()
                return found if is_model_file(found) else join_sparse(found, lone, path)
        raise InputError(f"{path}: is not a file of activations; give a {in_words()} file")
