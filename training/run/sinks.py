"""Where a run's figures go besides log.jsonl: TensorBoard, Weights & Biases; by name, `log.sinks`.

tensorboard   RUN/tensorboard
wandb         RUN/wandb/offline-run-*, for `wandb sync`; WANDB_MODE=online sends them at once
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from configs.load import ConfigError
from pipeline.errors import one_line
from training.config import LogConfig
from training.errors import OutputError

__all__ = ["Sink", "check_sinks", "open_sinks"]


class Sink(Protocol):
    """Takes figures by name."""

    def scalars(self, group: str, samples_seen: int, facts: Mapping[str, float]) -> None:
        """Figures of `group`, train or evaluation, after so many samples."""

    def close(self) -> None:
        """Nothing comes any more."""


def check_sinks(config: LogConfig) -> None:
    """Raise ConfigError where a sink's package is missing; before any work."""
    if "wandb" in config.sinks:
        found = importlib.util.find_spec("wandb")
        if found is None or found.origin is None:  # a directory `wandb`, as it leaves one behind, is no package
            raise ConfigError("log.sinks: the package wandb is missing; pip install wandb, or leave it out")


def open_sinks(
    directory: Path, config: LogConfig, *, resumed_at: int, name: str, settings: Mapping[str, Any]
) -> list[Sink]:
    """Those that `config` names, for the run at `directory`, called `name`; what is after `resumed_at` is dropped.

    Raises OutputError.
    """
    sinks: list[Sink] = []
    if config.tensorboard and "tensorboard" in config.sinks:
        sinks.append(_TensorBoard(directory, resumed_at))
    if "wandb" in config.sinks:
        sinks.append(_WeightsAndBiases(directory, name, settings))
    return sinks


class _TensorBoard:
    def __init__(self, directory: Path, resumed_at: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and optional

        self._writer: Any = SummaryWriter(str(directory / "tensorboard"), purge_step=resumed_at + 1)

    def scalars(self, group: str, samples_seen: int, facts: Mapping[str, float]) -> None:
        for name, value in facts.items():
            self._writer.add_scalar(f"{group}/{name}", value, samples_seen)

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    """A resumed run is one more W&B run of the same group: offline ones cannot be gone on with."""

    def __init__(self, directory: Path, name: str, settings: Mapping[str, Any]) -> None:
        import wandb  # type: ignore[import-not-found,unused-ignore]  # no dependency

        try:
            self._run: Any = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "openwit"),
                group=name,
                config=dict(settings),
                dir=str(directory),
                mode=os.environ.get("WANDB_MODE", "offline"),
                settings={"console": "off", "silent": True},
            )
        except Exception as error:  # its own tree of errors has changed with its versions
            raise OutputError(
                f"log.sinks: W&B does not begin ({one_line(error, 200)}); set WANDB_MODE=offline, or leave wandb out"
            ) from error

    def scalars(self, group: str, samples_seen: int, facts: Mapping[str, float]) -> None:
        self._run.log({f"{group}/{name}": value for name, value in facts.items()}, step=samples_seen)

    def close(self) -> None:
        self._run.finish()
