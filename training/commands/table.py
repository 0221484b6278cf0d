"""The commands of `python -m training`: the one list. Importing it loads nothing but the standard library."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["COMMANDS", "Command"]


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command, and where it is."""

    name: str
    usage: str
    """What comes behind the name, before the options."""
    says: str
    """What it does: a line, and more lines for its own page."""
    module: str
    """Which has its options (`OPTIONS`, a config class), those that everyone needs (`NEEDED`), and `run(words)`."""


COMMANDS: tuple[Command, ...] = (
    Command(
        name="run",
        usage="CONFIG.yaml",
        says="Train, or go on from the last checkpoint; then evaluate.",
        module="training.commands.train",
    ),
    Command(
        name="plan",
        usage="CONFIG.yaml",
        says="Say what the run will take: memory by kind, samples, steps, queries.\nNeeds no GPU and no data.",
        module="training.commands.plan",
    ),
    Command(
        name="evaluate",
        usage="CONFIG.yaml",
        says="Measure the last checkpoint again, on --evaluation.path.",
        module="training.commands.evaluate",
    ),
    Command(
        name="export",
        usage="CONFIG.yaml",
        says="Write the last checkpoint to OUTPUT/export, for open_clip's\nlocal-dir:OUTPUT/export.",
        module="training.commands.export",
    ),
    Command(
        name="embed",
        usage="MODEL DATA",
        says="Features of a data set, folder or list, by uid, to DATA/features.\nGoes on where it was stopped.",
        module="training.commands.embed",
    ),
    Command(
        name="score",
        usage="FEATURES...",
        says="Score each sample by its features: a Parquet by uid,\nfor `pipeline` to filter and to subset by.",
        module="training.commands.score",
    ),
)
