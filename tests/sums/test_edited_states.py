"""States that were edited or damaged: refused by name, and the accumulator stays as it was."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest
import torch

import univfast as uf
from support.edited import edits
from support.matched import Matched
from univfast.machine.digests import sealed
from univfast.sums.token_facts import TokenFacts, token_groups


def models(neurons: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(40, neurons, generator=generator)
    return a, a + torch.randn(40, neurons, generator=generator)


def matched() -> Matched:
    a, b = models(4)
    ids = torch.arange(40) % 7
    return Matched(
        {"x": a},
        {"y": b},
        torch.tensor([0, 3, -1, 1]),
        TokenFacts(40, 8, token_groups(ids)),
        top_k=2,
    )


MAKERS: dict[str, Callable[[], Any]] = {
    "paired": lambda: uf.PairedCorrelation(4, draws=1, shifts=2),
    "haar": lambda: uf.PairedCorrelation(4, draws=1, shifts=0, rotation="haar"),
    "all pairs": lambda: uf.AllPairsCorrelation(
        {"x": 3, "z": 1}, {"y": 4}, draws=1, rotation="haar", reverse=True
    ),
    "streamed": lambda: uf.AllPairsCorrelation({"x": 33}, {"y": 33}, draws=1),
    "details": lambda: matched().accumulator(),
}


def filled(name: str, flushed: bool = False) -> Any:
    made = MAKERS[name]()
    if name == "details":
        return matched().accumulated()
    a, b = models(33 if name == "streamed" else 4)
    if name == "all pairs":
        made.update({"x": a[:, :3], "z": a[:, 3:]}, b)
    else:
        made.update(a, b)
    if flushed and "a" not in made.state_dict().get("moments", {}):
        getattr(made, "co_moments", lambda: None)()
    return made


def outcome(accumulator: Any) -> str:
    finish = accumulator.finish if hasattr(accumulator, "finish") else accumulator.compute
    return repr(finish())


# With all tokens in sums, or some that wait for a chunk. All edits, or every 13th.
STATES = [(name, False) for name in MAKERS] + [("all pairs", True), ("streamed", True)]
SHARES = [pytest.param(1, id="all", marks=pytest.mark.slow), pytest.param(13, id="some")]


@pytest.mark.parametrize("every", SHARES)
@pytest.mark.parametrize(("name", "flushed"), STATES)
def test_every_edit_is_refused_or_changes_nothing(name: str, flushed: bool, every: int) -> None:
    good = filled(name, flushed)
    state = good.state_dict()
    expected = outcome(good)
    for where, edited in islice(edits(state), 0, None, every):
        loaded = MAKERS[name]()
        try:
            loaded.load_state_dict(edited)
        except (uf.InputError, TypeError) as error:
            message = str(error)
        else:
            assert outcome(loaded) == expected, where
            continue
        assert message.startswith("load_state_dict: "), where
        assert "\n" not in message, where
        assert loaded.tokens == 0, where
        assert loaded.device is None, where


@pytest.mark.parametrize("every", SHARES)
@pytest.mark.parametrize(("name", "flushed"), STATES)
def test_what_is_sealed_anew_gives_one_line_or_numbers(
    name: str, flushed: bool, every: int
) -> None:
    """Nobody can tell a sum from another; but what no sums are, is told."""
    state = filled(name, flushed).state_dict()
    messages, others = [], []
    for where, edited in islice(edits(state), 0, None, every):
        loaded = MAKERS[name]()
        try:
            loaded.load_state_dict(sealed(edited) if isinstance(edited, dict) else edited)
            outcome(loaded)
        except (uf.InputError, TypeError) as error:
            messages.append(str(error))
        else:
            others.append(where)
    assert others
    assert not [x for x in messages if "\n" in x]
    empty = "pending" if flushed else "partner"  # holds no values, or NaN beside finite ones
    assert not [x for x in others if "first nan" in x and "partner" not in x and empty not in x]


@pytest.mark.parametrize("name", list(MAKERS))
def test_one_flipped_bit_is_told(name: str) -> None:
    state = filled(name).state_dict()
    key = "details" if name == "details" else "moments"
    found = state[key] if isinstance(state[key], dict) else {key: state[key]}
    for each, x in found.items():
        raw = x.clone()
        raw.view(-1).view(torch.uint8)[-8] ^= 1  # the lowest bit of the last value
        edited = {**state, key: {**found, each: raw} if isinstance(state[key], dict) else raw}
        loaded = MAKERS[name]()
        with pytest.raises(uf.InputError, match=r"^load_state_dict: .*; was the state cut or edit"):
            loaded.load_state_dict(edited)


OLDER = {"paired": 3, "haar": 3, "all pairs": 3, "streamed": 3, "details": 1}


@pytest.mark.parametrize("name", list(MAKERS))
def test_states_of_before_are_read_and_their_values_checked(name: str) -> None:
    good = filled(name)
    state = {**good.state_dict(), "version": OLDER[name]}
    del state["digest"]
    loaded = MAKERS[name]()
    loaded.load_state_dict(state)
    assert outcome(loaded) == outcome(good)
    assert loaded.state_dict()["digest"] == good.state_dict()["digest"]
    key = "details" if name == "details" else "moments"
    tensors = state[key] if isinstance(state[key], dict) else {key: state[key]}
    x = next(iter(tensors.values()))
    bad = torch.where(torch.arange(x.numel()).view(x.shape) == x.numel() - 1, 1e30, x)
    spoilt = {**state, key: bad if tensors.get(key) is x else {**tensors, next(iter(tensors)): bad}}
    with pytest.raises(uf.InputError, match=r"^load_state_dict: "):
        MAKERS[name]().load_state_dict(spoilt)


@pytest.mark.parametrize("name", list(MAKERS))
def test_a_failed_load_changes_nothing(name: str) -> None:
    accumulator = filled(name)
    before, state = outcome(accumulator), accumulator.state_dict()
    for edited in ({**state, "tokens": 41}, {**state, "digest": "0" * 64}, {**state, "more": 1}):
        with pytest.raises(uf.InputError, match=r"^load_state_dict: "):
            accumulator.load_state_dict(edited)
    assert outcome(accumulator) == before
    assert accumulator.tokens == 40


@pytest.mark.parametrize("name", list(MAKERS))
def test_states_are_copied_whatever_their_memory(name: str) -> None:
    def spread(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: spread(x) for key, x in value.items()}
        if isinstance(value, list):
            return [spread(x) for x in value]
        if not isinstance(value, torch.Tensor):
            return value
        return torch.stack([value, value], dim=-1)[..., 0]

    def cleared(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            value.zero_()
        elif isinstance(value, (dict, list)):
            for x in value.values() if isinstance(value, dict) else value:
                cleared(x)
            value.clear()

    good = filled(name)
    state = spread(good.state_dict())
    loaded = MAKERS[name]()
    loaded.load_state_dict(state)
    cleared(state)
    assert outcome(loaded) == outcome(good)
    given = good.state_dict()
    cleared(given)
    assert outcome(loaded) == outcome(good)


@pytest.mark.parametrize("name", ["paired", "haar"])
def test_states_in_inference_mode(name: str) -> None:
    good = filled(name)
    file = io.BytesIO()
    with torch.inference_mode():
        torch.save(good.state_dict(), file)
        file.seek(0)
        loaded = MAKERS[name]()
        loaded.load_state_dict(torch.load(file, weights_only=True))
    loaded.load_state_dict(loaded.state_dict())
    other = filled(name)
    other.merge(loaded)
    loaded.merge(good)
    assert outcome(other) == outcome(loaded)


def test_matched_pairs_count_no_token_twice() -> None:
    whole, part = matched().accumulated(), matched().accumulated(20)
    for other in (whole, part):
        with pytest.raises(uf.InputError, match=r"^merge: some tokens are in both"):
            whole.merge(other)
    with pytest.raises(uf.InputError, match=r"^merge: some tokens are in both"):
        part.merge(part)
    assert whole.tokens == 40
