"""Models that are run on batches: what a batch is, its mask, its device, the models' modes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from itertools import chain, zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from univfast.errors import InputError
from univfast.hooks import Captured
from univfast.inputs.plain import plain_tensor
from univfast.machine.digests import bytes_of
from univfast.machine.torch_state import PlainState
from univfast.networks.calls import check_call, given_to, refused_keyword
from univfast.networks.padding import without_padding
from univfast.networks.wrapping import network_of

__all__ = [
    "BatchProgress",
    "Feed",
    "arguments",
    "attention_mask",
    "evaluating",
    "has_tokens",
    "run_batch",
    "with_masks",
]

# Called with the number of batches done, over all passes, and of all, where that is known.
BatchProgress = Callable[[int, int | None], None]

_MISSING = object()


@contextmanager
def evaluating(**models: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards each module is in the mode that it was in.

    Raises:
        InputError: one cannot be hooked or run; named by its keyword.
        TypeError: one is no module.
    """
    for name, model in models.items():
        network_of(model, name)
    before = [(module, module.training) for model in models.values() for module in model.modules()]
    try:
        for model in models.values():
            model.eval()
        yield
    finally:
        for module, training in before:
            module.training = training


def with_masks(
    batches: Iterable[Any], mask: object, models: Sequence[nn.Module] = ()
) -> Iterator[tuple[Any, object]]:
    """Each batch with its mask, None for none; it is that of what the models give.

    Raises:
        TypeError: a single batch in place of batches, or no masks.
    """
    if isinstance(batches, (Tensor, Mapping, str)) or not isinstance(batches, Iterable):
        raise TypeError(
            f"batches: expected an iterable of batches, got {type(batches).__name__}; give a list"
            " of them"
        )
    if mask is None:
        return ((batch, attention_mask(batch, models)) for batch in batches)
    if callable(mask):
        return ((batch, mask(batch)) for batch in batches)
    if isinstance(mask, str) or not isinstance(mask, Iterable):
        raise TypeError(f"mask: expected a function or masks, got {type(mask).__name__}")
    return _one_each(batches, mask)


class Feed:
    """Batches with their masks, which can be gone through several times.

    Args:
        batches: what the models take.
        mask: as `with_masks` takes it.
        progress: called after each batch.
        passes: how often they are gone through.
        inputs: what the models take of each; None for all of it.
        models: those that take them.

    Raises:
        InputError: they are to be gone through several times, and can be only once.
    """

    def __init__(
        self,
        batches: Iterable[Any],
        mask: object,
        progress: BatchProgress | None,
        passes: int,
        inputs: Callable[[Any], Any] | None = None,
        models: Sequence[nn.Module] = (),
    ) -> None:
        batches = given_to(batches, inputs)
        for name, value in (("batches", batches), ("mask", mask)):
            if passes > 1 and isinstance(value, Iterator):
                raise InputError(
                    f"{name}: is an iterator, which can be used only once, and controls are run on"
                    " the same batches again; give a list, or a DataLoader that does not shuffle"
                )
        self._batches, self._mask, self._progress = batches, mask, progress
        self._models = models
        self._passes, self._pass, self._done = passes, 0, 0
        self._digests: list[bytes] = []
        self._total = len(batches) if isinstance(batches, Sized) else None
        self.has_masks = mask is not None
        self.mask_name = "mask" if mask is not None else "batches: attention_mask"

    def __iter__(self) -> Iterator[tuple[Any, object]]:
        """Those with tokens, each with its mask; the caller may stop early.

        Raises:
            InputError: they are others than the first time.
        """
        self._pass += 1
        for number, (batch, keep) in enumerate(with_masks(self._batches, self._mask, self._models)):
            if self._passes > 1:
                self._check_again(number, batch)
            if has_tokens(batch):
                yield batch, keep
            self._done += 1
            if self._progress:
                total = None if self._total is None else self._passes * self._total
                self._progress(self._done, total)

    def pass_over(self) -> None:
        """Does without one of the times."""
        if self._total is not None:
            self._done += self._total
            if self._progress:
                self._progress(self._done, self._passes * self._total)

    def _check_again(self, number: int, batch: object) -> None:
        digest = hashlib.blake2b(digest_size=16)
        for x in _tensors(batch):
            plain = plain_tensor(x, f"batches: batch {number}, which is to be gone through again,")
            with PlainState():
                values = bytes_of(plain.cpu())
            digest.update(values.numpy().tobytes())
        if self._pass == 1:
            self._digests.append(digest.digest())
        elif number >= len(self._digests) or self._digests[number] != digest.digest():
            raise InputError(
                f"batches: batch {number} is another when they are gone through again, as of a"
                " DataLoader that shuffles; controls must run on the same ones: give a list"
            )


