"""`--launcher ray`: Ray Train starts the processes, and starts them again when one dies.

    this process --Ray Train--> N workers, each: RANK, WORLD_SIZE, MASTER_* as torchrun sets them -> work(config)
         |                                                                                               |
         +------> OUTPUT.ray-*/r/: config.yaml, stop ----->    <----- console*, outcome <----------------+

The work is a training, or another that torchrun could start: it keeps what is done, and goes on from there. A worker
that dies ends the others; all begin anew, from the last checkpoint, with the same global batches at whatever number of
workers Ray then finds. Ray keeps nothing of the training's state: the run's own directory does, which all
nodes must see, and beside it for as long as the run lasts the directory of the messages above; where the run is in a
bucket, so are they. So Ray's own processes need to know none of our classes, and none but the workers spends seconds on
importing torch.

Without an address the Ray is one of this run alone, on this machine, without usage reports.
"""

from __future__ import annotations

import io
import logging
import math
import os
import pickle
import secrets
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, nullcontext, redirect_stderr, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO, cast

from configs.load import ConfigError, dump, load
from pipeline.engine.start_ray import RaySession, RayStart, start_ray
from pipeline.errors import EngineError, one_line
from pipeline.storage.atomic import remove_tree
from pipeline.storage.bucket import BucketPath
from pipeline.storage.copies import copies_directory, scratch_copy
from pipeline.storage.place import Place, place_of
from pipeline.storage.scratch import scratch_directory
from pipeline.terminal.printable import say
from training.config import RayConfig, TrainConfig
from training.errors import DistributedError, TrainingError
from training.run.directory import write_whole
from training.run.stopping import Stop, stop_file, stop_signals

if TYPE_CHECKING:
    from training.train import Result

__all__ = ["RayJob", "run_on_ray", "train_on_ray"]

