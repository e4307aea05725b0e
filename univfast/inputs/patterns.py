"""The pattern that says which files of a directory are read, and which layer and shard each is."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from univfast.errors import InputError
from univfast.inputs.natural import natural_key
from univfast.inputs.stores import STORES

__all__ = ["FilePattern"]

SHARD_FIELDS = ("shard", "rank", "batch", "part")
"""What stands for a number or text that tells shards apart, all alike."""

_PIECES = re.compile(r"\{([^{}]*)\}|(\*+)|([^{}*]+)|(.)", re.DOTALL)
_SHOWN = 3
# What tells shards apart: a whole number in all names, or else any text.
_NUMBER, _TEXT = r"(?<![0-9])[0-9]+(?![0-9])", r"[^/]+"


class FilePattern:
    """Which files are read, as ``batch_{shard}/layer_{layer}.npy``.

    ``{layer}`` stands for the name of a layer, ``{shard}``, ``{rank}``, ``{batch}`` and ``{part}``
    for what tells its shards apart, ``*`` for anything, all without ``/``; all else for itself.
    Shards are joined in natural order of these, of the first first. Where ``{layer}`` stands
    several times, the name has all of them, with ``/`` between. Numbers may have gaps, but all
    layers need the same shards. Without ``{layer}``, files hold layers by name, or one layer that
    is called ``activations``. What does not match is passed over.

    Attributes:
        text: as it was given.
        has_layer: whether it says which layer a file is.
    """

    def __init__(self, text: str) -> None:
        """Raises InputError: ``files`` is no such pattern."""
        self.text = text
        self._pieces = [list(_pieces(part, text)) for part in text.split("/")]
        kinds = [kind for part in self._pieces for kind, _ in part]
        self.has_layer = "layer" in kinds
        if not {"layer", "shard"} & {*kinds} and "*" not in kinds:
            raise InputError(
                f"files: {text!r} names one file; put {{layer}} or {{shard}} where names differ, or"
                " give the file itself"
            )
        if any(not part for part in self._pieces) or ".." in text.split("/"):
            raise InputError(f"files: {text!r} is no path within the directory; write as 'a/b.npy'")

    def find(
        self, root: str
    ) -> tuple[list[tuple[tuple[str, ...], str | None, tuple[str, ...]]], list[str]]:
        """The files that match, in the order in which they are joined; and the names of others.

        Returns:
            Of each its path within the directory, its layer and its shard; and all others.

        Raises:
            InputError: none matches, or one in several ways; or it is a directory.
        """
        paths = list(_files(root, (), len(self._pieces)))
        fitting = [path for path in paths if self._fits(path, _TEXT)]
        number = _NUMBER if all(self._fits(path, _NUMBER) for path in fitting) else _TEXT
        found = {path: self._match(path, number) for path in fitting}
        beside = [os.path.join(*path) for path in paths if path not in found]
        if not found:
            shown = ", ".join(map(repr, beside[:_SHOWN])) or "nothing"
            raise InputError(
                f"files: {self.text!r} matches no file in {root}, where there is {shown}"
                f"{' and more' if len(beside) > _SHOWN else ''}; change the pattern"
            )
        matches = []
        for path, (layer, key) in found.items():
            full = os.path.join(root, *path)
            if os.path.exists(full) and not os.path.isfile(full) and not _is_store(full):
                raise InputError(
                    f"files: {self.text!r} matches {full}, which is no file; change the pattern"
                )
            matches.append((path, layer, key))
        matches.sort(key=lambda one: (*map(natural_key, one[2]), natural_key(one[1] or "")))
        return matches, beside

    def _fits(self, path: tuple[str, ...], number: str) -> bool:
        """Whether a path matches; ``number`` is what stands for shards, as an expression."""
        return len(path) == len(self._pieces) and all(
            any(True for _ in _ways(pieces, name, number))
            for pieces, name in zip(self._pieces, path, strict=True)
        )

    def _match(self, path: tuple[str, ...], number: str) -> tuple[str | None, tuple[str, ...]]:
        """Layer and shard of a path that fits.

        Raises:
            InputError: it matches in several ways.
        """
        layers: list[str] = []
        key: list[str] = []
        for pieces, name in zip(self._pieces, path, strict=True):
            ways = {*_ways(pieces, name, number)}
            if len(ways) > 1:
                one, other = sorted(ways)[:2]
                raise InputError(
                    f"files: {self.text!r} matches {'/'.join(path)!r} in two ways,"
                    f" {_shown(pieces, one)} and {_shown(pieces, other)}; write more of the names"
                    " into the pattern"
                )
            fields = [kind for kind, _ in pieces if kind in ("layer", "shard")]
            for kind, value in zip(fields, ways.pop(), strict=True):
                (layers if kind == "layer" else key).append(value)
        # So that 1 and 01 are one number.
        plain = tuple(str(int(x)) if re.fullmatch("[0-9]+", x) else x for x in key)
        return ("/".join(layers) if layers else None), plain


def _pieces(part: str, text: str) -> Iterator[tuple[str, str]]:
    """Each piece of a folder's or file's name, with its kind."""
    for field, star, literal, stray in _PIECES.findall(part):
        if stray or (field and field != "layer" and field not in SHARD_FIELDS):
            known = ", ".join(f"{{{name}}}" for name in ("layer", *SHARD_FIELDS))
            raise InputError(
                f"files: {text!r} has {f'{{{field}}}' if field else stray!r}; of such there are"
                f" {known} and *"
            )
        if len(star) > 1:
            raise InputError(f"files: {text!r} has {star!r}; write each folder, as '*/*.npy'")
        if literal:
            yield "text", literal
        elif star:
            yield "*", star
        elif field:
            yield ("layer" if field == "layer" else "shard"), field
        else:
            raise InputError(f"files: {text!r} has an empty {{}}; write {{layer}} or {{shard}}")


def _ways(pieces: list[tuple[str, str]], name: str, number: str) -> Iterator[tuple[str, ...]]:
    """How a name matches: of each way, what the fields stand for."""
    any_ = {"*": "[^/]*", "layer": "([^/]+)", "shard": f"({number})"}
    for lazy in (False, True):
        expression = "".join(
            re.escape(value) if kind == "text" else any_[kind] for kind, value in pieces
        )
        if lazy:
            expression = expression.replace("]*", "]*?").replace("]+", "]+?")
        if found := re.fullmatch(expression, name):
            yield found.groups()


def _shown(pieces: list[tuple[str, str]], values: tuple[str, ...]) -> str:
    fields = [value for kind, value in pieces if kind in ("layer", "shard")]
    return ", ".join(f"{name} {x!r}" for name, x in zip(fields, values, strict=True))


def _files(root: str, inside: tuple[str, ...], depth: int) -> Iterator[tuple[str, ...]]:
    """What lies so deep in a directory, in natural order, without what is hidden."""
    folder = os.path.join(root, *inside)
    try:
        names = [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be listed ({error.strerror}); check its permissions"
        ) from error
    for name in sorted(names, key=natural_key):
        if depth > 1 and os.path.isdir(os.path.join(folder, name)):
            yield from _files(root, (*inside, name), depth - 1)
        else:
            yield (*inside, name)


def _is_store(path: str) -> bool:
    return os.path.isdir(path) and any(store.is_that(path) for store in STORES.values())
