"""`correlate_models`: two models side by side, whose activations no batch outlives."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch  # noqa: F401 - types of options name it
from torch import Tensor, nn

from univfast.assemble import Question, make_result
from univfast.contexts.live_columns import LiveColumns, Ran
from univfast.control_matches import ControlMatches
from univfast.docstrings import documented
from univfast.errors import InputError
from univfast.explaining import Look
from univfast.features.token_features import TokenText
from univfast.feeding import BatchProgress, Feed, evaluating
from univfast.inputs.arrays import to_tensor
from univfast.live_networks import Network, by_argument, controls_of, networks
from univfast.machine.torch_state import PlainState, in_plain_state
from univfast.networks.notes import notes
from univfast.nulls.kinds import Baseline
from univfast.options import ModelOptions, complete
from univfast.result import CorrelationResult
from univfast.runs.detail_streams import DetailStream, TokenRecord
from univfast.runs.pilot import Activity, Meter
from univfast.runs.streams import Stream, StreamSettings
from univfast.search.matches import Matches
from univfast.shape_warnings import shape_warnings, warn_of
from univfast.side_by_side import SideBySide

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["correlate_models"]


@documented(ModelOptions)
def correlate_models(
    model_a: nn.Module,
    model_b: nn.Module,
    batches: Iterable[Any],
    *,
    hooks: str | Sequence[str],
    hooks_b: str | Sequence[str] | None = None,
    inputs: Callable[[Any], Any] | None = None,
    mask: Callable[[Any], object] | Iterable[object] | None = None,
    names: tuple[str, str] = ("a", "b"),
    progress: BatchProgress | None = None,
    **options: Unpack[ModelOptions],
) -> CorrelationResult:
    """Correlates the neurons of two models while they run on the same batches.

    No activation outlives its batch. Both models run without gradients and in evaluation mode; the
    mode of each of their modules is put back. After the first batch, a model runs only up to the
    last layer that the hooks match.

    Args:
        model_a: any `torch.nn.Module` with a forward. One that was compiled, or is in a wrapper of
            data parallel, runs as if it were not; ``docs/live-modules.md`` has all kinds.
        model_b: another, on any device, of any width (by index, of the same); or the same one.
        batches: what the models take, one after another: each a tensor (``model(x)``), a mapping
            (``model(**x)``; what tokenizers of transformers give is one), or a tuple or list
            (``model(*x)``). Tensors are copied to the device of a model's first parameter. One
            whose tensors are all empty is passed over. With controls they are gone through once
            more for each: a list, or a `DataLoader` that does not shuffle, and no iterator.
        hooks: glob patterns of module names, as `capture` takes them.
        hooks_b: those of ``model_b``; None for the same. By index, layers are paired by name; or in
            order, if this is given and matches as many layers of other names.
        inputs: of each of ``batches`` gives the batch, where a loader gives more than the models
            take: ``inputs=lambda pair: pair[0]``. None where it does not.
        mask: the tokens to use: a function of the batch that gives ``[...]``, of the shape of the
            activations without their last axis, true for the tokens to use, or None for all; or
            such masks, one a batch. None for the ``attention_mask`` of batches that are mappings,
            or their ``src_key_padding_mask``, which leave padding out; for all tokens of others.
        names: what to call the models.
        progress: called after each batch with the number of batches done and of all; None for
            batches without a length.
        {options}

    Returns:
        A row a neuron of A, and the counts. ``summary["hooks"]`` says how many modules each pattern
        matched, and the first and last of them.

    Raises:
        InputError: a model that cannot be hooked or run, batches that it does not take or that
            could be read in two ways, hooks that match nothing, layers, shapes or masks that do not
            fit, no batches, a model that changes its batch in place; a NaN or infinity, named by
            model, layer, neuron and token, counted over all batches.
        TypeError: an argument of a type that cannot be used.

    Warns where the models share parameters, or a pattern matches modules within others.
    """
    start = time.perf_counter()
    with PlainState():
        given = complete(ModelOptions, options, "correlate_models")
        settings = StreamSettings(given, in_order=hooks_b is not None)
    real = networks(
        names,
        (model_a, model_b),
        (hooks, hooks if hooks_b is None else hooks_b),
        given["axis"],
    )
    controls = controls_of(real, given)
    said = notes(real, [network for each in controls for network in each])
    for note in said:
        warnings.warn(note, stacklevel=2)
    # Details take the batches twice: for the pairs, and for what universal ones do.
    again = max(map(len, controls)) + 2 * given["details"]
    feed = Feed(batches, mask, progress, 1 + again, inputs, [x.module for x in real])
    with evaluating(model_a=model_a, model_b=model_b, **by_argument(controls)):
        most = given["control_tokens"]
        meters = [Meter(network.name, most) for network in real] if any(controls) else []
        pair = (real[0].name, real[1].name)
        stream, record = Stream(pair, settings), TokenRecord()
        _read(feed, real, {(0, 1): stream}, meters, record)
        matches, controlled, details = stream.matches(), None, []
        look = _looking(record, given) if given["details"] else None
        if given["details"]:
            of_pairs = stream.details(matches[0], record.facts())
            _read(feed, real, {(0, 1): of_pairs})
            details = [of_pairs.statistics()]
        if any(controls):
            runs = _Controlled(feed, real, controls, settings, Activity(meters))
            controlled = runs.matches([stream], matches)
    question = Question(
        given["match"],
        Baseline.of(given),
        given["threshold"],
        str(stream.device),
        stream.method,
    )
    seconds = time.perf_counter() - start
    same = stream.by_index()
    beside: list[list[Matches]] = [[] if same is None else [same], []]
    with PlainState():
        results = [
            make_result(
                question, named, layout, stream.tokens, [found], seconds, control, by_index, of_pair
            )
            for found, layout, named, control, by_index, of_pair in zip(
                matches,
                stream.layouts,
                (pair, pair[::-1]),
                controlled or (None, None),
                beside,
                (details, []),
                strict=False,
            )
        ]
    if look is not None:
        with evaluating(model_a=model_a, model_b=model_b, **by_argument(controls)):
            results[0] = _looked_at(results[0], feed, real, record, look)
        results[0].summary["seconds"] = time.perf_counter() - start
    for result in results:
        result.summary["warnings"] += shape_warnings(
            stream.named_layouts, stream.tokens, given["axis"]
        )
    warn_of(results[0], stacklevel=2)
    results[0].summary["hooks"] = [row for network in real for row in network.rows()]
    results[0].summary["warnings"] += said
    return results[0] if len(results) == 1 else replace(results[0], reverse=results[1])


def _read(
    feed: Feed,
    networks: Sequence[Network],
    streams: Mapping[tuple[int, int], Stream | DetailStream],
    meters: Sequence[Meter] = (),
    record: TokenRecord | None = None,
) -> None:
    """Runs networks side by side on the batches, into the streams of some pairs of them.

    The meters are of the last of the networks; the record is of the tokens.
    """
    with ExitStack() as stack:
        side_by_side = SideBySide(networks, feed, stack)
        for batch, keep in feed:
            taken, tokens = side_by_side.run(batch, keep)
            # Those that are measured, before streams take them and have looked at them.
            last_of_all = taken[len(taken) - len(meters) :]
            measured = [{} if m.full else dict(x) for m, x in zip(meters, last_of_all, strict=True)]
            if record is not None:
                record.add(tokens.ids, taken[0])
            for number, (pair, stream) in enumerate(streams.items(), start=1):
                # The last one takes the activations that none after it needs.
                last = number == len(streams)
                a, b = (taken[x] if last else MappingProxyType(taken[x]) for x in pair)
                stream.add(a, b, tokens.mask, tokens.name)
            for meter, layers in zip(meters, measured, strict=True):
                _measure(meter, layers, tokens.mask)
            if all(stream.full for stream in streams.values()):
                break


@in_plain_state
def _looking(record: TokenRecord, given: ModelOptions) -> Look | None:
    """What is looked for in universal neurons; None where batches are no token ids.

    Raises:
        InputError: neurons were named, or features given, and they are none.
    """
    ids = record.ids()
    if ids is None:
        for name in ("neurons", "features"):
            if given[name] is not None:
                raise InputError(
                    f"{name}: need token ids, and batches have none; give tensors of them, or"
                    " mappings with input_ids"
                )
        return None
    # Windows stay within samples, also where these are of several lengths.
    places = record.places() if record.window == 1 else None
    text = TokenText(ids, record.window, given["token_text"], places)
    return Look(text, given, given["threads"])


def _looked_at(
    result: CorrelationResult,
    feed: Feed,
    networks: Sequence[Network],
    record: TokenRecord,
    look: Look,
) -> CorrelationResult:
    """The result with what its universal neurons do, for which the models run once more."""
    (chosen,) = look.chosen(result)
    if not len(chosen):
        feed.pass_over()
        return result

    def run() -> Iterator[Ran]:
        with ExitStack() as stack:
            side_by_side = SideBySide(networks, feed, stack)
            for batch, keep in feed:
                (a, b), tokens = side_by_side.run(batch, keep)
                yield Ran(a, b, tokens.mask)

    tokens = len(look.tokens.ids)
    columns = LiveColumns(chosen, record.window, tokens, run, feed.mask_name)
    return look.explained(result, [look.pairs(result, chosen, columns, lambda done, total: None)])


@in_plain_state
def _measure(meter: Meter, layers: dict[str, Tensor], keep: object) -> None:
    if meter.full or not layers:
        return
    rows = [x.reshape(-1, x.shape[-1]) for x in layers.values()]
    mask = None if keep is None else to_tensor(keep, "mask").reshape(-1)
    if all(len(x) == len(rows[0]) for x in rows) and (mask is None or len(mask) == len(rows[0])):
        meter.add(rows, None if mask is None else mask.bool())


class _Controlled:
    """The same batches once more for each control, beside the models themselves."""

    def __init__(
        self,
        feed: Feed,
        real: Sequence[Network],
        controls: Sequence[Sequence[Network]],
        settings: StreamSettings,
        activity: Activity,
    ) -> None:
        self._feed, self._real, self._controls = feed, real, controls
        self._settings, self._activity = settings, activity

    def matches(self, streams: Sequence[Stream], real: Sequence[Matches]) -> list[ControlMatches]:
        """What controls are matched with: as it is seen from A, and from B if that was asked for.

        Args:
            streams: of the models themselves.
            real: their matches, on all tokens.
        """
        most = self._settings.options["control_tokens"]
        again = streams[0].seen > most
        tokens = streams[0].tokens
        found: dict[str, list[list[Matches]]] = {"a": [], "b": [], "both": []}
        for k in range(max(map(len, self._controls))):
            one = self._one(k, again and k == 0, most)
            for role, stream in one.items():
                if role == "real":
                    real, tokens = stream.matches(), stream.tokens
                else:
                    found[role].append(stream.matches())
        names = [[network.name for network in side] for side in self._controls]
        directions = []
        for direction in range(len(real)):
            matches = ControlMatches(
                tokens,
                self._settings.options["control_margin"],
                names[0],
                [[name] for name in names[1]],
                [real[direction]],
                activity=self._activity.summary(),
                **{
                    role: [[trial[direction]] for trial in trials] for role, trials in found.items()
                },
            )
            directions.append(matches.swapped() if direction else matches)
        return directions

    def _one(self, k: int, again: bool, most: int) -> dict[str, Stream]:
        """The streams of one control of each side, by what stands where."""
        networks = list(self._real)
        place = {}
        for side, controls in zip("ab", self._controls, strict=True):
            if controls:
                place[side] = len(networks)
                networks.append(controls[k])
        pairs = {"real": (0, 1)} if again else {}
        if "a" in place:
            pairs["a"] = (place["a"], 1)
        if "b" in place:
            pairs["b"] = (0, place["b"])
        if len(place) == 2:
            pairs["both"] = (place["a"], place["b"])
        meters = [Meter(network.name, most) for network in networks[2:]]
        streams = {
            (i, j): Stream((networks[i].name, networks[j].name), self._settings, most)
            for i, j in pairs.values()
        }
        _read(self._feed, networks, streams, meters)
        for side, meter in zip(place, meters, strict=True):
            self._activity.add(meter, "ab".index(side))
        return dict(zip(pairs, streams.values(), strict=True))
