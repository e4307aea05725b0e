"""``FEATURES``: what a token is beyond its id, by its text, its place, and the tokens before it.

A feature is a column of one value a token, true or false or a number. Those of a token's text are
worked out once an id.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from univfast.native.place import numbers
from univfast.registry import Registry

__all__ = ["FEATURES", "Feature", "KnownIds", "Samples"]

OfText = Callable[[str], float]


@dataclass(frozen=True, eq=False)
class KnownIds:
    """The ids of a run.

    Attributes:
        ids: each once, ascending, int64 ``[kinds]``.
        counts: tokens of each, int64 ``[kinds]``.
        groups: of each, as `token_groups` gives them, int64 ``[kinds]``.
        texts: of each; None where text is not known.
    """

    ids: Tensor
    counts: Tensor
    groups: Tensor
    texts: list[str] | None
    _tables: dict[OfText, Tensor] = field(default_factory=dict)

    def table(self, function: OfText) -> Tensor:
        """A function of the text of each id, float64 ``[kinds]``."""
        assert self.texts is not None
        if function not in self._tables:
            values = [float(function(text)) for text in self.texts]
            self._tables[function] = torch.tensor(values, dtype=torch.float64, device="cpu")
        return self._tables[function]


@dataclass(frozen=True, eq=False)
class Samples:
    """Tokens of one or several whole samples, in order.

    Attributes:
        kinds: the row of each token's id in ``known``, int64 ``[tokens]``.
        window: tokens of a sample, but for the last, which may have fewer; 1 where not known.
        known: the ids of the run.
    """

    kinds: Tensor
    window: int
    known: KnownIds

    def of_text(self, function: OfText) -> Tensor:
        """A function of each token's text, float64 ``[tokens]``."""
        return self.known.table(function)[self.kinds]

    def rows(self, values: Tensor) -> Tensor:
        """``[tokens]`` as ``[samples, window]``; zeros stand where the last sample has no token."""
        missing = -len(values) % self.window
        return torch.cat([values, values.new_zeros(missing)]).view(-1, self.window)

    def flat(self, rows: Tensor) -> Tensor:
        """``[samples, window]`` as ``[tokens]``."""
        return rows.reshape(-1)[: len(self.kinds)]


@dataclass(frozen=True)
class Feature:
    """A column.

    Attributes:
        name: as a reader would say it.
        family: whose it is.
        column: of `Samples`, one value a token: bool, or a number.
        text, samples: whether it needs the text of tokens, and their samples, to be known.
    """

    name: str
    family: str
    column: Callable[[Samples], Tensor]
    text: bool = False
    samples: bool = False


def _text(name: str, function: OfText) -> Feature:
    return Feature(name, "text", lambda samples: samples.of_text(function), text=True)


# ---- of the text of a token ---------------------------------------------------------------------


def _capital(text: str) -> bool:
    letters = [c for c in text if c.isalpha()]
    return bool(letters) and letters[0].isupper()


def _all_capitals(text: str) -> bool:
    return text.isupper() and sum(map(str.isalpha, text)) > 1


def _punctuation(text: str) -> bool:
    marks = text.strip()
    return bool(marks) and all(unicodedata.category(c)[0] in "PS" for c in marks)


def _newline(text: str) -> bool:
    return "\n" in text


# ---- along a sample -----------------------------------------------------------------------------


def _before(rows: Tensor, first: float) -> Tensor:
    """What each row had reached before a token, and ``first`` before its first."""
    return torch.cat([rows.new_full((len(rows), 1), first), rows[:, :-1]], dim=1)


def _open(samples: Samples, net: OfText) -> Tensor:
    """Whether more marks were opened than closed before a token; ``net``: how many more, by one.

    What closes where nothing is open does not count.
    """
    depth = samples.rows(samples.of_text(net)).cumsum(dim=1)
    depth = depth - depth.cummin(dim=1).values.clamp(max=0)
    return samples.flat(_before(depth, 0) > 0)


def _brackets(text: str) -> int:
    return sum(map(text.count, "([{")) - sum(map(text.count, ")]}"))


def _curly_quotes(text: str) -> int:
    opened, closed = "\N{LEFT DOUBLE QUOTATION MARK}", "\N{RIGHT DOUBLE QUOTATION MARK}"
    return text.count(opened) - text.count(closed)


def _straight_quotes(text: str) -> int:
    return text.count('"')


def _in_quotes(samples: Samples) -> Tensor:
    straight = samples.rows(samples.of_text(_straight_quotes)).cumsum(dim=1)
    odd = samples.flat(_before(straight, 0) % 2 == 1)
    return odd | _open(samples, _curly_quotes)


def _in_brackets(samples: Samples) -> Tensor:
    return _open(samples, _brackets)


def _repeated(samples: Samples) -> Tensor:
    kinds, order = samples.rows(samples.kinds).sort(dim=1, stable=True)
    seen = torch.zeros(kinds.shape, dtype=torch.bool, device="cpu")
    seen.scatter_(1, order[:, 1:], kinds[:, 1:] == kinds[:, :-1])
    return samples.flat(seen)


def _position(samples: Samples) -> Tensor:
    return numbers(len(samples.kinds)) % samples.window


def _since_newline(samples: Samples) -> Tensor:
    place = _position(samples)
    last = torch.where(samples.of_text(_newline) > 0, place, -1)
    # From 1, as zeros fill up the last sample.
    reached = _before(samples.rows(last + 1).cummax(dim=1).values, 0)
    return place - samples.flat(reached)


def _frequency(samples: Samples) -> Tensor:
    return samples.known.counts.double().log()[samples.kinds]


FEATURES = Registry(
    "feature",
    [
        Feature("the number of the position", "position", _position, samples=True),
        _text("begins with a space", lambda text: text.startswith(" ")),
        _text("its first letter is a capital", _capital),
        _text("all capitals", _all_capitals),
        _text("letters", lambda text: text.strip().isalpha()),
        _text("digits", lambda text: text.strip().isdigit()),
        _text("punctuation", _punctuation),
        _text("white space", str.isspace),
        _text("has a newline", _newline),
        _text("not ASCII", lambda text: not text.isascii()),
        _text("length in characters", len),
        Feature("inside quotes", "context", _in_quotes, text=True, samples=True),
        Feature("inside brackets", "context", _in_brackets, text=True, samples=True),
        Feature("was in the sample before", "context", _repeated, samples=True),
        Feature("tokens since a newline", "context", _since_newline, text=True, samples=True),
        Feature("log of how often the token is in the run", "frequency", _frequency),
    ],
)
