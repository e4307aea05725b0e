"""Two models that run side by side once more: what matched pairs of their neurons do."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from univfast.inputs.layout import Layout
from univfast.inputs.masks import open_mask
from univfast.inputs.plain import plain_tensor
from univfast.machine.torch_state import methods_in_plain_state
from univfast.native.place import numbers
from univfast.sums.details import PairDetails
from univfast.sums.pair_statistics import PairStatistics
from univfast.sums.token_facts import TokenFacts, token_groups

__all__ = ["DetailStream", "TokenRecord"]


@methods_in_plain_state
class TokenRecord:
    """The tokens of batches, as they come: samples of one length, and ids where they are seen."""

    def __init__(self) -> None:
        self._shapes: list[torch.Size] = []  # of each batch, without neurons
        self._ids: list[Tensor] | None = []

    def add(self, batch: object, layers: Mapping[str, Tensor]) -> None:
        """Takes note of a batch, and of what a model gave for it."""
        shape = next(iter(layers.values())).shape[:-1]
        self._shapes.append(shape)
        ids = _ids(batch, shape)
        if ids is None or self._ids is None:
            self._ids = None
        else:
            self._ids.append(plain_tensor(ids, "batches: input_ids").cpu().flatten().long())

    @property
    def window(self) -> int:
        """Tokens of a sample; 1 where batches have several lengths, or none."""
        (window, *others) = {shape[-1] if len(shape) > 1 else 1 for shape in self._shapes}
        return 1 if others else window

    def facts(self) -> TokenFacts:
        """What is known of all tokens."""
        ids = self.ids()
        tokens = sum(shape.numel() for shape in self._shapes)
        return TokenFacts(tokens, self.window, None if ids is None else token_groups(ids))

    def ids(self) -> Tensor | None:
        """Of all tokens, int64 ``[tokens]``; None where they are not known."""
        return torch.cat(self._ids) if self._ids else None

    def places(self) -> Tensor:
        """The sample that each token is in, and its position there, int64 ``[tokens, 2]``.

        A batch without samples is one.
        """
        lengths = [
            length
            for shape in self._shapes
            for length in [shape[-1]] * (shape.numel() // max(shape[-1], 1))
        ]
        counts = torch.tensor(lengths, dtype=torch.int64, device="cpu")
        sample = numbers(len(lengths)).repeat_interleave(counts)
        begins = (counts.cumsum(0) - counts)[sample]
        return torch.stack([sample, numbers(len(sample)) - begins], dim=1)


def _ids(batch: object, shape: torch.Size) -> Tensor | None:
    """The token ids of a batch; None where it is not plain that it has some."""
    if isinstance(batch, Mapping):
        batch = batch.get("input_ids")
    if isinstance(batch, (tuple, list)) and len(batch) == 1:
        batch = batch[0]
    if not isinstance(batch, Tensor) or batch.shape != shape:
        return None
    whole = not (batch.dtype.is_floating_point or batch.dtype.is_complex)
    return batch if whole and batch.dtype != torch.bool else None


@methods_in_plain_state
class DetailStream:
    """Batches that are gone through once more, of matched pairs alone.

    Args:
        names: of the models, for errors.
        layouts: the layers of both, in order.
        details: what takes them.
    """

    full = False

    def __init__(
        self, names: tuple[str, str], layouts: tuple[Layout, Layout], details: PairDetails
    ) -> None:
        self._names, self._layouts, self._details = names, layouts, details
        self._seen = 0

    def add(
        self, a: Mapping[str, Tensor], b: Mapping[str, Tensor], mask: object, name: str
    ) -> None:
        """Adds what both models gave for a batch, layers by name."""
        layers = [
            [captured[layer].reshape(-1, captured[layer].shape[-1]) for layer in layout.names]
            for captured, layout in zip((a, b), self._layouts, strict=True)
        ]
        shape = tuple(a[self._layouts[0].names[0]].shape[:-1])
        keep = None if mask is None else open_mask(mask, shape, name)
        self._details.update_rows(layers[0], layers[1], keep, self._seen, self._names)
        self._seen += len(layers[0][0])

    def statistics(self) -> PairStatistics:
        """Of all matched pairs."""
        return self._details.finish()
