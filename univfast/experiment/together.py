"""Several models, trained at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from threading import Event, Lock

import torch

from univfast.experiment.data import default_half
from univfast.experiment.model import ModelConfig
from univfast.experiment.model_files import TrainedModel
from univfast.experiment.training import Progress, TrainingOptions, train

__all__ = ["train_together"]


class _StopError(Exception):
    """Training is given up, as another model's failed or the user asks for it."""


def train_together(
    config: ModelConfig,
    data: str,
    seeds: Sequence[int],
    options: TrainingOptions,
    progress: Progress | None = None,
) -> list[TrainedModel]:
    """Train a model of each seed, as `train` does, each on a thread of its own.

    Each computes with one thread of torch: operations of models so tiny gain little from more, and
    where cores are busy, threads that wait for each other take many times as long. So the models do
    not depend on the number of cores.

    Args:
        config: the sizes of all models.
        data: the corpus, as `load_corpus` takes it.
        seeds: of the models; odd ones read the first half of the text, even ones the second.
        options: how to train.
        progress: called after each step of any, with the steps of all.

    Raises:
        InputError: what `train` refuses.
    """
    done = [0] * len(seeds)
    stopped, turn = Event(), Lock()

    def one(number: int) -> TrainedModel:
        def note(step: int, steps: int, loss: float) -> None:
            if stopped.is_set():
                raise _StopError
            with turn:
                done[number] = step
                if progress is not None:
                    progress(sum(done), steps * len(seeds), loss)

        seed = seeds[number]
        return train(config, data, seed, default_half(seed), options, note)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(len(seeds)) as pool:
            running = [pool.submit(one, number) for number in range(len(seeds))]
            try:
                ended, _ = wait(running, return_when=FIRST_EXCEPTION)
                for model in ended:
                    model.result()  # raises what it ended by
            finally:
                stopped.set()  # others, if one failed or the wait was interrupted
            return [model.result() for model in running]
    finally:
        torch.set_num_threads(threads)
