"""Where a run lies, and what of it lies on this machine.

on a disk     both are RUN, which all ranks see
in a bucket   a directory of the machine's own, shared by its ranks: index, mapped; checkpoints and logs, on their way
"""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pipeline.storage.copies import scratch_files
from pipeline.storage.place import Place
from training.distributed import World

__all__ = ["RunPlace", "open_place"]


@dataclass(frozen=True, kw_only=True)
class RunPlace:
    """RUN, as one rank sees it."""

    place: Place
    local: Path
    is_owner: bool
    """Whether this rank is the one of its machine that fills `local`; of a RUN on a disk, rank 0."""
    is_shared: bool
    """Whether all ranks see the same `local`."""


def open_place(place: Place, world: World, stack: ExitStack) -> RunPlace:
    """RUN at `place`; `stack` removes what lies on this machine of one in a bucket. All ranks call it together."""
    if isinstance(place, Path):
        return RunPlace(place=place, local=place, is_owner=world.is_first, is_shared=True)
    local: Path | None = None
    is_owner, owner, machines = False, 0, 0
    while True:
        # One rank makes a directory, those that see it share it; then the first of the others makes the next.
        offered: Path | None = None
        if world.rank == owner:
            local, is_owner = stack.enter_context(scratch_files()), True
            offered = local / f"shared-{secrets.token_hex(8)}"
            offered.touch()
        mark: Path = world.gather_objects(offered)[owner]
        if local is None and _is_here(mark):
            local = mark.parent
        machines += 1
        without = [rank for rank, lacks in enumerate(world.gather_objects(local is None)) if lacks]
        if not without:
            assert local is not None
            return RunPlace(place=place, local=local, is_owner=is_owner, is_shared=machines == 1)
        owner = without[0]


def _is_here(mark: Path) -> bool:
    """Whether a file of another rank is on this machine, too."""
    return mark.is_file()
