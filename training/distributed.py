"""One process or many: who we are, and the few collectives that the loop uses.

Several processes come from `torchrun`, which sets RANK, WORLD_SIZE, LOCAL_RANK and MASTER_*.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from training.errors import DistributedError

__all__ = ["World", "distributed", "is_first_process"]


@dataclass(frozen=True, kw_only=True)
class World:
    """This process's place among the run's processes."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this process writes logs and checkpoints."""
        return self.rank == 0

    def gather_rows(self, local_ND: Tensor) -> Tensor:
        """[W * n, D]: every rank's [n, D] in rank order, without gradient."""
        if self.size == 1:
            return local_ND
        out = local_ND.new_empty((self.size * len(local_ND), *local_ND.shape[1:]))
        dist.all_gather_into_tensor(out, local_ND.contiguous())
        return out

    def sum_(self, tensor: Tensor) -> Tensor:
        """Add up `tensor` over ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather_objects(self, value: Any) -> list[Any]:
        """Every rank's picklable `value`, in rank order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def from_first(self, value: Any) -> Any:
        """Rank 0's picklable `value`, on every rank."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def barrier(self) -> None:
        """Wait for every rank."""
        if self.size > 1:
            dist.barrier()


def is_first_process() -> bool:
    """Whether this process is rank 0, before or after the processes have met."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def distributed(*, device: str = "auto", timeout_s: float = 600.0) -> Iterator[World]:
    """Join the run's processes; leave them in order at the end.

    `device`: auto, cpu or cuda. `timeout_s`: how long a collective waits for a rank that does not come.
    Raises DistributedError.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    use_cuda = torch.cuda.is_available() if device == "auto" else device == "cuda"
    if use_cuda and not torch.cuda.is_available():
        raise DistributedError("device is cuda, but there is no usable CUDA device here; set --device cpu")
    if use_cuda:
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        if local_rank >= torch.cuda.device_count():
            raise DistributedError(
                f"rank {rank} wants GPU {local_rank}, but there are {torch.cuda.device_count()}; "
                "start at most one process per GPU"
            )
        place = torch.device("cuda", local_rank)
        torch.cuda.set_device(place)
    else:
        place = torch.device("cpu")
    if size == 1:
        yield World(device=place)
        return
    try:
        dist.init_process_group("nccl" if use_cuda else "gloo", timeout=datetime.timedelta(seconds=timeout_s))
    except (RuntimeError, ValueError) as error:
        raise DistributedError(
            f"rank {rank} of {size} cannot join the others ({' '.join(str(error).split())[:200]}); "
            "start all ranks with torchrun"
        ) from error
    try:
        yield World(rank=rank, size=size, device=place)
        # Ranks finish at different times; one that leaves early would break the others' last collective.
        dist.barrier()
    finally:
        dist.destroy_process_group()
