"""`experiment CONFIG.yaml`: the same training on differently made data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from configs.load import ConfigError, load
from pipeline.terminal.printable import say
from training.commands.installed import check_installed
from training.experiment.config import ExperimentConfig

__all__ = ["NEEDED", "OPTIONS", "run"]

OPTIONS = ExperimentConfig
NEEDED = ("output", "shards", "train", "arms", "baseline", "seeds", "jobs")


def run(words: Sequence[str]) -> int:
    """The exit status. Raises ConfigError, TrainingError."""
    rest = list(words)
    if not rest or rest[0].startswith("--"):
        raise ConfigError("experiment CONFIG.yaml: name the config of the experiment")
    config = load(ExperimentConfig, rest.pop(0), rest)
    check_installed()
    from training.experiment.experiment import run_experiment
    from training.experiment.page import paragraphs

    results = run_experiment(config, say=say)
    for paragraph in paragraphs(results):
        say(paragraph)
    say(f"wrote {Path(config.output) / 'results.html'}")
    return 0
