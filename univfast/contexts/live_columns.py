"""The activations of chosen pairs of models that run on batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from univfast.contexts.chosen import Chosen, columns_by_layer
from univfast.contexts.columns import ROW, Slice
from univfast.inputs.masks import open_mask
from univfast.machine.torch_state import in_plain_state

__all__ = ["LiveColumns", "Ran"]


@dataclass(frozen=True)
class Ran:
    """What both models gave for a batch, layers by name, and its mask."""

    a: Mapping[str, Tensor]
    b: Mapping[str, Tensor]
    mask: object


class LiveColumns:
    """The `PairColumns` of models that run.

    Args:
        chosen: the pairs, at least one.
        window: tokens of a sample; 1 where they have several lengths, or none.
        tokens: of the run.
        run: runs the models on all batches.
        mask_name: what to call masks in errors.
    """

    def __init__(
        self,
        chosen: Chosen,
        window: int,
        tokens: int,
        run: Callable[[], Iterable[Ran]],
        mask_name: str,
    ) -> None:
        self._sides = columns_by_layer(chosen.a), columns_by_layer(chosen.b)
        self._pairs = len(chosen)
        self.tokens = tokens
        self.sample = window if window > 1 else ROW
        self._run, self._mask_name = run, mask_name

    def slices(self, progress: Callable[[int], None]) -> Iterator[Slice]:
        """All tokens, in order; the models tell progress by themselves."""
        start, held = 0, list[tuple[Tensor, Tensor, Tensor]]()
        for ran in self._run():
            held.append(self._rows(ran))
            rows = sum(len(keep) for _, _, keep in held)
            whole = rows // self.sample * self.sample
            if whole:
                a, b, keep = (torch.cat(parts) for parts in zip(*held, strict=True))
                yield Slice(start, keep[:whole], a[:whole], b[:whole])
                held = [(a[whole:], b[whole:], keep[whole:])] if whole < rows else []
                start += whole
        if held:
            a, b, keep = (torch.cat(parts) for parts in zip(*held, strict=True))
            yield Slice(start, keep, a, b)

    @in_plain_state
    def _rows(self, ran: Ran) -> tuple[Tensor, Tensor, Tensor]:
        """The columns of both models ``[tokens, pairs]``, and which tokens count."""
        shape = next(iter(ran.a.values())).shape[:-1]
        keep = torch.ones(shape.numel(), dtype=torch.bool, device="cpu")
        if ran.mask is not None:
            keep = open_mask(ran.mask, tuple(shape), self._mask_name).cpu()
        sides = []
        for layers, own in zip((ran.a, ran.b), self._sides, strict=True):
            wide = any(layers[name].dtype == torch.float64 for name in own)
            dtype = torch.float64 if wide else torch.float32
            found = torch.empty(len(keep), self._pairs, dtype=dtype, device="cpu")
            for name, (places, columns) in own.items():
                values = layers[name].reshape(-1, layers[name].shape[-1])
                chosen = values.index_select(1, columns.to(values.device))
                found[:, places] = chosen.to(device="cpu", dtype=dtype)
            sides.append(found)
        return sides[0], sides[1], keep
