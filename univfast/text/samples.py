"""Arrays that models read in place of tokens, as pixels: a sample is a window, of its patches."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from univfast.errors import InputError
from univfast.inputs.formats import read_file
from univfast.inputs.model_paths import is_model_file
from univfast.inputs.stored import Stored
from univfast.text.windows import Windows

__all__ = ["SampleWindows", "open_samples"]

_PIXELS = "pixel_values"
_PART = 64 << 20  # bytes that are hashed at a time
# What else says which tokens a model sees; none is known of the patches that it makes.
_MASKS = ("attention_mask", "bool_masked_pos", "pixel_mask", "head_mask")


@dataclass(frozen=True, eq=False)
class SampleWindows(Windows):
    """Samples of a file: token t is number ``t % window`` of what a model makes of ``t // window``.

    Attributes:
        source: the file.
        arrays: ``[samples, ...]`` by the model's names for what it reads, in place in the file.
        window: tokens that a model makes of a sample.
    """

    source: str
    arrays: Mapping[str, Stored]
    window: int

    # It is not made of tokens.
    ids: None = field(default=None, init=False)
    padding: None = field(default=None, init=False)
    text: None = field(default=None, init=False)
    samples: bool = field(default=True, init=False)

    @property
    def tokens(self) -> int:
        return self._count * self.window

    @property
    def probe(self) -> int:
        return self.window

    @cached_property
    def digest(self) -> bytes:
        """Tells these samples from others; reads them all."""
        digest = hashlib.sha256(repr(self.window).encode())
        for name, stored in self.arrays.items():
            digest.update(repr((name, tuple(stored.data.shape), str(stored.dtype))).encode())
            size = math.prod(stored.data.shape[1:]) * stored.dtype.itemsize
            step = max(1, _PART // max(1, size))
            for start in range(0, self._count, step):
                part = _rows(stored, slice(start, start + step)).reshape(-1)
                digest.update(part.view(torch.uint8).numpy().data)
        return digest.digest()

    def whole(self, tokens: int) -> int:
        return -(-tokens // self.window) * self.window

    def taken(self, tokens: Tensor) -> SampleWindows:
        """Those samples alone whose tokens these are, all of each."""
        some = tokens[:: self.window] // self.window
        parts = {
            name: torch.cat([_rows(stored, slice(i, i + 1)) for i in some.tolist()])
            for name, stored in self.arrays.items()
        }
        made = {name: Stored(part, part.dtype) for name, part in parts.items()}
        return dataclasses.replace(self, arrays=made)

    def inputs(self, start: int, stop: int, device: torch.device) -> dict[str, Tensor]:
        """What a model is called with for one of the ``batches``."""
        samples = slice(start // self.window, stop // self.window)
        return {name: _rows(x, samples).to(device) for name, x in self.arrays.items()}

    @property
    def _count(self) -> int:
        return len(next(iter(self.arrays.values())).data)


def open_samples(path: str) -> SampleWindows:
    """The arrays of a file, with one token a sample until it is known how many a model makes.

    A lone array is what vision models call ``pixel_values``, ``[samples, channels, height, width]``
    as an image processor gives it; others have the names that the models' ``forward`` has.

    Raises:
        InputError: the file cannot be read, or what it holds is no such array, or has no samples,
            or not as many in each.
    """
    content = read_file(path, _PIXELS)
    if is_model_file(content):
        raise InputError(f"{path}: is a model, no arrays that models read; give such")
    arrays: dict[str, Stored] = {}
    for name, stored in content.items():
        if isinstance(stored, InputError):
            raise stored
        if not isinstance(stored, Stored):
            raise InputError(
                f"{path}: {name} is sparse, no array that models read; give a dense one"
            )
        arrays[name] = stored
        shape = list(stored.data.shape)
        if name == "input_ids" or name in _MASKS:
            what = "token ids, which are given as a text" if name == "input_ids" else "a mask"
            raise InputError(
                f"{path}: {name} is {what}; leave it out, and say with mask= which tokens count"
            )
        if not stored.dtype.is_floating_point:
            kind = str(stored.dtype).removeprefix("torch.")
            raise InputError(
                f"{path}: {name} holds {kind}; give floating point, scaled as the models were"
                " trained (what their image processor returns)"
            )
        if name == _PIXELS and len(shape) != 4:
            raise InputError(
                f"{path}: {name} has shape {shape}, expected [samples, channels, height, width]"
            )
    counts = {
        name: stored.data.shape[0] if stored.data.ndim else 0 for name, stored in arrays.items()
    }
    if len({*counts.values()}) != 1 or 0 in counts.values():
        raise InputError(
            f"{path}: holds {counts} samples; give at least one, and as many in each array"
        )
    return SampleWindows(path, arrays, 1)


def _rows(stored: Stored, samples: slice) -> Tensor:
    """Some samples, copied: no model may write into the file."""
    if stored.mapped is not None:
        stored.mapped.check()
    data = stored.data
    if isinstance(data, Tensor):
        return data[samples].clone(memory_format=torch.contiguous_format)
    return stored.copy_rows(data[samples])
