"""Which engine runs the tasks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.engine.config import EngineConfig
from pipeline.engine.engine import Engine, InlineEngine
from pipeline.engine.on_ray import RayEngine
from pipeline.terminal.progress import Progress

__all__ = ["open_engine"]


@contextmanager
def open_engine(config: EngineConfig, progress: Progress | None = None) -> Iterator[Engine]:
    """The engine that `config` names; Ray is imported, and starts, with the first task that must run on it."""
    kind = InlineEngine if config.kind == "inline" else RayEngine
    engine = kind(config, progress or Progress())
    try:
        yield engine
    finally:
        engine.close()
