"""Whether pairs are screened on a sample of tokens, and on how many: what was asked, what fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from univfast.errors import InputError
from univfast.inputs.layout import Layout
from univfast.machine.memory import gigabytes, needed
from univfast.nulls.kinds import Baseline
from univfast.nulls.rotations import draw_bytes
from univfast.option import declared
from univfast.options import CorrelateOptions
from univfast.runs.comparisons import Lineup
from univfast.search.matchings import MATCHINGS
from univfast.search.sampled import tile_memory
from univfast.sums.candidates import candidate_bytes
from univfast.sums.checked import checked_bytes
from univfast.sums.co_moments import streams
from univfast.sums.extremes import extremes_bytes

__all__ = ["CANDIDATES", "CHECKED", "ROWS", "Screen", "plan_screen", "same_number_bytes"]

CANDIDATES = 32
"""Partners of each neuron, in either direction, whose r over all tokens is taken."""
CHECKED = 256
"""Neurons whose r with all neurons is taken, to see what was missed."""
ROWS = 2048
"""Neurons of A that are searched between two checkpoints: seconds of work, and enough that what is
done once for each layer of B costs little."""

_CONTROL_TOKENS = declared(CorrelateOptions)["control_tokens"][1].default
_ALONE = 8192  # tokens, where nobody said how many
_FEWEST = 1024  # tokens that a screen is worth the name with
# Dense rotations of all layers, which neurons of the same number take at once.
_MATRIX_BYTES = 1 << 30
# Of a candidate in either direction: r and place while searching, twice where they are merged, and
# the pair, its sum, its r and its place in the order behind it.
_CANDIDATE_BYTES = 96


@dataclass(frozen=True)
class Screen:
    """Pairs are screened.

    Attributes:
        tokens: of the sample.
        alone: why, where it was not asked for; None where it was.
        keeps: whether the model that is searched fits the memory as products take it, beside all
            else.
    """

    tokens: int
    alone: str | None
    keeps: bool


def plan_screen(
    lineup: Lineup,
    options: CorrelateOptions,
    kept: int,
    limit: float,
    whole: Callable[[float], object],
) -> tuple[Screen | None, tuple[str, ...]]:
    """How pairs are screened, None for not at all; and what to say of it.

    Args:
        lineup: of all models.
        options: of the task.
        kept: tokens that are used.
        limit: bytes that a pass may take.
        whole: plans the search of all pairs; raises InputError where it does not fit the limit.

    Raises:
        InputError: neither fits, or more partners are asked for than a screen keeps.
    """
    asked, notes, alone = options["screen"], [], None
    if asked is not None and kept < asked:
        notes.append(f"screen: there are {kept} tokens, no more than a sample, so none was drawn")
        asked = None
    if asked is None:
        if MATCHINGS[options["match"]].assign is not None:
            return None, tuple(notes)
        try:
            whole(limit)
        except InputError as error:
            alone = str(error)
            if not alone.startswith("memory_limit:"):
                raise  # of sparse features: without their rotations all pairs may fit
        else:
            return None, tuple(notes)
    if options["top_k"] > CANDIDATES:
        few = f"a screen keeps {CANDIDATES} partners of each neuron"
        if alone is not None:
            raise InputError(f"{alone}; {few}, top_k is {options['top_k']}")
        raise InputError(
            f"top_k: got {options['top_k']}, and {few}; give at most {CANDIDATES}, or leave"
            " screen= out"
        )
    tokens, most = min(kept, asked or _ALONE), asked or _ALONE
    fixed, each, kept_each = _bytes(lineup, options)
    while tokens > min(_FEWEST, kept, most) and fixed + each * tokens > limit:
        tokens = max(min(_FEWEST, kept, most), tokens // 2)
    need = fixed + each * tokens
    if need > limit:
        if alone is not None:
            raise InputError(f"{alone}; even a screen of {tokens} tokens needs {needed(need)}")
        raise InputError(
            f"screen: a sample of {tokens} tokens needs {needed(need)}, the limit is"
            f" {gigabytes(limit)}; raise memory_limit=, or choose layers"
        )
    if alone is not None:
        notes = [
            f"{alone.split(';')[0]}; so pairs were screened on {tokens} tokens, as screen={tokens}"
            " does"
        ]
    elif tokens < most:
        notes.append(
            f"screen: a sample of {tokens} tokens was taken, as {most} do not fit the memory limit"
        )
    controls = options["control_tokens"]
    if len(lineup.rounds) > 1 and tokens < controls != _CONTROL_TOKENS:
        notes.append(
            f"control_tokens: controls are compared on {tokens} tokens, as many as the screen's"
            f" sample has, not on {controls}"
        )
    return Screen(tokens, alone, need + kept_each * tokens <= limit), tuple(notes)


def _bytes(lineup: Lineup, options: CorrelateOptions) -> tuple[int, int, int]:
    """What a screen takes however small; for each token of its sample; and more, where it is kept.

    Kept is the model that is searched, as products take it.
    """
    layouts = [lineup.layout(i) for i in range(len(lineup.models))]
    fixed, each, kept = [sum(extremes_bytes(x) for x in layouts)], [], []
    for _, _, one in lineup.comparisons():
        a, b = layouts[one.first], layouts[one.second]
        rows = [
            sum(layer.neurons * layer.dtype.itemsize for layer in lineup.layers[i])
            for i in (one.first, one.second)
        ]
        dtype = torch.float64 if _has_float64(lineup, one.first, one.second) else torch.float32
        columns = max(b.widths) if not options["reverse"] else max(*a.widths, *b.widths)
        together = min(ROWS, a.neurons if not options["reverse"] else max(a.neurons, b.neurons))
        # The sample as it is; one layer, and some neurons of A, as they are multiplied.
        each.append(sum(rows) + (dtype.itemsize + 2) * (columns + together))
        kept.append(
            dtype.itemsize * (max(a.neurons, b.neurons) if options["reverse"] else b.neurons)
        )
        same_number = same_number_bytes(a, b, options)
        pairs = CANDIDATES * (a.neurons + b.neurons) + (0 if same_number is None else a.neurons)
        pairs = min(pairs, a.neurons * b.neurons)
        searching = tile_memory(together, columns) + _of_rotations(a, b, options)
        verifying = candidate_bytes(a, b, pairs, dtype) + checked_bytes(CHECKED, b, dtype)
        if options["reverse"]:
            verifying += checked_bytes(CHECKED, a, dtype)
        verifying += same_number or 0
        fixed.append(max(searching, verifying) + _CANDIDATE_BYTES * pairs)
    return max(fixed), max(each), max(kept)


def same_number_bytes(a: Layout, b: Layout, options: CorrelateOptions) -> int | None:
    """That correlating neurons with those of the same number takes, beside candidates.

    None where it is not done: of other layers, of a model with itself whose neurons are left out,
    and where dense rotations of all layers take too much.
    """
    rotation = Baseline.of(options)
    matrices = rotation.draws * sum(draw_bytes(rotation, width) for width in a.widths)
    if a != b or options["exclude_self"] or matrices > _MATRIX_BYTES:
        return None
    # Sums, as they are and of a batch that is added to them, and signs of rotations.
    return matrices + 8 * a.neurons * (16 + 8 * rotation.draws + 4 * options["shifts"])


def _has_float64(lineup: Lineup, *models: int) -> bool:
    return any(layer.dtype == torch.float64 for i in models for layer in lineup.layers[i])


def _of_rotations(a: Layout, b: Layout, options: CorrelateOptions) -> int:
    """Of the widest layer's rotations, and of the sums that their variances are made of."""
    rotation = Baseline.of(options)
    if not rotation.draws:
        return 0
    width = max(*b.widths, *(a.widths if options["reverse"] else ()), 1)
    sums = width * (5 + 2 * rotation.draws if streams(rotation, width) else width)
    r = rotation.draws * (a.neurons + b.neurons)
    return 8 * (sums + 2 * r) + rotation.draws * draw_bytes(rotation, width)
