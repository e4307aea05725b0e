"""`correlate`: two models' activations in, the result out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch

from univfast.accumulators import Origin, PairedCorrelation, check_device
from univfast.checks import as_number
from univfast.errors import InputError
from univfast.inputs import Layer, match_layers, open_activations, open_mask
from univfast.result import CorrelationResult, make_result

__all__ = ["Progress", "correlate"]

# Called with the number of values (tokens x neurons, over all layers) done, and their total.
Progress = Callable[[int, int], None]

# Bytes read from each model at a time: far above what a call costs, far below any machine's memory.
_READ_BYTES = 64 << 20
# Tokens that a thread works on at a time (kChunkTokens in csrc/cpu/paired.cpp).
_THREAD_TOKENS = 512


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
    device: str | torch.device | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> CorrelationResult:
    """Correlates each neuron of A with its match in B, against random rotations of B.

    Args:
        a: activations of model A: a tensor or array ``[..., neurons]``, a dict of layer name to
            these, or the path of a file (`.pt`, `.safetensors`, `.npy`, `.npz`, or a checkpoint of
            ``univfast train``). Files are memory-mapped and read in slices.
        b: activations of model B on the same tokens, with layers of the same names and widths.
        match: ``"index"``: neuron i of A with neuron i of B.
        rotation: ``"hadamard"``, ``"haar"``, ``"gaussian"`` or ``"none"``.
        draws: rotations for the baseline; chance counts, p and q need at least two.
        seed: of the rotations.
        threshold: a neuron is universal if its excess is above.
        mask: ``[...]`` true for the tokens to use, as a tensor, array or path; None for all.
        layers: glob pattern of the layers to use; None for all.
        device: ``"cpu"`` or None.
        threads: at most this many; None for torch's number.
        progress: called after each slice.

    Returns:
        A row a neuron of A, and the counts.

    Raises:
        InputError: anything wrong with the inputs or options; the message names it.
        TypeError: an argument of a type that cannot be used.
    """
    start = time.perf_counter()
    if match != "index":
        raise InputError(f"match: got {match!r}, expected 'index'")
    check_device(device)
    threshold = as_number("threshold", threshold)
    first, second = open_activations(a, "a"), open_activations(b, "b")
    pairs = match_layers(first, second, layers)
    accumulators = [
        PairedCorrelation(
            layer.neurons,
            draws=draws,
            rotation=rotation,
            seed=seed,
            layer=layer.name,
            threads=threads,
        )
        for layer, _ in pairs
    ]
    keep = None if mask is None else open_mask(mask, pairs[0][0].shape[:-1])
    if keep is not None and not bool(keep.any()):
        raise InputError("mask: leaves no token; true marks the tokens to use")
    total = sum(layer.tokens * layer.neurons for layer, _ in pairs)
    done = 0
    for (x, y), accumulator in zip(pairs, accumulators, strict=True):
        for begin, end in _slices(x, y, threads or torch.get_num_threads()):
            origin = Origin(first.name, second.name, x.name, y.name, begin)
            part = None if keep is None else keep[begin:end]
            accumulator.update_rows(x.read(begin, end), y.read(begin, end), part, origin)
            x.release(begin, end)
            y.release(begin, end)
            done += (end - begin) * x.neurons
            if progress:
                progress(done, total)
    return make_result(
        [
            replace(accumulator.correlations(), match_layer=y.name)
            for (_, y), accumulator in zip(pairs, accumulators, strict=True)
        ],
        models=(first.name, second.name),
        rotation=accumulators[0].rotation,
        threshold=threshold,
        seconds=time.perf_counter() - start,
    )


def _slices(x: Layer, y: Layer, threads: int) -> list[tuple[int, int]]:
    """Begin and end of the slices to read: large enough to occupy every thread."""
    row = x.neurons * max(x.dtype.itemsize, y.dtype.itemsize)
    step = max(_THREAD_TOKENS * threads, _READ_BYTES // row)
    return [(begin, min(begin + step, x.tokens)) for begin in range(0, x.tokens, step)]
