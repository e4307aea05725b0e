"""What searches of other layers found, together: as one search of all finds it, bit for bit."""

from __future__ import annotations

import pytest
import torch

from support import TESTS
from support.found import check_same_found, options, search, searches_of, tied
from support.processes import finished, torchrun
from univfast.errors import InputError
from univfast.search.merging import clear, merge_found

# Layers that are searched together: of other numbers of them, products may differ in the last bits.
GROUPS = ("a0", "a1 a2", "a3")
DEALT = {
    "in order": (["a0"], ["a1 a2", "a3"]),
    "out of order": (["a1 a2"], [], ["a3"], ["a0"]),
}


@pytest.mark.parametrize("top_k", [1, 3, 40])
@pytest.mark.parametrize("dealt", DEALT)
@pytest.mark.parametrize("itself", [False, True], ids=["two models", "one with itself"])
def test_all_searches_together_are_one(itself: bool, dealt: str, top_k: int) -> None:
    a, b = tied(itself)
    asked = options(itself, top_k)
    whole, first, *others = (searches_of(a, b, asked) for _ in ("whole", *DEALT[dealt]))
    for each, groups in ((whole, GROUPS), *zip((first, *others), DEALT[dealt], strict=True)):
        for names in groups:
            search(each, a, b, names, asked)
    r, back = (whole.found()[1][name] for name in ("top", "back"))  # of B in A, where copies are
    assert bool((r[:, :-1] == r[:, 1:]).any()) == (top_k > 1), "no tie to be broken"
    assert len(back.unique()) < len(back)
    for other in others:
        merge_found(first, other.state())
    check_same_found(first, whole)


def test_neurons_with_those_of_the_same_number() -> None:
    a, _ = tied(itself=True)
    asked = {**options(itself=False), "exclude_self": False}
    whole, one, other = (searches_of(a, a, asked) for _ in range(3))
    for each, names in ((one, "a0 a1"), (other, "a2 a3")):
        search(each, a, a, names, asked)
        search(whole, a, a, names, asked)
    assert bool(other.found()[0]["same_r"][:19].isnan().all())
    merge_found(other, one.state())
    check_same_found(other, whole)
    matches, expected = other.by_index(), whole.by_index()
    assert matches is not None
    assert expected is not None
    assert torch.equal(matches.dead, expected.dead)
    assert matches.dead.sum() == 4


def test_nothing_is_left_where_it_was_cleared() -> None:
    a, b = tied(itself=False)
    asked = options(itself=False)
    searched, fresh = searches_of(a, b, asked), searches_of(a, b, asked)
    search(searched, a, b, "a1", asked)
    clear(searched)
    check_same_found(searched, fresh)


def test_searches_of_other_tokens_are_refused() -> None:
    a, b = tied(itself=False)
    asked = options(itself=False)
    one, other = searches_of(a, b, asked), searches_of(a, b, asked)
    search(one, a, b, "a0", asked)
    fewer = [{name: x[:150] for name, x in layers.items()} for layers in (a, b)]
    search(other, *fewer, "a1", asked)
    with pytest.raises(InputError, match=r"^processes: some searched 200 tokens, others 150; "):
        merge_found(one, other.state())


@pytest.mark.slow
def test_processes_bring_what_they_found_to_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    out = finished(torchrun(2, TESTS / "support" / "found_ranks.py"))
    assert sorted(out.split()) == ["0:same", "1:empty"]
