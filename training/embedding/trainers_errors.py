"""Errors of work by the part, as the trainer's processes tell each other of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pipeline.errors import PipelineError
from training.errors import TrainingError

__all__ = ["trainers_errors"]


@contextmanager
def trainers_errors() -> Iterator[None]:
    """What a rank raises must be a TrainingError, or the others would not hear of it."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingError("out of GPU memory; lower --batch_size") from error
    except PipelineError as error:
        raise TrainingError(str(error)) from error
