"""What is known of the tokens of a run, and the features that neurons are explained by.

There are groupings, in which a token has one group, or a few (its id; the id before it; its
position), and columns of one value a token (``FEATURES`` of `properties`, and the user's own). All
go by a token's number in the run, so that any split of the stream gives the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from univfast.checks import as_integer, as_text
from univfast.errors import InputError
from univfast.features.properties import FEATURES, KnownIds, Samples
from univfast.inputs.plain import plain_tensor
from univfast.machine.torch_state import methods_in_plain_state
from univfast.sums.token_facts import FREQUENT, TokenFacts, token_groups

__all__ = ["FAMILIES", "FeatureFunction", "Grouping", "TokenFeatures", "TokenText"]

FAMILIES = (
    *("token", "previous token", "position", "text", "context", "frequency"),
    *("yours", "mixture"),
)
"""What a neuron can be said to follow; "yours" are a user's features."""

FeatureFunction = Callable[[Tensor, "list[str] | None"], Tensor]
"""Of the ids int64 ``[n]`` of one whole sample, or of any tokens where samples are not known, and
of the text of each (None where that is not known): bool or number ``[n]``."""

# Tokens before the current one that are looked at.
_BEFORE = 5
# Of the text of a token in a name, characters.
_SHOWN = 40


@dataclass(frozen=True, eq=False)
class TokenText:
    """The tokens of a run.

    Attributes:
        ids: int64 ``[tokens]``, those that a mask leaves out too.
        window: tokens of a sample, 1 where not known: token t is at position ``t % window`` of
            sample ``t // window``.
        text: what one id stands for; None where that is not known.
        places: sample and position of each, int64 ``[tokens, 2]``, where samples have lost tokens
            and ``window`` is 1; None where they have not.
    """

    ids: Tensor
    window: int
    text: Callable[[int], str] | None = None
    places: Tensor | None = None

    def __post_init__(self) -> None:
        if self.ids.dtype != torch.int64 or self.ids.dim() != 1 or len(self.ids) == 0:
            raise InputError(
                f"token ids: got {self.ids.dtype} of shape {list(self.ids.shape)}, expected int64,"
                " one for each token"
            )
        as_integer("window", self.window, 1)

    def place(self, token: int) -> tuple[int | None, int | None]:
        """Sample and position of a token; None where they are not known."""
        if self.places is not None:
            sample, position = self.places[token].tolist()
            return sample, position
        return divmod(token, self.window) if self.window > 1 else (None, None)

    def breaks(self) -> Tensor | None:
        """Tokens that do not stand right behind the one before them, int64, ascending.

        None where only samples begin such.
        """
        if self.places is None:
            return None
        sample, position = self.places.diff(dim=0).T
        apart: Tensor = (sample != 0) | (position != 1)
        return apart.nonzero()[:, 0] + 1

    def shown(self, token_id: int) -> str:
        """A token in a name: its text in quotes and escaped, or ``#123`` where there is none.

        Text that several ids may have (of no characters, or of bytes that are none) has the id too.
        """
        if self.text is None:
            return f"#{token_id}"
        text = as_text("token_text", self.text(token_id))
        quoted = repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
        unclear = not text or "\N{REPLACEMENT CHARACTER}" in text or len(text) > _SHOWN
        return f"{quoted} #{token_id}" if unclear else quoted


@dataclass(frozen=True)
class Grouping:
    """Groups of tokens, each of which is a feature: that a token is in it.

    Attributes:
        family: whose features they are.
        whole: name of the share of all groups together; None where a token may be in several.
        name: of a group.
        groups: how many there are.
        named: so many of them, the first, are features of their own.
        of: the groups of tokens, which are given by their numbers int64 ``[tokens]``: int64
            ``[tokens, most]``, none twice, -1 for none.
    """

    family: str
    whole: str | None
    name: Callable[[int], str]
    groups: int
    named: int
    of: Callable[[Tensor], Tensor]


