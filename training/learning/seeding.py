"""The random numbers of a step: a function of seed, position and rank, as the order of the samples is one.

So a checkpoint need not hold the state of a generator, and nothing that happens between two steps (an evaluation, the
start of data workers, another phase's model) can shift what dropout draws.
"""

from __future__ import annotations

import numpy as np
import torch

from pipeline.records.identity import keyed_hash

__all__ = ["seed_step"]

_MAX_RANKS = 1 << 20


def seed_step(seed: int, position: int, rank: int) -> None:
    """Set torch's generators for the step that begins at `position` (samples) on `rank`.

    Dropout that is not keyed per sample then draws the same in a run that was resumed, at the same number of ranks.
    """
    place = np.array([position * _MAX_RANKS + rank], np.uint64)
    torch.manual_seed(int(keyed_hash(seed, place)[0]))
