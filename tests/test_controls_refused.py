"""`uf.correlate` with controls: what is refused, and what is warned of."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import univfast as uf
from support.controlled import TOKENS, WIDTHS, controls_of, cut, sides, two, untrained
from support.pairs import Layers
from univfast.errors import InputError

each_match = pytest.mark.parametrize("match", ["index", "best"])


def refused(message: str, *models: object, **options: Any) -> None:
    with pytest.raises(InputError, match=f"^{message}") as caught:
        uf.correlate(*models, **options)
    assert "\n" not in str(caught.value)


@pytest.fixture
def given() -> dict[str, Any]:
    return dict(zip("ab", two("index"), strict=True))


@each_match
@pytest.mark.parametrize("side", ["a", "b"])
def test_other_architectures(match: Any, side: str, given: dict[str, Any]) -> None:
    a, b = given.values()
    good = controls_of(10, 1, dead=False)
    name = f"controls_{side}"
    same = "a control is a network of the same architecture"
    renamed = {key.replace("l", "m"): x for key, x in untrained(3).items()}
    refused(
        rf"{name}\[1\]: has no layer 'l0', as {side} has; {same}",
        *(a, b),
        **{"match": match, name: [*good, renamed]},
    )
    refused(
        rf"{name}\[0\]: layer 'l1' has 17 neurons, that of {side} has 16; {same}",
        *(a, b),
        **{"match": match, name: [untrained(3, (24, 17)), *good]},
    )
    deeper = untrained(3, (*WIDTHS, 5))  # whose other layers are not read
    uf.correlate(a, b, match=match, **{name: [deeper]})


@each_match
@pytest.mark.parametrize("side", ["a", "b"])
def test_other_tokens(match: Any, side: str, given: dict[str, Any]) -> None:
    a, b = given.values()
    for tokens in (TOKENS - 1, 150):
        refused(
            rf"controls_{side}\[0\]: layer 'l0' has {tokens} tokens, that of {side} has {TOKENS};"
            r" run the control on the same tokens, or on the first 200 of them",
            *(a, b),
            **{
                "match": match,
                "control_tokens": 200,
                f"controls_{side}": [cut(untrained(3), tokens)],
            },
        )


def test_lone_layers_need_no_name() -> None:
    a, b = two("index")
    named = uf.correlate({"l0": a["l0"]}, {"l0": b["l0"]}, controls_a=[{"l0": untrained(10)["l0"]}])
    bare = uf.correlate({"l0": a["l0"]}, b["l0"], controls_a=[untrained(10)["l0"]])
    assert torch.equal(named.control_a.nan_to_num(9), bare.control_a.nan_to_num(9))  # type: ignore[union-attr]


def test_as_many_of_each(given: dict[str, Any]) -> None:
    a, b = given.values()
    nets = controls_of(10, 3, dead=False)
    refused(
        "controls_a and controls_b: the models have 3 and 2 controls; give as many of each",
        *(a, b),
        controls_a=nets,
        controls_b=nets[:2],
    )
    refused(
        "controls_a and controls_b: the models have 1, 1 and 2 controls",
        *(a, [b, b]),
        controls_a=nets[:1],
        controls_b=[nets[:1], nets[:2]],
    )
    refused("controls_a: got no models; give at least one", a, b, controls_a=[])
    refused("controls_b: got no models; give at least one", a, b, controls_b=[])


def test_a_list_of_controls_for_each_of_several_models(given: dict[str, Any]) -> None:
    a, b = given.values()
    nets = controls_of(10, 3, dead=False)
    for wrong, number in ((nets, 3), (nets[:1], 1), (nets[0], 1)):
        refused(
            f"controls_b: got {number}, and there are 2 other models; give a list of controls for"
            " each of them, in their order",
            *(a, [b, b]),
            controls_b=wrong,
        )
    refused(r"controls_b\[1\]: got no models", a, [b, b], controls_b=[nets, []])
    # One that is no list is the only one.
    one = uf.correlate(a, b, controls_b=nets[0])
    assert one.summary["controls"]["b"] == [["controls_b"]]
    one = uf.correlate(a, [b, b], controls_b=[nets[0], nets[1]])
    assert one.summary["controls"]["b"] == [["controls_b[0]", "controls_b[1]"]]


@each_match
@pytest.mark.parametrize("side", ["a", "b"])
def test_a_model_is_no_control_of_itself(match: Any, side: str, given: dict[str, Any]) -> None:
    name = f"controls_{side}"
    refused(
        rf"{name}\[1\]: has the activations of {side}, which is trained; give those of a network",
        *given.values(),
        **{"match": match, name: [untrained(3), given[side]]},
    )


def test_a_model_with_itself_has_no_controls(given: dict[str, Any]) -> None:
    a = given["a"]
    for name in ("controls_a", "controls_b"):
        refused(
            f"{name}: is for two models, and not for one whose own neurons are left out; leave",
            *(a, a),
            **{"exclude_self": True, name: [untrained(3)]},
        )


def test_wrong_numbers(given: dict[str, Any]) -> None:
    a, b = given.values()
    for options, error, message in (
        ({"control_tokens": 63}, InputError, "control_tokens: got 63"),
        ({"control_tokens": "9"}, TypeError, "control_tokens: expected an integer, got str"),
        ({"control_margin": -0.1}, InputError, "control_margin: got -0.1"),
        ({"control_margin": float("nan")}, InputError, "control_margin: got nan"),
    ):
        with pytest.raises(error, match=f"^{message}"):
            uf.correlate(a, b, controls_b=[untrained(3)], **options)  # type: ignore[arg-type]


def test_a_mask_that_leaves_controls_no_token(given: dict[str, Any]) -> None:
    mask = torch.arange(TOKENS) >= 100
    options: Any = {"mask": mask, "control_tokens": 100, "controls_b": [untrained(3)]}
    refused(
        "control_tokens: the mask leaves none of the first 100 tokens, which controls are run on",
        *given.values(),
        **options,
    )
    uf.correlate(*given.values(), **{**options, "control_tokens": 200})


@each_match
def test_bad_values_of_a_control_are_named(match: Any, given: dict[str, Any]) -> None:
    bad = untrained(3)
    bad["l1"][77, 3] = torch.nan
    refused(
        r"controls_a\[1\]: layer 'l1' has nan at token 77, neuron 3",
        *given.values(),
        match=match,
        controls_a=[untrained(4), bad],
    )


# ---- how active controls are ---------------------------------------------------------------------


def with_dead(net: Layers, dead: int) -> Layers:
    """The same with so many neurons dead, of 40."""
    for i in range(dead):
        layer = "l0" if i < WIDTHS[0] else "l1"
        net[layer][:, i % WIDTHS[0]] = 0.5
    return net


@each_match
def test_a_control_under_half_alive_is_refused(match: Any) -> None:
    a, b = (with_dead(untrained(seed), 4) for seed in (1, 2))  # of 40, 36 live
    uf.correlate(a, b, match=match, controls_b=[with_dead(untrained(3), 22)])
    refused(
        r"controls_b\[1\]: has 17 live neurons on the first tokens, b has 36; a control with under"
        r" half of them is none: make it with match_rate=True",
        *(a, b),
        match=match,
        controls_b=[untrained(4), with_dead(untrained(3), 23)],
    )
    dead = with_dead(untrained(3), 40)
    refused(r"controls_a\[0\]: has 0 live", a, b, match=match, controls_a=[dead])


def test_dead_is_dead_on_the_tokens_that_controls_are_run_on(given: dict[str, Any]) -> None:
    late = untrained(3)
    for x in late.values():
        x[:200] = 0.5
    uf.correlate(*given.values(), controls_b=[late])
    refused(
        r"controls_b\[0\]: has 0 live neurons on the first tokens, b has 39;",
        *given.values(),
        controls_b=[late],
        control_tokens=200,
    )
    early = torch.arange(TOKENS) < 150
    refused(r"controls_b\[0\]: has 0 live", *given.values(), controls_b=[late], mask=early)


def test_warned_of_neurons_that_are_active_otherwise(given: dict[str, Any]) -> None:
    a, b = given.values()
    rare, often = untrained(3, bias=-1.5), untrained(4, bias=3.0)
    message = (
        r"^controls_b\[0\]: its median neuron is active on \d+\.\d% of tokens, that of b on"
        r" 4\d\.\d%; make controls with match_rate=True$"
    )
    with pytest.warns(UserWarning, match=message) as caught:
        result = uf.correlate(a, b, controls_b=[rare, untrained(5)])
    assert len(caught) == 1
    assert caught[0].filename == __file__
    said = result.summary["controls"]
    assert said["warnings"] == [str(caught[0].message)]
    assert f"That is no fair comparison: {said['warnings'][0]}." in result.verdict()
    shares = [
        float(torch.cat([(x > 0).double().mean(0)[x.std(0) > 0] for x in net.values()]).median())
        for net in (a, b, rare, untrained(5))
    ]
    assert said["active"] == pytest.approx(shares[:2])
    assert said["active_in_controls"] == [[], pytest.approx(shares[2:])]
    with pytest.warns(UserWarning, match=r"^controls_a\[1\]: .* active on 9\d\.\d% of tokens"):
        uf.correlate(a, b, controls_a=[untrained(5), often])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = uf.correlate(a, b, **sides("index", 2))
    assert result.summary["controls"]["warnings"] == []
