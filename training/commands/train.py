"""`run CONFIG.yaml [--seeds N]`: train, then evaluate; with several seeds each, and what they give on average."""

from __future__ import annotations

from collections.abc import Sequence

from configs.load import ConfigError
from training.commands.installed import check_installed
from training.commands.words import NEEDED_TO_TRAIN, train_config
from training.config import TrainConfig

__all__ = ["NEEDED", "OPTIONS", "run"]

OPTIONS = TrainConfig
NEEDED = NEEDED_TO_TRAIN


def run(words: Sequence[str]) -> int:
    """The exit status. Raises ConfigError, TrainingError, PipelineError."""
    words, seeds = _seeds(words)
    config = train_config(words)
    check_installed()
    from training.distributed import is_first_process
    from training.run.log import show_metrics

    if config.launcher == "ray":
        from training.launch_ray import train_on_ray as train
    else:
        from training.train import train
    if seeds is not None:
        from training.seeds import show_spreads, train_seeds

        result, spreads = train_seeds(config, seeds, train)
        if spreads and is_first_process():
            show_spreads(
                spreads, title=f"{config.output}, {seeds} seeds, after {result.progress.samples_seen:,} samples"
            )
        return 0 if result.stopped_by is None else 128 + result.stopped_by
    result = train(config)
    if result.stopped_by is not None:
        return 128 + result.stopped_by
    if result.metrics and is_first_process():
        show_metrics(result.metrics, title=f"{config.output} after {result.progress.samples_seen:,} samples")
    return 0


def _seeds(words: Sequence[str]) -> tuple[list[str], int | None]:
    """The words without `--seeds N`, and N. Raises ConfigError."""
    rest: list[str] = []
    seeds: str | None = None
    left = iter(words)
    for word in left:
        if word == "--seeds":
            seeds = next(left, "")
        elif word.startswith("--seeds="):
            seeds = word.partition("=")[2]
        else:
            rest.append(word)
    if seeds is not None and not (seeds.isdigit() and int(seeds)):
        raise ConfigError(f"--seeds {seeds}: give the number of trainings, as --seeds 5")
    return rest, None if seeds is None else int(seeds)
