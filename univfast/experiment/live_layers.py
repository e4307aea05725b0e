"""Activations of a tiny transformer that runs when they are read, and keeps none."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from univfast.experiment.model import TinyTransformer
from univfast.experiment.model_files import TrainedModel
from univfast.experiment.sites import Site, record_mlp, test_set_name, test_tokens
from univfast.inputs.layers import Activations

__all__ = ["live_activations"]


def live_activations(trained: TrainedModel, name: str, site: Site = "pre") -> Activations:
    """What `capture_mlp` gives, made when it is read: memory holds what was read last.

    Args:
        trained: the model, or a control.
        name: what to call it.
        site: ``"pre"``, right after the first linear layer, or ``"post"``, after the ReLU.

    Raises:
        InputError: the test text cannot be used.
    """
    source = _Source(trained, site)
    config = trained.config
    layers = {
        f"mlp.{i}": _LiveLayer(f"mlp.{i}", config.d_mlp, source) for i in range(config.layers)
    }
    return Activations(
        name,
        dict(layers),
        test_set_name(trained),
        window=config.sequence,
        ids=source.samples.flatten(),
        text=chr,
        end=source.end,
    )


class _Source:
    """Runs the model on ranges of tokens, and holds what its layers gave for the latest range."""

    def __init__(self, trained: TrainedModel, site: Site) -> None:
        self.samples = test_tokens(trained)  # [samples, sequence]
        self._trained, self._site = trained, site
        self._model: TinyTransformer | None = None
        self._range = (0, 0)
        self._rows: Mapping[str, Tensor] = {}

    def read(self, layer: str, start: int, stop: int) -> Tensor:
        sequence = self.samples.shape[1]
        if not 0 <= start <= stop <= self.samples.numel():
            raise IndexError(f"tokens {start} to {stop} of {self.samples.numel()}")
        if (start, stop) != self._range or not self._rows:
            if self._model is None:
                self._model = self._trained.model()
            first, last = start // sequence, -(-stop // sequence)
            recorded = record_mlp(self._model, self.samples[first:last], self._site)
            inside = slice(start - first * sequence, stop - first * sequence)
            self._rows = {
                name: values.reshape(-1, values.shape[-1])[inside]
                for name, values in recorded.items()
            }
            self._range = (start, stop)
        return self._rows[layer]

    def end(self) -> None:
        """Forgets the model and what it gave."""
        self._model, self._rows = None, {}

    def fingerprint(self) -> bytes:
        """Of the weights and the tokens, which the values follow from."""
        digest = hashlib.sha256(self._site.encode() + self.samples.numpy().tobytes())
        for name, value in self._trained.state.items():
            digest.update(name.encode() + value.contiguous().numpy().tobytes())
        return digest.digest()


class _LiveLayer:
    """A `Layer` of a model that runs when it is read."""

    def __init__(self, name: str, neurons: int, source: _Source) -> None:
        self.name, self.neurons = name, neurons
        self.shape = (*source.samples.shape, neurons)
        self.tokens = source.samples.numel()
        self.dtype, self.device = torch.float32, torch.device("cpu")
        self._source = source

    def read(self, start: int, stop: int) -> Tensor:
        return self._source.read(self.name, start, stop)

    def prepare(self, start: int, stop: int) -> None:
        """Does nothing: running the model ahead would take the cores from what is done now."""

    def release(self, start: int, stop: int) -> None:
        """Does nothing: the next range takes the place of this one."""

    def fingerprint(self) -> bytes:
        digest = hashlib.sha256(repr((self.name, self.shape)).encode())
        digest.update(self._source.fingerprint())
        return digest.digest()
