"""`uf.correlate_models` with controls and details: the same as from captured activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import univfast as uf
from support.controlled import COLUMNS
from support.live_models import by_hand
from univfast.columns import columns_of
from univfast.experiment import ModelConfig, TinyTransformer

HOOKS = "blocks.*.mlp.relu"
WIDTH, SAMPLES, SEQUENCE, NUMBER = 24, 16, 24, 4
TOKENS = SAMPLES * SEQUENCE * NUMBER
MATCHINGS = ("best", "index", "one-to-one")
OF_DETAILS = [
    column.name for column in columns_of("neurons", ("details",)) if column.only == "details"
]


def network(seed: int) -> nn.Module:
    """A tiny transformer; its neurons are active less often than its controls'."""
    torch.manual_seed(seed)
    model = TinyTransformer(ModelConfig(d_mlp=WIDTH, d_model=16, sequence=SEQUENCE))
    with torch.no_grad():
        for block in model.blocks:
            block.mlp.up.bias -= 0.6
    return model


BATCHES = [
    torch.randint(0, 128, (SAMPLES, SEQUENCE), generator=torch.Generator().manual_seed(i))
    for i in range(NUMBER)
]


class Networks:
    """Two models that share neurons of the first layer, and two controls of each."""

    def __init__(self) -> None:
        self.a, self.b = network(1), network(2)
        with torch.no_grad():
            self.b.load_state_dict(
                {
                    name: x if "blocks.1" in name else self.a.state_dict()[name]
                    for name, x in self.b.state_dict().items()
                }
            )
            self.b.blocks[0].mlp.up.weight[6:] += 0.5 * torch.randn(WIDTH - 6, 16)  # type: ignore[union-attr,index]
        for block, dead in ((self.a.blocks[0], 7), (self.b.blocks[1], 3)):  # type: ignore[index]
            block.mlp.up.bias.data[dead] = -1e3
        self.controls_a, self.controls_b = (
            [uf.control(model, k, batches=BATCHES, hooks=HOOKS) for k in range(2)]
            for model in (self.a, self.b)
        )

    @property
    def all(self) -> list[nn.Module]:
        return [self.a, self.b, *self.controls_a, *self.controls_b]

    @property
    def controls(self) -> dict[str, list[nn.Module]]:
        return {"controls_a": self.controls_a, "controls_b": self.controls_b}


@pytest.fixture(scope="module")
def nets() -> Networks:
    return Networks()


def captured(model: nn.Module, batches: Sequence[Tensor] = BATCHES) -> dict[str, Tensor]:
    return by_hand(model, [f"blocks.{i}.mlp.relu" for i in range(2)], batches)


def from_files(nets: Networks, sides: Sequence[str], **options: Any) -> uf.CorrelationResult:
    """The same from activations of all of them."""
    controls: Any = {name: [captured(x) for x in nets.controls[name]] for name in sides}
    return uf.correlate(captured(nets.a), captured(nets.b), **controls, **options)


def assert_same(
    live: uf.CorrelationResult, stored: uf.CorrelationResult, names: Sequence[str]
) -> None:
    for name in ("correlation", "baseline", "excess", *names):
        one, other = getattr(live, name), getattr(stored, name)
        if other is None:
            assert one is None
            continue
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6, err_msg=name)
    for name in ("universal", "dead", "match_neuron", "learned"):
        one, other = getattr(live, name), getattr(stored, name)
        assert one is other is None or torch.equal(one, other), name
    assert live.match_layer == stored.match_layer
    one, other = (plain(result.summary) for result in (live, stored))
    # What hooks matched, and what tells files from others.
    of_one_alone = ("hooks", "fingerprints")
    one, other = ({k: x for k, x in y.items() if k not in of_one_alone} for y in (one, other))
    assert one == other


def plain(summary: dict[str, Any]) -> dict[str, Any]:
    """The counts of a summary, and its other numbers in a few digits."""
    found = {k: x for k, x in summary.items() if k not in ("models", "seconds", "layers", "text")}
    if found["controls"] is not None:
        found["controls"] = {k: x for k, x in found["controls"].items() if k not in ("a", "b")}
    return dict(rounded(found))


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(x) for x in value]
    return pytest.approx(value, abs=1e-6) if isinstance(value, float) else value


