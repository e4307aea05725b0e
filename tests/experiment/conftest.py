"""What tests of the experiment are given."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from support.tiny_models import BRIEF, SMALL
from univfast.experiment import TrainedModel, train


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Checkpoints repeat to the bit only with as many threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained() -> TrainedModel:
    return train(SMALL, "docs", 1, "first", BRIEF)
