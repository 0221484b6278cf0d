"""How many processes `--launcher ray` starts, and where. Apart from `launch_ray.py`, which imports Ray."""

from __future__ import annotations

from dataclasses import dataclass

from configs.load import ConfigError

__all__ = ["RayConfig"]


@dataclass(frozen=True, kw_only=True)
class RayConfig:
    """Ray Train's part of a run; with `launcher: ray`."""

    address: str | None = None
    """Address of a Ray cluster (host:port or ray://...); null takes RAY_ADDRESS, else starts a Ray on this machine."""
    num_workers: int = 1
    """Processes, one a GPU where `device` is not cpu and there are GPUs."""
    min_workers: int | None = None
    """Go on with as few as this when nodes leave, and with up to `num_workers` when they come back; null: all or
    none."""
    cpus_per_worker: float = 1.0
    """CPUs that Ray sets aside for each process and its data workers."""
    max_failures: int = 3
    """How often the processes are started again after one of them died, each time from the last checkpoint."""

    def __post_init__(self) -> None:
        if self.num_workers < 1:
            raise ConfigError(f"num_workers must be at least 1, got {self.num_workers}")
        if self.min_workers is not None and not 1 <= self.min_workers <= self.num_workers:
            raise ConfigError(f"min_workers must lie in [1, num_workers {self.num_workers}], got {self.min_workers}")
        if self.cpus_per_worker <= 0:
            raise ConfigError(f"cpus_per_worker must be positive, got {self.cpus_per_worker}")
        if self.max_failures < 0:
            raise ConfigError(f"max_failures must not be negative, got {self.max_failures}")
