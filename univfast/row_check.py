"""Whether rows that modules of a live model give are the tokens of its batch, in their order."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from univfast.channels import channel_axis
from univfast.errors import InputError
from univfast.hooks import Captured, Site
from univfast.inputs.arrays import same_order
from univfast.machine.torch_state import PlainState
from univfast.native.place import numbers

__all__ = ["BatchRows", "RowCheck", "rows_of"]

_EXPERTS = re.compile(r"^(?!shared).*expert", re.IGNORECASE)
_ROUTED = re.compile(r"expert|moe|rout", re.IGNORECASE)
# Of the variance of rows, what rounding may change when samples are run in another order.
_ROUNDING = 1e-3

Shape = tuple[int, ...]


@dataclass(frozen=True)
class BatchRows:
    """What rows a batch should give.

    Attributes:
        samples: how many; None where it is not known.
        tokens: shapes of its token ids, or of the mask that was given: the leading axes that layers
            may have; none of batches that are no tokens.
        masked: whether these are of the mask alone, which then says which axis samples are on.
        kept: tokens that are no padding; None where that is not known.
        others: whether it has samples of another kind too, as images beside a text.
    """

    samples: int | None
    tokens: tuple[Shape, ...] = ()
    masked: bool = False
    kept: int | None = None
    others: bool = False


def rows_of(batch: object, mask: object = None) -> BatchRows:
    """The rows of a batch; ``mask`` is the user's own, which may say that samples are rows."""
    shape = getattr(mask, "shape", None)
    given = () if shape is None else (tuple(shape),)
    if isinstance(batch, Mapping):
        named = _named(batch)
        tensors = [x for x in batch.values() if isinstance(x, Tensor)]
        tokens = named or _of_ids(tensors)
    else:
        found = list(batch) if isinstance(batch, (tuple, list)) else [batch]
        tensors = [x for x in found if isinstance(x, Tensor)]
        tokens = _of_ids(tensors)
    first = next((x for x in tensors if x.ndim), None)
    samples = tokens[0][0] if tokens else None if first is None else len(first)
    seen = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    kept = int(seen.sum()) if isinstance(seen, Tensor) and tuple(seen.shape) in tokens else None
    others = bool(tokens) and isinstance(batch, Mapping) and any(x.ndim > 2 for x in _kinds(batch))
    return BatchRows(samples, (*tokens, *given), not tokens and bool(given), kept, others)


def _kinds(batch: Mapping[object, object]) -> list[Tensor]:
    """What is no text, as images and sounds are."""
    return [
        x
        for key, x in batch.items()
        if isinstance(x, Tensor)
        and x.dtype.is_floating_point
        and not str(key).endswith(("inputs_embeds", "attention_mask"))
    ]


def _named(batch: Mapping[object, object]) -> tuple[Shape, ...]:
    """Shapes of tokens, as transformers name them."""
    found = []
    for side in ("", "decoder_"):
        ids, embedded = batch.get(f"{side}input_ids"), batch.get(f"{side}inputs_embeds")
        seen = batch.get(f"{side}attention_mask") if side else None
        if isinstance(ids, Tensor):
            found.append(tuple(ids.shape))
        elif isinstance(embedded, Tensor) and embedded.ndim > 1:
            found.append(tuple(embedded.shape[:-1]))
        elif isinstance(seen, Tensor):
            found.append(tuple(seen.shape))
    labels = batch.get("labels")
    if found and isinstance(labels, Tensor) and labels.ndim == 2:  # of which decoders are made
        found.append(tuple(labels.shape))
    return tuple(found)


def _of_ids(tensors: Sequence[Tensor]) -> tuple[Shape, ...]:
    """Shapes of what can be token ids, which embeddings take: one or two axes of them."""
    whole = (torch.int32, torch.int64)
    ids = [x for x in tensors if x.dtype in whole and x.ndim in (1, 2)]
    if not tensors or tensors[0].dtype not in whole or tensors[0].ndim not in (1, 2):
        return ()
    return tuple(tuple(x.shape) for x in ids)


