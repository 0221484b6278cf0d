"""Signs of life on their way from workers to the driver: each may be lost, none is waited for.

    worker:  task adds to its Tally;  a thread looks, once a second  --> box
    driver:  whoever watches asks the box, once a second             <-- box --> StepWatch

On a Ray of this run alone the box is a directory in the driver's private scratch, a file for each worker: no process
and no message more. On a cluster it is an actor, which keeps the last sign of each worker until the driver takes them;
the more workers there are, the rarer each signs.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from pipeline.engine.start_ray import RaySession
from pipeline.storage.scratch import scratch_directory
from pipeline.watching import Running, Sign, StepWatch, running

__all__ = ["SignBox", "Signing", "deliver", "pack_sign", "sign_box", "signs_of", "unpack_sign"]

_SIGN_EVERY_S = 1.0
_MOST_A_SECOND = 500
"""Signs that the driver gets from all workers together."""
pack_sign = msgspec.msgpack.Encoder().encode
"""A sign as it travels."""
unpack_sign = msgspec.msgpack.Decoder(Sign).decode
"""Raises msgspec.DecodeError."""


class Signing(NamedTuple):
    """What a task takes along: where to sign, and how often."""

    directory: str | None
    """None: the actor, whose handle comes last among what is shared."""
    every_s: float


# --- the worker's side ---------------------------------------------------------------------------


class _Signer:
    """Signs for the task that runs in this process, from a thread of its own: a task never waits for it."""

    def __init__(self) -> None:
        self._now: tuple[Running, Callable[[Sign], None], float] | None = None
        self._begun = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, now: Running, put: Callable[[Sign], None], every_s: float) -> None:
        self._now = now, put, every_s
        self._begun.set()
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._sign_always, daemon=True, name="signs of life")
            self._thread.start()

    def end(self) -> None:
        self._now = None
        self._begun.clear()

    def _sign_always(self) -> None:
        while True:
            self._begun.wait()
            found = self._now
            if found is None:
                continue
            now, put, every_s = found
            with contextlib.suppress(Exception):  # whatever it is, the work must not fail for it
                put(now.look())
            time.sleep(every_s)


_signer = _Signer()


@contextmanager
def signs_of(task: str, signing: Signing | None, shared: Sequence[Any]) -> Iterator[Running]:
    """A task runs here for the block, and signs, unless nobody watches; `shared` came with it."""
    with running(task) as now:
        if signing is None:
            yield now
            return
        if signing.directory is None:
            put = functools.partial(_put_to_actor, shared[-1])
        else:
            put = functools.partial(_put_into, signing.directory)
        _signer.begin(now, put, signing.every_s)
        try:
            yield now
        finally:
            _signer.end()


def _put_into(directory: str, sign: Sign) -> None:
    path = Path(directory) / str(sign.process)
    temporary = path.with_suffix(".new")
    temporary.write_bytes(pack_sign(sign))
    temporary.replace(path)


def _put_to_actor(actor: Any, sign: Sign) -> None:
    actor.put.remote(f"{sign.node}-{sign.process}", pack_sign(sign))


# --- the driver's side ---------------------------------------------------------------------------


class SignBox(ABC):
    """Where the signs of all workers come in."""

    directory: str | None = None
    handles: Sequence[Any] = ()
    """What Ray must hand to a task beside its parcel."""

    def signing(self, in_flight: int) -> Signing:
        """What a task takes along, where so many are in flight."""
        return Signing(self.directory, max(_SIGN_EVERY_S, in_flight / _MOST_A_SECOND))

    @abstractmethod
    def take(self) -> Sequence[bytes]:
        """Signs that came since it was asked last; does not wait. Raises nothing that could not be passed over."""


@contextmanager
def sign_box(session: RaySession) -> Iterator[SignBox]:
    """A box for the workers of this Ray, for as long as the block runs."""
    if session.owned:
        with scratch_directory("ow-") as directory:
            yield _FileBox(directory)
        return
    box = _ActorBox(session.ray)
    try:
        yield box
    finally:
        if session.answers:
            with contextlib.suppress(Exception):  # it goes with the job, at the latest
                session.ray.kill(box.actor)


def deliver(box: SignBox, watch: StepWatch) -> None:
    """Hand over what has come in."""
    for data in box.take():
        with contextlib.suppress(msgspec.DecodeError):
            watch.heard(unpack_sign(data))


class _FileBox(SignBox):
    def __init__(self, directory: Path) -> None:
        self.directory = str(directory)
        self._times: dict[str, int] = {}

    def take(self) -> Sequence[bytes]:
        found: list[tuple[int, bytes]] = []
        with contextlib.suppress(OSError):
            for entry in os.scandir(self.directory):
                written = entry.stat().st_mtime_ns
                if not entry.name.endswith(".new") and self._times.get(entry.name) != written:
                    self._times[entry.name] = written
                    found.append((written, Path(entry.path).read_bytes()))
        return [sign for _, sign in sorted(found)]


class _Signs:
    """The actor: of each worker the last sign."""

    def __init__(self) -> None:
        self._last: dict[str, bytes] = {}

    def put(self, worker: str, sign: bytes) -> None:
        self._last[worker] = sign

    def take(self) -> list[bytes]:
        taken, self._last = list(self._last.values()), {}
        return taken


class _ActorBox(SignBox):
    def __init__(self, ray: Any) -> None:
        # Without a CPU of its own, so that it keeps no task from one; made anew where its node goes.
        self.actor = ray.remote(_Signs).options(num_cpus=0, max_restarts=-1).remote()
        self.handles = (self.actor,)
        self._asked: Any = None

    def take(self) -> Sequence[bytes]:
        if self._asked is None or not self._asked.done():
            self._asked = self._asked or self.actor.take.remote().future()
            return []
        answered, self._asked = self._asked, None
        with contextlib.suppress(Exception):  # it is being made anew
            found: list[bytes] = answered.result()
            self._asked = self.actor.take.remote().future()
            return found
        return []
