"""The state of matched pairs: neuron i of A and its one partner in B, over one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from univfast import native
from univfast.checks import as_integer, check_options, shown
from univfast.errors import InputError
from univfast.inputs.layout import Layout
from univfast.machine import devices
from univfast.machine.processes import Processes, Reducible
from univfast.machine.threads import alone, together
from univfast.native import BadValue, Contexts, PairSums, UsedTokens
from univfast.native.place import numbers
from univfast.sums.batches import bad_value, readable
from univfast.sums.group_sums import Grouping
from univfast.sums.pair_statistics import PairStatistics, statistics_of_pairs
from univfast.sums.power_sums import Frame, PowerSums, mean_and_std
from univfast.sums.state_values import check_details
from univfast.sums.states import StateFormat, check_tensor, refused
from univfast.sums.token_facts import BLOCKS, TokenFacts, digest

__all__ = ["PairDetails", "details_bytes"]

# Version 1 had no digest.
_FORMAT = StateFormat("univfast-details", "PairDetails", version=2, older=(1,))
# Tokens of the first batch that the frame is taken from.
_SAMPLED = 64


def details_bytes(a: Layout, b: Layout, facts: TokenFacts, top_k: int = 16) -> int:
    """Of the state, and of a batch's sums beside it."""
    groups = (facts.group_count or 0) + (facts.positions or 0)
    pairs = 8 * (5 * min(BLOCKS, facts.samples) + 9) + 4 * 24 * top_k
    return 2 * a.neurons * pairs + 8 * groups * (a.neurons + b.neurons)


