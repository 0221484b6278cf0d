"""Tasks on Ray Core: a bounded window of small messages; the bytes go through files.

Which Ray, and how it is started or reached, is `start_ray.py`'s.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from configs.load import ConfigError
from pipeline.engine.commit import run_task
from pipeline.engine.config import EngineConfig
from pipeline.engine.engine import Engine
from pipeline.engine.record import Done
from pipeline.engine.start_ray import RaySession, RayStart, start_ray
from pipeline.engine.task import AnyTask
from pipeline.errors import EngineError, PipelineError
from pipeline.storage.bucket import is_bucket_url
from pipeline.storage.lease import Hold
from pipeline.storage.place import Place
from pipeline.terminal.progress import Progress

__all__ = ["RayEngine", "run_task_in"]

_NO_HOLD = Hold()
_TASKS_PER_CPU = 2  # in flight: one runs, one waits; more would only hold memory
_LOOK_EVERY_S = 2.0
"""How long the driver waits for a task before it looks whether Ray is still there."""


def run_task_in(
    working_directory: str, driver: tuple[str, int], directory: str, task: AnyTask[Any], hold: Hold = _NO_HOLD
) -> Done:
    """`run_task` where the driver runs, so that relative paths mean the same on every node.

    A worker outlives a killed driver by a moment, in which what the driver served (the sample web) is already gone:
    it must not commit what it saw then. Raises EngineError there, and where a node does not see the driver's files.
    """
    try:
        os.chdir(working_directory)
    except OSError as error:
        if not is_bucket_url(directory):  # else nothing but what the config names may lie there
            raise EngineError(
                f"node {os.uname().nodename} has no directory {working_directory}: all nodes of the cluster must share "
                "the file system that the run is started on, or the output lie in a bucket"
            ) from error
    return run_task(directory, task, check=lambda: _check_driver(*driver), hold=hold)


def _check_driver(node: str, process: int) -> None:
    """Raise EngineError if the driver ran on this node and is dead (or a zombie that nobody has reaped yet)."""
    if node != os.uname().nodename:
        return
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        if Path("/proc/self/stat").exists():
            raise EngineError(f"the run (process {process}) is gone; its task is not committed") from None
        return  # no /proc on this system: Ray's own clean-up has to do
    if state in "ZX":
        raise EngineError(f"the run (process {process}) is gone; its task is not committed")


class RayEngine(Engine):
    """Runs tasks on a local Ray or a cluster; see the module's docstring."""

    def __init__(self, config: EngineConfig, progress: Progress) -> None:
        super().__init__(config, progress)
        self._session: RaySession | None = None
        self._started = ExitStack()

    def _execute(self, directory: Place, tasks: Sequence[AnyTask[Any]], hold: Hold) -> Iterator[Done]:
        session = self._start(type(tasks[0]).__module__)
        ray = session.ray
        remote = ray.remote(run_task_in).options(
            num_cpus=1,
            max_retries=self.config.max_retries,
            retry_exceptions=[OSError],
            scheduling_strategy="SPREAD",
        )
        window = max(2, int(_TASKS_PER_CPU * ray.cluster_resources().get("CPU", 1)))
        driver = (os.uname().nodename, os.getpid())
        waiting = iter(tasks)
        live: dict[Any, AnyTask[Any]] = {}
        try:
            while True:
                while len(live) < window and (task := next(waiting, None)) is not None:
                    live[remote.remote(os.getcwd(), driver, str(directory), task, hold)] = task
                if not live:
                    return
                ready, _ = ray.wait(list(live), num_returns=1, timeout=_LOOK_EVERY_S)
                session.check()
                for reference in ready:
                    task = live.pop(reference)
                    yield self._result(ray, reference, task)
        finally:
            if session.answers:
                for reference in live:
                    ray.cancel(reference, force=True)

    def _result(self, ray: Any, reference: Any, task: AnyTask[Any]) -> Done:
        try:
            done: Done = ray.get(reference)
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
            raise EngineError(
                f"task {task.partition}: its process died {self.config.max_retries + 1} times (killed, or out of "
                "memory); look at the machine's memory, or lower --engine.num_cpus, then run again"
            ) from error
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, (PipelineError, ConfigError)):
                raise error.cause from error  # the one clear line, without the worker's trace around it
            raise
        except ray.exceptions.RayError as error:  # Ray's own trouble: a node, its daemon or the head is gone
            first_line = str(error).strip().splitlines()[0]
            raise EngineError(f"task {task.partition}: {first_line}; run again to go on from here") from error
        return done

    def _start(self, module: str) -> RaySession:
        if self._session is None:
            start = RayStart(
                address=self.config.address,
                num_cpus=self.config.num_cpus,
                object_store_bytes=self.config.object_store_mb * 2**20,
                packages=sorted({"configs", "openwit", "pipeline", module.partition(".")[0]}),
                option="engine.address",
                otherwise="use --engine.kind inline",
            )
            self._session = self._started.enter_context(start_ray(start))
        return self._session

    def close(self) -> None:
        self._session = None
        self._started.close()
