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
    call it. How many go from rank to rank is read by the host, which the collective wants to know: two numbers a rank,
    for which a GPU is waited for.
    """
    own = own.detach()
    if world.size == 1:
        return own[numbers_N]
    begin, end = world.share(total)
    device = own.device
    # As `World.share` cuts the batch: where all ranks but the first begin.
    starts = torch.arange(1, world.size, device=device) * total // world.size
    has_N = torch.bucketize(numbers_N, starts, right=True)
    """The rank that has each row."""
    wants_N = torch.bucketize(torch.arange(total, device=device), starts, right=True)
    is_sent_N = has_N == world.rank
    none = torch.zeros(world.size, dtype=torch.int64, device=device)
    sent = none.index_add(0, wants_N, is_sent_N.long())
    came = none.index_add(0, has_N[begin:end], torch.ones_like(has_N[begin:end]))
    num_sent, num_came = torch.stack([sent, came]).tolist()
    # Sorting is stable: to one rank after the other, each one's in the order of its samples.
    sent_M = is_sent_N.long().argsort(descending=True, stable=True)[: sum(num_sent)]
    outgoing = own[numbers_N[sent_M] - begin]
    incoming = own.new_empty((end - begin, *own.shape[1:]))
    dist.all_to_all_single(incoming, outgoing.contiguous(), num_came, num_sent)
    picked = torch.empty_like(incoming)
    picked[has_N[begin:end].argsort(stable=True)] = incoming
    return picked
