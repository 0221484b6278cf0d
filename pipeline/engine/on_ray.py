"""Tasks on Ray Core: a bounded window of small messages; the bytes go through files.

Without an address the run starts a Ray of its own: loopback only, no dashboard, no usage reports, a
token that lives as long as the run, and its files in a short temporary directory (socket paths may not
pass 107 bytes). With one, nothing of that applies: the cluster is taken as it is.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from configs.load import ConfigError
from pipeline.engine.engine import Engine, EngineConfig
from pipeline.engine.task import Done, Task, run_task
from pipeline.errors import EngineError, PipelineError
from pipeline.progress import Progress

__all__ = ["RayEngine", "run_task_in"]

_LOCAL_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # otherwise Ray listens on every interface
    "RAY_AUTH_MODE": "token",
}
_ANY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_TASKS_PER_CPU = 2  # in flight: one runs, one waits; more would only hold memory


def run_task_in(working_directory: str, driver: tuple[str, int], directory: str, task: Task) -> Done:
    """`run_task` where the driver runs, so that relative paths mean the same on every node.

    A worker outlives a killed driver by a moment, in which what the driver served (the sample web) is already gone:
    it must not commit what it saw then. Raises EngineError there, and where a node does not see the driver's files.
    """
    try:
        os.chdir(working_directory)
    except OSError as error:
        raise EngineError(
            f"node {os.uname().nodename} has no directory {working_directory}: all nodes of the cluster must share "
            "the file system that the run is started on"
        ) from error
    return run_task(directory, task, check=lambda: _check_driver(*driver))


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
        self._ray: Any = None
        self._owned = True
        self._scratch: str | None = None

    def _execute(self, directory: Path, tasks: Sequence[Task]) -> Iterator[Done]:
        ray = self._start(tasks[0].work.__module__)
        remote = ray.remote(run_task_in).options(
            num_cpus=1,
            max_retries=self.config.max_retries,
            retry_exceptions=[OSError],
            scheduling_strategy="SPREAD",
        )
        window = max(2, int(_TASKS_PER_CPU * ray.cluster_resources().get("CPU", 1)))
        driver = (os.uname().nodename, os.getpid())
        waiting = iter(tasks)
        live: dict[Any, Task] = {}
        try:
            while True:
                while len(live) < window and (task := next(waiting, None)) is not None:
                    live[remote.remote(os.getcwd(), driver, str(directory), task)] = task
                if not live:
                    return
                ready, _ = ray.wait(list(live), num_returns=1)
                for reference in ready:
                    task = live.pop(reference)
                    yield self._result(reference, task)
        finally:
            for reference in live:
                ray.cancel(reference, force=True)

    def _result(self, reference: Any, task: Task) -> Done:
        ray = self._ray
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
        return done

    def _start(self, module: str) -> Any:
        if self._ray is not None:
            return self._ray
        os.environ.update(_ANY_ENVIRONMENT)
        address = self.config.address or os.environ.get("RAY_ADDRESS")
        if not address:
            os.environ.update(_LOCAL_ENVIRONMENT)
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        import ray

        if not address and ray.is_initialized():  # the caller's own Ray; it stays up when we close
            self._ray, self._owned = ray, False
            return ray
        # `address` is always passed: left out, Ray would join whatever cluster it finds on this machine.
        common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
        try:
            if address and address != "local":
                names = sorted({"configs", "pipeline", module.partition(".")[0]})
                packages = [str(Path(__file__).resolve().parents[2] / name) for name in names]
                ray.init(address=address, runtime_env={"py_modules": packages}, **common)
            else:
                self._scratch = tempfile.mkdtemp(prefix="ow-")
                ray.init(
                    address="local",
                    num_cpus=self.config.num_cpus,
                    include_dashboard=False,
                    object_store_memory=self.config.object_store_mb * 2**20,
                    _temp_dir=self._scratch,
                    **common,
                )
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            where = f"the cluster at {address}" if address else "a local Ray"
            first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise EngineError(
                f"cannot start or reach {where}: {first_line}; check engine.address and RAY_ADDRESS, "
                "or use --engine.kind inline"
            ) from error
        self._ray = ray
        return ray

    def close(self) -> None:
        if self._ray is not None and self._owned:
            self._ray.shutdown()
        self._ray = None
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None
