"""Tasks on Ray Core: a bounded window of small messages; the bytes go through files.

Which Ray, and how it is started or reached, is `start_ray.py`'s.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from configs.load import ConfigError
from pipeline.engine.commit import run_task
from pipeline.engine.config import EngineConfig
from pipeline.engine.desk import RayDesk, at_desk, ray_desk
from pipeline.engine.engine import Engine
from pipeline.engine.nodes import Nodes
from pipeline.engine.parcel import Packer, unpack
from pipeline.engine.record import Done
from pipeline.engine.signs import SignBox, deliver, pack_sign, sign_box, signs_of, unpack_sign
from pipeline.engine.start_ray import RaySession, RayStart, start_ray
from pipeline.engine.task import AnyTask, Needs
from pipeline.errors import EngineError, PipelineError
from pipeline.storage.bucket import is_bucket_url
from pipeline.storage.lease import Hold
from pipeline.storage.place import Place
from pipeline.terminal.progress import Progress
from pipeline.watching import StepWatch

__all__ = ["RayEngine", "run_parcel", "run_task_in"]

_NO_HOLD = Hold()
_TASK = 3
"""Its place among the words of `run_task_in`."""
_Ended = tuple[Done, bytes]
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
    _check_driver(*driver)  # a worker that started slowly begins nothing for a run that is gone
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


def run_parcel(parcel: bytes, *shared: Any) -> tuple[Done, bytes]:
    """`run_task_in` of what `Packer` packed, with signs of life; the last one comes with the record."""
    signing, ticket, *words = unpack(parcel, shared)
    task: AnyTask[Any] = words[_TASK]
    with signs_of(task.partition, signing, shared) as now, at_desk(ticket, shared):
        done = run_task_in(*words)
    return done, pack_sign(now.look())


class RayEngine(Engine):
    """Runs tasks on a local Ray or a cluster; see the module's docstring."""

    def __init__(self, config: EngineConfig, progress: Progress) -> None:
        super().__init__(config, progress)
        self._session: RaySession | None = None
        self._box: SignBox | None = None
        self._started = ExitStack()

    def _execute(self, directory: Place, tasks: Sequence[AnyTask[Any]], hold: Hold, watch: StepWatch) -> Iterator[Done]:
        session = self._start(type(tasks[0]).__module__)
        with ray_desk(session, tasks[0].clerk) as desk:
            yield from self._execute_at(session, desk, directory, tasks, hold, watch)

    def _execute_at(
        self,
        session: RaySession,
        desk: RayDesk | None,
        directory: Place,
        tasks: Sequence[AnyTask[Any]],
        hold: Hold,
        watch: StepWatch,
    ) -> Iterator[Done]:
        nodes = Nodes(session, timeout_s=self.config.nodes_timeout_s, say=self.progress.say)
        box = self._watched(session)
        submit = self._submitter(session.ray, nodes, directory, hold, box, desk)
        watch.look = None if box is None else lambda: deliver(box, watch)
        waiting = iter(tasks)
        following = next(waiting, None)
        live: dict[Future[_Ended], tuple[Any, AnyTask[Any], int]] = {}
        numbers: list[int] = []  # free ones, but for those from len(live) + len(numbers) on
        ended: SimpleQueue[Future[_Ended]] = SimpleQueue()
        needs = Needs()
        try:
            while True:
                while following is not None and len(live) < nodes.window(following.needs):
                    needs = following.needs
                    watch.given(following.partition, key=following.key, subject=following.subject)
                    number = heapq.heappop(numbers) if numbers else len(live)
                    reference = submit(following, number)
                    future = reference.future()
                    live[future] = reference, following, number
                    future.add_done_callback(ended.put)
                    following = next(waiting, None)
                if not live:
                    return
                for future in _those(ended):
                    _, task, number = live.pop(future)
                    heapq.heappush(numbers, number)
                    record, sign = self._result(session.ray, future, task)
                    watch.ended(unpack_sign(sign), rows=int(record.info.get("rows", 0)))
                    yield record
                nodes.look()
                nodes.check(needs)
        finally:
            if session.answers:
                for reference, _, _ in live.values():
                    session.ray.cancel(reference, force=True)

    def _watched(self, session: RaySession) -> SignBox | None:
        """Where signs of life come in, if anybody watches."""
        if self._box is None and self.progress.is_watched:
            self._box = self._started.enter_context(sign_box(session))
        return self._box

    def _submitter(
        self, ray: Any, nodes: Nodes, directory: Place, hold: Hold, box: SignBox | None, desk: RayDesk | None
    ) -> Callable[[AnyTask[Any], int], Any]:
        """What hands a task of the step, with its number, to Ray and returns Ray's reference to its record."""
        packer = Packer(ray)
        about = (os.getcwd(), (os.uname().nodename, os.getpid()), str(directory))
        remotes: dict[Needs, Any] = {}
        signs = () if box is None else box.handles

        def submit(task: AnyTask[Any], number: int) -> Any:
            remote = remotes.get(task.needs)
            if remote is None:
                granted = nodes.granted(task.needs)
                remote = remotes[task.needs] = ray.remote(run_parcel).options(
                    num_cpus=granted.cpus,
                    memory=granted.memory_mb * 2**20 or None,
                    max_retries=self.config.max_retries,
                    retry_exceptions=[OSError],
                    scheduling_strategy="SPREAD",
                )
            signing = None if box is None else box.signing(nodes.window(task.needs))
            ticket = None if desk is None else desk.ticket(number, -1 - len(signs))
            parcel, shared = packer.pack((signing, ticket, *about, task, hold))
            return remote.remote(parcel, *shared, *([] if desk is None else desk.handles), *signs)

        return submit

    def _result(self, ray: Any, future: Future[_Ended], task: AnyTask[Any]) -> _Ended:
        try:
            return future.result()
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
        self._session = self._box = None
        self._started.close()


def _those(ended: SimpleQueue[Future[_Ended]]) -> Iterator[Future[_Ended]]:
    """What has ended: waits for the first, if not for long, and takes those that came with it.

    Each says so itself. `ray.wait` would go through all that is in flight: 9.5 ms a call at 16,000.
    """
    try:
        yield ended.get(timeout=_LOOK_EVERY_S)
        for _ in range(ended.qsize()):
            yield ended.get_nowait()
    except Empty:
        return
