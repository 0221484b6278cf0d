"""`evaluate CONFIG.yaml`: the last checkpoint of a run on its evaluation set."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.storage.place import place_of
from training.commands.installed import check_installed
from training.commands.words import NEEDED_TO_TRAIN, last_checkpoint, train_config
from training.config import TrainConfig

__all__ = ["NEEDED", "OPTIONS", "run"]

OPTIONS = TrainConfig
NEEDED = NEEDED_TO_TRAIN


def run(words: Sequence[str]) -> int:
    """The exit status. Raises ConfigError, TrainingError, PipelineError."""
    config = train_config(words)
    check_installed()
    with last_checkpoint(config.output) as last:
        from training.evaluation.evaluate import evaluate_checkpoint
        from training.run.log import show_metrics, write_metrics

        if config.threads is not None:
            import torch

            torch.set_num_threads(config.threads)
        metrics, progress = evaluate_checkpoint(
            config.evaluation, last, config.model, config.method, config.loss, config.precision, config.device
        )
    root = place_of(config.output)
    write_metrics(root / "metrics.json", metrics, samples_seen=progress.samples_seen, model=progress.model_name)
    show_metrics(metrics, title=f"{root / 'checkpoints' / last.name} after {progress.samples_seen:,} samples")
    return 0
