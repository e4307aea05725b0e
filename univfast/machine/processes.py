"""The processes that share one computation, through ``torch.distributed``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from threading import Event, Thread
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from univfast.checks import differ
from univfast.errors import InputError
from univfast.machine.threads import Guarded
from univfast.machine.torch_state import methods_in_plain_state

__all__ = ["Processes", "Reducible"]

# Values of a tensor that are sent at a time: bounds what the transport copies.
_PART = 1 << 25
# What process 0 does alone may take hours; where it dies, the store that it is awaited by ends too,
# or the launcher ends the others.
_FOR_LONG = timedelta(days=30)
# How often a process that works alone for long says that it is alive, of the time that is waited.
_BEATS = 4


class Store(Protocol):
    """What processes write for each other: a store of ``torch.distributed``."""

    def set(self, key: str, value: str) -> None: ...
    def get(self, key: str) -> bytes: ...
    def wait(self, keys: list[str], timeout: timedelta) -> None: ...
    def add(self, key: str, amount: int) -> int: ...


class Processes:
    """A group of ``torch.distributed``; all of its processes must call the same methods.

    Args:
        group: that tensors are sent through; None for all processes.
        control: that flags and plain values are sent through, so as not to wait for what a CUDA
            device does; None for ``group``.
        store: that processes can await each other by, for longer than the group's timeout.
        timeout: that of the group.

    Raises:
        InputError: no process group was initialised.
    """

    def __init__(
        self,
        group: dist.ProcessGroup | None = None,
        control: dist.ProcessGroup | None = None,
        store: Store | None = None,
        timeout: timedelta = timedelta(minutes=10),
    ) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise InputError(
                "group: torch.distributed is not initialised; call"
                " torch.distributed.init_process_group first, as torchrun prepares it"
            )
        self._group, self._control, self._store = group, control or group, store
        self._timeout, self._turns, self._closed = timeout, 0, False
        self.rank = dist.get_rank(group)
        self.count = dist.get_world_size(group)

    def gather(self, value: object) -> list[Any]:
        """What each process gave, in their order, in every process."""
        found: list[Any] = [None] * self.count
        with self._talk():
            dist.all_gather_object(found, value, group=self._control)
        return found

    def send_first(self, value: object) -> None:
        """Gives process 0, which calls `from_others`, a value: plain, or tensors on the CPU."""
        with self._talk():
            dist.send_object_list([value], group=self._control, group_dst=0)

    def from_others(self) -> Iterator[Any]:
        """What the other processes send, in their order, one at a time: process 0 holds no more."""
        for rank in range(1, self.count):
            found: list[Any] = [None]
            with self._talk():
                dist.recv_object_list(found, group=self._control, group_src=rank)
            yield found.pop()

    def any_set(self, flags: Sequence[bool]) -> list[bool]:
        """For each flag, whether it is set in any process."""
        sent = torch.tensor(flags, dtype=torch.uint8, device="cpu")
        sent = sent.to(_wire(sent, self._control))
        with self._talk():
            dist.all_reduce(sent, dist.ReduceOp.MAX, group=self._control)
            return [bool(flag) for flag in sent.tolist()]

    @contextmanager
    def first_alone(self) -> Iterator[bool]:
        """A block that process 0 works in, for as long as it takes; the others wait at its end.

        Yields:
            Whether this is process 0.

        Raises:
            InputError: in the others, where the block raises in process 0.
        """
        assert self._store is not None
        self._turns += 1
        key = f"univfast/{self._turns}"
        if self.rank == 0:
            done = "failed"
            try:
                yield True
                done = "done"
            finally:
                self._store.set(key, done)
            return
        yield False
        with self._talk():
            self._store.wait([key], _FOR_LONG)
            done = self._store.get(key).decode()
        if done == "failed":
            raise InputError("process 0 stopped; its message says why")

    @contextmanager
    def each_alone(self) -> Iterator[None]:
        """A block that each process works in, for as long as it takes; all wait for all at its end.

        Raises:
            InputError: where the block raises in another process, or that died, which shows within
                twice the group's timeout.
        """
        assert self._store is not None
        self._turns += 1
        keys = [f"univfast/{self._turns}/{rank}" for rank in range(self.count)]
        done = "failed"
        try:
            with self._beating():
                yield
            done = "done"
        finally:
            self._store.set(keys[self.rank], done)
        with self._talk():
            for rank, key in enumerate(keys):
                self._await(rank, key)
            failed = any(self._store.get(key).decode() == "failed" for key in keys)
        if failed:
            raise InputError("another process stopped; its message says why")

    @contextmanager
    def _beating(self) -> Iterator[None]:
        """A block in which the others can see that this process is alive, whatever it does."""
        store, ended = self._store, Event()
        assert store is not None

        def beat() -> None:
            with suppress(RuntimeError):  # the store is gone: so are the others
                while not ended.wait(self._timeout.total_seconds() / _BEATS):
                    store.add(f"univfast/alive/{self.rank}", 1)

        thread = Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _await(self, rank: int, key: str) -> None:
        """Waits for a key that a process sets, as long as that is alive."""
        assert self._store is not None
        beats = -1
        while not self._comes(key):
            before, beats = beats, self._store.add(f"univfast/alive/{rank}", 0)
            if beats == before:
                raise RuntimeError(f"process {rank} is silent")

    def _comes(self, key: str) -> bool:
        """Whether a key is set within the group's timeout."""
        assert self._store is not None
        with suppress(RuntimeError):
            self._store.wait([key], self._timeout)
            return True
        return False

    def gather_tokens(self, options: Mapping[str, Any], tokens: int, error: str | None) -> int:
        """The tokens of all processes together, once it is certain that their states add.

        Args:
            options: of this process's state, plain values.
            tokens: in it.
            error: why it cannot be used, which then every process raises.

        Raises:
            InputError: in every process: the error of one, or options that differ.
        """
        found = self.gather((dict(options), tokens, error))
        for rank, (theirs, _, reason) in enumerate(found):
            if reason is not None:
                raise InputError(f"process {rank}: {reason}")
            for key, value in found[0][0].items():
                if differ(theirs.get(key), value):
                    raise InputError(
                        f"all_reduce: {key} differs, {value!r} in process 0, {theirs.get(key)!r} in"
                        f" process {rank}; give all processes the same options"
                    )
        return sum(count for _, count, _ in found)

    def add(self, tensor: Tensor, dst: int | None = None) -> None:
        """Replaces a contiguous tensor by its sum over the processes.

        In all of them, or in process ``dst`` alone; what it holds in the others is then undefined.
        """
        for part in torch.split(tensor.view(-1), _PART):
            sent = part.to(_wire(part, self._group))
            with self._talk():
                if dst is None:
                    dist.all_reduce(sent, group=self._group)
                else:
                    dist.reduce(sent, group=self._group, group_dst=dst)
            if sent is not part:
                part.copy_(sent)

    def broadcast(self, tensor: Tensor, source: int = 0) -> None:
        """Gives all processes what a tensor holds in one of them."""
        for part, sent in self._parts(tensor):
            with self._talk():
                dist.broadcast(sent, group=self._group, group_src=source)
            if self.rank != source and sent is not part:
                part.copy_(sent)

    def copy(self, tensor: Tensor, target: int) -> None:
        """Gives one process what a tensor holds in process 0; called in these two, or in all."""
        if target == 0 or self.rank not in (0, target):
            return
        for part, sent in self._parts(tensor):
            with self._talk():
                if self.rank == 0:
                    dist.send(sent, group=self._group, group_dst=target)
                    continue
                dist.recv(sent, group=self._group, group_src=0)
            if sent is not part:
                part.copy_(sent)

    def _parts(self, tensor: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """A tensor in parts, of whole rows, and each as the group's transport takes it."""
        rows = max(1, _PART // max(1, tensor[:1].numel()))
        for part in torch.split(tensor, rows) if tensor.numel() else ():
            yield part, part.contiguous().to(_wire(part, self._group))

    def close(self) -> None:
        """Ends the group, in all processes at about the same time; twice is once."""
        if not self._closed:
            self._closed = True
            dist.destroy_process_group(self._group)

    @contextmanager
    def _talk(self) -> Iterator[None]:
        """Says what to do where a process died, or does not answer within the group's timeout."""
        try:
            yield
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"process {self.rank} of {self.count}: another one died or does not answer"
                f" ({reason}); start all again, a checkpoint goes on where it was written"
            ) from error


@methods_in_plain_state
class Reducible(Guarded, ABC):
    """An accumulator whose tokens can be those of several processes, and of several threads."""

    def all_reduce(self, group: dist.ProcessGroup | None = None) -> None:
        """Takes in the tokens of every process of a ``torch.distributed`` group, in each of them.

        A collective: all processes call it, with accumulators of the same options (and layers, in
        the same order), on gloo and NCCL alike. Each then holds all tokens, so call it once, when
        all batches are in (`reduce` leaves the tokens in one process, and may be called again). The
        state of a process that was given no batch is on the CPU, unless it has a device.

        Raises:
            InputError: in every process: options that differ, or a value in one of them that no sum
                can include.
        """
        self._reduce(Processes(group), None)

    def reduce(self, dst: int = 0, group: dist.ProcessGroup | None = None) -> None:
        """Moves the tokens of every process of a group into process ``dst`` of it.

        The others hold none then, and may go on with more. A collective, as `all_reduce`.
        """
        self._reduce(Processes(group), dst)

    @abstractmethod
    def _reduce(self, processes: Processes, dst: int | None) -> None: ...


def _wire(tensor: Tensor, group: dist.ProcessGroup | None) -> torch.device:
    """Where a group's transport takes tensors from."""
    backend = str(dist.get_backend(group))
    if backend == "nccl" and not tensor.is_cuda:
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu") if backend == "gloo" else tensor.device
