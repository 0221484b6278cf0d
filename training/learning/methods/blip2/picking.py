"""Rows of other ranks by their number in the global batch, where gathering all of them would be too much."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from training.distributed import World

__all__ = ["pick_rows"]


def pick_rows(own: Tensor, numbers_N: Tensor, world: World, *, total: int) -> Tensor:
    """[n, ...]: for each own sample the row that `numbers_N` names for it, without gradient.

    `own` [n, ...] are this rank's rows of N = `total`; `numbers_N` (int64[N]: a row for each sample of the batch) is
    the same on all ranks, so that each knows what the others want of it. Only those rows are sent. Every rank must
    call it.
    """
    own = own.detach()
    if world.size == 1:
        return own[numbers_N]
    bounds = [world.share(total, rank=rank) for rank in range(world.size)]
    begin, end = bounds[world.rank]
    wanted = numbers_N.tolist()
    sent = [[number - begin for number in wanted[start:stop] if begin <= number < end] for start, stop in bounds]
    mine = wanted[begin:end]
    came = [[at for at, number in enumerate(mine) if start <= number < stop] for start, stop in bounds]
    outgoing = own[torch.tensor([row for rows in sent for row in rows], dtype=torch.int64, device=own.device)]
    incoming = own.new_empty((end - begin, *own.shape[1:]))
    dist.all_to_all_single(incoming, outgoing.contiguous(), [len(rows) for rows in came], [len(rows) for rows in sent])
    picked = torch.empty_like(incoming)
    picked[torch.tensor([at for rows in came for at in rows], dtype=torch.int64, device=own.device)] = incoming
    return picked
