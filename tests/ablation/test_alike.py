"""Random neurons of like activity, and how active neurons are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import univfast as uf
from univfast import reference
from univfast.ablation.activity import Activity
from univfast.ablation.alike import draw_alike

NEURONS = 200


def activity() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    active = (torch.rand(NEURONS, generator=g) * 20).round() / 20  # with equal values
    std = torch.rand(NEURONS, generator=g, dtype=torch.float64).exp()
    return active.double(), std


FLAGGED = torch.arange(0, 60, 3)
OTHERS = torch.tensor([i for i in range(NEURONS) if i not in FLAGGED.tolist() and i % 7])


def draws(repeats: int = 20, seed: int = 0, layer: str = "mlp.0") -> list[Tensor]:
    return draw_alike(FLAGGED, OTHERS, *activity(), repeats, seed, layer)


def test_sets_are_of_candidates_none_twice() -> None:
    sets = draws()
    assert len(sets) == 20
    for one in sets:
        assert len({*one.tolist()}) == len(FLAGGED)
        assert {*one.tolist()} <= {*OTHERS.tolist()}
        assert one.equal(one.sort().values)
    assert len({tuple(one.tolist()) for one in sets}) == 20


def test_each_of_a_single_neuron_is_among_the_nearest_and_all_are_drawn() -> None:
    for number in FLAGGED[:5]:
        flagged = number[None]
        order = reference.alike(flagged, OTHERS, *(x.numpy() for x in activity()))[0]
        sets = draw_alike(flagged, OTHERS, *activity(), 200, 0, "x")
        drawn = {one.item() for one in sets}
        assert drawn == {*order[:10]}


def test_they_are_more_alike_than_any() -> None:
    active, std = activity()
    flagged = torch.cat([active.argsort()[-15:]])
    others = torch.tensor([i for i in range(NEURONS) if i not in flagged.tolist()])
    sets = draw_alike(flagged, others, active, std, 10, 0, "x")
    mean = torch.stack([active[one].mean() for one in sets]).mean()
    assert active[flagged].mean() - mean < 0.5 * (active[flagged].mean() - active[others].mean())


def test_draws_follow_seed_and_layer() -> None:
    same = zip(draws(), draws(), strict=True)
    assert all(a.equal(b) for a, b in same)
    for other in (draws(seed=1), draws(layer="mlp.1")):
        assert not all(a.equal(b) for a, b in zip(draws(), other, strict=True))
    # A set does not depend on how many there are.
    assert draws(3)[2].equal(draws(20)[2])


def test_as_few_candidates_as_neurons_and_fewer() -> None:
    few = OTHERS[: len(FLAGGED)]
    sets = draw_alike(FLAGGED, few, *activity(), 3, 0, "x")
    assert [one.equal(few) for one in sets] == [True] * 3
    assert draw_alike(FLAGGED, few[1:], *activity(), 3, 0, "x") == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_activity_is_that_of_all_tokens_at_once(dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    rows = (torch.randn(500, 6, generator=g) * 3 + torch.tensor([1e3, 0, -1, 0, 0, 5])).to(dtype)
    rows[:, 3] = 0.1
    rows[:, 4] = 0
    found = Activity("x")
    for part in rows.split([1, 0, 77, 422]):
        found.add(part)
    exact = rows.double()
    assert found.tokens == 500
    assert torch.allclose(found.mean, exact.mean(dim=0), rtol=1e-12, atol=1e-14)
    assert torch.allclose(found.std, exact.std(dim=0, correction=0), rtol=1e-9, atol=0)
    assert found.active.equal((exact > 0).double().mean(dim=0))
    assert found.live.tolist() == [True, True, True, False, False, True]
    assert found.mean[3] == exact[0, 3]  # to the last bit
    assert found.std[3] == 0
    with pytest.raises(uf.InputError, match=r"^model: layer 'x' gives NaN or infinity"):
        found.add(torch.full((1, 6), torch.nan))