@methods_in_plain_state
class TokenFeatures:
    """The features of a run.

    Args:
        tokens: of the run.
        extra: the user's own, by name.

    Raises:
        InputError: a name that is empty, or that another feature has.
        TypeError: a name that is no str, what is no function, or text that is none.

    Attributes:
        tokens: as given.
        groupings: in the order in which equally good ones are preferred.
        names, families: of the columns.
    """

    def __init__(
        self, tokens: TokenText, extra: Mapping[str, FeatureFunction] = MappingProxyType({})
    ) -> None:
        self.tokens = tokens
        ids = plain_tensor(tokens.ids, "token ids").cpu()
        known, kinds, counts = torch.unique(ids, return_inverse=True, return_counts=True)
        groups = torch.empty_like(known)
        groups[kinds] = token_groups(ids)
        # The number of its id among those known, of each token: in half of the memory.
        self._kinds = kinds.to(torch.int32)
        texts = None
        if tokens.text is not None:
            texts = [as_text("token_text", tokens.text(each)) for each in known.tolist()]
        self._known = KnownIds(known, counts, groups, texts)
        facts = TokenFacts(len(ids), tokens.window)
        self.groupings = self._groupings(facts.positions)
        self._features = [
            each
            for each in FEATURES.values()
            if not (each.text and texts is None) and not (each.samples and tokens.window == 1)
        ]
        self._own = {_own_name(name): _function(name, own) for name, own in extra.items()}
        self.names = [*(each.name for each in self._features), *self._own]
        self.families = [*(each.family for each in self._features), *("yours" for _ in self._own)]

    def __len__(self) -> int:
        """Tokens of the run."""
        return len(self._kinds)

    def name(self, block: int, at: int) -> str:
        """Of a group of a grouping, or all of them (-1); behind the last grouping, of a column."""
        if block == len(self.groupings):
            return self.names[at]
        grouping = self.groupings[block]
        return grouping.name(at) if at >= 0 else grouping.whole or grouping.family

    def columns(self, first: int, stop: int) -> Tensor:
        """Those of tokens ``first`` to ``stop``, exclusive: float64 ``[tokens, columns]``.

        Raises:
            InputError, TypeError: what a user's function gives is not one finite number a token.
        """
        window = self.tokens.window
        # Whole samples, as what comes before a token matters.
        start, end = first // window * window, min(-(-stop // window) * window, len(self))
        samples = Samples(self._kinds[start:end].long(), window, self._known)
        found = [feature.column(samples).double() for feature in self._features]
        found += [self._of_user(name, samples, start) for name in self._own]
        if not found:
            return torch.empty(stop - first, 0, dtype=torch.float64, device="cpu")
        return torch.stack(found, dim=1)[first - start : stop - start]

    def _of_user(self, name: str, samples: Samples, start: int) -> Tensor:
        texts, tokens = self._known.texts, len(samples.kinds)
        values = torch.empty(tokens, dtype=torch.float64, device="cpu")
        size = samples.window if samples.window > 1 else max(tokens, 1)
        for first in range(0, tokens, size):
            kinds = samples.kinds[first : first + size]
            own = None if texts is None else [texts[kind] for kind in kinds.tolist()]
            value = self._own[name](self._known.ids[kinds], own)
            values[first : first + size] = _checked(name, value, len(kinds), start + first)
        return values

    def _groupings(self, positions: int | None) -> list[Grouping]:
        groups = int(self._known.groups.max()) + 1
        named = min(groups, FREQUENT)
        # The one id of each group, but for that of the rest, which has no name.
        ids = torch.empty(groups, dtype=torch.int64, device="cpu")
        ids[self._known.groups] = self._known.ids

        def shown(group: int) -> str:
            return self.tokens.shown(int(ids[group]))

        def before(distance: int) -> Grouping:
            return Grouping(
                "previous token",
                f"any token {distance} before",
                lambda group: f"token {distance} before is {shown(group)}",
                groups,
                named,
                lambda tokens: self._group(tokens, distance)[:, None],
            )

        window = self.tokens.window
        found = [
            Grouping(
                "token",
                "any token id",
                lambda group: f"token {shown(group)}",
                groups,
                named,
                lambda tokens: self._group(tokens, 0)[:, None],
            )
        ]
        if positions is not None:
            found.append(
                Grouping(
                    "position",
                    "any position",
                    "position {}".format,
                    positions,
                    positions,
                    lambda tokens: (tokens % window)[:, None],
                )
            )
        if window > 1:
            found += [before(distance) for distance in range(1, min(_BEFORE + 1, window))]
            found.append(
                Grouping(
                    "previous token",
                    None,
                    lambda group: f"one of the {_BEFORE} tokens before is {shown(group)}",
                    groups,
                    named,
                    self._any_before,
                )
            )
        return found

    def _group(self, tokens: Tensor, distance: int) -> Tensor:
        """The group of the id so far before each token ``[tokens]``; -1: in another sample."""
        kinds = self._kinds[(tokens - distance).clamp(min=0)].long()
        there = tokens % self.tokens.window >= distance
        return torch.where(there, self._known.groups[kinds], -1)

    def _any_before(self, tokens: Tensor) -> Tensor:
        found: list[Tensor] = []
        for distance in range(1, _BEFORE + 1):
            group = self._group(tokens, distance)
            group = torch.where(group < FREQUENT, group, -1)  # of rare ids there is no feature
            for earlier in found:
                group = torch.where(group == earlier, -1, group)
            found.append(group)
        return torch.stack(found, dim=1)


def _own_name(name: object) -> str:
    text = as_text("features", name)
    if not text.strip():
        raise InputError("features: got an empty name; give each feature one")
    if text in FEATURES:
        raise InputError(f"features: there is a feature {text!r} already; give yours another name")
    return text


def _function(name: str, function: object) -> FeatureFunction:
    if not callable(function):
        raise TypeError(
            f"features: {name!r} is a {type(function).__name__}, expected a function of token ids"
            " and texts"
        )
    return function


def _checked(name: str, found: object, tokens: int, first: int) -> Tensor:
    """What a user's function gave for so many tokens, float64."""
    where = f"feature {name!r}"
    if not isinstance(found, Tensor):
        raise TypeError(
            f"{where}: gave a {type(found).__name__}, expected a tensor of one value a token"
        )
    found = plain_tensor(found, where)
    if found.shape != (tokens,) or found.is_complex():
        raise InputError(
            f"{where}: gave {found.dtype} of shape {list(found.shape)} for {tokens} tokens,"
            " expected bool or a number for each"
        )
    values = found.to("cpu", torch.float64)
    bad = ~values.isfinite()
    if bool(bad.any()):
        at = int(bad.long().argmax())
        raise InputError(
            f"{where}: gave {values[at].item()} for token {first + at}, expected finite numbers"
        )
    return values
