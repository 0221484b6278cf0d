"""Every error that the trainer raises on purpose.

    TrainingError
    |- DataError          shards missing, truncated, changed since the run began, or not shards at all
    |- EvaluationError    an evaluation set is missing or not of the expected layout
    |- ModelError         an unknown model, or one that cannot do what the config asks
    |- FeaturesError      features or an index missing, damaged, or of another model
    |- CheckpointError    no usable checkpoint, or one of another run or model
    |- OutputError        the output directory is not ours, in use, or unwritable
    |- NonFiniteError     loss or gradient became NaN or infinite and the config says stop
    `- DistributedError   ranks cannot meet, or one stopped answering

Each message is one line that says what, where and what to do next; the commands print it and exit
with status 2. Bad samples are never errors: they are counted and replaced (`data/batches.py`). A mistake in
a config is a `configs.load.ConfigError`.
"""

from __future__ import annotations

import os

__all__ = [
    "CheckpointError",
    "DataError",
    "DistributedError",
    "EvaluationError",
    "FeaturesError",
    "ModelError",
    "NonFiniteError",
    "OutputError",
    "TrainingError",
    "is_told_by_another",
]


class TrainingError(Exception):
    """A run cannot go on, for a reason that the user can act on."""


class DataError(TrainingError):
    """The shards are missing, truncated, changed, or not of a layout that can be read."""


class EvaluationError(TrainingError):
    """The evaluation set is missing or not of the expected layout."""


class FeaturesError(TrainingError):
    """Features, or an index of them, are missing, unfinished, damaged, or of another model."""


class ModelError(TrainingError):
    """The model is unknown, or cannot do what the config asks."""


class CheckpointError(TrainingError):
    """No usable checkpoint, or one that belongs to another run or model."""


class OutputError(TrainingError):
    """The output directory is not ours, in use by a live run, or unwritable."""


class NonFiniteError(TrainingError):
    """Loss or gradient became NaN or infinite, and the config says stop."""


class DistributedError(TrainingError):
    """The processes of a run cannot meet, or one of them stopped answering."""


def is_told_by_another(error: BaseException) -> bool:
    """Whether another process prints `error`: rank 0, where all end with it (`World.tell_once`); before they have met,
    the first of this machine, whose files and words are the same."""
    if "RANK" not in os.environ:  # not one of several, though its workers may have been
        return False
    return bool(getattr(error, "is_told", os.environ.get("LOCAL_RANK", "0") != "0"))
