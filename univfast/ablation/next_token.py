"""How well a model predicts the next token, and how far its predictions move."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from univfast.errors import InputError
from univfast.feeding import attention_mask
from univfast.inputs.masks import open_mask
from univfast.inputs.plain import plain_tensor
from univfast.machine.torch_state import in_plain_state, methods_in_plain_state

__all__ = ["Predictions", "logits_of", "predicted", "token_ids", "with_ids"]

# Of the float64 copies that one block of predictions takes, in bytes.
_BLOCK_BYTES = 32 << 20


def token_ids(batch: object) -> Tensor:
    """The tokens of a batch, int64 ``[samples, length]``.

    Raises:
        InputError: it has none.
    """
    ids = batch.get("input_ids") if isinstance(batch, Mapping) else batch
    if isinstance(ids, (tuple, list)) and ids:
        ids = ids[0]
    whole = isinstance(ids, Tensor) and not (
        ids.dtype.is_floating_point or ids.dtype.is_complex or ids.dtype == torch.bool
    )
    if not isinstance(ids, Tensor) or not whole or ids.ndim != 2:
        raise InputError(
            "batches: have no token ids [samples, length], which are what is predicted; give"
            " tensors of integers, or mappings with input_ids"
        )
    return plain_tensor(ids, "batches: input_ids").long()


def with_ids(batch: object, ids: Tensor) -> object:
    """A batch with other tokens."""
    if isinstance(batch, Mapping):
        return {**batch, "input_ids": ids}
    return [ids, *batch[1:]] if isinstance(batch, (tuple, list)) else ids


@in_plain_state
def predicted(batch: object, keep: object, mask_name: str) -> Tensor:
    """The tokens whose next one is predicted, bool ``[samples, length - 1]``, on the CPU.

    A token that counts, whose next one is in the same sample; neither is padding.

    Args:
        batch: that the model takes.
        keep: the tokens that count, as `univfast.inputs.masks.open_mask` takes them; None for all.
        mask_name: what to call them in errors.

    Raises:
        InputError: the mask is none for this batch.
    """
    ids = token_ids(batch)
    shape = tuple(ids.shape)
    counts = torch.ones(shape, dtype=torch.bool, device="cpu")
    if keep is not None:
        counts &= open_mask(keep, shape, mask_name).cpu().view(shape)
    counts = counts[:, :-1].clone()
    if (seen := attention_mask(batch)) is not None:
        there = open_mask(seen, shape, "batches: attention_mask").cpu().view(shape)
        counts &= there[:, :-1] & there[:, 1:]
    return counts


def logits_of(output: object, ids: Tensor) -> Tensor:
    """The logits of each next token, ``[samples, length, vocabulary]``, in what a model gave.

    Raises:
        InputError: it gave none.
    """
    found = output.get("logits") if isinstance(output, Mapping) else output
    if isinstance(found, (tuple, list)) and found:
        found = found[0]
    if (
        not isinstance(found, Tensor)
        or found.ndim != 3
        or found.shape[:2] != ids.shape
        or not found.dtype.is_floating_point
    ):
        shape = f" but {list(found.shape)}" if isinstance(found, Tensor) else ""
        raise InputError(
            f"model: gives no logits [samples, length, vocabulary]{shape}; use a causal language"
            " model with its head"
        )
    if ids.numel() and found.shape[2] <= int(ids.max()):
        raise InputError(
            f"model: gives logits of {found.shape[2]} tokens, and the batches hold token"
            f" {int(ids.max())}; use the tokens of its own tokenizer"
        )
    return plain_tensor(found, "model: its logits")


@methods_in_plain_state
class Predictions:
    """What the whole model predicts for a batch, to compare other predictions with.

    Holds the logits of the tokens that count, in their own dtype; all else is done in float64, in
    blocks of 32 MB.

    Args:
        logits: ``[samples, length, vocabulary]``.
        ids: the tokens, int64 ``[samples, length]``.
        counts: those whose next one is predicted, bool ``[samples, length - 1]``.

    Raises:
        InputError: a loss is not finite.
    """

    def __init__(self, logits: Tensor, ids: Tensor, counts: Tensor) -> None:
        self._counts = counts.to(logits.device)
        self._next = ids.to(logits.device)[:, 1:][self._counts]
        self._logits = self._of(logits)  # [predicted, vocabulary]
        self._losses = torch.empty(len(self._next), dtype=torch.float64, device=logits.device)
        for part in self._blocks():
            self._losses[part] = self._loss(self._logits[part].double(), part)
        if not bool(self._losses.isfinite().all()):
            raise InputError(
                "model: its loss is not finite, as of logits that are NaN or infinite; run it in"
                " float32 or bfloat16"
            )

    def tokens(self) -> Tensor:
        """How many are predicted in each sample, float64 ``[samples]``."""
        return self._counts.sum(dim=1).double().cpu()

    def loss(self) -> Tensor:
        """Sums over them of the cross-entropy, in nats, float64 ``[samples]``."""
        return self._by_sample(self._losses)

    def against(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Other logits for the same batch: sums of how much the loss rises, and of KL.

        Float64 ``[samples]`` each, in nats; the divergence is that of the whole model's
        predictions from the others, ``KL(whole || others)``. Both are exactly 0 where the logits
        are the same.

        Raises:
            InputError: a loss or a divergence is NaN.
        """
        others = self._of(logits)
        rise, divergence = torch.empty_like(self._losses), torch.empty_like(self._losses)
        for part in self._blocks():
            whole, other = self._logits[part].double(), others[part].double()
            rise[part] = self._loss(other, part) - self._losses[part]
            p, log_p = whole.softmax(dim=1), whole.log_softmax(dim=1)
            terms = p * (log_p - other.log_softmax(dim=1))
            # What the whole model gives no probability adds nothing, whatever the others give it.
            divergence[part] = terms.where(p > 0, 0.0).sum(dim=1).clamp(min=0)
        if bool(rise.isnan().any() | divergence.isnan().any()):
            raise InputError(
                "model: gives NaN where neurons are set to their means; run it in float32 or"
                " bfloat16"
            )
        return self._by_sample(rise), self._by_sample(divergence)

    def same_before(self, logits: Tensor, last: Tensor) -> bool:
        """Whether other logits are the same, but for rounding, before a place of each sample.

        At all that is predicted before it; int64 ``[samples]``.
        """
        places = torch.arange(self._counts.shape[1], dtype=torch.int64, device=logits.device)
        before = (places < last.to(logits.device)[:, None])[self._counts]
        others = self._of(logits)
        for part in self._blocks():
            whole, other = (x[part][before[part]].double() for x in (self._logits, others))
            if whole.numel():
                scale = whole.abs().nan_to_num(posinf=0.0).amax()
                rounding = 8 * torch.finfo(logits.dtype).eps * scale
                if bool(((whole - other).abs() > rounding).any()):
                    return False
        return True

    def _of(self, logits: Tensor) -> Tensor:
        return logits[:, :-1][self._counts]

    def _loss(self, logits: Tensor, part: slice) -> Tensor:
        return -logits.log_softmax(dim=1).gather(1, self._next[part, None])[:, 0]

    def _blocks(self) -> list[slice]:
        rows = max(1, _BLOCK_BYTES // (8 * self._logits.shape[1]))
        return [slice(i, i + rows) for i in range(0, len(self._next), rows)]

    def _by_sample(self, values: Tensor) -> Tensor:
        table = torch.zeros(self._counts.shape, dtype=torch.float64, device=values.device)
        table[self._counts] = values
        return table.sum(dim=1).cpu()
