"""What patterns of hooks matched is said, and where that is more than may be meant."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

import univfast as uf
from support.live_models import llama, token_ids
from support.networks import HOOKS, OPTIONS, Network, inputs
from univfast.networks.globs import matched, nested


def correlated(hooks: Any, **more: Any) -> uf.CorrelationResult:
    return uf.correlate_models(Network(1), Network(2), inputs(), hooks=hooks, **{**OPTIONS, **more})


def test_a_result_says_what_matched() -> None:
    found = correlated([HOOKS, "layers.1.up"], hooks_b="layers.*.down:input")
    assert found.summary["hooks"] == [
        {
            "model": "a",
            "pattern": HOOKS,
            "modules": 2,
            "first": "layers.0.act",
            "last": "layers.1.act",
        },
        {
            "model": "a",
            "pattern": "layers.1.up",
            "modules": 1,
            "first": "layers.1.up",
            "last": "layers.1.up",
        },
        {
            "model": "b",
            "pattern": "layers.*.down:input",
            "modules": 2,
            "first": "layers.0.down:input",
            "last": "layers.1.down:input",
        },
    ]


def test_it_is_saved(tmp_path: Any) -> None:
    found = correlated(HOOKS)
    found.save(tmp_path / "r")
    text = (tmp_path / "r" / "summary.json").read_text()
    assert '"pattern": "layers.*.act"' in text


CROSSES = (
    r"^hooks: 'layers\.\*' matches 8 modules, 6 of them within others of them, as 'layers\.0\.up',"
    r" since '\*' crosses dots: 'layers\.\?' would match those 2 alone$"
)


def test_modules_within_others_are_said() -> None:
    with pytest.warns(UserWarning, match=CROSSES):
        found = correlated("layers.*")
    assert len(found.summary["warnings"]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert correlated("layers.?").summary["hooks"][0]["modules"] == 2
        correlated(["layers.?", "layers.?.act"])  # both named, and meant


@pytest.mark.slow
def test_blocks_of_llama() -> None:
    """``model.layers.*`` is the blocks and all that is in them."""
    a, b = llama(1), llama(2)
    count = sum(name.startswith("model.layers.") for name, _ in a.named_modules())
    message = rf"'model\.layers\.\*' matches {count} modules, {count - 2} of them .*layers\.\?' wou"
    with pytest.warns(UserWarning, match=message):
        uf.correlate_models(a, b, token_ids(), hooks="model.layers.*", match="index", draws=1)
    found = uf.correlate_models(a, b, token_ids(), hooks="model.layers.?", draws=1, match="best")
    assert found.summary["layers"][1]["layer"] == "model.layers.1"


def test_patterns_that_match_the_outer_ones_alone() -> None:
    def instead(pattern: str, names: list[str]) -> str:
        (line,) = nested(names, pattern)
        return line.rpartition(": ")[2]

    ten = [f"h.{i}{end}" for i in range(12) for end in ("", ".act")]
    assert instead("h.*", ten) == "'h.?' and 'h.??' would match those 12 alone"
    # 'h.?' would leave out 'h.10', and 'h.???' match 'x.y' too.
    assert instead("*", ["h", "h.a", "longer"]) == "name those that are meant"
    inputs = [f"{name}:input" for name in ten]
    assert instead("h.*:input", inputs).startswith("'h.?:input' and 'h.??:input'")
    assert nested(ten, ["h.?", "h.??", "h.*.act"]) == []
    # A pattern of inputs matches no outputs.
    assert [x.modules for x in matched([*ten, "h.0.act:input"], ["h.*.act", "h.0.*:input"])] == [
        12,
        1,
    ]


def test_words() -> None:
    one, several = matched(["h.0.act", "h.1.act"], ["h.0.act", "h.*"])
    assert str(one) == "hooks 'h.0.act': 1 module, h.0.act"
    assert str(several) == "hooks 'h.*': 2 modules, h.0.act to h.1.act"
