"""`export CONFIG.yaml`: the last checkpoint of a run, for others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.storage.place import place_of
from pipeline.terminal.printable import say
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
        from training.export import export

        target = export(
            last,
            model=config.model.name,
            directory=place_of(config.output) / "export",
            normalisation=config.model.normalisation,
        )
    where = target if isinstance(target, Path) else "A COPY OF IT ON A DISK"
    say(f"wrote {target}: open_clip.create_model_and_transforms('local-dir:{where}')")
    return 0
