"""`correlate`: models' activations in, the result out."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from univfast.assemble import Question, make_result
from univfast.control_matches import ControlMatches
from univfast.docstrings import documented
from univfast.errors import InputError
from univfast.explaining import Look, look_at, text_of
from univfast.features.token_features import TokenText
from univfast.inputs.activations import check_files, open_activations, open_controls, open_models
from univfast.inputs.axes import along_axis
from univfast.inputs.formats import in_words
from univfast.inputs.layers import Activations
from univfast.inputs.masks import kept_tokens
from univfast.inputs.sparse import check_width
from univfast.machine.devices import CPU, as_device, unavailable
from univfast.machine.processes import Processes
from univfast.machine.torch_state import PlainState, in_plain_state, not_compiled
from univfast.method import Dealt
from univfast.native import place
from univfast.nulls.kinds import Baseline
from univfast.options import CorrelateOptions, complete
from univfast.provenance import provenance
from univfast.result import CorrelationResult
from univfast.runs.by_index import ByIndex
from univfast.runs.checkpoint import SavedRun
from univfast.runs.comparisons import Lineup, line_up
from univfast.runs.details import KnownTokens, known_tokens
from univfast.runs.over_pairs import OverPairs
from univfast.runs.passes import opened
from univfast.runs.pilot import Activity, check_controls
from univfast.runs.planning import memory_limit
from univfast.runs.run import Progress, Run, check_same
from univfast.runs.screen_plan import Screen, plan_screen
from univfast.runs.screening import Screening
from univfast.runs.searching import Searching
from univfast.runs.sharding import dealt_work
from univfast.search.matches import Matches
from univfast.search.matchings import MATCHINGS
from univfast.shape_warnings import shape_warnings, sparse_warnings, warn_of
from univfast.sums.pair_statistics import PairStatistics

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["correlate", "correlate_together"]


@documented(CorrelateOptions, files=in_words(every=True))
@not_compiled
def correlate(
    a: object,
    b: object,
    *,
    progress: Progress | None = None,
    search_progress: Progress | None = None,
    **options: Unpack[CorrelateOptions],
) -> CorrelationResult:
    """Correlates each neuron of A with its match in B, against random rotations of B.

    Args:
        a: activations of model A: a tensor or array ``[..., neurons]``, a dict of layer name to
            these, or the path of a file ({files}), of a model file of ``univfast train``, of a
            directory of files, of a saved Hugging Face dataset, or of a directory that another
            tool wrote (Parquet, zarr, SAEV, activation caches). All are read in slices. Where a
            store has a mask of its own, a token counts where that and ``mask`` both say so.
        b: activations of model B on the same tokens; or a list of several models. By index, with
            layers of the same names and widths.
        {options}
        progress: called after each slice with the number of tokens done, over all passes, and
            their total.
        search_progress: called during a search through all pairs with the number of pairs of
            neurons compared, and their total: once in the models and once in each rotation, over
            all models and controls; in each direction, with ``reverse``. Searches come between
            passes and behind them. Where nothing is new (one-to-one matching is a whole assignment
            at a time), it is called about every second with the same numbers.

    Returns:
        A row a neuron of A, and the counts.

    Raises:
        InputError: anything wrong with the inputs or options; the message names it.
        TypeError: an argument of a type that cannot be used.
    """
    with PlainState():
        given = complete(CorrelateOptions, options, "correlate")
        result = correlate_together(None, a, b, given, progress, search_progress)
    assert result is not None
    warn_of(result, stacklevel=3)  # of who calls what `not_compiled` made of this
    return result


@in_plain_state
def correlate_together(
    processes: Processes | None,
    a: object,
    b: object,
    options: CorrelateOptions,
    progress: Progress | None = None,
    search_progress: Progress | None = None,
    *,
    say: Callable[[str], None] = lambda words: None,
) -> CorrelationResult | None:
    """`correlate`, with the work shared among processes, which all call this.

    ``options`` are complete; ``say`` is called with what is done that progress does not show (sums
    put together, files written), and with nothing at its end.

    Returns:
        The result in process 0 (or without processes), None in the others.

    Raises:
        InputError, TypeError: as `correlate`; and in every process if one fails.
    """
    start = time.perf_counter()
    task = _Task(processes, a, b, options, progress, search_progress, say)
    task.do()
    if not task.is_first:
        return None
    results = [
        task.result(direction, time.perf_counter() - start)
        for direction in range(2 if options["reverse"] else 1)
    ]
    return results[0] if len(results) == 1 else replace(results[0], reverse=results[1])


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
        search_progress: Progress | None,
        say: Callable[[str], None],
    ) -> None:
        self._options, self._processes, self._progress = options, processes, progress
        self._search_progress, self._say = search_progress, say
        self._baseline = Baseline.of(options)
        self._all_pairs = MATCHINGS[options["match"]].all_pairs
        self.is_first = processes is None or processes.rank == 0
        files, width, axis = options["files"], options["width"], options["axis"]
        controls_a, controls_b = options["controls_a"], options["controls_b"]
        check_files(files, a, b, controls_a, controls_b)

        def along(models: Sequence[Activations]) -> list[Activations]:
            return [along_axis(model, axis) for model in models]

        found = [open_activations(a, "a", files, width), *open_models(b, "b", files, width)]
        check_width(width, found)
        self._models = along(found)
        if options["reverse"] and len(self._models) > 2:
            raise InputError("reverse: is for two models; correlate each pair by itself")
        others = len(self._models) - 1
        found_a = [] if controls_a is None else open_models(controls_a, "controls_a", files, width)
        found_b = open_controls(controls_b, "controls_b", others, files, width)
        of_controls = along(found_a), [along(x) for x in found_b]

        def lined_up(most: int) -> Lineup:
            tokens = min(most, options["control_tokens"])
            return line_up(self._models, *of_controls, options["layers"], self._all_pairs, tokens)

        self._lineup = lined_up(options["control_tokens"])
        self._device = as_device(options["device"]) or _device_of(self._models)
        self._keep = self._open_mask()
        self._activity: Activity | None = None
        known = known_tokens(self._lineup, options["token_ids"]) if options["details"] else None
        self._facts = None if known is None else known.facts()
        self._look = None if known is None else self._looking(known)
        self._looked_at = 0 if self._look is None else others * self._lineup.rounds[0].tokens
        self._summed = 0
        self._dealt: Dealt | None = None
        self._limit = memory_limit(options["memory_limit"], self._device, processes)
        way: type[OverPairs] | type[ByIndex] = OverPairs if self._all_pairs else ByIndex
        self._way: Any = way(self._lineup, options, self._device, self._facts, processes)
        self._screen, self._notes = self._screened() if self._all_pairs else (None, ())
        if self._screen is not None:
            self._lineup = lined_up(self._screen.tokens)
            settings = self._lineup, options, self._device, self._facts, processes
            self._way = Screening(*settings, self._screen, self._keep)
        self._check_mask()

    def _screened(self) -> tuple[Screen | None, tuple[str, ...]]:
        """Whether all pairs are screened, and what to say of it."""
        options, lineup = self._options, self._lineup
        tokens = lineup.rounds[0].tokens if self._keep is None else int(self._keep.sum())
        return plan_screen(lineup, options, tokens, self._limit, self._way.plan)

    def _looking(self, known: KnownTokens) -> Look | None:
        """What is looked for in universal neurons; None where token ids are not known.

        Raises:
            InputError: something was asked of them, and they are not.
        """
        options = self._options
        if known.ids is None:
            for name in ("neurons", "features", "token_text"):
                if options[name] is not None:
                    raise InputError(
                        f"{name}: is for activations whose tokens are known; give their token ids"
                    )
            return None
        text = text_of(options["token_text"], self._models)
        tokens = TokenText(known.ids, known.window, text, known.places)
        return Look(tokens, options, options["threads"])

    def do(self) -> None:
        """Takes all sums, which are searched behind the pass that they come in."""
        if len(self._lineup.rounds) > 1:
            self._activity = check_controls(self._lineup, self._keep)
        with self._run(self._way.plan(self._limit)) as run:
            run.go_on(self._way, self._limit)
            searching = Searching(run, self._way, self._processes, self._search_progress, self._say)
            for number in range(run.first, len(run.plan)):
                work = self._way.work(run.plan[number])
                with opened(work.models):
                    run.do(number, work, self._way.found)
                searching.do(number, work)
                del work  # before the next one makes its state
            self._dealt = dealt_work(run.plan)
            if self._processes is not None:
                # All that was found is in process 0, which may go on for long.
                self._processes.close()

    def result(self, direction: int, seconds: float) -> CorrelationResult:
        """What was found: of A in the others (0), or of B in A (1)."""
        models = self._models[::-1] if direction else self._models
        matches = self._matches(direction)
        question = Question(
            self._options["match"],
            self._baseline,
            self._options["threshold"],
            str(self._device),
            self._way.method() | {"dealt": self._dealt},
        )
        result = make_result(
            question,
            [model.name for model in models],
            self._way.layouts()[direction],
            self._way.tokens(0),
            matches,
            seconds,
            self._controls(direction),
            [] if direction else self._by_index(),
            [] if direction else self._details(),
        )
        if not direction:
            result = self._explained(result)
        layouts = [(x.name, self._lineup.layout(i)) for i, x in enumerate(self._models)]
        said = result.summary["warnings"]
        said += shape_warnings(layouts, self._way.tokens(0), self._options["axis"])
        if self._all_pairs and self._baseline.draws:
            said += sparse_warnings(self._lineup.searched(direction), self._activity is not None)
        said += self._notes
        if isinstance(self._way, Screening):
            self._way.describe(result, direction)
        cast("dict[str, object]", result.summary).update(provenance(models))
        return result

    def _explained(self, result: CorrelationResult) -> CorrelationResult:
        """With what universal neurons do, where details were asked for and token ids are known."""
        if self._look is None:
            return result
        before, more = self._summed, self._looked_at
        progress = self._progress or (lambda done, total: None)
        found = look_at(
            result,
            self._models,
            self._keep,
            self._look,
            lambda done, total: progress(before + done, before + more),
        )
        progress(before + more, before + more)
        return found

    def _tell(self, done: int, total: int) -> None:
        """Progress of the sums; what universal neurons do is looked at behind them."""
        self._summed = total
        if self._progress is not None:
            self._progress(done, total + self._looked_at)

    def _matches(self, direction: int) -> list[Matches]:
        """Those of the real models."""
        count = len(self._lineup.rounds[0].real)
        return [self._way.matches(number)[direction] for number in range(count)]

    def _details(self) -> list[PairStatistics]:
        """Of each other model, of the matched pairs; nothing where they were not asked for."""
        count = len(self._lineup.rounds[0].real) if self._facts is not None else 0
        return [self._way.details(number) for number in range(count)]

    def _by_index(self) -> list[Matches]:
        """Beside a search, those of neurons with others of the same number; if all models agree."""
        count = len(self._lineup.rounds[0].real)
        found = [self._way.by_index(number) for number in range(count)]
        return [] if any(matches is None for matches in found) else found

    def _controls(self, direction: int) -> ControlMatches | None:
        """Those of controls."""
        if len(self._lineup.rounds) == 1:
            return None
        found = {one: self._way.matches(i)[direction] for i, _, one in self._lineup.comparisons()}
        tokens = self._way.tokens(len(self._lineup.rounds[0].real))
        margin = self._options["control_margin"]
        assert self._activity is not None
        matches = ControlMatches.of(self._lineup, found, tokens, margin, self._activity.summary())
        return matches.swapped() if direction else matches

    def _open_mask(self) -> Tensor | None:
        """The tokens to use.

        Raises:
            InputError: the mask cannot be read, or leaves none.
        """
        shape = self._lineup.layers[0][0].shape[:-1]
        keep = kept_tokens(self._lineup.models, self._options["mask"], shape)
        if keep is None:
            return None
        if not bool(keep.any()):
            raise InputError("mask: leaves no token; true marks the tokens to use")
        return keep

    def _check_mask(self) -> None:
        """Refuses a mask that leaves controls no token."""
        first = self._lineup.rounds[-1].tokens
        if self._keep is not None and not bool(self._keep[:first].any()):
            sample = self._screen is not None and self._screen.tokens == first
            raise InputError(
                f"{'screen' if sample else 'control_tokens'}: the mask leaves none of the first"
                f" {first} tokens, which controls are run on; raise it"
            )

    def _run(self, plan: list[dict[str, Any]]) -> Run:
        """The run of some passes."""
        options = self._options
        saved = None
        checkpoint = options["checkpoint"]
        if checkpoint is not None or self._processes is not None:
            given = self._identity()
            if self._processes is not None:
                check_same(self._processes.gather(given))
            if checkpoint is not None:
                saved = SavedRun(checkpoint, options["checkpoint_every"], given)
        settings = plan, self._keep, saved, self._processes
        if not self.is_first:
            return Run(*settings, None)
        return Run(*settings, self._tell, self._search_progress, self._say)

    def _identity(self) -> dict[str, Any]:
        """What the sums depend on, as plain values."""
        keep, lineup = self._keep, self._lineup
        mask = None if keep is None else _digest(keep.cpu().numpy().tobytes())
        names = [*(["top_k", "exclude_self", "reverse"] if self._all_pairs else []), "shifts"]
        options: Mapping[str, Any] = self._options
        named = list(zip(lineup.named, lineup.layers, strict=True))
        return {
            "match": options["match"],
            "rotation": self._baseline.kind,
            "draws": self._baseline.draws,
            "seed": self._baseline.seed,
            "precision": options["precision"],
            "products": options["products"],
            **{name: options[name] for name in names},
            "screen": None if self._screen is None else self._screen.tokens,
            "models": len(self._models),
            "controls": len(lineup.models) - len(self._models),
            **{f"layers of {name}": [[x.name, x.neurons] for x in model] for name, model in named},
            "tokens": lineup.rounds[0].tokens,
            "tokens of controls": [one.tokens for one in lineup.rounds[1:]],
            **{
                f"activations of {name}": _digest(b"".join(x.fingerprint() for x in model))
                for name, model in named
            },
            "mask": mask,
            "details": self._facts is not None,
            "samples and token ids": _digest(repr(self._facts and self._facts.plain()).encode()),
        }


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
