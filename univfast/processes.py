"""The processes that share one computation, through ``torch.distributed``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from univfast.errors import InputError

__all__ = ["Processes"]

# Values of a tensor that are sent at a time: bounds what the transport copies.
_PART = 1 << 25


class Processes:
    """A group of ``torch.distributed``; all of its processes must call the same methods.

    Args:
        group: None for all processes.

    Raises:
        InputError: no process group was initialised.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise InputError(
                "group: torch.distributed is not initialised; call"
                " torch.distributed.init_process_group first, as torchrun prepares it"
            )
        self._group = group
        self.rank = dist.get_rank(group)
        self.count = dist.get_world_size(group)
        self._backend = str(dist.get_backend(group))

    def gather(self, value: object) -> list[Any]:
        """What each process gave, in their order, in every process."""
        found: list[Any] = [None] * self.count
        with self._talk():
            dist.all_gather_object(found, value, group=self._group)
        return found

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """For each flag, whether it is set in any process."""
        sent = torch.tensor(flags, dtype=torch.uint8)
        sent = sent.to(self._wire(sent))
        with self._talk():
            dist.all_reduce(sent, dist.ReduceOp.MAX, group=self._group)
            return [bool(flag) for flag in sent.tolist()]

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
                if theirs.get(key) != value:
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
            sent = part.to(self._wire(part))
            with self._talk():
                if dst is None:
                    dist.all_reduce(sent, group=self._group)
                else:
                    dist.reduce(sent, group=self._group, group_dst=dst)
            if sent is not part:
                part.copy_(sent)

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

    def _wire(self, tensor: Tensor) -> torch.device:
        """Where this group's transport takes tensors from."""
        if self._backend == "nccl" and not tensor.is_cuda:
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("cpu") if self._backend == "gloo" else tensor.device