_ENVIRONMENT = {
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
_OBJECT_STORE_BYTES = 80 * 2**20
"""Ray's least is 75 MiB; no samples go through it."""
_LOOK_EVERY_S = 0.5
"""How long the driver sleeps between two looks at what it has to hand on."""
_PIECE_EVERY_S = 2.0
"""The same where a look is a request."""


@dataclass(frozen=True, kw_only=True)
class RayJob:
    """What the workers do."""

    work: str
    """MODULE:FUNCTION, of this package; called with `config`. What it returns on rank 0 can be pickled."""
    config: Any
    """A dataclass that `configs.load` reads back."""
    output: str
    """The directory or bucket's URL where the work is kept; the messages lie beside it."""
    ray: RayConfig
    device: Literal["auto", "cpu", "cuda"]
    can_stop: bool = False
    """Whether `work` takes `listen`, and ends with a checkpoint when it is told to. Others just end."""


def train_on_ray(config: TrainConfig) -> Result:
    """`train` on the workers of `config.ray`. Raises TrainingError, ConfigError."""
    job = RayJob(
        work="training.train:train",
        config=config,
        output=config.output,
        ray=config.ray,
        device=config.device,
        can_stop=True,
    )
    return cast("Result", run_on_ray(job))


def run_on_ray(job: RayJob) -> Any:
    """What `job.work` returns on rank 0. Raises TrainingError, ConfigError."""
    with _ray(job.ray) as session, _messages(job) as messages:
        trainer = _trainer(session.ray, job, messages)
        with _shown(messages):
            failure = _fit(session, trainer, messages, can_stop=job.can_stop)
        outcome: Any = None
        is_done = (messages / "outcome").is_file()
        if is_done:
            outcome = pickle.loads((messages / "outcome").read_bytes())
    if isinstance(outcome, TrainingError | ConfigError):
        raise outcome
    if not is_done:
        raise DistributedError(
            f"the workers died more than {job.ray.max_failures} times ({failure}); see Ray's logs of them, then run "
            "again to go on from what is done"
        )
    return outcome


def _trainer(ray: Any, job: RayJob, messages: Place) -> Any:
    """Ray Train's description of the run. Raises DistributedError."""
    try:
        from ray.train.backend import Backend, BackendConfig
        from ray.train.v2.api.config import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
        from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
    except ImportError as error:
        raise DistributedError(
            "Ray Train is not installed here; pip install 'openwit[ray]', or start the ranks with torchrun"
        ) from error

    class SharedGPUs(Backend):
        """Each worker sees all GPUs of its node's workers, as under torchrun; how they meet is `distributed.py`'s."""

        share_cuda_visible_devices = True

    class OurBackend(BackendConfig):
        @property
        def backend_cls(self) -> type[Backend]:
            return SharedGPUs

    gpus = ray.cluster_resources().get("GPU", 0) if job.device != "cpu" else 0
    if job.device == "cuda" and not gpus:
        raise DistributedError("device is cuda, but Ray has no GPU; set --device cpu, or --ray.address")
    least, most = job.ray.min_workers, job.ray.num_workers
    return DataParallelTrainer(
        _work,
        train_loop_config={
            "directory": os.getcwd(),
            "messages": str(messages),
            "work": job.work,
            "config": f"{type(job.config).__module__}:{type(job.config).__qualname__}",
            "can_stop": job.can_stop,
        },
        backend_config=OurBackend(),
        scaling_config=ScalingConfig(
            num_workers=most if least is None else (least, most),
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": job.ray.cpus_per_worker} | ({"GPU": 1} if gpus else {}),
        ),
        run_config=cast(  # Ray's stub names the class of before its version 2 of Train
            Any,
            RunConfig(
                # Where the workers' checkpoints would go, who report none.
                storage_path=str(messages / "ray" if isinstance(messages, Path) else copies_directory() / "ray"),
                failure_config=FailureConfig(max_failures=job.ray.max_failures),
                logging_config=LoggingConfig(log_level="ERROR"),
            ),
        ),
    )


def _fit(session: RaySession, trainer: Any, messages: Place, *, can_stop: bool) -> str | None:
    """Run to the end; in one line why the workers did not reach it, None if they did. Raises EngineError.

    Where they can stop, the first Ctrl-C or SIGTERM is handed on to the workers, which save and stop; the second one
    acts as usual.
    """
    fitted: Future[None] = Future()

    def fit() -> None:
        try:
            fitted.set_result(trainer.fit())
        except BaseException as error:  # noqa: BLE001  # whatever it is, it is raised below
            fitted.set_exception(error)

    # In a thread, since in the main one Ray Train would put a handler of its own in the place of ours.
    threading.Thread(target=fit, daemon=True).start()
    is_told = False
    with stop_signals() if can_stop else nullcontext(Stop()) as stop:
        while not wait([fitted], timeout=_LOOK_EVERY_S).done:
            session.check()
            if stop.signal is not None and not is_told:
                is_told = True
                write_whole(messages / "stop", str(int(stop.signal)).encode())
                say("stopping after a checkpoint; once more stops at once", to=sys.stderr)
    try:
        fitted.result()
    except session.ray.train.TrainingFailedError as error:
        return one_line(error)
    return None


def _work(given: dict[str, Any]) -> None:
    """One worker's whole work."""
    import ray.train

    messages = place_of(given["messages"])
    directories = [Path(given["directory"]), messages]
    for directory in directories:
        if isinstance(messages, Path) and not directory.is_dir():
            raise DistributedError(
                f"node {os.uname().nodename} has no directory {directory}: all nodes of the cluster must share the "
                "file system that the run is started on, or --output be in a bucket"
            )
    if (messages / "outcome").is_file():
        return  # started again after an error that is there to stay
    if directories[0].is_dir():
        os.chdir(given["directory"])
    logging.getLogger().setLevel(logging.WARNING)  # Ray has set it to INFO, where open_clip talks
    try:
        with _here(messages / "config.yaml") as path:
            config = load(_named(given["config"]), path)
        rank = _meet(ray)
        work = _named(given["work"])
        if given["can_stop"]:  # one has to be told
            work = partial(work, listen=partial(stop_file, messages / "stop") if rank == 0 else stop_signals)
        with _console(messages if rank == 0 else None) as console, redirect_stderr(console):
            if config.ray.min_workers is not None:
                console.write(f"training on {os.environ['WORLD_SIZE']} workers\n")
            result = work(config)
    except DistributedError:
        raise  # another worker died, and Ray starts all anew
    except (TrainingError, ConfigError) as error:
        write_whole(messages / "outcome", pickle.dumps(error))
        raise
    if rank == 0:
        write_whole(messages / "outcome", pickle.dumps(result))


def _named(name: str) -> Any:
    """What MODULE:NAME stands for."""
    module, _, of_module = name.partition(":")
    return getattr(import_module(module), of_module)


def _meet(ray: Any) -> int:
    """Set what torchrun would set; return the rank."""
    from ray.train.collective import broadcast_from_rank_zero

    context = ray.train.get_context()
    place = None
    if context.get_world_rank() == 0:
        with socket.socket() as probe:
            probe.bind(("", 0))
            place = (ray.util.get_node_ip_address(), probe.getsockname()[1])
    address, port = broadcast_from_rank_zero(place)
    os.environ |= {
        "RANK": str(context.get_world_rank()),
        "LOCAL_RANK": str(context.get_local_rank()),
        "WORLD_SIZE": str(context.get_world_size()),
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
    }
    return int(context.get_world_rank())


@contextmanager
def _here(path: Place) -> Iterator[Path]:
    """A file of the messages as one of this machine."""
    if isinstance(path, Path):
        yield path
    else:
        with scratch_copy(path) as copy:
            yield copy


@contextmanager
def _console(messages: Place | None) -> Iterator[TextIO]:
    """What rank 0 writes to for `_shown`; of the others, and without messages, nobody's."""
    if not isinstance(messages, BucketPath):
        target = Path(os.devnull) if messages is None else messages / "console"
        with target.open("a", buffering=1) as console:
            yield console
        return
    pieces = _Pieces(messages)
    try:
        yield pieces
    finally:
        pieces.close()


class _Pieces(io.StringIO):
    """A console in a bucket, where nothing can be appended to: what was written since the last piece is the next."""

    def __init__(self, messages: BucketPath) -> None:
        super().__init__()
        self._messages = messages
        self._number = len(messages.glob("console-*"))  # those of workers that have died
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Put the last piece."""
        self._over.set()
        self._thread.join()
        super().close()

    def _run(self) -> None:
        place, is_over = 0, False
        while not is_over:
            is_over = self._over.wait(_PIECE_EVERY_S)
            text = self.getvalue()[place:]
            with suppress(OSError):  # it is shown later, or not: no reason to end a run
                if text:
                    _piece(self._messages, self._number).put(text.encode())
                    place, self._number = place + len(text), self._number + 1


def _piece(messages: BucketPath, number: int) -> BucketPath:
    return messages / f"console-{number:06d}"


@contextmanager
def _shown(messages: Place) -> Iterator[None]:
    """Meanwhile, print here what rank 0 writes; Ray's own forwarding would mix it with Ray's messages."""
    over = threading.Event()

    def follow() -> None:
        place = 0
        while True:
            last = over.wait(_LOOK_EVERY_S if isinstance(messages, Path) else _PIECE_EVERY_S)
            place = _show(messages, place)
            if last:
                return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _show(messages: Place, place: int) -> int:
    """Print what came after `place`, a byte of the file or the number of a piece; where that ends."""
    if isinstance(messages, Path):
        if (messages / "console").is_file():
            with (messages / "console").open("rb") as file:
                file.seek(place)
                text = file.read()
            sys.stderr.write(text.decode("utf-8", "replace"))
            place += len(text)
        return place
    with suppress(OSError):  # not there yet, or asked for again later
        while True:
            sys.stderr.write(_piece(messages, place).read_text())
            place += 1
    return place


@contextmanager
def _messages(job: RayJob) -> Iterator[Place]:
    """A directory beside the output, with the config, for as long as the job lasts."""
    output = place_of(job.output)
    if isinstance(output, BucketPath):
        path = output.with_name(f"{output.name}.ray-{secrets.token_hex(4)}")
        try:
            write_whole(path / "config.yaml", dump(job.config).encode())
            yield path
        finally:
            remove_tree(path)
        for left in output.parent.glob(f"{output.name}.ray-*"):  # by kills: of this run, which held the lock
            remove_tree(left)
        return
    output = output.absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    with scratch_directory(f"{output.name}.ray-", output.parent) as directory:
        (directory / "config.yaml").write_text(dump(job.config), encoding="utf-8")
        yield directory


@contextmanager
def _ray(config: RayConfig) -> Iterator[RaySession]:
    """Ray, reached or started, and left or stopped again. Raises DistributedError."""
    start = RayStart(
        address=config.address,
        num_cpus=max(1, math.ceil(config.num_workers * config.cpus_per_worker)),
        object_store_bytes=_OBJECT_STORE_BYTES,
        packages=("configs", "pipeline", "training"),
        option="ray.address",
        otherwise="use torchrun",
        environment=_ENVIRONMENT,
    )
    try:
        with start_ray(start) as session:
            yield session
    except EngineError as error:
        raise DistributedError(str(error)) from error