class RowCheck:
    """Checks the layers of one model, batch after batch.

    Rows that come without the axes of samples and tokens may be in any order: the model is run once
    more on the samples in another order, which rows must follow. That is done until it has told;
    within experts, whose order follows from the tokens, on each batch.

    Args:
        model: that is run.
        name: what to call it in errors; "" where others name it.
        axis: of neurons, as `univfast.hooks.capture` takes it.
    """

    def __init__(self, model: nn.Module, name: str, axis: int | None = None) -> None:
        self._of, self._axis = f" of {name}" if name else "", axis
        self._routes = any(
            _ROUTED.search(f"{name} {type(module).__name__}")
            for name, module in model.named_modules()
        )
        self._told: set[str] = set()

    def take(
        self, captured: Captured, batch: object, rows: BatchRows, run: Callable[[object], None]
    ) -> dict[str, Tensor]:
        """The layers of the pass that is just done, which captures keep no longer.

        Args:
            captured: of the model.
            batch: that it was run on.
            rows: what is to be there.
            run: runs the model, captured, on another batch.

        Raises:
            InputError: rows that are no tokens, or in another order.
        """
        sites = {site.layer: site for site in captured.sites}
        taken = {layer: captured.pop(layer) for layer in captured}
        doubtful = [
            sites[layer] for layer, x in taken.items() if self._is_doubtful(sites[layer], x, rows)
        ]
        if doubtful:
            self._check_order(captured, doubtful, taken, batch, rows, run)
        return taken

    def _is_doubtful(self, site: Site, x: Tensor, rows: BatchRows) -> bool:
        """Whether rows may be in another order than tokens; refuses those that are no tokens."""
        leading = tuple(x.shape[:-1])
        if not leading or not x.dtype.is_floating_point:  # which is refused for that
            return False
        inside = _within_experts(site.layer)
        told = site.layer in self._told and not inside
        if rows.tokens:
            if leading in rows.tokens:
                square = _is_square(leading) and not rows.masked
                return not told and (square or (inside and len(leading) == 1))
            count = math.prod(leading)
            if any(math.prod(t) == count and same_order(leading, t) for t in rows.tokens):
                # Those of one sample may have no axis of samples, and the other way.
                return not told and len(leading) == 1
            if rows.others and len(leading) > 1 and leading[0] == rows.samples:
                return False
            raise self._no_tokens(site, x, rows)
        if rows.samples is None or self._is_without_samples(site, x):
            return False
        if leading[0] == rows.samples:
            if len(leading) == 1:
                return not told and (inside or self._routes)
            return not told and _is_square(leading) and not rows.masked
        if math.prod(leading) % max(rows.samples, 1):
            raise self._no_tokens(site, x, rows)
        return not told

    def _is_without_samples(self, site: Site, x: Tensor) -> bool:
        """Whether neurons stood on the first axis, as of a convolution of one sample."""
        shape = (x.shape[-1], *x.shape[:-1])
        if self._axis is None:
            return channel_axis(site.module, shape, site.is_input) == 0
        return self._axis in (0, -x.ndim)

    def _check_order(
        self,
        captured: Captured,
        doubtful: Sequence[Site],
        taken: Mapping[str, Tensor],
        batch: object,
        rows: BatchRows,
        run: Callable[[object], None],
    ) -> None:
        samples = rows.samples or 1
        own = any(len(shape) == 1 for shape in rows.tokens)  # of one sample, without an axis of it
        try:
            if own:
                raise ValueError("no samples")
            run(_reordered(batch, samples))
        except InputError:
            raise
        except Exception as error:
            raise self._untold(doubtful[0], taken[doubtful[0].layer].shape[:-1]) from error
        again = {layer: captured.pop(layer) for layer in captured}
        for site in doubtful:
            x, other = taken[site.layer], again[site.layer]
            told = _follows(x, other, samples)
            if told is False and _is_turned(x, other, samples):
                raise self._no_tokens(site, x, rows, turned=True)
            if told is False and _is_square(x.shape[:-1]):
                # Time may be first in batches, as of recurrent layers: it was time that was turned.
                told = not (self._routes or _within_experts(site.layer))
            if told is False:
                raise self._out_of_order(site)
            if told:
                self._told.add(site.layer)

    def _no_tokens(
        self, site: Site, x: Tensor, rows: BatchRows, turned: bool = False
    ) -> InputError:
        leading, count = tuple(x.shape[:-1]), math.prod(x.shape[:-1])
        of = f"layer {site.layer!r}{self._of} gave shape {list(x.shape)}"
        second = "; its samples are on the second axis: hook a module that has them on the first"
        if not (rows.tokens and _is_square(leading)):  # of which a mask could be either way
            second += self._or_mask(leading, "where both models have them so")
        if turned and not rows.tokens:
            return InputError(f"hooks: {of} for {rows.samples} samples{second}")
        if not rows.tokens:
            return InputError(
                f"hooks: {of} for {rows.samples} samples, expected as many rows for each; hook a"
                " module that gives each sample its own, or give mask= of the shape of the rows"
            )
        tokens, wanted = rows.tokens[0], ", ".join(map(str, rows.tokens[0]))
        head = f"hooks: {of} for tokens [{wanted}], expected a row a token [{wanted}, neurons]"
        times, left = divmod(count, max(math.prod(tokens), 1))
        if _within_experts(site.layer):
            return InputError(
                f"{head}; rows within experts are in routing order: hook {_block(site.layer)!r},"
                " whose output is in the order of the tokens, or the router"
            )
        if leading in (tokens[:1], (*tokens[:1], 1)):
            return InputError(
                f"{head}; that is a row a sample, as of what pools, or takes the last token alone:"
                f" hook a module before it{self._or_mask(leading, 'to compare samples')}"
            )
        if turned or leading == tokens[::-1]:
            return InputError(head + second)
        if times > 1 and not left:
            return InputError(
                f"{head}; there are {times} rows a token, as of experts in routing order or of"
                " heads: hook the output of the block that they are in"
            )
        if count == rows.kept:
            return InputError(
                f"{head}; that is a row a token that is no padding, as of packed sequences: hook a"
                " module outside of what packs them, or run batches without padding"
            )
        return InputError(f"{head}; hook other modules")

    def _or_mask(self, leading: Shape, when: str) -> str:
        """What takes other rows; text that univfast reads has masks of tokens alone."""
        return f", or, {when}, give mask= of shape {list(leading)}" if self._of else ""

    def _out_of_order(self, site: Site) -> InputError:
        where = (
            f"hook {_block(site.layer)!r}, whose output is in the order of the tokens, or the"
            " router"
            if _within_experts(site.layer)
            else "hook the output of the block that it is in"
        )
        return InputError(
            f"hooks: layer {site.layer!r}{self._of} gives its rows in another order than"
            " that of the tokens, as experts do in routing order (they do not follow the samples"
            f" when these are reordered); {where}"
        )

    def _untold(self, site: Site, leading: Sequence[int]) -> InputError:
        if _is_square(leading):
            return InputError(
                f"hooks: layer {site.layer!r}{self._of} gives as many samples as tokens, and on"
                " which axis samples are cannot be checked, as the model does not run on them in"
                " another order; give batches of another number of samples"
            )
        return InputError(
            f"hooks: layer {site.layer!r}{self._of} gives rows without an axis of samples,"
            " and whether they are in the order of the tokens cannot be checked; hook a module"
            " that gives [samples, tokens, neurons]"
        )


