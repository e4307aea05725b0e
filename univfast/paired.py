"""Streaming correlation: batches in, correlations out, no activation kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from univfast import native
from univfast.assemble import Question, make_result
from univfast.checks import as_integer, as_text, check_options
from univfast.docstrings import documented
from univfast.errors import InputError
from univfast.inputs.arrays import check_dtype, to_tensor
from univfast.inputs.layout import Layout
from univfast.inputs.masks import open_mask
from univfast.machine import devices
from univfast.machine.memory import gigabytes, machine_memory, needed
from univfast.machine.processes import Processes, Reducible
from univfast.machine.threads import alone, together
from univfast.machine.torch_state import methods_in_plain_state
from univfast.method import paired
from univfast.native import PairedState, place
from univfast.nulls.kinds import Baseline
from univfast.nulls.rotations import HadamardRotations, make_rotations
from univfast.nulls.shifts import make_shifts
from univfast.options import PairedOptions, complete
from univfast.result import CorrelationResult
from univfast.search.matches import LayerCorrelation, matches_by_index
from univfast.sums import moments as m
from univfast.sums.batches import Origin, bad_value, readable
from univfast.sums.state_values import check_moments
from univfast.sums.states import StateFormat, check_tensor, check_total
from univfast.sums.transfer import PART_BYTES, Uploads
from univfast.views import Shown, accumulator_facts

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["PairedCorrelation"]

# Version 3 had no digest.
_FORMAT = StateFormat("univfast-paired", "PairedCorrelation", version=4, older=(3,))
# Tokens that a dense rotation turns at a time: bounds its memory, and is large enough for the
# matrix product to run at its full rate.
_DENSE_TOKENS = 4096


@documented(PairedOptions)
@methods_in_plain_state
class PairedCorrelation(Reducible, Shown):
    """Correlates neuron i of A with neuron i of B, of random rotations of B, and with wrong ones.

    Holds ``8 * (5 + 2 * draws + shifts) * neurons`` bytes however many tokens come.

    The result does not depend on the number of threads. Several may share an accumulator: each
    batch is added whole.

    Args:
        neurons: the width of both layers.
        layer: the layer's name, which rotations and shifts depend on too.
        {options}

    On a CUDA device `update` queues its work on the current stream and, with structured rotations
    (``hadamard`` of at least 16 neurons) or none, waits for nothing: a NaN or infinity is then
    raised by what reads the state.

    Raises:
        InputError: a width, number of draws, rotation or device that cannot be, or a state larger
            than the machine's memory.
    """

    def __init__(
        self,
        neurons: int,
        *,
        layer: str = "activations",
        **options: Unpack[PairedOptions],
    ) -> None:
        given = complete(PairedOptions, options, "PairedCorrelation")
        neurons = as_integer("neurons", neurons, 1)
        self._device = devices.as_device(given["device"])
        self.baseline = Baseline.of(given)
        _check_memory(neurons, self.baseline.draws, given["shifts"])
        self._rotations = make_rotations(self.baseline, neurons, layer)
        self._shifts = make_shifts(neurons, given["shifts"], self.baseline.seed, layer)
        self._each_shift = self._shifts.each(neurons)
        self._options = {
            "neurons": neurons,
            "draws": self.baseline.draws,
            "rotation": self.baseline.kind,
            "shifts": given["shifts"],
            "seed": self.baseline.seed,
            "layer": as_text("layer", layer),
        }
        self._layer = layer
        self._origin = self._batch = Origin(layer_a=layer, layer_b=layer)
        self._threads = devices.thread_count(given["threads"])
        self.neurons = neurons
        self.reset()

    def _facts(self) -> list[tuple[str, str]]:
        return accumulator_facts(self, neurons=self.neurons, layer=self._layer)

    @property
    @alone
    def tokens(self) -> int:
        """Tokens accumulated so far. Waits for a CUDA device."""
        return self._tokens if self._state is None else self._state.read()[0]

    @property
    def device(self) -> torch.device | None:
        """Where the state is; None until the first batch says."""
        return self._device

    @alone
    def reset(self) -> None:
        """Forgets every token."""
        self._tokens = 0
        self._moments = m.zero(self.neurons, self._rotations.draws, self._shifts.total)
        self._state: PairedState | None = None
        if self._device is not None:
            self._place(self._device)

    def update(self, a: object, b: object, mask: object | None = None) -> None:
        """Adds a batch.

        Args:
            a: activations of A, ``[..., neurons]``: a tensor, a NumPy array, or anything with
                ``__dlpack__``; float64, float32, float16 or bfloat16. Not modified.
            b: activations of B on the same tokens, of the same shape.
            mask: ``[...]``, true for the tokens to use; None for all.

        Raises:
            InputError: shapes that do not fit; a NaN or infinity, named by token and neuron. What
                was accumulated before stays as it was. On a CUDA device the batch is left out, and
                `compute` and all others that read the state raise this, once.
            TypeError: an argument of another type.
        """
        x, y = to_tensor(a, "a"), to_tensor(b, "b")
        check_dtype(x.dtype, "a")
        check_dtype(y.dtype, "b")
        if x.shape != y.shape:
            raise InputError(
                f"a and b: shapes differ, {list(x.shape)} and {list(y.shape)}; give both models'"
                " activations on the same tokens"
            )
        if x.dim() < 1 or x.shape[-1] != self.neurons:
            raise InputError(
                f"a and b: got shape {list(x.shape)}, expected [..., {self.neurons}] (the last"
                " axis is neurons)"
            )
        keep = None if mask is None else open_mask(mask, x.shape[:-1])
        rows = (-1, self.neurons)
        self.update_rows(x.reshape(rows), y.reshape(rows), keep, self._origin)

    @alone
    def update_rows(self, a: Tensor, b: Tensor, mask: Tensor | None, origin: Origin) -> None:
        """Adds tokens ``[tokens, neurons]`` that are known to fit, naming ``origin`` in errors."""
        if self._device is None:
            self._place(devices.of_inputs(a, b))
        assert self._device is not None
        self._batch = origin
        if self._state is not None:
            self._queue(self._state, a.detach(), b.detach(), mask, origin.first_token)
            return
        a, b = readable(a, self._device), readable(b, self._device)
        rows = None if mask is None else mask.to(self._device).nonzero()[:, 0]
        tokens = len(a) if rows is None else len(rows)
        if tokens == 0:
            return
        if isinstance(self._rotations, HadamardRotations):
            signs = self._rotations.signs
            batch = self._native_moments(a, b, rows, signs, origin, self._shifts)
            self._moments = self._merged(self._moments, self._tokens, batch, tokens)
            self._tokens += tokens
            return
        if rows is not None:
            a, b = a[rows], b[rows]
        state, count = self._moments, self._tokens
        for first in range(0, tokens, _DENSE_TOKENS):
            part = slice(first, first + _DENSE_TOKENS)
            batch = self._dense_moments(a[part], b[part], rows, first, origin)
            state = self._merged(state, count, batch, len(a[part]))
            count += len(a[part])
        self._moments, self._tokens = state, count

    def _place(self, device: torch.device) -> None:
        """Settles where the state is, which holds no tokens yet."""
        self._device = device
        self._rotations = self._rotations.to(device)
        self._shifts, self._each_shift = self._shifts.to(device), self._each_shift.to(device)
        self._moments = self._moments.to(device)
        if not place.on_cuda(device):
            return
        self._uploads = Uploads(device)
        if isinstance(self._rotations, HadamardRotations):
            draws, shifts = self._rotations.draws, self._shifts.total
            self._state = PairedState(self.neurons, draws, device, shifts)

    def _queue(
        self, state: PairedState, a: Tensor, b: Tensor, mask: Tensor | None, first_token: int
    ) -> None:
        """Queues a batch on the state's device; one on the CPU is sent in parts."""
        assert isinstance(self._rotations, HadamardRotations)
        assert self._device is not None
        dtype = torch.promote_types(a.dtype, b.dtype)
        step = max(1, PART_BYTES // (self.neurons * dtype.itemsize))
        if a.device == b.device == self._device:
            step = max(1, len(a))
        for first in range(0, len(a), step):
            part = slice(first, first + step)
            given = [x[part] for x in (a, b, *([] if mask is None else [mask]))]
            x, y, *keep = self._uploads.bring(given)
            x, y = (readable(x.to(dtype=dtype), self._device) for x in (x, y))
            here, number = keep[0] if keep else None, first_token + first
            state.update(x, y, here, self._rotations.signs, number, self._shifts)

    def _read(self) -> tuple[Tensor, int]:
        """The moments and the number of tokens.

        Raises:
            InputError: a device found a bad value, which is forgotten then.
        """
        if self._state is None:
            return self._moments, self._tokens
        tokens, bad = self._state.read()
        if bad is not None:
            self._state.forget_bad()
            raise self._refused(bad, replace(self._batch, first_token=0), bad.token)
        return self._state.moments, tokens

    def _write(self, moments: Tensor, tokens: int) -> None:
        if self._state is None:
            self._moments, self._tokens = moments, tokens
        else:
            self._state.load(moments, tokens)

    def merge(self, other: PairedCorrelation) -> None:
        """Takes in the tokens of another accumulator with the same options.

        Raises:
            InputError: the options differ, or a CUDA device found a NaN or infinity.
        """
        if not isinstance(other, PairedCorrelation):
            raise TypeError(f"merge: expected a PairedCorrelation, got {type(other).__name__}")
        check_options(other._options, self._options, "merge")
        with together(self, other):
            more, more_tokens = other._read()
            total = check_total("merge", self.tokens + more_tokens)
            if self._device is None:
                self._place(more.device)
            moments, tokens = self._read()
            more = more.to(moments.device)
            self._write(self._merged(moments, tokens, more, more_tokens), total)

    def _merged(self, first: Tensor, tokens: int, second: Tensor, more: int) -> Tensor:
        return m.merge(first, tokens, second, more, self._rotations, self._each_shift)

    @alone
    def _reduce(self, processes: Processes, dst: int | None) -> None:
        moments, tokens, error = self._moments, 0, None
        try:
            moments, tokens = self._read()
        except InputError as refused:
            error = str(refused)
        total = check_total("all_reduce", processes.gather_tokens(self._options, tokens, error))
        if self._device is None:
            self._place(devices.CPU)
        if total == 0:
            return
        means = tokens * moments[: m.M2_A]
        processes.add(means)
        moved = m.about(moments, tokens, means / total, self._rotations, self._each_shift)
        processes.add(moved[m.M2_A :], dst)
        if dst is None or processes.rank == dst:
            self._write(moved, total)
        else:
            self.reset()

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on later: plain values and one CPU tensor, for ``torch.save``.

        Raises:
            InputError: a CUDA device found a NaN or infinity.
        """
        return _FORMAT.seal(self.saved_state())

    @alone
    def saved_state(self) -> dict[str, Any]:
        """`state_dict`, without its digest."""
        moments, tokens = self._read()
        return {**_FORMAT.mark(self._options, tokens), "moments": moments.cpu().clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replaces the state by one that `state_dict` gave, which is copied.

        Raises:
            InputError: not such a state, of another version, of other options, or damaged. The
                accumulator stays as it was.
        """
        self._load(state, sealed=True)

    def load_saved(self, state: Mapping[str, Any]) -> None:
        """`load_state_dict`, of what `saved_state` gave."""
        self._load(state, sealed=False)

    @alone
    def _load(self, state: Mapping[str, Any], sealed: bool) -> None:
        tokens = _FORMAT.check(state, self._options)
        moments = check_tensor("moments", state.get("moments"), self._moments.shape)
        each = self._each_shift.to(moments.device)
        check_moments("moments", moments, tokens, self._rotations.draws, each)
        if sealed:
            _FORMAT.check_seal(state)
        if self._device is None:
            self._place(devices.CPU)
        self._write(moments.to(device=self._device, copy=True).contiguous(), tokens)

    @alone
    def correlations(self) -> LayerCorrelation:
        """r, the rotated r, and r with wrong partners of this layer.

        Raises:
            InputError: no tokens were given, or a CUDA device found a NaN or infinity.
        """
        moments, tokens = self._read()
        if tokens == 0:
            raise InputError("compute: no tokens were accumulated; call update first")
        found = m.finish(moments, self._rotations.draws, self._each_shift)
        return LayerCorrelation(self._layer, self._layer, tokens, *(x.cpu() for x in found))

    def compute(self, threshold: float = 0.5) -> CorrelationResult:
        """The result so far; more batches may follow.

        Raises:
            InputError: no tokens were given, the threshold is not a number, or a CUDA device found
                a NaN or infinity.
        """
        found = self.correlations()
        question = Question("index", self.baseline, threshold, str(self._device), paired())
        layers = Layout((self._layer,), (self.neurons,))
        return make_result(question, ("a", "b"), layers, found.tokens, [matches_by_index([found])])

    def _native_moments(
        self,
        a: Tensor,
        b: Tensor,
        rows: Tensor | None,
        signs: Tensor,
        origin: Origin,
        shifts: native.Shifts | None = None,
    ) -> Tensor:
        moments = native.paired_moments(a, b, rows, signs, self._threads, shifts)
        if isinstance(moments, native.BadValue):
            raise self._refused(moments, origin, moments.token)
        return moments

    @staticmethod
    def _refused(bad: native.BadValue, origin: Origin, token: int) -> InputError:
        model, layer = (origin.b, origin.layer_b) if bad.in_b else (origin.a, origin.layer_a)
        return bad_value(bad, model, layer, origin.first_token + token)

    def _dense_moments(
        self, a: Tensor, b: Tensor, rows: Tensor | None, first: int, origin: Origin
    ) -> Tensor:
        """The moments of up to `_DENSE_TOKENS` tokens, rotated by matrix products."""
        none = native.rotation_signs(self.neurons, 0, 0).to(a.device)
        paired = native.paired_moments(a, b, None, none, self._threads, self._shifts)
        if isinstance(paired, native.BadValue):
            token = first + paired.token if rows is None else int(rows[first + paired.token])
            raise self._refused(paired, origin, token)
        # Rotating deviations instead of values keeps a large common offset out of the products. In
        # float64: where neurons cancel in a rotation, float32 products miss 1e-6 in r.
        deviations = b.double() - paired[m.MEAN_B]
        rows_rotated = []
        for rotated in self._rotations.apply(deviations):
            draw = self._native_moments(a, rotated, None, none, origin)
            rows_rotated += [draw[m.M2_B], draw[m.CO_AB]]
        rotated_rows = torch.stack(rows_rotated)
        return torch.cat([paired[: m.ROTATED], rotated_rows, paired[m.ROTATED :]])


def _check_memory(neurons: int, draws: int, shifts: int) -> None:
    """Refuses a state that is larger than the machine's memory."""
    need, memory = 8 * (m.ROTATED + 2 * draws + min(shifts, neurons)) * neurons, machine_memory()
    if memory is not None and need > memory:
        raise InputError(
            f"neurons: the sums of {neurons} neurons take {needed(need)}, this machine has"
            f" {gigabytes(memory)}; accumulate some of them at a time"
        )