def _one_each(batches: Iterable[Any], masks: Iterable[object]) -> Iterator[tuple[Any, object]]:
    for batch, mask in zip_longest(batches, masks, fillvalue=_MISSING):
        if batch is _MISSING or mask is _MISSING:
            more, fewer = ("masks", "batches") if batch is _MISSING else ("batches", "masks")
            raise InputError(f"mask: there are more {more} than {fewer}; give one mask a batch")
        yield batch, mask


def attention_mask(batch: object, models: Sequence[nn.Module] = ()) -> object:
    """That of a batch, true where it is no padding; None where it has none.

    ``src_key_padding_mask``, which is true for padding, is one too.

    Raises:
        InputError: it holds other numbers than 0 and 1, or there are two.
    """
    found = None
    if isinstance(batch, Mapping):
        padding = without_padding(batch, models)
        found = batch.get("attention_mask") if padding is None else padding
    if not isinstance(found, Tensor) or not found.dtype.is_floating_point:
        return found
    if not bool(((found == 0) | (found == 1)).all()):
        raise InputError(
            "batches: attention_mask holds other values than 0 and 1; give mask=, of the tokens to"
            " use"
        )
    return found == 1


def run_batch(captured: Captured, model: nn.Module, batch: object, name: str) -> None:
    """Runs a captured model on a batch, which is brought to the device of its first parameter.

    Raises:
        InputError: the model, called ``name``, changes its batch in place.
    """
    args, keywords = arguments(model, batch, name)
    before = [(x, x._version) for x in _tensors(batch) if not x.is_inference()]
    try:
        captured.run(*args, **keywords)
    except TypeError as error:
        refused = refused_keyword(error, keywords)
        if refused is None:
            raise
        raise InputError(
            f"batches: one has {refused!r}, which {name} ({type(model).__name__}) does not take;"
            " leave it out, as by inputs="
        ) from error
    if any(x._version != version for x, version in before):
        raise InputError(
            f"{name}: changes its batch in place, which is another model's and yours too; have"
            " the model work on a copy"
        )


def arguments(
    model: nn.Module, batch: object, name: str = "model"
) -> tuple[list[Any], dict[str, Any]]:
    """What a model is called with for a batch, by place and by name.

    On the device of its first parameter.

    Raises:
        InputError: the model, called ``name``, does not take the batch.
    """
    weights = (x for x in chain(model.parameters(), model.buffers()) if not x.is_meta)
    first = next(weights, None)
    moved = _moved(batch, None if first is None else first.device)
    args: list[Any] = []
    keywords: dict[str, Any] = {}
    if isinstance(moved, Mapping):
        keywords = dict(moved)
    else:
        args = list(moved) if isinstance(moved, (tuple, list)) else [moved]
    check_call(model, args, keywords, name)
    return args, keywords


def has_tokens(batch: object) -> bool:
    """Whether a batch has more than empty tensors."""
    tensors = _tensors(batch)
    return not tensors or any(x.numel() for x in tensors)


def _moved(value: object, device: torch.device | None) -> object:
    """A batch with its tensors on a device; None for where they are.

    Those of inference mode are copied: nothing would tell that a model changes them.
    """
    if isinstance(value, Tensor):
        moved = value if device is None else value.to(device)
        return moved.clone() if moved is value and value.is_inference() else moved
    if isinstance(value, Mapping):
        return {key: _moved(x, device) for key, x in value.items()}
    if isinstance(value, (tuple, list)):
        return [_moved(x, device) for x in value]
    return value


def _tensors(value: object) -> list[Tensor]:
    """Those of a batch."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [x for each in value for x in _tensors(each)] if isinstance(value, (tuple, list)) else []
