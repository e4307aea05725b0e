"""How r was computed: which way was taken, what was multiplied, and how exact that is."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Literal, TypedDict

if TYPE_CHECKING:
    import torch

__all__ = ["Dealt", "Method", "Sums", "method_of", "paired", "screened"]

# Of r, for float32, float16 and bfloat16 activations; float64 ones are closer.
_PAIRED = 1e-6
# Of neurons that are active on a few tokens alone; others stay within 1e-5.
_PRODUCT = 2e-5
# On the matrix units of a CUDA device, of means two standard deviations from 0 (an estimate).
_OF_UNITS = dict.fromkeys(("bfloat16", "float16"), 4e-5)
_OF_PRODUCTS = {"tf32": 1e-3, "float64": 1e-7, "entries": 1e-6}

Sums = Literal["paired", "dense", "sparse", "mixed", "screened"]


class Dealt(TypedDict):
    """Layers of A, or of its controls, whose co-moments were dealt to processes.

    ``passes`` are those that this took, in all.
    """

    layers: int
    processes: int
    passes: int


class Method(TypedDict):
    """How r was computed.

    Attributes:
        sums: ``paired``, neuron i with neuron i as tokens come; ``dense``, all pairs by products of
            layers; ``sparse``, by what is active together; ``mixed``, so for some models, and by
            products for others; ``screened``, one by one those that a sample did not rule out.
        products: what these were made of (`univfast.sums.products`).
        largest_error: of r, at most, for activations as they are stored, whose means are within
            1e9 standard deviations.
        dealt: None where every process had the co-moments of all layers.
    """

    sums: Sums
    products: list[str]
    largest_error: float
    dealt: Dealt | None


def paired() -> Method:
    """By index."""
    return {"sums": "paired", "products": [], "largest_error": _PAIRED, "dealt": None}


def screened(float64: Iterable[bool]) -> Method:
    """Of pairs that were screened; ``float64``: whether some activations of each two are."""
    products = sorted({"float64" if wide else "float32" for wide in float64})
    return {"sums": "screened", "products": products, "largest_error": _PAIRED, "dealt": None}


def method_of(multiplied: Iterable[Collection[str]], device: torch.device) -> Method:
    """Of all pairs, from what each of the searches was given, and where it was multiplied."""
    found = set[str]().union(*multiplied)
    known = {**_OF_PRODUCTS, **(_OF_UNITS if device.type == "cuda" else {})}
    errors = [known.get(name, _PRODUCT) for name in found]
    return {
        "sums": "dense" if "entries" not in found else "sparse" if len(found) == 1 else "mixed",
        "products": sorted(found),
        "largest_error": max(errors, default=_PRODUCT),
        "dealt": None,
    }
