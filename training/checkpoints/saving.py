"""Writes checkpoints beside the training: the state is copied, then a thread writes it.

    weights, moments --copy to the CPU--> thread --> TEMPORARY/* --> hashes, state.json --> rename
                                                              `--put--> bucket --> hashes --> state.json

Of an unsharded model rank 0 writes all. Of a sharded one every rank writes its part: they agree on the files over
a process group of their own, which the steps meanwhile do not touch, and rank 0 commits when all have written.
"""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save

from pipeline.errors import LockedError
from pipeline.storage.bucket import BucketPath
from pipeline.storage.place import Place, place_of
from training.checkpoints.in_bucket import begin_checkpoint, commit_checkpoint, put_files, sweep_unfinished
from training.checkpoints.layout import AVERAGED, Progress, commit
from training.checkpoints.moments import named_moments, numbered_names
from training.distributed import World
from training.errors import OutputError

__all__ = ["CheckpointWriter"]


class CheckpointWriter:
    """Saves checkpoints on a thread, one at a time, and removes old ones.

    Every rank has one; of an unsharded model those beyond rank 0 do nothing.
    """

    def __init__(
        self,
        directory: str | Place,
        world: World,
        *,
        keep: int,
        sharded: bool,
        timeout_s: float,
        scratch: Path | None = None,
        before_commit: Callable[[], None] = lambda: None,
    ) -> None:
        """`directory`: RUN/checkpoints, made when missing; left-overs of killed writers are swept.

        `sharded`: whether the models are; `timeout_s`: how long a rank waits for another one to write; `scratch`:
        where files for a bucket are made; `before_commit`: called on rank 0 before a bucket's first file and its last.
        """
        self.directory = place_of(directory)
        self._scratch = scratch
        self._before_commit = before_commit
        self._keep = keep
        self._world = world
        self._group: dist.ProcessGroup | None = None
        if sharded:
            self._group = cast(
                dist.ProcessGroup, dist.new_group(backend="gloo", timeout=datetime.timedelta(seconds=timeout_s))
            )
        self._writes = sharded or world.is_first
        if world.is_first and isinstance(self.directory, Path):
            self.directory.mkdir(parents=True, exist_ok=True)
            for leftover in self.directory.glob("*.tmp*"):
                shutil.rmtree(leftover, ignore_errors=True)
        elif world.is_first and isinstance(self.directory, BucketPath):
            sweep_unfinished(self.directory)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def save(
        self,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        progress: Progress,
        *,
        averages: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Copy the state now, write it in the background.

        `averages`: averaged weights of the parameters in training, by name. Raises OutputError, on every rank, if the
        last write failed.
        """
        self.finish()
        if not self._writes:
            return
        weights = {name: _copy(tensor) for name, tensor in model.state_dict().items()}
        averaged = {name: _copy(tensor) for name, tensor in (averages or {}).items()}
        if self._group is not None:
            moments = {name: _copy(tensor) for name, tensor in named_moments(model, optimiser).items()}
            state = {"model": weights, "moments": moments} | ({"averaged": averaged} if averaged else {})
            self._pending = self._pool.submit(self._write_part, state, progress)
        else:
            extra = {"optimiser": _copy_tree(optimiser.state_dict()), "names": numbered_names(model, optimiser)}
            files = {"model.safetensors": weights} | ({AVERAGED: weights | averaged} if averaged else {})
            self._pending = self._pool.submit(self._write_whole, files, extra, progress)

    def finish(self) -> None:
        """Until the last save is on disk. Raises OutputError, on every rank, if it failed."""
        self._world.together(self._wait)

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except LockedError as error:
            raise OutputError(str(error)) from error
        except (OSError, CheckpointException) as error:
            remedy = "free some space and run again" if isinstance(self.directory, Path) else "run again"
            raise OutputError(
                f"{self.directory}: cannot write the checkpoint ({_reason(error)}); "
                f"{remedy}: it goes on from the last whole one"
            ) from error

    def close(self) -> None:
        """Wait for this rank's part, and stop the thread."""
        try:
            self._wait()
        finally:
            self._pool.shutdown()

    def _write_whole(self, files: dict[str, dict[str, Tensor]], extra: dict[str, Any], progress: Progress) -> None:
        final, temporary = self._paths(progress)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            for name, weights in files.items():
                save_file(weights, temporary / name, metadata={"format": "pt"})
            torch.save(extra, temporary / "optimiser.pt")
        except (SafetensorError, RuntimeError) as error:  # what they raise of a full disk
            raise OSError(str(error)) from error
        if isinstance(final, BucketPath):
            self._before_commit()
            begin_checkpoint(final)
            facts = put_files(sorted(temporary.iterdir()), final)
            self._before_commit()
            commit_checkpoint(final, progress, facts, keep=self._keep)
        else:
            commit(temporary, final, progress, keep=self._keep)

    def _write_part(self, state: dict[str, dict[str, Tensor]], progress: Progress) -> None:
        final, temporary = self._paths(progress)
        if self._world.is_first:
            shutil.rmtree(temporary, ignore_errors=True)
            if isinstance(final, BucketPath):
                self._before_commit()
                begin_checkpoint(final)
        # The first collective inside comes before the first write, and the last after every rank's last.
        save(
            cast("dict[str, Any]", state),
            storage_writer=FileSystemWriter(temporary),
            planner=DefaultSavePlanner(dedup_save_to_lowest_rank=True),  # what all hold is rank 0's
            process_group=self._group,
        )
        if isinstance(final, BucketPath):
            files = self._put_part(temporary, final)
            if self._world.is_first:
                self._before_commit()
                commit_checkpoint(final, progress, files, keep=self._keep)
        elif self._world.is_first:
            commit(temporary, final, progress, keep=self._keep)

    def _put_part(self, temporary: Path, final: BucketPath) -> dict[str, dict[str, Any]]:
        """Put this rank's files; returns the facts of every rank's. Raises OSError where one could not."""
        own = [f"__{self._world.rank}_*", *([".metadata"] if self._world.is_first else [])]
        answer: dict[str, dict[str, Any]] | str
        try:
            answer = put_files(sorted(path for pattern in own for path in temporary.glob(pattern)), final)
        except OSError as error:
            answer = f"rank {self._world.rank}: {_reason(error)}"
        answers: list[Any] = [None] * self._world.size
        dist.all_gather_object(answers, answer, group=self._group)
        for answer in answers:
            if isinstance(answer, str):
                raise OSError(answer)
        return {name: facts for part in answers for name, facts in part.items()}

    def _paths(self, progress: Progress) -> tuple[Place, Path]:
        final = self.directory / f"{progress.samples_seen:012d}"
        here = self._scratch if isinstance(final, BucketPath) else final.parent
        assert here is not None
        return final, here / f"{final.name}.tmp"


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def _copy_tree(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _copy(value)
    if isinstance(value, Mapping):
        return {key: _copy_tree(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copy_tree(item) for item in value)
    return value


def _reason(error: BaseException) -> str:
    """Why a write failed, in one line; of several ranks, the first one's reason."""
    if isinstance(error, CheckpointException):
        rank, (cause, _) = min(error.failures.items())
        return f"rank {rank}: {_reason(cause)}"
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split())[:200]
