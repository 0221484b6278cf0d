"""The options of the engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from configs.bounds import Bounds
from configs.load import check_bounds

__all__ = ["EngineConfig"]

_LEAST_STORE_MB = 75
"""Ray refuses less (`ray._private.ray_constants.OBJECT_STORE_MINIMUM_MEMORY_BYTES`)."""


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Where tasks run. Nothing here changes a byte of the result."""

    kind: Literal["ray", "inline"] = "ray"
    """ray: a local Ray that the run starts itself, or the cluster at `address`. inline: in this process,
    for tests and debugging."""
    address: str | None = None
    """Address of a Ray cluster (host:port or ray://...); default: RAY_ADDRESS, else a local Ray."""
    num_cpus: Annotated[int, Bounds(least=1)] | None = None
    """CPUs of the local Ray; default: all of the machine."""
    object_store_mb: Annotated[int, Bounds(least=_LEAST_STORE_MB)] = 128
    """Object store of the local Ray, in MB; only small records travel through it."""
    max_retries: Annotated[int, Bounds(least=0)] = 3
    """How often a task is tried again after its process died or an I/O error."""

    single_driver: bool = False
    """Of an output in a bucket whose store cannot refuse a second run: you see to it that one runs at a time."""

    nodes_timeout_s: Annotated[float, Bounds(least=0)] = 600.0
    """How long a run waits for a node of the cluster that is large enough for its tasks, where there is none: one that
    grows by itself may still bring it."""

    def __post_init__(self) -> None:
        check_bounds(self)
