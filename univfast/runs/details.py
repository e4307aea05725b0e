"""A second pass over the activations, of matched pairs alone: what they do, and how sure r is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from univfast.errors import InputError
from univfast.inputs.layers import Layer
from univfast.inputs.token_ids import open_token_ids
from univfast.machine.memory import available_memory, gigabytes, needed
from univfast.runs.comparisons import Comparison, Lineup
from univfast.runs.passes import READ_BYTES, Range, aligned, at_least, prepare
from univfast.search.saved import check_number
from univfast.sums.details import PairDetails, details_bytes
from univfast.sums.pair_statistics import PairStatistics, TopContexts
from univfast.sums.states import check_count, check_fields, check_range, check_tensor, refused
from univfast.sums.token_facts import BLOCKS, TokenFacts, token_groups

__all__ = [
    "DetailsPass",
    "KnownTokens",
    "joined",
    "known_tokens",
    "plain_statistics",
    "statistics_by_number",
    "statistics_from",
]

# What shares, and r, are between.
_SHARES = {
    **dict.fromkeys(("active", "token_r2", "position_r2"), (0, 1)),
    **dict.fromkeys(("correlation", "correlation_low", "correlation_high", "partial_r"), (-1, 1)),
}
_LEAST_TOKENS = 4096  # of a slice: blocks of it have work for several threads


class KnownTokens(NamedTuple):
    """What is known of the tokens of a run.

    ``tokens``: how many; ``window``: tokens of a sample, 1 where that is not known; ``ids``: int64
    ``[tokens]``, or None; ``places``: as `Activations` has them, where samples have lost tokens.
    """

    tokens: int
    window: int
    ids: Tensor | None
    places: Tensor | None

    def facts(self) -> TokenFacts:
        """As sums of details have them."""
        groups = None if self.ids is None else token_groups(self.ids)
        return TokenFacts(self.tokens, self.window, groups)


def known_tokens(lineup: Lineup, ids: object | None) -> KnownTokens:
    """Samples by the shape of activations, by what models say, or else by the shape of the ids.

    Raises:
        InputError: the ids do not fit.
    """
    models = range(len(lineup.rounds[0].real) + 1)
    first = lineup.layers[0][0]
    windows = [_window(lineup.layers[i][0], lineup.models[i].window) for i in models]
    known = [lineup.models[i].ids for i in models]
    given: object | None = next((x for x in (ids, *known) if x is not None), None)
    window = next((window for window in windows if window > 1), 1)
    places = None
    if window == 1:
        found = (lineup.models[i].places for i in models)
        places = next((x for x in found if x is not None), None)
    count = lineup.rounds[0].tokens
    if given is None:
        return KnownTokens(count, window, None, places)
    tokens = open_token_ids(given, tuple(first.shape[:-1]))
    if window == 1 and places is None and tokens.dim() > 1 and tokens.shape[-1] < tokens.numel():
        window = tokens.shape[-1]  # ids of one sample say no more than flat ones
    return KnownTokens(count, window, tokens.flatten(), places)


def _window(layer: Layer, window: int) -> int:
    """Tokens of a sample: of ``[samples, tokens, neurons]``, or of what a model reads at a time."""
    return layer.shape[-2] if len(layer.shape) > 2 else window


class DetailsPass:
    """The matched pairs of two models, searched through all neurons.

    Args:
        comparison: the models.
        match: int64: of each neuron of the first, the number of its match; -1 for none.
        lineup: of all models.
        facts: of the tokens.
        threads: at most this many; None for torch's number.
        device: where.

    Raises:
        InputError: what is kept does not fit the memory.
    """

    def __init__(
        self,
        comparison: Comparison,
        match: Tensor,
        lineup: Lineup,
        facts: TokenFacts,
        threads: int | None,
        device: torch.device,
    ) -> None:
        sides = comparison.first, comparison.second
        self._layers = [lineup.layers[i] for i in sides]
        self.models = [lineup.models[i] for i in sides]
        a, b = (lineup.layout(i) for i in sides)
        need, available = details_bytes(a, b, facts), available_memory(device)
        if available is not None and need > available:
            raise InputError(
                f"details: take {needed(need)}, {gigabytes(available)} are available; choose"
                " layers, or leave token_ids out"
            )
        self.details = PairDetails(
            a.by_name(), b.by_name(), match, facts, threads=threads, device=device
        )
        every = [layer for layers in self._layers for layer in layers]
        row = sum(x.neurons * x.dtype.itemsize for x in every)
        least = at_least(_LEAST_TOKENS, every)
        self.step = aligned(max(least, READ_BYTES // row), self.models)

    def update(self, part: Range, following: Range | None, keep: Tensor | None) -> None:
        every = [layer for layers in self._layers for layer in layers]
        if following is not None:
            prepare(every, following)
        here = None if keep is None else keep[slice(*part)]
        a, b = ([layer.read(*part) for layer in layers] for layers in self._layers)
        names = self.models[0].name, self.models[1].name
        self.details.update_rows(a, b, here, part[0], names)
        for layer in every:
            layer.release(*part)

    def states(self) -> list[dict[str, Any]]:
        return [self.details.saved_state()]

    def load(self, states: Sequence[Mapping[str, Any]]) -> None:
        check_number("sums", states, 1)
        self.details.load_saved(states[0])

    def reduce(self) -> None:
        self.details.reduce()


def plain_statistics(statistics: PairStatistics) -> dict[str, Any]:
    """As a checkpoint has them."""
    found = {field.name: getattr(statistics, field.name) for field in fields(statistics)}
    contexts = {name: list(x) for name, x in found.items() if isinstance(x, TopContexts)}
    return {**found, **contexts}


def statistics_from(plain: object, facts: TokenFacts, neurons: int, tokens: int) -> PairStatistics:
    """What `plain_statistics` gave, of so many neurons and tokens.

    Raises:
        InputError: it is none of them.
    """
    names = [field.name for field in fields(PairStatistics)]
    found = check_fields("details", plain, names)
    if check_count("tokens of details", found["tokens"]) != tokens:
        raise refused(f"details are of {found['tokens']} tokens, of {tokens} that are done")
    check_count("blocks", found["blocks"], 1, BLOCKS)
    absent = {*(("token_r2", "partial_r") if facts.groups is None else ())}
    absent |= {"position_r2"} if facts.positions is None else set()
    contexts = {}
    for name, value in found.items():
        if name in ("tokens", "blocks"):
            continue
        if name in ("top", "match_top"):
            contexts[name] = _contexts_from(name, value, neurons, facts.tokens)
        elif name.removeprefix("match_") in absent:
            if value is not None:
                raise refused(f"{name} is of groups that are not known")
        else:
            check_tensor(name, value, (neurons,))
            if name.removeprefix("match_") in _SHARES:
                check_range(name, value, *_SHARES[name.removeprefix("match_")], torch.nan)
    return PairStatistics(**{**found, **contexts})


def statistics_by_number(
    plain: object,
    wanted: Sequence[Any],
    facts: TokenFacts | None,
    neurons: Sequence[int],
    kept: Callable[[int], int],
) -> dict[int, PairStatistics]:
    """What `plain_statistics` gave of some comparisons, by their numbers.

    Args:
        plain: by number.
        wanted: the numbers that must be there, and no others.
        facts: of the tokens; None: there are no details.
        neurons: of each comparison.
        kept: how many of the first so many tokens are used.

    Raises:
        InputError: it is none of them.
    """
    found = check_fields("what was found of details", plain, () if facts is None else wanted)
    return {
        number: statistics_from(found[number], facts, neurons[number], kept(facts.tokens))
        for number in wanted
        if facts is not None
    }


def _contexts_from(name: str, plain: object, neurons: int, tokens: int) -> TopContexts:
    top = TopContexts(*check_number(f"parts of {name}", plain, len(TopContexts._fields)))
    known = top.token if isinstance(top.token, Tensor) and top.token.dim() == 2 else None
    shape = (neurons, 0 if known is None else known.shape[1])
    check_range(name, check_tensor(name, top.token, shape, torch.int64), -1, tokens - 1)
    for values in top[1:]:
        check_tensor(name, values, shape)
    return top


def joined(layers: Sequence[PairStatistics]) -> PairStatistics:
    """The pairs of several layers, one after another, of the same tokens."""
    found: dict[str, Any] = {}
    for field in fields(PairStatistics):
        values = [getattr(layer, field.name) for layer in layers]
        if isinstance(values[0], TopContexts):
            found[field.name] = TopContexts(*map(torch.cat, zip(*values, strict=True)))
        elif isinstance(values[0], Tensor):
            found[field.name] = torch.cat(values)
        else:
            found[field.name] = values[0]
    return PairStatistics(**found)
