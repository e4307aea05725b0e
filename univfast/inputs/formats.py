"""The files of activations that are read: told by their content, each by its reader.

Whatever is wrong with one becomes an error of one line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from univfast.errors import InputError
from univfast.machine.reading import open_file, reading
from univfast.registry import Registry, resolve

if TYPE_CHECKING:
    from univfast.inputs.layers import Activations
    from univfast.inputs.sparse import SparseStored
    from univfast.inputs.sparse_names import Found
    from univfast.inputs.stored import Stored
    from univfast.inputs.zip_files import Member

    # Called with the file and the name that a lone array gets; gives its arrays by name, with an
    # error for what is none, and the integers that may say how many features there are; or the dict
    # that it holds, where it is a model file of ``univfast train``.
    Array = Stored | SparseStored | InputError | tuple[int, ...]
    Reader = Callable[["SourceFile", str], Mapping[str, Array] | dict[str, Any]]
    Opener = Callable[["SourceFile"], Activations]

__all__ = [
    "FORMATS",
    "FileFormat",
    "SourceFile",
    "files_in_words",
    "format_of",
    "in_words",
    "open_whole",
    "read_array",
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
        suffixes: of such files; a directory is searched for those of formats with a reader.
        help: what is in such a file, in a few words, or nothing.
        is_that: whether a file is one, by its content; the first format that says so is taken.
        reader: reads it; ``"module:name"`` or a function.
        opener: instead of a reader, where a file is more than arrays that lie in it.
        mark: what tells it, in a few words.
    """

    name: str
    suffixes: tuple[str, ...]
    help: str
    is_that: Callable[[SourceFile], bool]
    reader: str | Reader | None = None
    opener: str | Opener | None = None
    mark: str = ""

    def __post_init__(self) -> None:
        if not self.suffixes:
            raise ValueError(f"format {self.name!r}: has no suffix")
        if (self.reader is None) is (self.opener is None):
            raise ValueError(f"format {self.name!r}: has one of a reader and an opener")


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
            mark="a zip file with data.pkl in it, or a pickle, as PyTorch writes",
        ),
        FileFormat(
            "npy",
            suffixes=(".npy",),
            help="an array",
            is_that=lambda file: file.start.startswith(b"\x93NUMPY"),
            reader="univfast.inputs.numpy_files:read_npy",
            mark="it begins as NumPy writes an array",
        ),
        FileFormat(
            "npz",
            suffixes=(".npz",),
            help="arrays by layer name",
            is_that=lambda file: file.members is not None,
            reader="univfast.inputs.numpy_files:read_npz",
            mark="a zip file, as NumPy writes arrays",
        ),
        FileFormat(
            "safetensors",
            suffixes=(".safetensors",),
            help="tensors by layer name",
            is_that=lambda file: file.start[8:] == b"{",
            reader="univfast.inputs.safetensors_files:read_safetensors",
            mark="it begins with a length and a header in JSON",
        ),
        FileFormat(
            "Parquet",
            suffixes=(".parquet",),
            help="columns of lists, a token or a sequence a row",
            is_that=lambda file: file.start.startswith(b"PAR1"),
            opener="univfast.stores.parquet:open_parquet",
            mark="it begins with PAR1",
        ),
        FileFormat(
            "HDF5",
            suffixes=(".h5", ".hdf5"),
            help="datasets by path",
            is_that=lambda file: file.start.startswith(b"\x89HDF\r\n\x1a\n"),
            opener="univfast.stores.hdf5:open_hdf5",
            mark="it begins as HDF5 does",
        ),
        # The last, as nothing in such a file tells what it is.
        FileFormat(
            "raw",
            suffixes=(".memmap",),
            help="an array, with its shape and dtype in a .json or .meta file beside it",
            is_that=lambda file: file.path.lower().endswith((".memmap", ".bin", ".dat", ".raw")),
            reader="univfast.stores.memmaps:read_raw",
            mark="its name, and the file beside it",
        ),
    ],
)


def suffixes() -> tuple[str, ...]:
    """Of the files that hold arrays, in the order of formats."""
    return tuple(suffix for known in _of_arrays() for suffix in known.suffixes)


def in_words(every: bool = False) -> str:
    """The formats of files that hold arrays, or of ``every`` file, for a message."""
    first = [known.suffixes[0] for known in (FORMATS.values() if every else _of_arrays())]
    return f"{', '.join(first[:-1])} or {first[-1]}"


def _of_arrays() -> list[FileFormat]:
    return [known for known in FORMATS.values() if known.reader is not None]


def files_in_words() -> str:
    """The formats and what is in them, for a help text."""
    each = [f"{known.suffixes[0]} ({known.help})" for known in FORMATS.values()]
    return f"{', '.join(each[:-1])} or {each[-1]}"


def format_of(path: str) -> FileFormat:
    """What a file is, by its content. Raises InputError."""
    with _read(path) as (_, known):
        return known


def _told(file: SourceFile) -> FileFormat:
    for known in FORMATS.values():
        if known.is_that(file):
            return known
    raise InputError(
        f"{file.path}: is not a file of activations; give a {in_words(every=True)} file"
    )


def read_array(path: str, what: str) -> Stored:
    """The array of a file that holds but one.

    Args:
        path: of the file.
        what: it holds, for messages: ``"mask"``.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    from univfast.inputs.model_paths import is_model_file
    from univfast.inputs.stored import Stored

    content = read_file(path, what)
    if is_model_file(content) or len(content) != 1:
        raise InputError(f"{path}: a file of {what} holds one array; save the {what} alone")
    (stored,) = content.values()
    if isinstance(stored, InputError):
        raise stored
    if not isinstance(stored, Stored):
        raise InputError(f"{path}: is of sparse features; give one plain array")
    return stored


def read_file(path: str, lone: str) -> Mapping[str, Found] | dict[str, Any]:
    """The arrays of a file by name, in its order; a lone array gets the name ``lone``.

    What is beside them and cannot be read, such as text, has an error in its place. Arrays
    that are sparse features together are one, as `join_sparse` has it.

    The format is told by content, so any file name will do. Where the file is a model file of
    ``univfast train`` (``is_model_file``), the dict that was saved. Raises InputError.
    """
    from univfast.inputs.model_paths import is_model_file
    from univfast.inputs.quantised import with_scales
    from univfast.inputs.sparse_names import join_sparse

    with _read(path) as (file, known):
        if known.reader is None:
            raise InputError(
                f"{path}: is a {known.name} file, whose arrays cannot be taken one by one; give a "
                f"{in_words()} file"
            )
        reader: Reader = resolve(known.reader)
        found = reader(file, lone)
        file.mapped.check()
        if is_model_file(found):
            return found
        return with_scales(join_sparse(found, lone, path), path)


def open_whole(path: str) -> Activations | None:
    """What a file of a format with an opener holds; None of all others. Raises InputError."""
    with _read(path) as (file, known):
        if known.opener is None:
            return None
        opener: Opener = resolve(known.opener)
        return opener(file)


@contextmanager
def _read(path: str) -> Iterator[tuple[SourceFile, FileFormat]]:
    """A file and its format; what goes wrong while it is read becomes an error of one line."""
    with reading(path, give=f"give one file ({in_words(every=True)})"):
        file = SourceFile(path)
        yield file, _told(file)
