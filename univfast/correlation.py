"""`correlate`: models' activations in, the result out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from univfast.accumulators import Origin, PairedCorrelation, thread_count
from univfast.all_pairs import AllPairsCorrelation, PairOrigin
from univfast.checks import as_number, check_choice
from univfast.chunks import PRECISIONS
from univfast.co_moments import Layout, chunk_tokens
from univfast.devices import CPU, as_device, on_cuda, unavailable
from univfast.errors import InputError
from univfast.inputs import (
    Activations,
    Layer,
    all_layers,
    match_layers,
    open_activations,
    open_mask,
)
from univfast.matching import Matches, assignment_bytes, matches_by_index
from univfast.memory import available_memory, gigabytes
from univfast.result import CorrelationResult, make_result
from univfast.rotations import RotationOptions
from univfast.searches import ALL_PAIRS, PairOptions, Searches, check_same_neurons, state_bytes

__all__ = ["MATCHES", "Progress", "correlate"]

MATCHES = ("index", *ALL_PAIRS)

# Called with the number of values (tokens x neurons, over all layers) done, and their total.
Progress = Callable[[int, int], None]

# Bytes read from each model at a time: far above what a call costs, far below any machine's memory.
_READ_BYTES = 64 << 20
# But no fewer tokens, so that several threads have work in a slice. (How a file is cut shows in the
# last bits, so it does not depend on their number.)
_LEAST_TOKENS = 4096
# Of the memory that is available, what a state may take if no limit is given.
_MEMORY_SHARE = 0.8


def correlate(
    a: object,
    b: object,
    *,
    match: str = "index",
    rotation: str = "hadamard",
    draws: int = 5,
    seed: int = 0,
    threshold: float = 0.5,
    mask: object | None = None,
    layers: str | None = None,
    top_k: int = 10,
    exclude_self: bool = False,
    reverse: bool = False,
    memory_limit: float | None = None,
    device: str | torch.device | None = None,
    precision: str = "float32",
    threads: int | None = None,
    progress: Progress | None = None,
) -> CorrelationResult:
    """Correlates each neuron of A with its match in B, against random rotations of B.

    Args:
        a: activations of model A: a tensor or array ``[..., neurons]``, a dict of layer name to
            these, or the path of a file (`.pt`, `.safetensors`, `.npy`, `.npz`, or a checkpoint of
            ``univfast train``). Files are memory-mapped and read in slices.
        b: activations of model B on the same tokens; or a list of several models. By index, with
            layers of the same names and widths.
        match: ``"index"``: neuron i of A with neuron i of B. ``"best"``: with the neuron of all
            layers of B that it correlates with most. ``"one-to-one"``: no two with the same, so
            that the sum of r is largest.
        rotation: ``"hadamard"``, ``"haar"``, ``"gaussian"`` or ``"none"``.
        draws: rotations for the baseline; chance counts, p and q need at least two.
        seed: of the rotations.
        threshold: a neuron is universal if its excess is above.
        mask: ``[...]`` true for the tokens to use, as a tensor, array or path; None for all.
        layers: glob pattern of the layers to use; None for all.
        top_k: partners to report of each neuron, of all if they are fewer; not by index.
        exclude_self: leave out the neuron of the same number in the layer of the same name: for a
            model with itself; not by index.
        reverse: match B's neurons in A as well, in the same pass; for two models, not by index.
        memory_limit: bytes that the co-moments of all pairs may take; None for most of what is
            available. Where they take more, A's layers are done in several passes over the inputs.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:N"``, or None for where the activations are.
        precision: of matrix products of float32 on a CUDA device: ``"float32"``, or ``"tf32"``,
            for its matrix units, which round activations to 11 bits; not by index.
        threads: of the CPU, at most this many; None for torch's number.
        progress: called after each slice.

    Returns:
        A row a neuron of A, and the counts.

    Raises:
        InputError: anything wrong with the inputs or options; the message names it.
        TypeError: an argument of a type that cannot be used.
    """
    start = time.perf_counter()
    check_choice("match", match, MATCHES)
    place = as_device(device)
    check_choice("precision", precision, PRECISIONS)
    threshold = as_number("threshold", threshold)
    options = PairOptions(RotationOptions(rotation, draws, seed), top_k, exclude_self, reverse)
    if match == "index" and (exclude_self or reverse):
        raise InputError("match: 'index' has no exclude_self and no reverse; use match='best'")
    if memory_limit is not None:
        memory_limit = as_number("memory_limit", memory_limit, 0)
    first, others = _open(a, b)
    if reverse and len(others) > 1:
        raise InputError("reverse: is for two models; correlate each pair by itself")
    place = place or _device_of([first, *others])
    run = _Run(first, mask, layers, thread_count(threads), progress, len(others), place, precision)
    models = [first.name, *(other.name for other in others)]
    if match == "index":
        found = [run.by_index(other, options.rotation) for other in others]
        matches = [one for one, _ in found]
        layout, tokens = found[0][1]
    else:
        searches = [run.all_pairs(other, match, options, memory_limit) for other in others]
        if len(searches) == 1:
            seconds = time.perf_counter() - start
            return searches[0].result((models[0], models[1]), threshold, seconds)
        matches = [search.matches()[0] for search in searches]
        layout, tokens = searches[0].measured
    return make_result(
        layout,
        tokens,
        matches,
        models=models,
        match=match,
        rotation=options.rotation,
        threshold=threshold,
        device=str(place),
        seconds=time.perf_counter() - start,
    )


def _open(a: object, b: object) -> tuple[Activations, list[Activations]]:
    if not isinstance(b, (list, tuple)):
        return open_activations(a, "a"), [open_activations(b, "b")]
    if not b:
        raise InputError("b: got no models; give at least one")
    names = [f"b[{i}]" for i in range(len(b))]
    return (
        open_activations(a, "a"),
        [open_activations(x, name) for x, name in zip(b, names, strict=True)],
    )


def _device_of(models: Sequence[Activations]) -> torch.device:
    """A CUDA device that activations are on, if it can be used; else the CPU."""
    found = [layer.device for model in models for layer in model.layers.values()]
    return next((device for device in found if on_cuda(device) and not unavailable()), CPU)


class _Run:
    """One model against others, one after another: what all of them share."""

    def __init__(
        self,
        a: Activations,
        mask: object | None,
        pattern: str | None,
        threads: int,
        progress: Progress | None,
        models: int,
        device: torch.device,
        precision: str,
    ) -> None:
        self._device, self._precision = device, precision
        self._a, self._mask, self._pattern, self._threads = a, mask, pattern, threads
        self._progress, self._models = progress, models
        self._done = 0  # values

    def by_index(
        self, b: Activations, rotation: RotationOptions
    ) -> tuple[Matches, tuple[Layout, int]]:
        """The matches, and the layers of A and number of tokens that they are of."""
        pairs = match_layers(self._a, b, self._pattern)
        keep = self._open_mask(pairs[0][0])
        total = sum(layer.tokens * layer.neurons for layer, _ in pairs)
        found = []
        for x, y in pairs:
            accumulator = PairedCorrelation(
                x.neurons,
                draws=rotation.draws,
                rotation=rotation.kind,
                seed=rotation.seed,
                layer=x.name,
                device=self._device,
                threads=self._threads,
            )
            row = x.neurons * max(x.dtype.itemsize, y.dtype.itemsize)
            step = max(_LEAST_TOKENS, _READ_BYTES // row)
            for begin, end in _slices(x.tokens, step):
                origin = Origin(self._a.name, b.name, x.name, y.name, begin)
                part = None if keep is None else keep[begin:end]
                accumulator.update_rows(x.read(begin, end), y.read(begin, end), part, origin)
                x.release(begin, end)
                y.release(begin, end)
                self._advance((end - begin) * x.neurons, total)
            found.append(replace(accumulator.correlations(), match_layer=y.name))
        layout = _layout([x for x, _ in pairs])
        return matches_by_index(found), (layout, found[0].tokens)

    def all_pairs(
        self, b: Activations, match: str, options: PairOptions, limit: float | None
    ) -> Searches:
        """The searched layers, in as many passes as memory asks for."""
        layers_a, layers_b = all_layers(self._a, b, self._pattern)
        a_layout, b_layout = _layout(layers_a), _layout(layers_b)
        if options.exclude_self:
            check_same_neurons(a_layout, b_layout)
        keep = self._open_mask(layers_a[0])
        searches = Searches(a_layout, b_layout, match, options, self._threads, self._device)
        groups = _groups(layers_a, b_layout, match, options, limit, self._device)
        tokens = layers_a[0].tokens
        total = tokens * (a_layout.neurons + len(groups) * b_layout.neurons)
        for group in groups:
            accumulator = AllPairsCorrelation(
                {layer.name: layer.neurons for layer in group},
                {layer.name: layer.neurons for layer in layers_b},
                draws=options.rotation.draws,
                rotation=options.rotation.kind,
                seed=options.rotation.seed,
                reverse=options.reverse,
                device=self._device,
                precision=self._precision,
                threads=self._threads,
            )
            chunk = chunk_tokens(self._device)
            row = sum(layer.neurons * layer.dtype.itemsize for layer in (*group, *layers_b))
            step = max(1, _READ_BYTES // (row * chunk)) * chunk
            for begin, end in _slices(tokens, step):
                x, y = ([layer.read(begin, end) for layer in g] for g in (group, layers_b))
                part = None if keep is None else keep[begin:end]
                accumulator.update_rows(x, y, part, PairOrigin(self._a.name, b.name, begin))
                for layer in (*group, *layers_b):
                    layer.release(begin, end)
                neurons = sum(layer.neurons for layer in (*group, *layers_b))
                self._advance((end - begin) * neurons, total)
            searches.add(accumulator.co_moments())
        return searches

    def _open_mask(self, layer: Layer) -> torch.Tensor | None:
        if self._mask is None:
            return None
        keep = open_mask(self._mask, layer.shape[:-1])
        if not bool(keep.any()):
            raise InputError("mask: leaves no token; true marks the tokens to use")
        return keep

    def _advance(self, values: int, total: int) -> None:
        self._done += values
        if self._progress:
            self._progress(self._done, total * self._models)


def _layout(layers: Sequence[Layer]) -> Layout:
    return Layout(tuple(layer.name for layer in layers), tuple(layer.neurons for layer in layers))


def _slices(tokens: int, step: int) -> list[tuple[int, int]]:
    """Begin and end of the tokens to read at a time."""
    return [(begin, min(begin + step, tokens)) for begin in range(0, tokens, step)]


def _groups(
    layers: list[Layer],
    b: Layout,
    match: str,
    options: PairOptions,
    limit: float | None,
    device: torch.device,
) -> list[list[Layer]]:
    """Neighbouring layers of A whose state, with all of B, fits the limit.

    Raises:
        InputError: not even one layer does, or one-to-one, which needs all, does not.
    """
    if limit is None:
        available = available_memory(device)
        limit = float("inf") if available is None else _MEMORY_SHARE * available

    a = _layout(layers)

    def need_of(group: list[Layer]) -> int:
        return state_bytes(a, b, options, device, _layout(group))

    need = need_of(layers)
    if match == "one-to-one":
        need += assignment_bytes(a, b)
    if need <= limit:
        return [layers]
    if match == "one-to-one":
        raise InputError(
            f"memory_limit: one-to-one matching of these layers needs {gigabytes(need)}, the"
            f" limit is {gigabytes(limit)}; choose layers, or use match='best'"
        )
    groups: list[list[Layer]] = []
    for layer in layers:
        alone = need_of([layer])
        if alone > limit:
            raise InputError(
                f"memory_limit: layer {layer.name!r} of A with all of B needs {gigabytes(alone)},"
                f" the limit is {gigabytes(limit)} (all at once need {gigabytes(need)}); raise the"
                " limit, or choose layers"
            )
        if groups and need_of([*groups[-1], layer]) <= limit:
            groups[-1].append(layer)
        else:
            groups.append([layer])
    return groups