class PairDetails(Reducible):
    """What is known of matched pairs beyond r: its error, moments, groups of tokens, contexts.

    Holds ``8 * 5 * 32 + 48 * top_k`` bytes a pair, and ``8 * (groups + positions)`` a neuron of
    either model where these are known (`details_bytes`), however many tokens come. Batches may come
    in any order, each token once. The result does not depend on the number of threads, and several
    may share an accumulator: each batch is added whole.

    Args:
        layers_a: width of each layer of A by name, in order.
        layers_b: the same of B.
        match: int64 ``[neurons of A]``: number of the partner among all neurons of B, layer after
            layer; -1 for none.
        facts: what is known of the tokens.
        top_k: contexts to keep.
        threads: at most this many; None for torch's number.
        device: where the state is; None: where the first batch is.
    """

    def __init__(
        self,
        layers_a: Mapping[str, int],
        layers_b: Mapping[str, int],
        match: Tensor,
        facts: TokenFacts,
        *,
        top_k: int = 16,
        threads: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self._a, self._b = (
            Layout(tuple(layers), tuple(layers.values())) for layers in (layers_a, layers_b)
        )
        if match.dtype != torch.int64 or match.shape != (self._a.neurons,):
            raise InputError(f"match: expected int64 [{self._a.neurons}], got {list(match.shape)}")
        if bool((match < -1).any()) or bool((match >= self._b.neurons).any()):
            raise InputError(f"match: expected -1 to {self._b.neurons - 1}")
        self.match, self.facts = match.cpu(), facts
        self._top_k = as_integer("top_k", top_k, 1)
        self._threads = devices.thread_count(threads)
        self._device = devices.as_device(device)
        self._options = {
            "layers_a": self._a.by_name(),
            "layers_b": self._b.by_name(),
            "match": digest(self.match),
            **facts.plain(),
            "top_k": self._top_k,
        }
        self.reset()

    @property
    def device(self) -> torch.device | None:
        """Where the state is; None until the first batch says."""
        return self._device

    @property
    @alone
    def tokens(self) -> int:
        """Tokens accumulated so far, without those that masks left out."""
        return self._sums.tokens

    @alone
    def reset(self) -> None:
        """Forgets every token."""
        neurons, device = self._a.neurons, self._device or devices.CPU
        # Neurons without a partner are paired with any, and left out at the end.
        self._partners = self.match.clamp(min=0).to(device)
        self._starts = self.facts.block_starts
        self._sums = PowerSums.zero(len(self._starts) - 1, neurons, device)
        self._top = [Contexts.none(neurons, self._top_k, device=device) for _ in range(2)]
        self._grouping = Grouping(self._a, self._b, self.facts, device, self._threads)
        zeros = torch.zeros(2, neurons, dtype=torch.float64, device=device)
        self._frame = Frame(zeros, torch.ones_like(zeros))
        self._narrow = True

    @alone
    def update_rows(
        self,
        a: Sequence[Tensor],
        b: Sequence[Tensor],
        mask: Tensor | None,
        first_token: int,
        models: tuple[str, str] = ("a", "b"),
    ) -> None:
        """Adds tokens ``[tokens, width]`` of each layer that are known to fit.

        Args:
            a: the layers of A; float64, float32, float16 or bfloat16.
            b: the layers of B.
            mask: bool ``[tokens]``, true for the tokens to use; None for all.
            first_token: number of the first token of the run.
            models: their names, in errors.

        Raises:
            InputError: a NaN or infinity in a matched pair. What was accumulated before stays as it
                was; so it does on a device, which is waited for.
        """
        if self._device is None:
            self._device = devices.of_inputs(*a, *b)
            self.reset()
        device = self._device
        layers = [[readable(x, device) for x in side] for side in (a, b)]
        tokens = len(layers[0][0])
        if first_token < 0 or first_token + tokens > self.facts.tokens:
            raise InputError(
                f"update_rows: tokens {first_token} to {first_token + tokens} are not within the"
                f" {self.facts.tokens} of the run"
            )
        rows = None if mask is None else mask.to(device).nonzero()[:, 0]
        used, blocks = self.facts.used(tokens, rows, first_token)
        if len(used.ends) == 0 or used.number == 0:
            return
        if rows is None:
            rows = numbers(tokens, device=device)
        if self.tokens == 0:
            self._set_frame(layers, rows)
        for last in (False, True):
            sums, top = self._sum(layers, used)
            if not sums.finite():
                raise self._refused(layers, rows, first_token, models)
            better = self._better_frame(sums)
            if better is None or last:
                break
            # So that no sum is of values that are far from the mean of all tokens.
            self._reframe(better)
        with self.wholly():
            self._sums.pairs[blocks] += sums.pairs
            self._sums.counts[blocks] += sums.counts
            self._sums.powers.add_(sums.powers)
            self._top = top
            self._grouping.add(layers, rows, first_token)

    def _sum(
        self, layers: Sequence[Sequence[Tensor]], used: UsedTokens
    ) -> tuple[PowerSums, list[Contexts]]:
        """The sums of a batch alone, and the contexts of all tokens so far."""
        for wide in (any(x.dtype == torch.float64 for side in layers for x in side), True):
            sums = PowerSums.zero(len(used.ends), self._a.neurons, self._device)
            counts = used.ends.diff(prepend=used.ends.new_zeros(1))
            sums = sums._replace(counts=counts.to(self._device))
            top = [Contexts(*(x.clone() for x in contexts)) for contexts in self._top]
            native.pair_details(
                self._frame.tensor(wide),
                (layers[0], layers[1]),
                self._partners,
                used,
                PairSums(sums.pairs, sums.powers, *top),
                self._threads,
            )
            # What float32 cannot hold, float64 may.
            if wide or sums.finite():
                break
        return sums, top

    def _set_frame(self, layers: Sequence[Sequence[Tensor]], rows: Tensor) -> None:
        """Where sums are taken from, as the first tokens say."""
        self._narrow = all(x.dtype != torch.float64 for side in layers for x in side)
        count = min(_SAMPLED, len(rows))
        # One of each equal share, at irregular places, so that what recurs does not fall on many.
        shares = torch.arange(count, dtype=torch.float64, device="cpu")
        places = torch.rand(
            count,
            dtype=torch.float64,
            generator=torch.Generator("cpu").manual_seed(0),
            device="cpu",
        )
        sampled = ((shares + places) * (len(rows) / count)).long().clamp(max=len(rows) - 1)
        own = rows[sampled.to(rows.device)]
        found = [[mean_and_std(x[own]) for x in side] for side in layers]
        means, stds = (
            [torch.cat([measured[i] for measured in side]) for side in found] for i in range(2)
        )
        for pivot, mean in zip(self._grouping.pivots, means, strict=True):
            pivot.copy_(mean)
        mean, std = (torch.stack([x[0], x[1][self._partners]]) for x in (means, stds))
        self._frame = Frame.of(mean.double(), std.double(), self._narrow)

    def _better_frame(self, more: PowerSums | None = None) -> Frame | None:
        total, tokens = self._sums.pairs.sum(dim=0), self.tokens
        if more is not None:
            total, tokens = total + more.pairs.sum(dim=0), tokens + more.tokens
        return self._frame.better(total, tokens, self._narrow)

    def _reframe(self, frame: Frame | None) -> None:
        if frame is not None:
            self._sums, self._frame = self._sums.moved(self._frame, frame), frame

    def _refused(
        self,
        layers: Sequence[Sequence[Tensor]],
        rows: Tensor,
        first_token: int,
        models: tuple[str, str],
    ) -> InputError:
        """The first value, by token, that is not finite; failing that, the largest."""
        found = []
        for in_b, (side, layout) in enumerate(zip(layers, (self._a, self._b), strict=True)):
            for name, x in zip(layout.names, side, strict=True):
                values = x[rows].double()
                bad = ~values.isfinite()
                at = int(bad.flatten().long().argmax() if bad.any() else values.abs().argmax())
                token, neuron = divmod(at, x.shape[1])
                value = values[token, neuron].item()
                order = (0, token) if bad.any() else (1, -abs(value))
                found.append((order, in_b, name, int(rows[token]), neuron, value))
        _, in_b, name, token, neuron, value = min(found)
        bad_one = BadValue(bool(in_b), token, neuron, value)
        return bad_value(bad_one, models[in_b], name, first_token + token)

    # ---- several states -------------------------------------------------------------------------

    def merge(self, other: PairDetails) -> None:
        """Takes in the tokens of another accumulator of the same pairs and run.

        Raises:
            InputError: they differ.
        """
        if not isinstance(other, PairDetails):
            raise TypeError(f"merge: expected a PairDetails, got {type(other).__name__}")
        check_options(other._options, self._options, "merge")
        with together(self, other):
            held = self._sums.counts.cpu() + other._sums.counts.cpu()
            if other is self or bool((held > self._starts.diff()).any()):
                raise InputError("merge: some tokens are in both; give each to one accumulator")
            with self.wholly():
                self._merge(other)

    def _merge(self, other: PairDetails) -> None:
        if other.tokens == 0:
            return
        if self.tokens == 0:
            if self._device is None:
                self._device = other.device
                self.reset()
            self.load_saved(other.saved_state())
            return
        theirs = {name: x.to(self._device) for name, x in other.tensors().items()}
        sums = PowerSums(*(theirs[name] for name in PowerSums._fields))
        frame = Frame(theirs["pivot"], theirs["scale"])
        for own, more in zip(self._sums, sums.moved(frame, self._frame), strict=True):
            own += more
        for i, name in enumerate(("top", "match_top")):
            found = Contexts(*(theirs[f"{name}_{field}"] for field in Contexts._fields))
            self._top[i] = self._top[i].merged(found)
        # Their group sums come to these pivots by themselves: what differs is added with counts.
        pivots = [x.clone() for x in self._grouping.pivots]
        self._grouping.shift([theirs["groups_pivot_a"], theirs["groups_pivot_b"]])
        for name, own in self._grouping.tensors().items():
            if not name.startswith("pivot_"):
                own += theirs[f"groups_{name}"]
        self._grouping.shift(pivots)
        self._reframe(self._better_frame())

    @alone
    def _reduce(self, processes: Processes, dst: int | None) -> None:
        total = processes.gather_tokens(self._options, self.tokens, None)
        if self._device is None:
            self._device = devices.CPU
            self.reset()
        if total == 0:
            return
        first = next(rank for rank, n in enumerate(processes.gather(self.tokens)) if n)
        # All take the frame and the pivots of one process that has some.
        frame, pivots = [x.clone() for x in self._frame], [*self._grouping.pivots]
        pivots = [x.clone() for x in pivots]
        for x in (*frame, *pivots):
            if processes.rank != first:
                x.zero_()
            processes.add(x)
        self._reframe(Frame(*frame))
        self._grouping.shift(pivots)
        contexts = processes.gather([[x.cpu() for x in top] for top in self._top])
        # What adds, once all is about the same pivots.
        groups = self._grouping.tensors().items()
        for x in (*self._sums, *(x for name, x in groups if not name.startswith("pivot_"))):
            processes.add(x, dst)
        if dst is not None and processes.rank != dst:
            self.reset()
            return
        for rank, found in enumerate(contexts):
            if rank != processes.rank:
                for i, top in enumerate(found):
                    more = Contexts(*(x.to(self._device) for x in top))
                    self._top[i] = self._top[i].merged(more)
        self._reframe(self._better_frame())

    def tensors(self) -> dict[str, Tensor]:
        """The state by name, not copied."""
        found = {**self._sums._asdict(), **self._frame._asdict()}
        for name, top in zip(("top", "match_top"), self._top, strict=True):
            found.update({f"{name}_{field}": x for field, x in top._asdict().items()})
        groups = self._grouping.tensors()
        return found | {f"groups_{name}": x for name, x in groups.items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on later: plain values and CPU tensors, for ``torch.save``."""
        return _FORMAT.seal(self.saved_state())

    @alone
    def saved_state(self) -> dict[str, Any]:
        """`state_dict`, without its digest."""
        copies = {name: x.cpu().clone() for name, x in self.tensors().items()}
        return {
            **_FORMAT.mark(self._options, self.tokens),
            "narrow": self._narrow,
            "details": copies,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replaces the state by one that `state_dict` gave, which is copied.

        Raises:
            InputError: not such a state, of another version, of another run or other pairs, or
                damaged. The accumulator stays as it was.
        """
        self._load(state, sealed=True)

    def load_saved(self, state: Mapping[str, Any]) -> None:
        """`load_state_dict`, of what `saved_state` gave."""
        self._load(state, sealed=False)

    @alone
    def _load(self, state: Mapping[str, Any], sealed: bool) -> None:
        tokens = _FORMAT.check(state, self._options)
        found, narrow = state.get("details"), state.get("narrow")
        found = found if isinstance(found, Mapping) else {}
        own = self.tensors()
        new = {
            name: check_tensor(name, found.get(name), x.shape, x.dtype) for name, x in own.items()
        }
        if not isinstance(narrow, bool):
            raise refused(f"narrow is {shown(narrow)}")
        check_details(new, tokens, self.facts)
        if sealed:
            _FORMAT.check_seal(state)
        if self._device is None:
            self._device = devices.CPU
        self._narrow = narrow
        for name, x in own.items():
            x.copy_(new[name])

    @alone
    def finish(self) -> PairStatistics:
        """The statistics so far; more batches may follow.

        Raises:
            InputError: no tokens were given.
        """
        if self.tokens == 0:
            raise InputError("finish: no tokens were accumulated; call update_rows first")
        return statistics_of_pairs(
            self._sums, self._frame, (self._top[0], self._top[1]), self._grouping, self.match
        )