def _is_turned(x: Tensor, again: Tensor, samples: int) -> bool:
    """Whether samples are on the second axis of rows."""
    if x.ndim < 3 or not x.shape[1] == samples > 1:
        return False
    return _follows(x.transpose(0, 1), again.transpose(0, 1), samples) is True


def _is_square(leading: Sequence[int]) -> bool:
    """Whether samples may be on either of the first two axes of rows."""
    return len(leading) > 1 and leading[0] == leading[1] > 1


def _within_experts(layer: str) -> bool:
    """Whether a module is a part of experts; what holds them all gives tokens in their order."""
    *above, last = layer.removesuffix(":input").split(".")
    return any(_EXPERTS.match(part) for part in above) or bool(
        re.fullmatch(r"expert[_-]?\d+", last, re.IGNORECASE)
    )


def _block(layer: str) -> str:
    """What holds all experts that a module is a part of."""
    parts = layer.removesuffix(":input").split(".")
    number = next((i for i, part in enumerate(parts) if _EXPERTS.match(part)), len(parts) - 1)
    if number + 1 < len(parts) and parts[number + 1].isdigit():  # a list, which is not called
        return ".".join(parts[:number]) or parts[number]
    return ".".join(parts[: number + 1])


def _reordered(value: object, samples: int) -> object:
    """A batch with its samples the other way round; one sample, twice."""
    if isinstance(value, Tensor):
        if not value.ndim or len(value) != samples:
            return value
        order = [0, 0] if samples == 1 else list(range(samples))[::-1]
        with PlainState():
            index = torch.tensor(order, dtype=torch.int64, device=value.device)
            return value.index_select(0, index)
    if isinstance(value, Mapping):
        return {key: _reordered(x, samples) for key, x in value.items()}
    if isinstance(value, (tuple, list)):
        return [_reordered(x, samples) for x in value]
    return value


def _follows(x: Tensor, again: Tensor, samples: int) -> bool | None:
    """Whether rows follow their samples; None where that cannot be told from these values."""
    with PlainState():
        one = x.detach().reshape(-1, x.shape[-1]).to(device="cpu", dtype=torch.float64)
        two = again.detach().reshape(-1, again.shape[-1]).to(device="cpu", dtype=torch.float64)
        if samples == 1:
            expected = torch.cat([one, one])
        elif len(one) % samples:
            return False
        else:
            each = one.view(samples, -1, one.shape[-1])
            order = numbers(samples).flip(0)
            expected = each[order].reshape(one.shape)
        if two.shape != expected.shape:
            return False
        size = float((expected - expected.mean(dim=0)).square().sum())
        if float((two - expected).square().sum()) > _ROUNDING * size + 1e-12 * len(one):
            return False
        moved = samples == 1 or float((expected - one).square().sum()) > _ROUNDING * size
        return True if moved else None
