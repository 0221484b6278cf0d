"""What a step is, and how the sums of its partitions are added up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from configs.load import fingerprint
from pipeline.checked import Vouched, load_vector
from pipeline.engine import Done, Task

__all__ = ["Step", "add_up", "key_of"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """Tasks that may run in any order; every one must be done before the next step."""

    name: str
    """Directory under OUT/work."""
    title: str
    tasks: Sequence[Task]
    keep: bool = False
    """Whether what earlier plans left in the directory stays: true for facts that cannot be made again."""
    accept: Callable[[Path, Done], None] | None = None
    """Looks at each record as it comes, with the step's directory, and may raise PipelineError to stop the step."""


def key_of(version: str, inputs: Iterable[Done], *rest: Any) -> str:
    """The key of a task: stage version, content hashes of what it reads, and the config it uses."""
    return fingerprint(version, [sorted(done.outputs.items()) for done in inputs], *rest)


def add_up(files: Sequence[Vouched]) -> npt.NDArray[np.int64]:
    """Sum of int64 vectors of equal length, one file in memory at a time."""
    total = np.array(load_vector(files[0]), dtype=np.int64)
    for file in files[1:]:
        total += load_vector(file)
    return total
