"""Streaming correlation of every neuron of one model with every neuron of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from univfast.assemble import result_of
from univfast.checks import check_options
from univfast.docstrings import documented
from univfast.errors import InputError
from univfast.inputs.arrays import same_order
from univfast.inputs.masks import open_mask
from univfast.machine import devices
from univfast.machine.memory import gigabytes, machine_memory, needed, where
from univfast.machine.processes import Processes, Reducible
from univfast.machine.threads import alone, together
from univfast.machine.torch_state import methods_in_plain_state
from univfast.native import place
from univfast.nulls.kinds import Baseline
from univfast.options import AllPairsOptions, complete
from univfast.result import CorrelationResult
from univfast.search.searches import Searches, check_same_neurons, state_bytes
from univfast.sums.batches import (
    PairOrigin,
    as_layout,
    batch_rows,
    readable,
)
from univfast.sums.co_moments import CoMoments, chunk_tokens
from univfast.sums.pending import Pending
from univfast.sums.state_values import check_co_moments, check_multiplied, check_pending
from univfast.sums.states import StateFormat, check_tensor, check_total
from univfast.sums.transfer import Uploads
from univfast.views import Shown, accumulator_facts

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["AllPairsCorrelation"]

# Version 3 had no digest, 2 no tokens that wait for a chunk. Rotations were others in version 1.
_FORMAT = StateFormat("univfast-all-pairs", "AllPairsCorrelation", version=4, older=(2, 3))


@documented(AllPairsOptions)
@methods_in_plain_state
class AllPairsCorrelation(Reducible, Shown):
    """Correlates every neuron of A with every neuron of B, and with random rotations of B.

    Holds the co-moments of all pairs and, for the rotations, those within each layer of B (with
    ``reverse`` also of A), however many tokens come: at most
    ``8 * (neurons_a * neurons_b + sum(width_b**2) [+ sum(width_a**2)])`` bytes. Few ``hadamard``
    draws of a wide layer (one for 32 neurons) are faster applied to the tokens as they come: its
    ``width**2`` is then ``(5 + 2 * draws) * width``. Beside these:
    ``4096 * (neurons_a + neurons_b)`` values of a chunk (twice, where batches are smaller), one
    product of at most 32 MB, and ``48 * top_k`` bytes of partners of each neuron matched; in
    `compute`, one matrix ``8 * width**2`` of the widest layer rotated for ``gaussian``, and five
    for ``haar``. No matrix of correlations is made, but for one-to-one matching, which takes
    ``24 * neurons_a * neurons_b`` bytes more.

    Products are summed in float32 within a chunk of 4,096 tokens and in float64 between them, or in
    float64 throughout where the activations are, or where a layer of B has so low a rank that it
    nearly cancels in a rotation. They are torch's, and may differ in the last bits with the number
    of threads; batches of any size give the same bits. Several threads may share an accumulator:
    each batch is added whole.

    Args:
        layers_a: width of each layer of A by name, in order.
        layers_b: the same of B; other names, widths and numbers of layers are fine.
        {options}

    Raises:
        InputError: layers, draws, rotation or device that cannot be, or a state larger than the
            machine's memory.
    """

    def __init__(
        self,
        layers_a: Mapping[str, int],
        layers_b: Mapping[str, int],
        **options: Unpack[AllPairsOptions],
    ) -> None:
        self._options = complete(AllPairsOptions, options, "AllPairsCorrelation")
        self.baseline = Baseline.of(self._options)
        self._device = devices.as_device(self._options["device"])
        self._threads = devices.thread_count(self._options["threads"])
        self._a, self._b = as_layout("layers_a", layers_a), as_layout("layers_b", layers_b)
        if self._options["exclude_self"]:
            check_same_neurons(self._a, self._b)
        self._placed: CoMoments | None = None
        self._pending = self._waiting(0)
        if self._device is None:
            self._check_memory(devices.CPU)
        else:
            self._place(self._device)

    def _facts(self) -> list[tuple[str, str]]:
        return accumulator_facts(self, layers_a=self._a.by_name(), layers_b=self._b.by_name())

    @property
    @alone
    def tokens(self) -> int:
        """Tokens accumulated so far."""
        return self._pending.tokens + (0 if self._placed is None else self._placed.tokens)

    @property
    def device(self) -> torch.device | None:
        """Where the state is; None until the first batch says."""
        return self._device

    @alone
    def reset(self) -> None:
        """Forgets every token."""
        if self._placed is not None:
            self._placed.reset()
        self._pending.tokens = 0

    @property
    def _state(self) -> CoMoments:
        if self._placed is None:
            self._place(devices.CPU)
        assert self._placed is not None
        return self._placed

    def _place(self, device: torch.device) -> None:
        """Settles where the state is, and makes it."""
        self._check_memory(device)
        rotated = self.baseline if self.baseline.draws else None
        rotated_a = rotated if self._options["reverse"] else None
        self._device = device
        how = self._options["precision"], self._options["products"]
        self._placed = CoMoments(self._a, self._b, rotated_a, rotated, self._threads, device, *how)
        self._pending = self._waiting(chunk_tokens(device))
        self._uploads = Uploads(device)

    def _waiting(self, chunk: int) -> Pending:
        return Pending(self._a, self._b, chunk, self._threads)

    def update(
        self,
        a: Mapping[str, object] | object,
        b: Mapping[str, object] | object,
        mask: object = None,
    ) -> None:
        """Adds a batch.

        Args:
            a: activations of each layer of A by name, ``[..., width]``: tensors, NumPy arrays, or
                anything with ``__dlpack__``; float64, float32, float16 or bfloat16. Not modified. A
                model of one layer may give it without a dict.
            b: the same of B, on the same tokens.
            mask: ``[...]``, true for the tokens to use; None for all.

        Raises:
            InputError: layers or shapes that do not fit; a NaN or infinity, named by layer, token
                and neuron. What was accumulated before stays as it was.
            TypeError: an argument of another type.
        """
        x, leading = batch_rows("a", a, self._a)
        y, leading_b = batch_rows("b", b, self._b)
        if not same_order(leading, leading_b) or len(x[0]) != len(y[0]):
            raise InputError(
                f"a and b: leading shapes {list(leading)} and {list(leading_b)} differ; give both"
                " models' activations on the same tokens"
            )
        keep = None if mask is None else open_mask(mask, leading)
        self.update_rows(x, y, keep, PairOrigin())

    @alone
    def update_rows(
        self, a: Sequence[Tensor], b: Sequence[Tensor], mask: Tensor | None, origin: PairOrigin
    ) -> None:
        """Adds tokens ``[tokens, width]`` of each layer that are known to fit.

        ``origin`` names them in errors.
        """
        if self._placed is None:
            self._place(devices.of_inputs(*a, *b))
        device = self._state.device
        rows = None if mask is None else mask.to(device).nonzero()[:, 0]
        layers = [readable(x, device) for x in self._bring([*a, *b])]
        layers = layers if rows is None else [x[rows] for x in layers]
        self._pending.add(self._state, layers, rows, origin, self.wholly)

    def _bring(self, layers: Sequence[Tensor]) -> list[Tensor]:
        """Layers where the state is, those on the CPU through pinned memory."""
        own = [x.detach() for x in layers]
        return self._uploads.bring(own) if place.on_cuda(self._state.device) else own

    def merge(self, other: AllPairsCorrelation) -> None:
        """Takes in the tokens of another accumulator with the same layers and options.

        Raises:
            InputError: they differ.
        """
        if not isinstance(other, AllPairsCorrelation):
            raise TypeError(f"merge: expected an AllPairsCorrelation, got {type(other).__name__}")
        check_options(other._plain_options(), self._plain_options(), "merge")
        with together(self, other):
            check_total("merge", self.tokens + other.tokens)
            more = other.co_moments()
            if self._placed is None:
                self._place(more.device)
            more = more.to(self._state.device)
            with self.wholly():
                self._state.merge(more)
            self._flush()

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

    @alone
    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on later: plain values and tensors, for ``torch.save``.

        The tensors are copies on the CPU, as large as the state, and as the batch that waits for
        its chunk to be full.
        """
        state = self.saved_state()
        copies = {name: tensor.clone() for name, tensor in state["moments"].items()}
        return _FORMAT.seal({**state, "moments": copies})

    @alone
    def saved_state(self) -> dict[str, Any]:
        """`state_dict`, without its digest; moments on the CPU are not copied."""
        state = self._state
        return {
            **_FORMAT.mark(self._plain_options(), self.tokens),
            "moments": {name: tensor.cpu() for name, tensor in state.tensors().items()},
            "multiplied": sorted(state.multiplied),
            # Copied, lest all of their memory be saved.
            "pending": [layer.cpu().clone() for layer in self._pending.layers()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replaces the state by one that `state_dict` gave, which is copied.

        Raises:
            InputError: not such a state, of another version, of other layers or options, or
                damaged. The accumulator stays as it was.
        """
        self._load(state, sealed=True)

    def load_saved(self, state: Mapping[str, Any]) -> None:
        """`load_state_dict`, of what `saved_state` gave."""
        self._load(state, sealed=False)

    @alone
    def _load(self, state: Mapping[str, Any], sealed: bool) -> None:
        tokens = _FORMAT.check(state, self._plain_options())
        device = self._device
        try:
            own = self._state.tensors()
            new, pending = self._checked(state, own, tokens)
            multiplied = check_multiplied(state.get("multiplied", []))
            if sealed:
                _FORMAT.check_seal(state)
        except Exception:
            if device is None:  # as it was: the first batch says where
                self._placed, self._device, self._pending = None, None, self._waiting(0)
            raise
        waiting, count = (len(pending[0]) if pending else 0), len(self._a.names)
        with self.wholly():
            for name, tensor in own.items():
                tensor.copy_(new[name])
            self._state.tokens, self._pending.tokens = tokens - waiting, 0
            self._state.multiplied = multiplied
            if waiting:
                self.update_rows(pending[:count], pending[count:], None, PairOrigin())

    def _checked(
        self, state: Mapping[str, Any], own: Mapping[str, Tensor], tokens: int
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """The tensors of a state by name, and the layers of A and B that wait, if there are any.

        Raises:
            InputError: no tokens give these.
        """
        found = state.get("moments")
        found = found if isinstance(found, Mapping) else {}
        new = {name: check_tensor(name, found.get(name), x.shape) for name, x in own.items()}
        widths = (*self._a.widths, *self._b.widths)
        pending = check_pending(state.get("pending", []), widths, tokens)
        waiting = len(pending[0]) if pending else 0
        layouts = {"a": self._a, "b": self._b}
        check_co_moments(new, tokens - waiting, layouts, self.baseline.draws)
        return new, pending

    @alone
    def co_moments(self) -> CoMoments:
        """The state, with every token that was given."""
        self._flush()
        return self._state

    @alone
    def compute(self, match: str = "best", threshold: float = 0.5) -> CorrelationResult:
        """The result so far; more batches may follow.

        Args:
            match: one that searches all pairs: ``"best"`` or ``"one-to-one"``.
            threshold: a neuron is universal if its excess is above.

        Raises:
            InputError: no tokens were given, another match, too many neurons for one-to-one, or a
                threshold that is no number.
        """
        state = self.co_moments()
        searches = Searches(self._a, self._b, match, self._options, state.device)
        searches.add(state)
        return result_of(searches, threshold, ("a", "b"))

    def _flush(self) -> None:
        """Adds the tokens that wait for a chunk to be full."""
        self._pending.flush(self._state, self.wholly)

    def _plain_options(self) -> dict[str, Any]:
        searched = {name: self._options[name] for name in ("top_k", "exclude_self", "reverse")}
        return {
            "layers_a": self._a.by_name(),
            "layers_b": self._b.by_name(),
            "rotation": self.baseline.kind,
            "draws": self.baseline.draws,
            "seed": self.baseline.seed,
            **searched,
        }

    def _check_memory(self, device: torch.device) -> None:
        need, memory = state_bytes(self._a, self._b, self._options, device), machine_memory(device)
        if memory is not None and need > memory:
            raise InputError(
                f"layers_a and layers_b: all pairs of {self._a.neurons} and {self._b.neurons}"
                f" neurons take {needed(need)}, {where(device)} has {gigabytes(memory)};"
                " accumulate some layers of A at a time"
            )
