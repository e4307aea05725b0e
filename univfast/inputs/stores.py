"""The directories that other tools wrote and that are read as a whole: told by what is in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from univfast.registry import Registry

if TYPE_CHECKING:
    from univfast.inputs.layers import Activations

    Opener = Callable[[str], Activations]

__all__ = ["STORES", "Store"]


@dataclass(frozen=True)
class Store:
    """A kind of directory.

    Attributes:
        name: of the kind.
        help: what is in such a directory, in a few words.
        is_that: whether a directory is one, by the names in it and, at most, a small header; the
            first kind that says so is taken. What is left is read as files of activations.
        opener: opens it; ``"module:name"`` or a function. Raises InputError.
    """

    name: str
    help: str
    is_that: Callable[[str], bool]
    opener: str | Opener


STORES: Registry[Store] = Registry("store", [])
