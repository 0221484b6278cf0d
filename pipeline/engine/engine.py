"""The two executors behind one interface: Ray for every real run, inline for tests and debugging."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from configs.load import ConfigError
from pipeline.engine.task import Done, Task, finished, run_task
from pipeline.progress import Progress
from pipeline.storage import read_sealed, sweep, write_sealed

__all__ = ["Engine", "EngineConfig", "InlineEngine", "open_engine"]

_LEAST_STORE_MB = 75
"""Ray refuses less (`ray._private.ray_constants.OBJECT_STORE_MINIMUM_MEMORY_BYTES`)."""


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Where tasks run. Nothing here changes a byte of the result."""

    kind: Literal["ray", "inline"] = "ray"
    """ray: a local Ray that the run starts itself, or the cluster at `address`. inline: in this process,
    for tests and debugging."""
    address: str | None = None
    """Address of a Ray cluster (host:port or ray://...); default: RAY_ADDRESS, else a local Ray."""
    num_cpus: int | None = None
    """CPUs of the local Ray; default: all of the machine."""
    object_store_mb: int = 128
    """Object store of the local Ray, in MB; only small records travel through it."""
    max_retries: int = 3
    """How often a task is tried again after its process died or an I/O error."""

    def __post_init__(self) -> None:
        if self.num_cpus is not None and self.num_cpus < 1:
            raise ConfigError(f"num_cpus must be at least 1, or null for all, not {self.num_cpus}")
        if self.object_store_mb < _LEAST_STORE_MB:
            raise ConfigError(f"object_store_mb must be at least {_LEAST_STORE_MB}, not {self.object_store_mb}")
        if self.max_retries < 0:
            raise ConfigError(f"max_retries must not be negative, not {self.max_retries}")


class Engine(ABC):
    """Runs the tasks of a step that are not done yet, and keeps the step's manifest."""

    def __init__(self, config: EngineConfig, progress: Progress) -> None:
        self.config = config
        self.progress = progress

    def run_step(
        self,
        directory: Path,
        tasks: Sequence[Task],
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
            return []  # a step that is switched off leaves no trace
        sweep(directory)
        done: dict[str, Done] = {}
        waiting: list[Task] = []
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
        stale = read_sealed(directory / "manifest.json") != _manifest(records)
        if waiting or stale or (not keep and _has_strangers(directory, records)):
            write_sealed(directory / "manifest.json", _manifest(records))
            if not keep:
                _remove_strangers(directory, records)
        return records

    @abstractmethod
    def _execute(self, directory: Path, tasks: Sequence[Task]) -> Iterator[Done]:
        """Run all `tasks`, in any order, yielding records as they finish."""

    @abstractmethod
    def close(self) -> None:
        """Let go of processes that the engine started."""


class InlineEngine(Engine):
    """Runs tasks one after the other in this process."""

    def _execute(self, directory: Path, tasks: Sequence[Task]) -> Iterator[Done]:
        for task in tasks:
            yield run_task(str(directory), task)

    def close(self) -> None:
        """Nothing was started."""


@contextmanager
def open_engine(config: EngineConfig, progress: Progress | None = None) -> Iterator[Engine]:
    """The engine that `config` names; Ray starts with the first task that must run."""
    engine: Engine
    if config.kind == "inline":
        engine = InlineEngine(config, progress or Progress())
    else:
        from pipeline.engine.on_ray import RayEngine

        engine = RayEngine(config, progress or Progress())
    try:
        yield engine
    finally:
        engine.close()


def _manifest(records: Sequence[Done]) -> dict[str, Any]:
    entries = [{"partition": r.partition, "key": r.key, "outputs": dict(r.outputs)} for r in records]
    return {"tasks": entries}


def _strangers(directory: Path, records: Sequence[Done]) -> list[Path]:
    """Files in the step's directory that belong to no task of the present plan."""
    ours = {directory / name for record in records for name in record.outputs}
    ours |= {directory / "done" / f"{record.partition}.json" for record in records}
    ours |= {directory / "manifest.json"}
    found = [p for p in directory.rglob("*") if p.is_file()]
    return [path for path in found if path not in ours]


def _has_strangers(directory: Path, records: Sequence[Done]) -> bool:
    return directory.is_dir() and bool(_strangers(directory, records))


def _remove_strangers(directory: Path, records: Sequence[Done]) -> None:
    for path in _strangers(directory, records):
        path.unlink(missing_ok=True)
    for path in sorted(directory.rglob("*"), reverse=True):
        if path.is_dir() and path.name != "done" and not any(path.iterdir()):
            shutil.rmtree(path, ignore_errors=True)
