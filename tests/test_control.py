"""`uf.control`: what it is given, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import univfast as uf
from support.live_models import token_ids
from support.tiny_models import BRIEF, SMALL
from support.untrained import trained
from univfast.errors import InputError
from univfast.experiment import train

PILOT = {"batches": token_ids(), "hooks": "act.*"}


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({}, InputError, "match_rate: needs batches and hooks, .*; give both, or match_rate=False"),
        ({"hooks": "act.*"}, InputError, "match_rate: needs batches and hooks"),
        ({"batches": token_ids()}, InputError, "match_rate: needs batches and hooks"),
        ({**PILOT, "match_rate": False}, InputError, "batches: is what rates are matched by; leav"),
        ({**PILOT, "batches": []}, InputError, "batches: there are none with tokens; give at lea"),
        ({**PILOT, "batches": [torch.empty(0, 3)]}, InputError, "batches: there are none with"),
        ({**PILOT, "batches": token_ids()[0]}, TypeError, "batches: .* got Tensor; give a list"),
        ({**PILOT, "hooks": "nothing"}, InputError, "hooks: no module matches 'nothing'"),
        ({**PILOT, "mask": lambda x: x < 0}, InputError, "mask: leaves no token; true marks"),
        ({**PILOT, "mask": lambda x: x[0] > 0}, InputError, "mask: the mask has 20 values"),
        ({**PILOT, "mask": [PILOT["batches"][0] > 0]}, InputError, "more batches than masks"),
        ({**PILOT, "seed": -1}, InputError, "seed: got -1"),
        ({**PILOT, "model": "a.ckpt"}, TypeError, "Module or a TrainedModel, got str"),
    ],
)
def test_what_is_refused(given: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^[^\n]*{message}"):
        uf.control(**{"model": trained(), **given})


def test_an_attention_mask_is_the_mask() -> None:
    class OfTokenizer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = trained()

        def forward(self, ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.inner(ids)

    model, mask = OfTokenizer(), torch.arange(20) < 12
    batches = [{"ids": x, "attention_mask": mask.expand(6, 20).long()} for x in token_ids()]
    control = uf.control(model, 0, batches=batches, hooks="inner.act.0")
    plain = uf.control(model, 0, batches=token_ids_of(batches), hooks="inner.act.0", mask=kept)
    shifts = (m.inner.act[0].univfast_shift_of_input for m in (control, plain))
    assert torch.equal(*shifts)


def token_ids_of(batches: list[dict[str, torch.Tensor]]) -> list[tuple[torch.Tensor, ...]]:
    return [tuple(batch.values()) for batch in batches]


def kept(batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return batch[1] == 1


def test_of_a_trained_model_it_is_a_trained_model() -> None:
    model = train(SMALL, "docs", 1, "first", BRIEF)
    control = uf.control(model, 3)
    assert (control.control, control.match_rate, control.steps) == (3, True, 0)
    assert not uf.control(model, match_rate=False).match_rate
    with pytest.raises(InputError, match="hooks: a TrainedModel has its own test set; leave it"):
        uf.control(model, hooks="blocks.*.mlp.relu")
    with pytest.raises(InputError, match="model: is a control itself; give the trained model"):
        uf.control(control)


def test_controls_run_beside_models() -> None:
    model, batches = trained(), token_ids()
    control = uf.control(model, 0, **PILOT)
    result = uf.correlate_models(model, control, batches, hooks="act.*", match="best", draws=2)
    dead = result.correlation.isnan()
    assert torch.equal(dead.view(3, -1)[:, :4], torch.ones(3, 4, dtype=torch.bool))
    assert result.correlation[~dead].abs().max() <= 1
