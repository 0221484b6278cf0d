"""`experiment CONFIG.yaml`: the same training on differently made data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from configs.load import ConfigError, load
from configs.presets import no_preset, preset
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
    word = rest.pop(0)
    path = Path(word) if Path(word).suffix in (".yaml", ".yml") else preset("experiment", word)
    if path is None:
        raise ConfigError(f"{word}: no config here; {no_preset('experiment', word)}")
    config = load(ExperimentConfig, str(path), rest)
    check_installed()
    from training.experiment.experiment import run_experiment
    from training.experiment.page import paragraphs

    results = run_experiment(config, say=say)
    for paragraph in paragraphs(results):
        say(paragraph)
    say(f"wrote {Path(config.output) / f'{config.results}.html'}")
    return 0
