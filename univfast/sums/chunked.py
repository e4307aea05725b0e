"""Sums of some pairs alone, on the CPU: tokens are added in chunks, however batches are cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor

from univfast.errors import InputError
from univfast.inputs.layout import Layout
from univfast.machine import devices
from univfast.machine.processes import Processes, Reducible
from univfast.machine.threads import alone
from univfast.machine.torch_state import methods_in_plain_state
from univfast.sums.batches import PairOrigin, readable
from univfast.sums.pending import Pending, Sums
from univfast.sums.state_values import check_pending
from univfast.sums.states import StateFormat, check_tensor, check_total

__all__ = ["ChunkedSums", "PairState"]


class PairState(Sums, Protocol):
    """Sums of pairs: `CoMoments`, or those of some pairs alone."""

    def reset(self) -> None: ...
    def reduce(self, processes: Processes, total: int, dst: int | None) -> None: ...
    def tensors(self) -> dict[str, Tensor]: ...


S = TypeVar("S", bound=PairState)


@methods_in_plain_state
class ChunkedSums(Reducible, Generic[S]):
    """Adds tokens to a state on the CPU, in chunks that end at the same tokens for any batches.

    So the bits do not depend on how batches are cut. Layers that are elsewhere are brought to the
    CPU. Several threads may share it: each batch is added whole.
    """

    _format: StateFormat

    def __init__(self, a: Layout, b: Layout, state: S, pending: Pending, threads: int) -> None:
        """Layouts of what is added, the state, and what waits for it."""
        self._a, self._b, self._state, self._threads = a, b, state, threads
        self._pending = pending

    @property
    @alone
    def tokens(self) -> int:
        """Tokens accumulated so far."""
        return self._pending.tokens + self._state.tokens

    @alone
    def update_rows(
        self, a: Sequence[Tensor], b: Sequence[Tensor], mask: Tensor | None, origin: PairOrigin
    ) -> None:
        """Adds tokens ``[tokens, width]`` of each layer that are known to fit.

        Args:
            a: the layers of A; float64, float32, float16 or bfloat16.
            b: the layers of B.
            mask: bool ``[tokens]``, true for the tokens to use; None for all.
            origin: names them in errors.

        Raises:
            InputError: a NaN or infinity, named by layer, token and neuron. What was accumulated
                before stays as it was.
        """
        rows = None if mask is None else mask.to(devices.CPU).nonzero()[:, 0]
        layers = [x if rows is None else x[rows] for x in (*self._read_a(a), *map(_on_cpu, b))]
        self._pending.add(self._state, layers, rows, origin, self.wholly)

    @alone
    def reset(self) -> None:
        """Forgets every token, but keeps the memory."""
        self._state.reset()
        self._pending.tokens = 0

    @alone
    def saved_state(self) -> dict[str, Any]:
        """Everything needed to go on later; the sums are not copied."""
        return {
            **self._format.mark(self._plain_options(), self.tokens),
            "moments": self._state.tensors(),
            # Copied, lest all of their memory be saved.
            "pending": [x.clone() for x in self._pending.layers()],
        }

    @alone
    def load_saved(self, state: Mapping[str, Any]) -> None:
        """Replaces the sums by those that `saved_state` gave, which are copied.

        Raises:
            InputError: not such a state, of another version, of other layers or options, or
                damaged. The sums stay as they were.
        """
        tokens, own = self._format.check(state, self._plain_options()), self._state.tensors()
        found = state.get("moments")
        found = found if isinstance(found, Mapping) else {}
        new = {name: check_tensor(name, found.get(name), x.shape) for name, x in own.items()}
        widths = (*self._a.widths, *self._b.widths)
        pending = check_pending(state.get("pending", []), widths, tokens)
        waiting = len(pending[0]) if pending else 0
        self._check_values(new, tokens - waiting)
        with self.wholly():
            for name, tensor in own.items():
                tensor.copy_(new[name])
            self._state.tokens, self._pending.tokens = tokens - waiting, 0
            if waiting:
                self._pending.take(pending)

    @alone
    def _reduce(self, processes: Processes, dst: int | None) -> None:
        tokens, error = self.tokens, None
        try:
            self._flush()
        except InputError as refused:
            error = str(refused)
        total = check_total(
            "all_reduce", processes.gather_tokens(self._plain_options(), tokens, error)
        )
        with self.wholly():
            self._state.reduce(processes, total, dst)

    def _read_a(self, a: Sequence[Tensor]) -> list[Tensor]:
        """What is added of the layers of A."""
        return [_on_cpu(x) for x in a]

    def _plain_options(self) -> dict[str, Any]:
        return {"layers_a": self._a.by_name(), "layers_b": self._b.by_name()}

    def _check_values(self, tensors: Mapping[str, Tensor], tokens: int) -> None:
        """Refuses tensors of the state that no such tokens give."""
        raise NotImplementedError

    def _flush(self) -> None:
        """Adds the tokens that wait for a chunk to be full."""
        self._pending.flush(self._state, self.wholly)


def _on_cpu(x: Tensor) -> Tensor:
    return readable(x, devices.CPU)
