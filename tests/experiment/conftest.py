"""What tests of the experiment are given."""

from __future__ import annotations

import pytest

from support.tiny_models import BRIEF, SMALL
from univfast.experiment import TrainedModel, train


@pytest.fixture(scope="module", autouse=True)
def repeatable(one_thread: None) -> None:
    """Checkpoints repeat to the bit only with as many threads."""


@pytest.fixture(scope="module")
def trained() -> TrainedModel:
    return train(SMALL, "docs", 1, "first", BRIEF)
