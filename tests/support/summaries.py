"""Made-up summaries, and what is said of them."""

from __future__ import annotations

import re
from typing import Any

from univfast.report.verdict import verdict

# Of 100 live neurons; the chance counts have a mean of 5 and a standard deviation of 1.
SUMMARY: dict[str, Any] = {
    "models": ["a", "b"],
    "match": "best",
    "rotation": {"kind": "haar", "draws": 3, "seed": 0},
    "threshold": 0.5,
    "tokens": 64_000,
    "neurons": 110,
    "dead": 10,
    "unmatched": 0,
    "universal": 40,
    "universal_partners": 13,
    "universal_mutual": 12,
    "universal_by_chance": 5.0,
    "chance_counts": [4, 5, 6],
    "fdr": 0.125,
    "q_below_0.05": 30,
    "mean_correlation": 0.25,
    "universal_on_control_tokens": None,
    "universal_by_control": None,
    "fdr_control": None,
    "learned": None,
    "learned_by_control": None,
    "controls": None,
    "layers": [{"layer": "mlp.0", "mean_baseline": 0.2}, {"layer": "mlp.1", "mean_baseline": None}],
}
AT_CHANCE = {"universal": 6}
THREE = {"models": ["a", "b", "c", "d"], "universal_mutual": None}

FLAGGED = "40 neurons of A are universal (excess above 0.5): 13 distinct partners in B, 12 pairs"
NO_CONTROLS = (
    "Not compared with untrained networks (--controls-b); rotations of B, which give 5.0, say that"
    " axes agree, not that they were learned."
)
NO_SHIFTED_CONTROLS = (
    "Not compared with untrained networks (--controls-b); shifted partners, which give 5.0, say"
    " that numbers agree, not that they were learned."
)
INDEX_NOTE = (
    "Index matching compares neuron i with neuron i, which means something only for models of one"
    " lineage (checkpoints of one run, a model and its fine-tuned, quantised or pruned copy)."
)


def words(**changes: Any) -> str:
    said = verdict({**SUMMARY, **changes})
    for never in ("None", "nan", "  ", "..", "expected to be false"):
        assert never not in said
    assert re.fullmatch(r"[A-Z0-9].*\.", said)
    return said


def compared(
    a: list[int], b: list[int], more: bool = True, margin: float = 0.3, **changes: Any
) -> str:
    """What is said where controls of A flag so many, and controls of B."""
    controls = {
        "flagged_a": a,
        "flagged_b": b,
        "tokens": 64_000,
        "more_than_controls": more,
        "margin": margin,
        "warnings": [],
    }
    controls |= changes.pop("controls", {})
    numbers = {
        "controls": controls,
        "universal_on_control_tokens": 40,
        "universal_by_control": 11.7,
        "fdr_control": 0.43,
        "learned": 11,
        "learned_by_control": 0.3,
    }
    return words(**{**numbers, **changes})


def details(**changes: Any) -> dict[str, Any]:
    found = {"follow_token": 8, "beyond_token_and_position": 9, "few_tokens": 3, "few": 30}
    found["blocks"] = 32
    return {"details": {**found, **changes}}


def layers(*baselines: float | None) -> dict[str, Any]:
    rows = [
        {"layer": f"mlp.{i}", "mean_baseline": x, "universal": 0} for i, x in enumerate(baselines)
    ]
    return {"layers": rows}
