"""The options of the engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from configs.load import ConfigError

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
    num_cpus: int | None = None
    """CPUs of the local Ray; default: all of the machine."""
    object_store_mb: int = 128
    """Object store of the local Ray, in MB; only small records travel through it."""
    max_retries: int = 3
    """How often a task is tried again after its process died or an I/O error."""

    single_driver: bool = False
    """Of an output in a bucket whose store cannot refuse a second run: you see to it that one runs at a time."""

    nodes_timeout_s: float = 600.0
    """How long a run waits for a node of the cluster that is large enough for its tasks, where there is none: one that
    grows by itself may still bring it."""

    def __post_init__(self) -> None:
        if self.num_cpus is not None and self.num_cpus < 1:
            raise ConfigError(f"num_cpus must be at least 1, or null for all, not {self.num_cpus}")
        if self.object_store_mb < _LEAST_STORE_MB:
            raise ConfigError(f"object_store_mb must be at least {_LEAST_STORE_MB}, not {self.object_store_mb}")
        if self.max_retries < 0:
            raise ConfigError(f"max_retries must not be negative, not {self.max_retries}")
        if self.nodes_timeout_s < 0:
            raise ConfigError(f"nodes_timeout_s must not be negative, not {self.nodes_timeout_s}")
