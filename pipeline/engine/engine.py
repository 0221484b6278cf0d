"""What runs tasks, and keeps the manifest of a step: the engine, and the one that runs them in this process."""

from __future__ import annotations

import functools
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.engine.commit import run_task
from pipeline.engine.config import EngineConfig
from pipeline.engine.desk import inline_desk, standing_at
from pipeline.engine.record import Done, Records, is_manifest_of, put_together, strangers, take_out, write_manifest
from pipeline.engine.task import AnyTask
from pipeline.storage.atomic import sweep
from pipeline.storage.bucket import BucketPath
from pipeline.storage.lease import Hold, hold_of
from pipeline.storage.place import Place
from pipeline.terminal.progress import Progress
from pipeline.watching import Running, StepWatch, running

__all__ = ["Accept", "Engine", "InlineEngine", "Looked", "look_at"]

Accept = Callable[[Place, Done], None]
"""Looks at each record of a step as it comes, with the step's directory; may raise PipelineError to stop the step."""


class Engine(ABC):
    """Runs the tasks of a step that are not done yet, and keeps the step's manifest."""

    def __init__(self, config: EngineConfig, progress: Progress) -> None:
        self.config = config
        self.progress = progress

    def run_step(
        self,
        directory: Place,
        tasks: Sequence[AnyTask[Any]],
        *,
        step: str = "",
        title: str = "",
        keep: bool = False,
        accept: Accept | None = None,
        looked: Looked | None = None,
    ) -> list[Done]:
        """Bring every task of the step to done; returns their records in task order. `step` is its name, and `title`
        what people read of it; the directory's name stands for either.

        Tasks whose record has the same key are skipped; `looked` is `look_at` of these very tasks, where the caller
        has it. Afterwards the directory holds the outputs of these tasks and, unless `keep`, nothing else. `accept` is
        shown each record, those of before too, as soon as it is there. Raises PipelineError as the tasks and `accept`
        do, EngineError when a task's process keeps dying, LockedError where the output is no longer ours.
        """
        if not tasks and not directory.exists():
            return []  # a step that has nothing to do leaves no trace
        sweep(directory)
        looked = look_at(directory, tasks) if looked is None else looked
        done, waiting = dict(looked.done), looked.waiting
        if accept is not None:
            for record in looked.done.values():
                accept(directory, record)
        if waiting:
            take_out(directory, {task.partition for task in waiting})
            name = step or directory.name
            with self.progress.step(name, title or name, tasks=len(tasks), skipped=len(done)) as watch:
                for record in self._execute(directory, waiting, hold_of(directory), watch):
                    hold_of(directory)  # or another run has taken the output over
                    done[record.partition] = record
                    if accept is not None:
                        accept(directory, record)
            sweep(directory)  # of workers that outlived a killed run by a moment
        records = [done[task.partition] for task in tasks]
        hold = hold_of(directory)
        changed = bool(waiting) or not is_manifest_of(directory, records)
        if not keep and (changed or looked.records.single):
            put_together(directory, records)
        if changed and not keep:
            _remove_strangers(directory, records, hold)
        elif changed and isinstance(directory, BucketPath):  # of attempts that came to nothing: all that counts stays
            _remove_strangers(directory, [*looked.records, *done.values()], hold)
        if changed:  # last: with it the step is whole, and there is nothing else
            write_manifest(directory, records)
        return records

    @abstractmethod
    def _execute(self, directory: Place, tasks: Sequence[AnyTask[Any]], hold: Hold, watch: StepWatch) -> Iterator[Done]:
        """Run all `tasks`, in any order, yielding records as they finish, and telling `watch` of each."""

    @abstractmethod
    def close(self) -> None:
        """Let go of processes that the engine started."""


@dataclass(frozen=True, kw_only=True)
class Looked:
    """Which tasks of a step are done."""

    records: Records
    done: Mapping[str, Done]
    """By partition, in the order of the tasks."""
    waiting: Sequence[AnyTask[Any]]


def look_at(directory: Place, tasks: Sequence[AnyTask[Any]]) -> Looked:
    """Look which tasks are done. Reads only."""
    records = Records.of(directory)
    done: dict[str, Done] = {}
    waiting = []
    for task in tasks:
        record = records.finished(task)
        if record is None:
            waiting.append(task)
        else:
            done[task.partition] = record
    return Looked(records=records, done=done, waiting=waiting)


class InlineEngine(Engine):
    """Runs tasks one after the other in this process."""

    def _execute(self, directory: Place, tasks: Sequence[AnyTask[Any]], hold: Hold, watch: StepWatch) -> Iterator[Done]:
        desk = inline_desk(tasks[0].clerk)
        for task in tasks:
            watch.given(task.partition, key=task.key, subject=task.subject)
            with running(task.partition) as now, standing_at(desk):
                watch.look = functools.partial(_look, watch, now)
                record = run_task(str(directory), task, hold=hold)
            watch.ended(now.look(), rows=int(record.info.get("rows", 0)))
            yield record

    def close(self) -> None:
        """Nothing was started."""


def _look(watch: StepWatch, now: Running) -> None:
    watch.heard(now.look())


def _remove_strangers(directory: Place, records: Sequence[Done], hold: Hold) -> None:
    """Remove the files that no record names: in a bucket those that holders up to this one put."""
    found = strangers(directory, records)
    if isinstance(directory, BucketPath):
        BucketPath.remove([path for path in found if isinstance(path, BucketPath) and _is_ours(path, directory, hold)])
        return
    for path in found:
        path.unlink(missing_ok=True)
    for path in sorted(directory.rglob("*"), reverse=True):
        if path.is_dir() and path.name != "done" and not any(path.iterdir()):
            shutil.rmtree(path, ignore_errors=True)


def _is_ours(path: BucketPath, directory: BucketPath, hold: Hold) -> bool:
    """Whether it is of this very step (others may lie below it), and this holder of the output, or one before it, put
    it."""
    if path.parent.parent == directory / "at":
        token = path.parent.name.partition("-")[0]
        return token.isdecimal() and int(token) <= hold.token
    return path.parent == directory / "done"
