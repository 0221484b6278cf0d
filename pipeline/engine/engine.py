"""What runs tasks, and keeps the manifest of a step: the engine, and the one that runs them in this process."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.engine.config import EngineConfig
from pipeline.engine.record import Done, finished, run_task, strangers, write_manifest
from pipeline.engine.task import AnyTask
from pipeline.storage.atomic import sweep
from pipeline.terminal.progress import Progress

__all__ = ["Engine", "InlineEngine"]


class Engine(ABC):
    """Runs the tasks of a step that are not done yet, and keeps the step's manifest."""

    def __init__(self, config: EngineConfig, progress: Progress) -> None:
        self.config = config
        self.progress = progress

    def run_step(
        self,
        directory: Path,
        tasks: Sequence[AnyTask[Any]],
        *,
        title: str = "",
        keep: bool = False,
        accept: Callable[[Path, Done], None] | None = None,
    ) -> list[Done]:
        """Bring every task of the step to done; returns their records in task order.

        Tasks whose record has the same key are skipped. Afterwards the directory holds the outputs of
        these tasks and, unless `keep`, nothing else. `accept` is shown each record, those of before too, as soon as it
        is there. Raises PipelineError as the tasks and `accept` do, EngineError when a task's process keeps dying.
        """
        if not tasks and not directory.exists():
            return []  # a step that has nothing to do leaves no trace
        sweep(directory)
        done: dict[str, Done] = {}
        waiting: list[AnyTask[Any]] = []
        for task in tasks:
            record = finished(directory, task)
            if record is None:
                waiting.append(task)
            else:
                done[task.partition] = record
                if accept is not None:
                    accept(directory, record)
        if waiting:
            with self.progress.step(title or directory.name, total=len(tasks), skipped=len(done)) as advance:
                for record in self._execute(directory, waiting):
                    done[record.partition] = record
                    if accept is not None:
                        accept(directory, record)
                    advance(int(record.info.get("rows", 0)))
        records = [done[task.partition] for task in tasks]
        changed = write_manifest(directory, records)
        if not keep and (waiting or changed or strangers(directory, records)):
            _remove_strangers(directory, records)
        return records

    @abstractmethod
    def _execute(self, directory: Path, tasks: Sequence[AnyTask[Any]]) -> Iterator[Done]:
        """Run all `tasks`, in any order, yielding records as they finish."""

    @abstractmethod
    def close(self) -> None:
        """Let go of processes that the engine started."""


class InlineEngine(Engine):
    """Runs tasks one after the other in this process."""

    def _execute(self, directory: Path, tasks: Sequence[AnyTask[Any]]) -> Iterator[Done]:
        for task in tasks:
            yield run_task(str(directory), task)

    def close(self) -> None:
        """Nothing was started."""


def _remove_strangers(directory: Path, records: Sequence[Done]) -> None:
    for path in strangers(directory, records):
        path.unlink(missing_ok=True)
    for path in sorted(directory.rglob("*"), reverse=True):
        if path.is_dir() and path.name != "done" and not any(path.iterdir()):
            shutil.rmtree(path, ignore_errors=True)
