"""Batches on their way to a CUDA device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from univfast.native import place

__all__ = ["PART_BYTES", "Uploads"]

# Of a batch that is sent at a time: the copy of one part hides behind the work on the part before.
PART_BYTES = 64 << 20
_ALIGNMENT = 256  # bytes, of each tensor in a buffer


def _event() -> torch.cuda.Event:
    return torch.cuda.Event()  # type: ignore[no-untyped-call]


class _Slot:
    """A part on its way: in pinned memory of the host, and on the device."""

    def __init__(self) -> None:
        self.pinned = torch.empty(0, dtype=torch.uint8, device="cpu")
        self.on_device = torch.empty(0, dtype=torch.uint8, device="cpu")
        self.copied, self.consumed = _event(), _event()


class Uploads:
    """Copies tensors to a device through pinned memory, beside the work that the device does.

    Args:
        device: a CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copies: torch.cuda.Stream | None = None
        self._slots: list[_Slot] = []

    def __reduce__(self) -> tuple[type[Uploads], tuple[torch.device]]:
        return Uploads, (self._device,)  # a copy has memory and a stream of its own

    def bring(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Tensors from anywhere on the device: those on the CPU sent, others copied as torch does.

        Valid until the next call but one.
        """
        here = [x for x in tensors if not place.on_cuda(x)]
        sent = iter(self._send(here) if here else [])
        return [x.to(self._device) if place.on_cuda(x) else next(sent) for x in tensors]

    def _send(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """CPU tensors on the device, contiguous, for work on the current stream.

        Waits until the pinned memory is free again.
        """
        if self._copies is None:
            self._copies = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            self._slots = [_Slot(), _Slot()]
        main = torch.cuda.current_stream(self._device)
        slot, before = self._slots
        before.consumed.record(main)  # all work on the part before is queued by now
        starts, size = [], 0
        for tensor in tensors:
            starts.append(size)
            size += -(-tensor.numel() * tensor.element_size() // _ALIGNMENT) * _ALIGNMENT
        slot.copied.synchronize()
        if slot.pinned.numel() < size:
            slot.pinned = torch.empty(size, dtype=torch.uint8, pin_memory=True, device="cpu")
            slot.on_device = torch.empty(size, dtype=torch.uint8, device=self._device)
            slot.consumed.record(main)  # earlier work may still use the memory
        sent = []
        copies = self._copies
        copies.wait_event(slot.consumed)
        for tensor, start in zip(tensors, starts, strict=True):
            host, there = (
                buffer[start : start + tensor.numel() * tensor.element_size()]
                .view(tensor.dtype)
                .view(tensor.shape)
                for buffer in (slot.pinned, slot.on_device)
            )
            host.copy_(tensor)
            with torch.cuda.stream(copies):
                there.copy_(host, non_blocking=True)
            sent.append(there)
        slot.copied.record(copies)
        main.wait_event(slot.copied)
        self._slots.reverse()
        return sent