LOW: dict[str, Any] = {"threshold": 0.2, "control_margin": 0.1, "draws": 2}
BOTH = ("controls_a", "controls_b")


# ---- the same as from captured activations -------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("few", [None, 500, SAMPLES * SEQUENCE], ids=["all", "cut", "one batch"])
@pytest.mark.parametrize("sides", [BOTH, BOTH[:1], BOTH[1:]], ids=["both", "of A", "of B"])
@pytest.mark.parametrize("match", MATCHINGS)
def test_controls(match: str, sides: tuple[str, ...], few: int | None, nets: Networks) -> None:
    options = {**LOW, "match": match, **({} if few is None else {"control_tokens": few})}
    given = {name: nets.controls[name] for name in sides}
    live = uf.correlate_models(nets.a, nets.b, BATCHES, hooks=HOOKS, **given, **options)
    assert_same(live, from_files(nets, sides, **options), COLUMNS)
    controls = live.summary["controls"]
    assert controls["tokens"] == (few or TOKENS)
    assert live.summary["tokens"] == TOKENS
    assert live.summary["learned"] > 0
    assert controls["a"] == (["a (control 0)", "a (control 1)"] if "controls_a" in sides else [])


@pytest.mark.slow
@pytest.mark.parametrize("controlled", [False, True], ids=["alone", "with controls"])
@pytest.mark.parametrize("match", MATCHINGS)
def test_details(match: str, controlled: bool, nets: Networks) -> None:
    sides = BOTH if controlled else ()
    options: dict[str, Any] = {**LOW, "match": match, "details": True}
    given = {name: nets.controls[name] for name in sides}
    live = uf.correlate_models(nets.a, nets.b, BATCHES, hooks=HOOKS, **given, **options)
    ids = torch.cat(BATCHES)
    names = [*OF_DETAILS, *(COLUMNS if controlled else ())]
    stored = from_files(nets, sides, token_ids=ids, **options)
    assert_same(live, stored, names)
    assert live.token_r2 is not None
    assert live.position_r2 is not None
    assert live.contexts is not None
    assert stored.contexts is not None
    for one, other in zip(live.contexts, stored.contexts, strict=True):
        np.testing.assert_allclose(one.value, other.value, rtol=1e-5, atol=1e-6)
    assert live.verdict().split(". ")[1:] == stored.verdict().split(". ")[1:]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["function", "masks"])
@pytest.mark.parametrize("match", ["best", "index"])
def test_masks(match: str, kind: str, nets: Networks) -> None:
    masks = [batch % 5 > 0 for batch in BATCHES]
    options: dict[str, Any] = {**LOW, "match": match, "details": True, "control_tokens": 700}
    live = uf.correlate_models(
        nets.a,
        nets.b,
        BATCHES,
        hooks=HOOKS,
        mask=masks if kind == "masks" else (lambda batch: batch % 5 > 0),
        **nets.controls,
        **options,
    )
    mask = torch.cat(masks)
    stored = from_files(nets, BOTH, mask=mask, token_ids=torch.cat(BATCHES), **options)
    assert_same(live, stored, [*COLUMNS, *OF_DETAILS])
    assert live.summary["controls"]["tokens"] == int(mask.flatten()[:700].sum())


@pytest.mark.slow
def test_both_directions(nets: Networks) -> None:
    live = uf.correlate_models(
        nets.a, nets.b, BATCHES, hooks=HOOKS, reverse=True, **nets.controls, **LOW
    )
    stored = from_files(nets, BOTH, reverse=True, **LOW)
    assert live.reverse is not None
    assert stored.reverse is not None
    assert_same(live, stored, COLUMNS)
    assert_same(live.reverse, stored.reverse, COLUMNS)


