"""`run CONFIG.yaml`: train, then evaluate."""

from __future__ import annotations

from collections.abc import Sequence

from training.commands.installed import check_installed
from training.commands.words import NEEDED_TO_TRAIN, train_config
from training.config import TrainConfig

__all__ = ["NEEDED", "OPTIONS", "run"]

OPTIONS = TrainConfig
NEEDED = NEEDED_TO_TRAIN


def run(words: Sequence[str]) -> int:
    """The exit status. Raises ConfigError, TrainingError, PipelineError."""
    config = train_config(words)
    check_installed()
    from training.distributed import is_first_process
    from training.run.log import show_metrics

    if config.launcher == "ray":
        from training.launch_ray import train_on_ray as train
    else:
        from training.train import train
    result = train(config)
    if result.stopped_by is not None:
        return 128 + result.stopped_by
    if result.metrics and is_first_process():
        show_metrics(result.metrics, title=f"{config.output} after {result.progress.samples_seen:,} samples")
    return 0
