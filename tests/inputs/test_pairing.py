"""Layers of two models that belong together."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.activation_files import assert_one_line, matched, model, random
from univfast.errors import InputError
from univfast.inputs.activations import open_activations
from univfast.inputs.layers import Activations
from univfast.inputs.pairing import chosen_layers, match_layers


def test_layers_are_matched_by_name_in_the_order_of_a() -> None:
    a = model("a", mlp_1=(6, 4), mlp_0=(2, 3, 5), extra=(7, 2))
    b = model("b", mlp_0=(6, 5), other=(6, 1), mlp_1=(6, 4))
    assert matched(a, b, "mlp.*") == [("mlp.1", "mlp.1"), ("mlp.0", "mlp.0")]
    assert matched(a, b, "mlp.[1]") == [("mlp.1", "mlp.1")]
    assert matched(a, a, "extra") == [("extra", "extra")]
    pairs = match_layers(a, b, "mlp.*")
    assert all(pair == (a.layers[pair[0].name], b.layers[pair[0].name]) for pair in pairs)


def test_a_lone_tensor_is_matched_with_a_single_layer() -> None:
    lone, named = model("a", activations=(6, 4)), model("b", y=(6, 4))
    assert matched(lone, named) == [("activations", "y")]
    assert matched(named, lone) == [("y", "activations")]
    with pytest.raises(InputError, match="only a has 'x', only b has 'y'"):
        matched(model("a", x=(6, 4)), named)


@pytest.mark.parametrize("shape", [(60, 4), (6, 10, 4), (2, 3, 10, 4), (2, 30, 4)])
def test_leading_axes_may_be_merged(shape: tuple[int, ...]) -> None:
    assert matched(model("a", x=(2, 3, 10, 4)), model("b", x=shape)) == [("x", "x")]


@pytest.mark.parametrize("shape", [(3, 2, 10, 4), (10, 6, 4), (20, 3, 4)])
def test_leading_axes_in_another_order_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"^a and b: layer 'x' .*another order"):
        matched(model("a", x=(2, 3, 10, 4)), model("b", x=shape))


@pytest.mark.parametrize(
    ("a", "b", "pattern", "parts"),
    [
        (
            model("a", x=(6, 4), y=(6, 4)),
            model("b", x=(6, 4), z=(6, 4)),
            None,
            ["only a has 'y'", "only b has 'z'", "layers=GLOB"],
        ),
        (model("a", x=(6, 4), y=(6, 4)), model("b", y=(6, 4)), None, ["only a has 'x'"]),
        (
            model("a", x0=(6, 4), y=(6, 4)),
            model("b", x1=(6, 4), y=(6, 4)),
            "x?",
            ["only a has 'x0'", "only b has 'x1'"],
        ),
        (model("a", x=(6, 4)), model("b", y=(6, 4)), "x", ["b: no layer matches 'x'", "'y'"]),
        (model("a", x=(6, 4)), model("b", x=(6, 4)), "X", ["a: no layer matches 'X'", "'x'"]),
        (
            model("a", x=(2, 3, 4)),
            model("b", x=(5, 4)),
            None,
            ["layer 'x'", "[2, 3, 4]", "[5, 4]", "6 and 5 tokens", "same tokens"],
        ),
        (
            model("a", activations=(6, 4)),
            model("b", y=(6, 3)),
            None,
            ["'activations' and 'y'", "[6, 4]", "[6, 3]", "match='index' needs equal widths"],
        ),
        (
            model("a", x=(6, 4), y=(7, 4)),
            model("b", x=(6, 4), y=(7, 4)),
            None,
            ["'x' and 'y'", "6 and 7 tokens"],
        ),
        (
            model("a", "docs", x=(6, 4)),
            model("b", "random", x=(6, 4)),
            None,
            ["different test sets", "docs", "random"],
        ),
    ],
)
def test_models_that_do_not_fit(
    a: Activations, b: Activations, pattern: str | None, parts: list[str]
) -> None:
    with pytest.raises(InputError) as error:
        match_layers(a, b, pattern)
    assert_one_line(error, *parts)
    if pattern is None:
        assert str(error.value).startswith("a and b: ")


def test_test_sets_need_to_agree_only_where_both_are_known() -> None:
    known = model("a", "docs", x=(6, 4))
    assert matched(known, model("b", x=(6, 4))) == [("x", "x")]
    assert matched(known, model("b", "docs", x=(6, 4))) == [("x", "x")]


def test_long_lists_of_names_are_cut() -> None:
    shapes: dict[str, Any] = {f"layer_{i}": (2, 2) for i in range(50)}
    a = model("a", **shapes)
    with pytest.raises(InputError, match=r"'layer\.5' and 44 more"):
        match_layers(a, model("b", x=(2, 2)), None)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["batch_0/layer_0", "batch_0/layer_1", "batch_1/layer_0"], "'batch_0/layer_0' and 'ba"),
        (["layer0_batch0", "layer0_batch1"], "'layer0_batch0' and 'layer0_batch1' may be parts"),
        (["shard_0", "shard_1"], "'shard_0' and 'shard_1' may be parts of one layer, or two"),
        (["rank0.mlp", "rank1.mlp"], "'rank0.mlp' and 'rank1.mlp'"),
        (["0", "1", "parts.0.mlp", "parts.1.mlp", "batch_norm1", "batch_norm2"], None),
        (["rank0.mlp", "rank0.attn"], None),
    ],
)
def test_names_of_parts_are_layers_if_it_is_said(
    tmp_path: Path, names: list[str], said: str | None
) -> None:
    layers = {name: random(20, 3, seed=i) for i, name in enumerate(names)}
    np.savez(tmp_path / "a.npz", **{name: x.numpy() for name, x in layers.items()})
    for source in (layers, tmp_path / "a.npz"):
        model = open_activations(source, "a")
        assert list(chosen_layers(model, "*")) == names
        if said is None:
            assert list(chosen_layers(model, None)) == names
            continue
        with pytest.raises(InputError, match=re.escape(said)) as error:
            chosen_layers(model, None)
        assert_one_line(error, "layers='*'")


def test_names_that_a_pattern_takes_for_layers(tmp_path: Path) -> None:
    for number in range(2):
        np.save(tmp_path / f"rank_{number}.npy", random(5, 3).numpy())
    model = open_activations(tmp_path, "a", "{layer}.npy")
    assert list(chosen_layers(model, None)) == ["rank_0", "rank_1"]
