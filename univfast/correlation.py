"""`correlate`: models' activations in, the result out."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from univfast.devices import CPU, as_device, on_cuda, thread_count, unavailable
from univfast.errors import InputError
from univfast.inputs import (
    Activations,
    Layer,
    all_layers,
    match_layers,
    open_activations,
    open_mask,
)
from univfast.layout import Layout
from univfast.matching import Matches, matches_by_index
from univfast.memory import available_memory, gigabytes
from univfast.options import Options
from univfast.passes import IndexPass, Job, PairsPass, Setup
from univfast.planning import pass_bytes, plan_passes
from univfast.processes import Processes
from univfast.result import CorrelationResult, make_result
from univfast.runs import Progress, Run
from univfast.saved_runs import SavedRun
from univfast.searches import Searches, check_same_neurons

__all__ = ["correlate", "correlate_together"]

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
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: float = 60.0,
    progress: Progress | None = None,
) -> CorrelationResult:
    """Correlates each neuron of A with its match in B, against random rotations of B.

    Args:
        a: activations of model A: a tensor or array ``[..., neurons]``, a dict of layer name to
            these, or the path of a file (`.pt`, `.safetensors`, `.npy`, `.npz`, or a checkpoint of
            ``univfast train``), of a directory of such files, or of a saved Hugging Face dataset.
            Files are memory-mapped and read in slices.
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
        memory_limit: bytes that the co-moments of all pairs may take, of each process; None for
            most of what is available. Where they take more, A's layers are done in several passes
            over the inputs.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:N"``, or None for where the activations are.
        precision: of matrix products of float32 on a CUDA device: ``"float32"``, or ``"tf32"``,
            for its matrix units, which round activations to 11 bits; not by index.
        threads: of the CPU, at most this many; None for torch's number.
        checkpoint: a file to save the state to every so often. Where it is there already, written
            by a call with the same inputs and options, the work goes on from it, and ends with
            the same numbers (``summary["seconds"]`` counts this call alone). It is written at the
            end of each pass too, and on SIGINT or SIGTERM, which only the main thread gets. It
            stays when all is done.
        checkpoint_every: seconds between two.
        progress: called after each slice with the number of tokens done, over all passes, and
            their total.

    Returns:
        A row a neuron of A, and the counts.

    Raises:
        InputError: anything wrong with the inputs or options; the message names it.
        TypeError: an argument of a type that cannot be used.
    """
    options = Options(
        match=match,
        rotation=rotation,
        draws=draws,
        seed=seed,
        threshold=threshold,
        mask=mask,
        layers=layers,
        top_k=top_k,
        exclude_self=exclude_self,
        reverse=reverse,
        memory_limit=memory_limit,
        device=device,
        precision=precision,
        threads=threads,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
    )
    result = correlate_together(None, a, b, options, progress)
    assert result is not None
    return result


def correlate_together(
    processes: Processes | None,
    a: object,
    b: object,
    options: Options,
    progress: Progress | None = None,
) -> CorrelationResult | None:
    """`correlate`, with the tokens shared among processes, which all call this.

    Returns:
        The result in process 0 (or without processes), None in the others.

    Raises:
        InputError, TypeError: as `correlate`; and in every process if one fails.
    """
    start = time.perf_counter()
    task = _Task(processes, a, b, options, progress)
    if options.match == "index":
        layout, tokens, matches = task.by_index()
    else:
        searches = task.all_pairs()
        if len(searches) == 1 and task.is_first:
            seconds = time.perf_counter() - start
            names = (task.models[0].name, task.models[1].name)
            result = searches[0].result(names, options.threshold, seconds)
            return _with_text(result, task.models)
        matches = [search.matches()[0] for search in searches] if task.is_first else []
        layout, tokens = searches[0].measured
    if not task.is_first:
        return None
    result = make_result(
        layout,
        tokens,
        matches,
        models=[model.name for model in task.models],
        match=options.match,
        rotation=options.pairs.rotation,
        threshold=options.threshold,
        device=str(task.setup.device),
        seconds=time.perf_counter() - start,
    )
    return _with_text(result, task.models)


def _with_text(result: CorrelationResult, models: Sequence[Activations]) -> CorrelationResult:
    """The result, whose summary says what live models were run on."""
    found = [model.about for model in models if model.about is not None]
    if len(found) == len(models):
        hooks = [about["hooks"] for about in found]  # of each model
        result.summary["text"] = {**found[0], "hooks": hooks}
        if result.reverse is not None:
            result.reverse.summary["text"] = {**found[0], "hooks": hooks[::-1]}
    return result


def _open(a: object, b: object) -> list[Activations]:
    if not isinstance(b, (list, tuple)):
        return [open_activations(a, "a"), open_activations(b, "b")]
    if not b:
        raise InputError("b: got no models; give at least one")
    others = [open_activations(x, f"b[{i}]") for i, x in enumerate(b)]
    return [open_activations(a, "a"), *others]


def _device_of(models: Sequence[Activations]) -> torch.device:
    """A CUDA device that activations are on, if it can be used; else the CPU."""
    found = [layer.device for model in models for layer in model.layers.values()]
    return next((device for device in found if on_cuda(device) and not unavailable()), CPU)


class _Task:
    """One call of `correlate_together`."""

    def __init__(
        self,
        processes: Processes | None,
        a: object,
        b: object,
        options: Options,
        progress: Progress | None,
    ) -> None:
        self._options, self._processes, self._progress = options, processes, progress
        self.is_first = processes is None or processes.rank == 0
        self.models = _open(a, b)
        if options.reverse and len(self.models) > 2:
            raise InputError("reverse: is for two models; correlate each pair by itself")
        device = as_device(options.device) or _device_of(self.models)
        self.setup = Setup(device, options.precision, thread_count(options.threads))

    def by_index(self) -> tuple[Layout, int, list[Matches]]:
        """The layers of A, the number of tokens and, in process 0, the matches in each model."""
        a, *others = self.models
        pairs = [match_layers(a, b, self._options.layers) for b in others]
        rotation = self._options.pairs.rotation
        ours = [layer for layer, _ in pairs[0]]
        run = self._run(["index"], [ours, *([y for _, y in found] for found in pairs)])
        work = IndexPass(pairs, self.models, rotation, self.setup)
        run.do(0, work, list)
        self._close()
        if not self.is_first:
            return Layout.of(ours), 0, []
        found = work.correlations()
        return Layout.of(ours), found[0][0].tokens, [matches_by_index(layers) for layers in found]

    def all_pairs(self) -> list[Searches]:
        """Of each other model the search, in as many passes as memory asks for."""
        a, *others = self.models
        options = self._options.pairs
        chosen = [all_layers(a, b, self._options.layers) for b in others]
        layers = [chosen[0][0], *(theirs for _, theirs in chosen)]
        ours, *theirs = [Layout.of(model) for model in layers]
        if options.exclude_self:
            for b_layout in theirs:
                check_same_neurons(ours, b_layout)
        searches = [
            Searches(ours, b, self._options.match, options, self.setup.threads, self.setup.device)
            for b in theirs
        ]
        limit, device = self._memory_limit(), self.setup.device
        plan = plan_passes(ours, theirs, self._options.match, options, limit, device)
        run = self._run([[job.plain() for job in jobs] for jobs in plan], layers)
        if run.found:
            for search, found in zip(searches, run.found, strict=True):
                search.load(found)
        rest = [[Job.of(job) for job in jobs] for jobs in run.plan[run.first :]]
        self._check_plan(ours, theirs, rest, limit)
        for number, jobs in enumerate(rest, start=run.first):
            self._search(run, number, jobs, layers, searches)
        return searches

    def _search(
        self,
        run: Run,
        number: int,
        jobs: list[Job],
        layers: Sequence[Sequence[Layer]],
        searches: list[Searches],
    ) -> None:
        """Takes the sums of a pass, which do not outlive it, and searches them in process 0."""
        work = PairsPass(jobs, layers, self.models, self._options.pairs, self.setup)
        run.do(number, work, lambda: [search.state() for search in searches])
        if number + 1 == len(run.plan):
            self._close()
        if self.is_first:
            for other, state in work.co_moments():
                searches[other].add(state)

    def _check_plan(
        self, a: Layout, others: Sequence[Layout], passes: list[list[Job]], limit: float
    ) -> None:
        """Refuses the passes of a checkpoint that was written where there was more memory."""
        match, options, device = self._options.match, self._options.pairs, self.setup.device
        need = max(pass_bytes(a, others, jobs, match, options, device) for jobs in passes)
        if self._options.memory_limit is None:
            limit /= _MEMORY_SHARE
        if need > limit:
            raise InputError(
                f"memory_limit: the checkpoint was written by a run whose states take"
                f" {gigabytes(need)} a process, the limit is {gigabytes(limit)}; raise it, or start"
                " fewer processes"
            )

    def _close(self) -> None:
        """Ends the group once all sums are in process 0, which may go on for long."""
        if self._processes is not None:
            self._processes.close()

    def _memory_limit(self) -> float:
        """Bytes that the states of a pass may take, the same in every process."""
        limit = self._options.memory_limit
        if limit is None:
            available = available_memory(self.setup.device)
            # Processes of one machine share its memory.
            here = 1 if on_cuda(self.setup.device) else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
            share = _MEMORY_SHARE / (here if self._processes else 1)
            limit = float("inf") if available is None else share * available
        return limit if self._processes is None else min(self._processes.gather(limit))

    def _run(self, plan: list[Any], layers: Sequence[Sequence[Layer]]) -> Run:
        """The run of some passes over these layers of each model."""
        first, options = layers[0][0], self._options
        keep = None
        if options.mask is not None:
            keep = open_mask(options.mask, first.shape[:-1])
            if not bool(keep.any()):
                raise InputError("mask: leaves no token; true marks the tokens to use")
        saved = None
        if options.checkpoint is not None or self._processes is not None:
            identity = self._identity(layers, keep)
            if self._processes is not None:
                _check_same(self._processes.gather(identity))
            if options.checkpoint is not None:
                saved = SavedRun(options.checkpoint, options.checkpoint_every, identity)
        progress = self._progress if self.is_first else None
        return Run(plan, first.tokens, keep, saved, self._processes, progress)

    def _identity(self, layers: Sequence[Sequence[Layer]], keep: Tensor | None) -> dict[str, Any]:
        """What the sums depend on, as plain values."""
        models = ["A", *("B" if i == 1 else f"model {i + 1}" for i in range(1, len(layers)))]
        mask = None if keep is None else hashlib.sha256(keep.cpu().numpy().tobytes()).hexdigest()
        return {
            **self._options.identity(),
            "models": len(layers),
            **{
                f"layers of {name}": [[x.name, x.neurons] for x in model]
                for name, model in zip(models, layers, strict=True)
            },
            "tokens": layers[0][0].tokens,
            **{
                f"activations of {name}": hashlib.sha256(
                    b"".join(layer.fingerprint() for layer in model)
                ).hexdigest()
                for name, model in zip(models, layers, strict=True)
            },
            "mask": mask,
        }


def _check_same(identities: Sequence[dict[str, Any]]) -> None:
    """Refuses to share work among processes that were given something else.

    Raises:
        InputError: naming what differs.
    """
    for rank, identity in enumerate(identities):
        for key, value in identities[0].items():
            if identity.get(key) != value:
                raise InputError(
                    f"process {rank}: was given other {key} than process 0; give all the same files"
                    " and arguments"
                )