def test_how_far_it_is(nets: Networks) -> None:
    ticks: list[tuple[int, int | None]] = []
    uf.correlate_models(
        nets.a,
        nets.b,
        BATCHES,
        hooks=HOOKS,
        details=True,
        controls_b=nets.controls_b,
        progress=lambda *tick: ticks.append(tick),
        **LOW,
    )
    # Two controls, the pairs once more, and what the universal ones do.
    assert ticks == [(i, 5 * NUMBER) for i in range(1, 5 * NUMBER + 1)]


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("again", ["controls", "details"])
def test_batches_that_cannot_be_had_again(again: str, nets: Networks) -> None:
    more: Any = {"details": True} if again == "details" else {"controls_a": nets.controls_a}
    options: dict[str, Any] = {"hooks": HOOKS, **more}
    with pytest.raises(uf.InputError, match=r"^batches: is an iterator, .*; give a list"):
        uf.correlate_models(nets.a, nets.b, iter(BATCHES), **options)
    masks = iter([batch > 3 for batch in BATCHES])
    with pytest.raises(uf.InputError, match=r"^mask: is an iterator, "):
        uf.correlate_models(nets.a, nets.b, BATCHES, mask=masks, **options)
    torch.manual_seed(0)
    shuffled = torch.utils.data.DataLoader(torch.cat(BATCHES), batch_size=16, shuffle=True)
    with pytest.raises(uf.InputError, match=r"^batches: batch 0 is another when .* that shuffles"):
        uf.correlate_models(nets.a, nets.b, shuffled, **options)
    in_order = torch.utils.data.DataLoader(torch.cat(BATCHES), batch_size=16)
    found = uf.correlate_models(nets.a, nets.b, in_order, **options)
    expected = uf.correlate_models(nets.a, nets.b, BATCHES, **options)
    assert plain(found.summary) == plain(expected.summary)


def test_controls_that_do_not_fit(nets: Networks) -> None:
    for given, kind, message in (
        ({**nets.controls, "controls_b": nets.controls_b[:1]}, uf.InputError, "have 2 and 1 cont"),
        ({"controls_a": 3}, TypeError, r"^controls_a: expected a list of torch.nn.Module, got int"),
        ({"controls_b": [nets.b, "x"]}, TypeError, r"^controls_b\[1\]: expected a torch.nn.Module"),
        ({**nets.controls, "exclude_self": True}, uf.InputError, "^controls_a: is for two models"),
    ):
        with pytest.raises(kind, match=message):
            uf.correlate_models(nets.a, nets.b, BATCHES, hooks=HOOKS, **given)  # type: ignore[arg-type]


# ---- what is left --------------------------------------------------------------------------------


def hooks_of(model: nn.Module) -> list[int]:
    return [
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    ]


@pytest.mark.parametrize("fails", [False, True], ids=["ends well", "fails"])
def test_models_and_controls_are_left_as_they_were(fails: bool, nets: Networks) -> None:
    models = nets.all
    modes = [[(i + j) % 2 == 0 for j, _ in enumerate(m.modules())] for i, m in enumerate(models)]
    for model, training in zip(models, modes, strict=True):
        for module, mode in zip(model.modules(), training, strict=True):
            module.training = mode
    hooks = [hooks_of(model) for model in models]
    weights = [[x.clone() for x in model.parameters()] for model in models]
    calls = 0

    def mask(batch: Tensor) -> None:
        nonlocal calls
        calls += 1
        assert not any(x.training for model in models for x in model.modules())
        if fails and calls == 2 * NUMBER + 2:  # while the first controls run
            raise ZeroDivisionError

    options: dict[str, Any] = {**nets.controls, **LOW, "details": True, "hooks": HOOKS}
    try:
        if fails:
            with pytest.raises(ZeroDivisionError):
                uf.correlate_models(nets.a, nets.b, BATCHES, mask=mask, **options)
        else:
            uf.correlate_models(nets.a, nets.b, BATCHES, mask=mask, **options)
        assert [[x.training for x in model.modules()] for model in models] == modes
    finally:
        for model in models:
            model.eval()
    assert [hooks_of(model) for model in models] == hooks
    for model, before in zip(models, weights, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(model.parameters(), before, strict=True))
        assert all(x.grad is None for x in model.parameters())
