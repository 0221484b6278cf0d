"""Pictures on their way from data workers, in memory that is used again and again.

    worker: crop --> its slot --> trainer: slot --> batch, on the host or by a stream of its own on the GPU
              ^---------------- free, some chunks later -------------------'

A DataLoader alone makes new shared memory for each chunk, fills it from the worker's own, and maps it in the trainer,
which joins chunks in more new memory. New pages cost more than what is done in them: of a picture of 224 pixels 0.2 ms
of CPU in the worker and 0.1 in the trainer. Here workers write crops where the trainer reads them. For a GPU the slots
are pinned once, and chunks go there while the step before runs: the trainer's CPU touches no pixel.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor

from training.data.batch import Batch, text_length

__all__ = ["Slots", "one_ahead", "whole_batches"]


class Slots:
    """Shared memory for the pictures of chunks, which take turns."""

    def __init__(self, *, workers: int, chunks_ahead: int, chunk_size: int, image_size: int) -> None:
        """`chunks_ahead`: chunks that each of the `workers` prepares, of `chunk_size` pictures at most."""
        self.spare = workers
        """Chunks that may be taken after a chunk, before its slot is written to again."""
        shape = (workers * chunks_ahead + self.spare, chunk_size, image_size, image_size, 3)
        # As torch's own collate does: pages that are made when they are first written to, by the worker.
        shared: Any = torch.UntypedStorage
        self._images = torch.empty(0, dtype=torch.uint8).set_(shared._new_shared(math.prod(shape))).view(shape)

    def images(self, chunk: int, size: int) -> Tensor:
        """uint8[size, H, W, 3]: where the pictures of chunk number `chunk` lie, in worker and trainer."""
        return self._images[chunk % len(self._images), :size]

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """Page-locked inside, so that copies to a GPU run beside everything else."""
        runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]  # torch's stub
        failure = int(runtime.cudaHostRegister(self._images.data_ptr(), self._images.nbytes, 0))
        if failure:  # copies are then slower, and as right
            warnings.warn(f"shared memory cannot be pinned (CUDA error {failure}); is there enough?", stacklevel=2)
        try:
            yield
        finally:
            if not failure:
                runtime.cudaHostUnregister(self._images.data_ptr())


def whole_batches(
    chunks: Iterator[Batch], local_size: int, *, device: torch.device, spare: int | None, text_multiple: int | None
) -> Iterator[Batch]:
    """Batches of `local_size` on `device`, made of `chunks` in order.

    `spare`: chunks that may be taken after a chunk before its memory is used anew; None: it never is.
    `text_multiple`: texts are cut to the longest of the batch, rounded up to a multiple of this; None leaves them.

    On a GPU the copies run on a stream of their own, and `Batch.to` has the step wait for them there.
    """
    side = _Side(device)
    fields: dict[str, Tensor] = {}
    count = longest = num_replaced = 0
    for chunk in chunks:
        longest = max(longest, text_length(chunk.tokens))
        num_replaced += chunk.num_replaced
        with side.copying():
            if spare is None and len(chunk) == local_size:
                fields = {name: field.to(device, non_blocking=True) for name, field in chunk.fields.items()}
            else:
                if not count:
                    fields = {name: _room(field, local_size, device) for name, field in chunk.fields.items()}
                for name, field in chunk.fields.items():
                    fields[name][count : count + len(chunk)].copy_(field, non_blocking=True)
            side.keep(chunk, spare)
        count += len(chunk)
        if count == local_size:
            if text_multiple is not None:
                cut = -(-longest // text_multiple) * text_multiple
                with side.copying():
                    fields["tokens"] = fields["tokens"][:, :cut].contiguous()
            yield Batch(fields=fields, num_replaced=num_replaced, ready=side.mark())
            count = longest = num_replaced = 0


def one_ahead(batches: Generator[Batch, None, None]) -> Generator[Batch, None, None]:
    """The same, each drawn by a thread while the one before is in use."""
    with closing(batches), ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
        coming = thread.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, batches, None)
            yield batch


def _room(field: Tensor, rows: int, device: torch.device) -> Tensor:
    return torch.empty((rows, *field.shape[1:]), dtype=field.dtype, device=device)


class _Side:
    """The stream that copies to `device`; nothing where that is the host, whose copies are done when they return."""

    def __init__(self, device: torch.device) -> None:
        cuda: Any = torch.cuda
        self._stream = cuda.Stream(device) if device.type == "cuda" else None
        self._reading: deque[tuple[Any, Batch]] = deque()

    def copying(self) -> AbstractContextManager[object]:
        """Copies inside are queued here."""
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def mark(self) -> torch.cuda.Event | None:
        """When all copies so far are done."""
        return None if self._stream is None else cast(torch.cuda.Event, self._stream.record_event())

    def keep(self, chunk: Batch, spare: int | None) -> None:
        """Hold `chunk` until it is copied, and wait for the one whose memory the next may be written to."""
        if self._stream is None:
            return
        self._reading.append((self.mark(), chunk))
        while self._reading and (self._reading[0][0].query() or len(self._reading) == spare):
            self._reading.popleft()[0].synchronize()
