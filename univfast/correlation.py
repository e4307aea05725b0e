"""`correlate`: models' activations in, the result out."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from univfast.assemble import Question, make_result, result_of
from univfast.docstrings import documented
from univfast.errors import InputError
from univfast.inputs.activations import open_activations
from univfast.inputs.formats import in_words
from univfast.inputs.layers import Activations, Layer
from univfast.inputs.layout import Layout
from univfast.inputs.masks import open_mask
from univfast.inputs.pairing import all_layers, match_layers
from univfast.machine.devices import CPU, as_device, unavailable
from univfast.machine.memory import available_memory, gigabytes
from univfast.machine.processes import Processes
from univfast.native import place
from univfast.nulls.kinds import Baseline
from univfast.options import CorrelateOptions, complete
from univfast.result import CorrelationResult
from univfast.runs.checkpoint import SavedRun
from univfast.runs.passes import IndexPass, Job, PairsPass
from univfast.runs.planning import pass_bytes, plan_passes
from univfast.runs.run import Progress, Run
from univfast.search.matchings import MATCHINGS
from univfast.search.partners import Matches, matches_by_index
from univfast.search.searches import Searches, check_same_neurons

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["correlate", "correlate_together"]

# Of the memory that is available, what a state may take if no limit is given.
_MEMORY_SHARE = 0.8


@documented(CorrelateOptions, files=in_words())
def correlate(
    a: object, b: object, *, progress: Progress | None = None, **options: Unpack[CorrelateOptions]
) -> CorrelationResult:
    """Correlates each neuron of A with its match in B, against random rotations of B.

    Args:
        a: activations of model A: a tensor or array ``[..., neurons]``, a dict of layer name to
            these, or the path of a file ({files}), of a model file of ``univfast train``, of a
            directory of files, or of a saved Hugging Face dataset. Files are memory-mapped and read
            in slices.
        b: activations of model B on the same tokens; or a list of several models. By index, with
            layers of the same names and widths.
        {options}
        progress: called after each slice with the number of tokens done, over all passes, and
            their total.

    Returns:
        A row a neuron of A, and the counts.

    Raises:
        InputError: anything wrong with the inputs or options; the message names it.
        TypeError: an argument of a type that cannot be used.
    """
    given = complete(CorrelateOptions, options, "correlate")
    result = correlate_together(None, a, b, given, progress)
    assert result is not None
    return result


def correlate_together(
    processes: Processes | None,
    a: object,
    b: object,
    options: CorrelateOptions,
    progress: Progress | None = None,
) -> CorrelationResult | None:
    """`correlate`, with the tokens shared among processes, which all call this.

    ``options`` are complete.

    Returns:
        The result in process 0 (or without processes), None in the others.

    Raises:
        InputError, TypeError: as `correlate`; and in every process if one fails.
    """
    start = time.perf_counter()
    task = _Task(processes, a, b, options, progress)
    if not task.searches_all:
        layout, tokens, matches = task.by_index()
    else:
        searches = task.all_pairs()
        if len(searches) == 1 and task.is_first:
            seconds = time.perf_counter() - start
            names = (task.models[0].name, task.models[1].name)
            result = result_of(searches[0], options["threshold"], names, seconds)
            return _with_text(result, task.models)
        matches = [search.matches()[0] for search in searches] if task.is_first else []
        layout, tokens = searches[0].layouts[0], searches[0].tokens
    if not task.is_first:
        return None
    question = Question(options["match"], task.baseline, options["threshold"], str(task.device))
    models = [model.name for model in task.models]
    seconds = time.perf_counter() - start
    result = make_result(question, models, layout, tokens, matches, seconds)
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
    return next((device for device in found if place.on_cuda(device) and not unavailable()), CPU)


class _Task:
    """One call of `correlate_together`."""

    def __init__(
        self,
        processes: Processes | None,
        a: object,
        b: object,
        options: CorrelateOptions,
        progress: Progress | None,
    ) -> None:
        self._options, self._processes, self._progress = options, processes, progress
        self.baseline = Baseline.of(options)
        self.searches_all = MATCHINGS[options["match"]].all_pairs
        self.is_first = processes is None or processes.rank == 0
        self.models = _open(a, b)
        if options["reverse"] and len(self.models) > 2:
            raise InputError("reverse: is for two models; correlate each pair by itself")
        self.device = as_device(options["device"]) or _device_of(self.models)

    def by_index(self) -> tuple[Layout, int, list[Matches]]:
        """The layers of A, the number of tokens and, in process 0, the matches in each model."""
        a, *others = self.models
        pairs = [match_layers(a, b, self._options["layers"]) for b in others]
        ours = [layer for layer, _ in pairs[0]]
        run = self._run(["index"], [ours, *([y for _, y in found] for found in pairs)])
        work = IndexPass(pairs, self.models, self._options, self.device)
        run.do(0, work, list)
        self._close()
        if not self.is_first:
            return Layout.of(ours), 0, []
        found = work.correlations()
        return Layout.of(ours), found[0][0].tokens, [matches_by_index(layers) for layers in found]

    def all_pairs(self) -> list[Searches]:
        """Of each other model the search, in as many passes as memory asks for."""
        a, *others = self.models
        options, device = self._options, self.device
        chosen = [all_layers(a, b, options["layers"]) for b in others]
        layers = [chosen[0][0], *(theirs for _, theirs in chosen)]
        ours, *theirs = [Layout.of(model) for model in layers]
        if options["exclude_self"]:
            for b_layout in theirs:
                check_same_neurons(ours, b_layout)
        searches = [Searches(ours, b, options["match"], options, device) for b in theirs]
        limit = self._memory_limit()
        plan = plan_passes(ours, theirs, options, limit, device)
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
        work = PairsPass(jobs, layers, self.models, self._options, self.device)
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
        need = max(pass_bytes(a, others, jobs, self._options, self.device) for jobs in passes)
        if self._options["memory_limit"] is None:
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
        limit = self._options["memory_limit"]
        if limit is None:
            available = available_memory(self.device)
            # Processes of one machine share its memory.
            here = 1 if place.on_cuda(self.device) else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
            share = _MEMORY_SHARE / (here if self._processes else 1)
            limit = float("inf") if available is None else share * available
        return limit if self._processes is None else min(self._processes.gather(limit))

    def _run(self, plan: list[Any], layers: Sequence[Sequence[Layer]]) -> Run:
        """The run of some passes over these layers of each model."""
        first, options = layers[0][0], self._options
        keep = None
        if options["mask"] is not None:
            keep = open_mask(options["mask"], first.shape[:-1])
            if not bool(keep.any()):
                raise InputError("mask: leaves no token; true marks the tokens to use")
        saved = None
        checkpoint = options["checkpoint"]
        if checkpoint is not None or self._processes is not None:
            given = self._identity(layers, keep)
            if self._processes is not None:
                _check_same(self._processes.gather(given))
            if checkpoint is not None:
                saved = SavedRun(checkpoint, options["checkpoint_every"], given)
        progress = self._progress if self.is_first else None
        return Run(plan, first.tokens, keep, saved, self._processes, progress)

    def _identity(self, layers: Sequence[Sequence[Layer]], keep: Tensor | None) -> dict[str, Any]:
        """What the sums depend on, as plain values."""
        models = ["A", *("B" if i == 1 else f"model {i + 1}" for i in range(1, len(layers)))]
        mask = None if keep is None else hashlib.sha256(keep.cpu().numpy().tobytes()).hexdigest()
        names = ["top_k", "exclude_self", "reverse"] if self.searches_all else ["shifts"]
        options: Mapping[str, Any] = self._options
        return {
            "match": options["match"],
            "rotation": self.baseline.kind,
            "draws": self.baseline.draws,
            "seed": self.baseline.seed,
            "precision": options["precision"],
            **{name: options[name] for name in names},
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
    for rank, theirs in enumerate(identities):
        for key, value in identities[0].items():
            if theirs.get(key) != value:
                raise InputError(
                    f"process {rank}: was given other {key} than process 0; give all the same files"
                    " and arguments"
                )
