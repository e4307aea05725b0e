"""How r was computed: which way was taken, what was multiplied, and how exact that is."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Literal, TypedDict

__all__ = ["Method", "method_of", "paired"]

# Of r, for float32, float16 and bfloat16 activations; float64 ones are closer.
_PAIRED = 1e-6
_OF_PRODUCTS = {"tf32": 1e-3, "float64": 1e-9, "entries": 1e-6}
_PRODUCT = 1e-5


class Method(TypedDict):
    """How r was computed.

    ``sums``: ``paired``, neuron i with neuron i as tokens come; ``dense``, all pairs by products of
    layers; ``sparse``, by what is active together. ``products``: what these were made of
    (`univfast.sums.products`). ``largest_error``: of r, at most, for activations as they are
    stored.
    """

    sums: Literal["paired", "dense", "sparse"]
    products: list[str]
    largest_error: float


def paired() -> Method:
    """By index."""
    return {"sums": "paired", "products": [], "largest_error": _PAIRED}


def method_of(multiplied: Iterable[Collection[str]]) -> Method:
    """Of all pairs, from what each of the searches was given."""
    found = set[str]().union(*multiplied)
    errors = [_OF_PRODUCTS.get(name, _PRODUCT) for name in found]
    return {
        "sums": "sparse" if found == {"entries"} else "dense",
        "products": sorted(found),
        "largest_error": max(errors, default=_PRODUCT),
    }
