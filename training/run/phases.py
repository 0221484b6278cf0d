"""Phases of a run: other picture sizes and text lengths for a part of it.

    phases: [{begins_at: 0.97, image_size: 336, micro_batches: 2}]      the last 3 % at 336 px, as CLIP's ViT-L/14@336
    phases: [{begins_at: 0, image_size: 112, context_length: 16}, {begins_at: 0.9}]      short first, full at the end
    phases: [{begins_at: 0.99, patch_dropout: 0}]      whole pictures at the end, as FLIP

The weights go over to a model made for the new size (`learning/resizing.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from training.config import Phase

__all__ = ["first_phase", "next_phase_start", "phase_at"]


_WHOLE = Phase(begins_at=0.0)


def _start(phase: Phase, total: int, batch: int) -> int:
    return math.ceil(phase.begins_at * total / batch) * batch


def first_phase(phases: Sequence[Phase]) -> Phase:
    """The phase of a run's first step, however long the run is."""
    return phase_at(phases, 0, total=1, batch=1)


def phase_at(phases: Sequence[Phase], position: int, *, total: int, batch: int) -> Phase:
    """The phase of the step that begins at `position` of `total` samples."""
    begun = [phase for phase in phases if _start(phase, total, batch) <= position]
    return begun[-1] if begun else _WHOLE


def next_phase_start(phases: Sequence[Phase], position: int, *, total: int, batch: int) -> int:
    """Where the phase at `position` ends: the next one's start, or `total`."""
    starts = [_start(phase, total, batch) for phase in phases]
    return min([start for start in starts if start > position] + [total])
