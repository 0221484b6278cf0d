"""`--launcher ray`: Ray Train starts the processes, and starts them again when one dies.

    this process --Ray Train--> N workers, each: RANK, WORLD_SIZE, MASTER_* as torchrun sets them -> train(config)
                 <--_Outcome-- the result, or the error that no second attempt would mend

A worker that dies ends the others; all begin anew, from the last checkpoint, with the same global batches at whatever
number of workers Ray then finds. Ray keeps nothing of the training's state: the run's own directory does, which all
nodes must see. Without an address the Ray is one of this run alone, on this machine, without usage reports.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import Any, cast

from configs.load import ConfigError
from training.config import TrainConfig
from training.errors import DistributedError, TrainingError
from training.train import Result, train

__all__ = ["train_on_ray"]

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_LOCAL_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # otherwise Ray listens on every interface
    "RAY_AUTH_MODE": "token",
}
_OBJECT_STORE_BYTES = 80 * 2**20
"""Ray's least is 75 MiB; no samples go through it."""


class _Outcome:
    """How the run ended, as the workers tell it; lives in an actor of Ray."""

    def __init__(self) -> None:
        self._result: Result | None = None
        self._error: Exception | None = None

    def finish(self, result: Result) -> None:
        """The run is over."""
        self._result = result

    def fail(self, error: Exception) -> None:
        """The run cannot go on, however often it is tried."""
        self._error = self._error or error

    def get(self) -> tuple[Result | None, Exception | None]:
        """What is known by now."""
        return self._result, self._error


def train_on_ray(config: TrainConfig) -> Result:
    """`train` on the workers of `config.ray`. Raises TrainingError, ConfigError."""
    with _ray(config) as ray:
        try:
            from ray.train.torch import TorchTrainer
            from ray.train.v2.api.config import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
        except ImportError as error:
            raise DistributedError(
                "Ray Train is not installed here; pip install 'openwit[ray]', or start the ranks with torchrun"
            ) from error
        gpus = ray.cluster_resources().get("GPU", 0) if config.device != "cpu" else 0
        if config.device == "cuda" and not gpus:
            raise DistributedError("device is cuda, but Ray has no GPU; set --device cpu, or --ray.address")
        outcome = ray.remote(_Outcome).options(num_cpus=0).remote()
        least, most = config.ray.min_workers, config.ray.num_workers
        scratch = Path(f"{config.output}.ray-{os.getpid()}").absolute()
        try:
            trainer = TorchTrainer(
                _work,
                train_loop_config={
                    "config": config,
                    "directory": os.getcwd(),
                    "outcome": outcome,
                    "console": str(scratch / "console"),
                },
                torch_config=_torch_config(),
                scaling_config=ScalingConfig(
                    num_workers=most if least is None else (least, most),
                    use_gpu=gpus > 0,
                    resources_per_worker={"CPU": config.ray.cpus_per_worker} | ({"GPU": 1} if gpus else {}),
                ),
                run_config=cast(  # Ray's stub names the class of before its version 2 of Train
                    Any,
                    RunConfig(
                        storage_path=str(scratch),
                        failure_config=FailureConfig(max_failures=config.ray.max_failures),
                        logging_config=LoggingConfig(log_level="ERROR"),
                    ),
                ),
            )
            with _shown(scratch / "console"):
                failure = _fit(ray, trainer)
            result, failed = cast("tuple[Result | None, Exception | None]", ray.get(outcome.get.remote()))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    if failed is not None:
        raise failed
    if failure is not None or result is None:
        raise DistributedError(
            f"the workers died more than {config.ray.max_failures} times ({failure}); see Ray's logs of them, then run "
            "again to go on from the last checkpoint"
        )
    return result


def _fit(ray: Any, trainer: Any) -> str | None:
    """Run to the end; in one line why the workers did not reach it, None if they did."""
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        return " ".join(str(error).split())[:200]
    except SystemExit as stop:  # what Ray makes of an interrupt; status 0 would say that the run is over
        raise KeyboardInterrupt from stop
    return None


def _work(given: dict[str, Any]) -> None:
    """One worker's whole work."""
    import ray

    config, outcome = given["config"], given["outcome"]
    if any(part is not None for part in ray.get(outcome.get.remote())):
        return  # started again after an error that is there to stay
    try:
        try:
            os.chdir(given["directory"])
        except OSError as error:
            raise DistributedError(
                f"node {os.uname().nodename} has no directory {given['directory']}: all nodes of the cluster must "
                "share the file system that the run is started on"
            ) from error
        rank = _meet(ray)
        target = Path(given["console"] if rank == 0 else os.devnull)
        with target.open("a", buffering=1) as console, redirect_stderr(console):
            result = train(config)
    except DistributedError:
        raise  # another worker died, and Ray starts all anew
    except (TrainingError, ConfigError) as error:
        ray.get(outcome.fail.remote(error))
        raise
    if rank == 0:
        ray.get(outcome.finish.remote(result))


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
def _shown(path: Path) -> Iterator[None]:
    """Meanwhile, print here what rank 0 writes to `path`; Ray's own forwarding would mix it with Ray's messages."""
    over = threading.Event()

    def follow() -> None:
        place = 0
        while True:
            last = over.wait(0.5)
            if path.is_file():
                with path.open("rb") as file:
                    file.seek(place)
                    text = file.read()
                place += len(text)
                sys.stderr.write(text.decode("utf-8", "replace"))
            if last:
                return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _torch_config() -> Any:
    """Leaves the meeting of the processes to `training.distributed`, whose time-outs name ranks and steps.

    Each worker sees all GPUs of its node's workers, as under torchrun.
    """
    from ray.train.backend import Backend
    from ray.train.torch import TorchConfig

    class SharedGPUs(Backend):
        share_cuda_visible_devices = True

    class OwnMeeting(TorchConfig):
        @property
        def backend_cls(self) -> type[Backend]:
            return SharedGPUs

    return OwnMeeting()


@contextmanager
def _ray(config: TrainConfig) -> Iterator[Any]:
    """Ray, reached or started, and left or stopped again. Raises DistributedError."""
    os.environ.update(_ENVIRONMENT)
    address = config.ray.address or os.environ.get("RAY_ADDRESS")
    if not address:
        os.environ.update(_LOCAL_ENVIRONMENT)
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    if ray.is_initialized():  # the caller's own, which stays up
        yield ray
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    scratch = tempfile.mkdtemp(prefix="ow-")  # short: socket paths may not pass 107 bytes
    try:
        if address:
            packages = [str(Path(__file__).resolve().parents[1] / name) for name in ("configs", "pipeline", "training")]
            ray.init(address=address, runtime_env={"py_modules": packages}, **quiet)
        else:
            ray.init(
                address="local",
                num_cpus=max(1, math.ceil(config.ray.num_workers * config.ray.cpus_per_worker)),
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                _temp_dir=scratch,
                **quiet,
            )
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        shutil.rmtree(scratch, ignore_errors=True)
        where = f"the cluster at {address}" if address else "a local Ray"
        first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise DistributedError(
            f"cannot start or reach {where}: {first_line}; check ray.address and RAY_ADDRESS, or use torchrun"
        ) from error
    try:
        yield ray
    finally:
        with suppress(RuntimeError):
            ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)
