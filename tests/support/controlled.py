"""Networks that learned nothing beside two that share neurons, and what the reference says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from support.dtypes import F64
from support.pairs import Layers
from support.parity import Array
from univfast import reference
from univfast.reference.controls import Controls, Trial, controls

TOKENS = 400
WIDTHS = (24, 16)
# Of B: by index as A's; one-to-one so few that some of A's have no partner.
WIDTHS_B = {"index": WIDTHS, "best": (20, 25), "one-to-one": (15, 16)}
COLUMNS = (
    "control_a",
    "control_b",
    "excess_control",
    "p_control_a",
    "p_control_b",
    "p_control",
)


def untrained(
    seed: int, widths: Sequence[int] = WIDTHS, tokens: int = TOKENS, bias: float = -0.2
) -> Layers:
    """ReLU of a few inputs that all networks share, and of noise of its own."""
    inputs = torch.randn(tokens, 6, generator=torch.Generator().manual_seed(5), dtype=F64)
    g = torch.Generator().manual_seed(100 + seed)

    def layer(width: int) -> torch.Tensor:
        weights = torch.randn(6, width, generator=g, dtype=F64) / 6**0.5
        noise = torch.randn(tokens, width, generator=g, dtype=F64)
        return torch.relu(inputs @ weights + 0.5 * noise + bias)

    return {f"l{i}": layer(width) for i, width in enumerate(widths)}


def two(match: str = "best") -> tuple[Layers, Layers]:
    """Two networks that share six neurons; one is dead in each."""
    a, b = untrained(1), untrained(2, WIDTHS_B[match])
    shared = b["l0" if match == "index" else "l1"]
    noise = torch.randn(TOKENS, 6, generator=torch.Generator().manual_seed(0), dtype=F64)
    shared[:, :6] = a["l0"][:, :6] + 0.1 * noise
    a["l0"][:, 7] = 0.1
    b["l1"][:, 9] = 0
    return a, b


def controls_of(
    first: int, number: int, widths: Sequence[int] = WIDTHS, dead: bool = True
) -> list[Layers]:
    """Untrained networks; the last has dead neurons, also of a number that lives in the others."""
    found = [untrained(first + k, widths) for k in range(number)]
    if dead:
        found[-1]["l0"][:, 2:5] = 0
        found[-1]["l1"][:, 1:5] = 0.25
    return found


def sides(match: str, number: int) -> dict[str, list[Layers]]:
    """Controls of A and of B, as `univfast.correlate` takes them."""
    return {
        "controls_a": controls_of(10, number),
        "controls_b": controls_of(20, number, WIDTHS_B[match]),
    }


def trial(a: Layers, b: Layers, match: str, mask: Any = None, **rotation: Any) -> Trial:
    """The neurons of one network matched with those of another, in float64."""
    x, y = ({name: v.double().numpy() for name, v in layers.items()} for layers in (a, b))
    widths = [{name: v.shape[-1] for name, v in layers.items()} for layers in (x, y)]
    r, found = reference.correlate(x, y, match=match, mask=mask, **rotation)
    baseline = found.baseline
    if rotation.get("rotation") == "none":  # by index nothing is taken off r
        baseline = np.full(len(r), 0.0 if match == "index" else -np.inf)
    if match == "index":
        place = np.where(np.isnan(r), -1, np.arange(len(r)))
        return Trial(r, baseline, place, r)
    pairs = reference.AllPairsCorrelation(*widths, rotation="none")
    pairs.update(x, y, mask)
    matrix, _ = pairs.compute()
    if match == "best":
        return Trial(r, baseline, reference.best(matrix)[0], reference.best(matrix.T)[1])
    partner = reference.one_to_one(matrix)[0]
    back = np.full(matrix.shape[1], np.nan)
    back[partner[partner >= 0]] = r[partner >= 0]
    return Trial(r, baseline, partner, back)


def expected(
    a: Layers,
    b: Layers,
    match: str,
    controls_a: Sequence[Layers] = (),
    controls_b: Sequence[Layers] = (),
    threshold: float = 0.5,
    margin: float = 0.3,
    **options: Any,
) -> Controls:
    """What the reference says; ``options`` are the rotation's and the mask."""

    def of(x: Layers, y: Layers) -> Trial:
        return trial(x, y, match, **options)

    return controls(
        of(a, b),
        [of(x, b) for x in controls_a],
        [of(a, y) for y in controls_b],
        [of(x, y) for x, y in zip(controls_a, controls_b, strict=False)],
        threshold,
        margin,
    )


def cut(layers: Layers, tokens: int) -> Layers:
    """The first tokens."""
    return {name: x[:tokens].clone() for name, x in layers.items()}


def assert_close(found: object, expected: Array, limit: float, name: str) -> None:
    """Numbers about as they should be, and NaN at the same places."""
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=limit, err_msg=name)


def assert_as_the_reference(result: Any, e: Controls, limit: float = 1e-11) -> None:
    """Columns and counts of a result are those of the reference."""
    for name in COLUMNS:
        assert_close(getattr(result, name), getattr(e, name), limit, name)
    np.testing.assert_array_equal(result.learned, e.learned)
    summary = result.summary
    assert summary["learned"] == e.learned.sum()
    assert abs(summary["universal_by_control"] - e.universal_by_control) < 1e-12
    if np.isnan(e.learned_by_control):
        assert summary["learned_by_control"] is None
    else:
        assert abs(summary["learned_by_control"] - e.learned_by_control) < 1e-12
