"""Work that one process, torchrun or Ray may do: `launcher: ray` has Ray Train start the processes."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Literal, Protocol

from training.config import RayConfig

__all__ = ["launched"]


class _Launchable(Protocol):
    @property
    def launcher(self) -> Literal["torchrun", "ray"]:
        """Who starts several processes."""

    @property
    def ray(self) -> RayConfig:
        """How many, and where."""

    @property
    def device(self) -> Literal["auto", "cpu", "cuda"]:
        """Of each."""


def launched(work: str, config: _Launchable, *, output: str, doing: str) -> Any:
    """What `work`, MODULE:FUNCTION of this package, returns for `config`; see `RayJob`. Raises TrainingError."""
    if config.launcher == "ray":
        from training.launch_ray import RayJob, run_on_ray

        return run_on_ray(
            RayJob(work=work, config=config, output=output, ray=config.ray, device=config.device, doing=doing)
        )
    module, _, function = work.partition(":")
    return getattr(import_module(module), function)(config)
