"""One process or many: who we are, and the few collectives that the loop uses.

Several processes come from `torchrun` or `--launcher ray`, which set RANK, WORLD_SIZE, LOCAL_RANK and MASTER_*.

A rank that stops answering is found by the others when a collective times out. Each of them then signs a list in
the run's key-value store and looks who is missing: the error names those ranks and the step.
"""

from __future__ import annotations

import datetime
import itertools
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from configs.load import ConfigError
from pipeline.errors import PipelineError, one_line
from training.data.stream import share
from training.errors import DistributedError, TrainingError

__all__ = ["World", "distributed", "is_first_process", "place_of"]

T = TypeVar("T")

_BEAT_S = 0.5
"""How often rank 0 lets the others hear that it is at a long work, and they listen."""
_SIGNING_S = 2.0
"""How long a rank leaves the others to sign that they are alive and waiting too."""
_LOOK_S = 0.02
"""How often a rank that ends with an error looks for those of the others."""
_SIGNS = re.compile(r"\b(gloo|nccl|timed out|timeout|connection|store|peer)\b", re.IGNORECASE)
"""Words by which an error of a collective is told from a mistake in the code: torch raises RuntimeError for both."""


@dataclass(frozen=True, kw_only=True)
class World:
    """This process's place among the run's processes."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    store: PrefixStore | None = None
    """The run's key-value store; None for one process."""
    timeout_s: float = 600.0
    """How long a rank waits for another that is not heard of."""
    _long_calls: Iterator[int] = field(default_factory=itertools.count, compare=False, repr=False)

    @property
    def is_first(self) -> bool:
        """Whether this process writes logs and checkpoints."""
        return self.rank == 0

    def share(self, count: int, *, rank: int | None = None) -> tuple[int, int]:
        """`stream.share` of `count` things for `rank`, by default this one."""
        return share(count, rank=self.rank if rank is None else rank, world_size=self.size)

    def gather_rows(self, local_nD: Tensor, *, total: int) -> Tensor:
        """[N, D]: every rank's rows, N = `total` of them shared as `share` says, in rank order, without gradient."""
        if self.size == 1:
            return local_nD
        counts = [stop - start for start, stop in (self.share(total, rank=rank) for rank in range(self.size))]
        longest = max(counts)
        if len(local_nD) < longest:  # the collective wants equal parts
            local_nD = torch.cat([local_nD, local_nD.new_zeros(longest - len(local_nD), *local_nD.shape[1:])])
        out = local_nD.new_empty((self.size * longest, *local_nD.shape[1:]))
        dist.all_gather_single(out, local_nD.contiguous())
        if min(counts) == longest:
            return out
        return torch.cat([out[longest * rank : longest * rank + count] for rank, count in enumerate(counts)])

    def reduce_scatter_rows(self, rows_ND: Tensor, *, total: int) -> Tensor:
        """[n, D]: of the sum over ranks of [N, D] the rows that `share` gives this one, N = `total`."""
        if self.size == 1:
            return rows_ND
        bounds = [self.share(total, rank=rank) for rank in range(self.size)]
        longest = max(stop - start for start, stop in bounds)
        if total < longest * self.size:  # the collective wants equal parts
            padded = rows_ND.new_zeros((self.size, longest, *rows_ND.shape[1:]))
            for rank, (start, stop) in enumerate(bounds):
                padded[rank, : stop - start] = rows_ND[start:stop]
            rows_ND = padded.flatten(0, 1)
        own = rows_ND.new_empty((longest, *rows_ND.shape[1:]))
        dist.reduce_scatter_single(own, rows_ND.contiguous())
        start, stop = bounds[self.rank]
        return own[: stop - start]

    def logsumexp(self, own: Tensor) -> Tensor:
        """Over the ranks, element by element; -inf is the sum of nothing."""
        if self.size == 1:
            return own
        largest = own.clone()
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return largest + self.sum_((own - largest).exp()).log()

    def sum_(self, tensor: Tensor) -> Tensor:
        """Add up `tensor` over ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def begin_sum_(self, tensor: Tensor) -> dist.Work:
        """Begin to add up `tensor` over ranks, in place: it is whole when what comes back was waited for.

        All ranks must begin their sums in the same order.
        """
        return dist.all_reduce(tensor, async_op=True)

    def sum_each(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each of `values` (scalars; the same names in the same order on all ranks) added up over ranks, in one
        collective, on this rank's device, without gradient."""
        if self.size == 1 or not values:
            return {name: value.detach().clone() for name, value in values.items()}
        # In float64, which rounds none of the types that they may have.
        doubles = [value.detach().to(self.device, torch.float64) for value in values.values()]
        sums = self.sum_(torch.stack(doubles))
        return {name: sums[i].to(value.dtype) for i, (name, value) in enumerate(values.items())}

    def gather_objects(self, value: Any) -> list[Any]:
        """Every rank's picklable `value`, in rank order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def from_first(self, value: Any) -> Any:
        """Rank 0's picklable `value`, on every rank."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def on_first(self, action: Callable[[], T]) -> T:
        """What `action` returns on rank 0, on every rank; a TrainingError, ConfigError or OSError of it is
        raised on every rank."""
        answer: T | TrainingError | ConfigError | OSError | None = None
        if self.is_first:
            try:
                answer = action()
            except (TrainingError, ConfigError, OSError) as error:
                answer = error
        answer = self.from_first(answer)
        if isinstance(answer, TrainingError | ConfigError | OSError):
            raise answer
        return cast(T, answer)

    def on_first_however_long(self, action: Callable[[], T]) -> T:
        """What `action` returns on rank 0, on every rank, though it take longer than a collective may.

        The others wait for as long as rank 0 is heard of. `action` must not raise what the others have to know of.
        """
        if self.store is None:
            return action()
        call = f"long/{next(self._long_calls)}"  # all ranks make the same calls
        if not self.is_first:
            self._wait_for(self.store, call)
            return cast(T, self.from_first(None))
        is_done = threading.Event()
        beat = threading.Thread(target=_beat, args=(self.store, call, is_done), daemon=True)
        beat.start()
        try:
            answer = action()
        finally:
            is_done.set()
            beat.join()
        self.store.set(f"{call}/done", "")
        return cast(T, self.from_first(answer))

    def _wait_for(self, store: PrefixStore, call: str) -> None:
        """Until rank 0 is done with `call`. Raises DistributedError when it was not heard of for `timeout_s`."""
        beats, since = 0, time.monotonic()
        while not store.check([f"{call}/done"]):
            if (found := store.add(f"{call}/beats", 0)) != beats:
                beats, since = found, time.monotonic()
            elif time.monotonic() - since > self.timeout_s:
                raise DistributedError("rank 0 stopped answering; see its log, then run again")
            time.sleep(min(_BEAT_S, self.timeout_s / 4))

    def together(self, action: Callable[[], T]) -> T:
        """`action` on every rank, in which none waits for another.

        A TrainingError, ConfigError or OSError of one is raised on all of them: else the others would wait for it in
        vain later.
        """
        answer: T | None = None
        failed: TrainingError | ConfigError | OSError | None = None
        try:
            answer = action()
        except (TrainingError, ConfigError, OSError) as error:
            failed = error
        for found in self.gather_objects(failed):
            if found is not None:
                raise found
        return cast(T, answer)

    @contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Turn failures of memory and of collectives into errors that name the ranks and `what` this one did.

        Raises DistributedError, TrainingError.
        """
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"rank {self.rank}, {what}: out of GPU memory; raise micro_batches (the gradient stays exact), set "
                "--model.gradient_checkpointing true, or with several GPUs --distributed fsdp"
            ) from error
        except RuntimeError as error:
            text = re.sub(r"^\[\S+\] ", "", " ".join(str(error).split()))  # gloo begins with its source's line
            if self.size == 1 or not _SIGNS.search(text):
                raise
            raise DistributedError(
                f"rank {self.rank}, {what}: {self._silent()} stopped answering ({text[:160]}); "
                "see its log, then run again to go on from the last checkpoint"
            ) from error

    def tell_once(self, error: BaseException) -> None:
        """Leave it to rank 0 to print `error`, where it ends with the same one (`is_told`); for `distributed`."""
        if self.store is None:
            return
        told, error.is_told = one_line(error), False  # type: ignore[attr-defined]  # see is_told_by_another
        until = time.monotonic() + _SIGNING_S
        with suppress(RuntimeError):  # the rank that held the store is gone: better told twice than not at all
            self.store.set(f"error/{self.rank}", told)
            while time.monotonic() < until:
                if self.is_first:  # it may hold the store that the others still read
                    if self.store.add("error/read", 0) == self.size - 1:
                        return
                elif self.store.check(["error/0"]):
                    error.is_told = self.store.get("error/0").decode() == told  # type: ignore[attr-defined]  # as above
                    self.store.add("error/read", 1)
                    time.sleep(_BEAT_S)  # torchrun ends all once one has: rank 0 prints first
                    return
                time.sleep(_LOOK_S)

    def _silent(self) -> str:
        """The ranks that do not say within a moment that they wait, too; "another rank" where that cannot be told."""
        if self.store is None:
            return "another rank"
        try:
            self.store.set(f"waits/{self.rank}", "")
            time.sleep(_SIGNING_S)
            silent = [str(rank) for rank in range(self.size) if not self.store.check([f"waits/{rank}"])]
            if self.is_first:
                time.sleep(_SIGNING_S)  # it may hold the store that the others still read
        except RuntimeError:  # the rank that held the store is gone
            return "another rank"
        return f"rank {', '.join(silent)}" if silent else "another rank"


def _beat(store: PrefixStore, call: str, is_done: threading.Event) -> None:
    """Let the others hear of us until `is_done`; for good once the store is gone."""
    with suppress(RuntimeError):
        while not is_done.wait(_BEAT_S):
            store.add(f"{call}/beats", 1)


def is_first_process() -> bool:
    """Whether this process is rank 0, before or after the processes have met."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def distributed(*, device: str = "auto", timeout_s: float = 600.0) -> Iterator[World]:
    """Join the run's processes; leave them in order at the end.

    `device`: auto, cpu or cuda. `timeout_s`: how long a collective waits for a rank that does not come.
    Raises DistributedError.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    place = _of_rank(device, rank)
    if size == 1:
        yield World(device=place)
        return
    timeout = datetime.timedelta(seconds=timeout_s)
    try:
        store, rank, size = next(rendezvous("env://", timeout=timeout))
        store.set_timeout(timeout)
        # On GPUs the small agreements go over gloo all the same: they then time out as errors, not as aborts.
        backend = "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo"
        dist.init_process_group(
            backend, store=PrefixStore("groups", store), rank=rank, world_size=size, timeout=timeout
        )
    except (RuntimeError, ValueError) as error:
        alone = DistributedError(
            f"rank {rank} of {size} cannot join the others ({one_line(error)}); start all ranks with torchrun"
        )
        alone.is_told = False  # type: ignore[attr-defined]  # see is_told_by_another
        raise alone from error
    world = World(rank=rank, size=size, device=place, store=PrefixStore("openwit", store), timeout_s=timeout_s)
    try:
        yield world
        # Ranks finish at different times; one that leaves early would break the others' last collective.
        with world.during("the end of the run"):
            world.gather_objects(None)
    except (TrainingError, ConfigError, PipelineError, OSError) as error:
        world.tell_once(error)
        raise
    finally:
        dist.destroy_process_group()


def _of_rank(device: str, rank: int) -> torch.device:
    """As `place_of`, of a rank among others, who may have what it lacks: it says so itself."""
    try:
        return place_of(device, rank)
    except DistributedError as error:
        error.is_told = False  # type: ignore[attr-defined]  # see is_told_by_another
        raise


def place_of(device: str, rank: int = 0) -> torch.device:
    """The device of `rank` for `device`: auto, cpu or cuda. Raises DistributedError."""
    use_cuda = torch.cuda.is_available() if device == "auto" else device == "cuda"
    if not use_cuda:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise DistributedError("device is cuda, but there is no usable CUDA device here; set --device cpu")
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if local_rank >= torch.cuda.device_count():
        raise DistributedError(
            f"rank {rank} wants GPU {local_rank}, but there are {torch.cuda.device_count()}; "
            "start at most one process per GPU"
        )
    place = torch.device("cuda", local_rank)
    torch.cuda.set_device(place)
    return place
