"""A desk: one object that all tasks of a step may ask, each from its own process, for as long as the step runs.

    task: desk_here().ask(message) --> | Clerk.serve(message, now) | --> answer

Where it stands hangs on where tasks run: in this process (inline), in a file that one process at a time opens (a Ray of
this run alone), in an actor (a cluster). A task must be able to do without: whatever happens to the desk, `ask` raises
DeskError in time. What the clerk knew may be lost with an actor's node; then another clerk is told so.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

from pipeline.engine.start_ray import RaySession
from pipeline.storage.scratch import scratch_directory

__all__ = [
    "Clerk",
    "Desk",
    "DeskError",
    "DeskTicket",
    "RayDesk",
    "at_desk",
    "desk_here",
    "inline_desk",
    "ray_desk",
    "standing_at",
]


class DeskError(Exception):
    """The desk did not answer in time. A task goes on without it."""


class Clerk(Protocol):
    """What stands at a desk: a class that needs no argument. Its clock only goes on, and is its own."""

    def serve(self, message: bytes, now_s: float) -> bytes:
        """Answer a message; takes no time."""

    def dump(self) -> bytes:
        """All that it knows."""

    @classmethod
    def load(cls, data: bytes) -> Self:
        """Of what `dump` told."""

    @classmethod
    def after_loss(cls) -> Self:
        """The successor of one whose knowledge is lost."""


class Desk(ABC):
    """As a task sees it."""

    number: int = 0
    """Differs among the tasks of the step that are given out at a time: from 0, the smallest that is free."""

    @abstractmethod
    def ask(self, message: bytes, timeout_s: float) -> bytes:
        """The clerk's answer. Raises DeskError. From any thread."""


class DeskTicket(NamedTuple):
    """What a task takes along to find its desk."""

    clerk: type[Any]
    number: int
    directory: str | None
    """Of its file. None: an actor."""
    handle: int
    """The actor's place among what is shared with the task, counted from its end."""


_here: ContextVar[Desk | None] = ContextVar("desk", default=None)


def desk_here() -> Desk | None:
    """The desk of the step whose task runs here."""
    return _here.get()


@contextmanager
def standing_at(desk: Desk | None) -> Iterator[None]:
    """A task runs here for the block, and has this desk."""
    token = _here.set(desk)
    try:
        yield
    finally:
        _here.reset(token)


# --- inline --------------------------------------------------------------------------------------


class _InlineDesk(Desk):
    def __init__(self, clerk: Clerk) -> None:
        self._clerk, self._lock = clerk, threading.Lock()

    def ask(self, message: bytes, timeout_s: float) -> bytes:
        with self._lock:
            return self._clerk.serve(message, time.monotonic())


def inline_desk(clerk: type[Clerk] | None) -> Desk | None:
    """For tasks that run in this process."""
    return None if clerk is None else _InlineDesk(clerk())


# --- in a task's process -------------------------------------------------------------------------


@contextmanager
def at_desk(ticket: DeskTicket | None, shared: Sequence[Any]) -> Iterator[None]:
    """A task runs here for the block; `shared` came with it."""
    if ticket is None:
        with standing_at(None):
            yield
    elif ticket.directory is None:
        with standing_at(_ActorDesk(shared[ticket.handle], ticket.number)):
            yield
    else:
        desk = _FileDesk(Path(ticket.directory), ticket.clerk, ticket.number)
        with contextlib.closing(desk), standing_at(desk):
            yield


class _FileDesk(Desk):
    """The system lets go of the lock of a process that is killed, and a file is replaced whole. Its clock is the
    machine's."""

    _RETRY_S = 0.002

    def __init__(self, directory: Path, clerk: type[Clerk], number: int) -> None:
        self.number = number
        self._directory, self._clerk = directory, clerk
        self._lock: int | None = None
        self._own = threading.Lock()

    def ask(self, message: bytes, timeout_s: float) -> bytes:
        with self._own:
            try:
                return self._ask(message, time.monotonic() + timeout_s)
            except OSError as error:
                raise DeskError(f"{self._directory}: {error.strerror}") from error

    def _ask(self, message: bytes, deadline_s: float) -> bytes:
        if self._lock is None:
            self._lock = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline_s:
                    raise DeskError(f"{self._directory}: busy") from None
                time.sleep(self._RETRY_S)
        try:
            state, temporary = self._directory / "state", self._directory / "state.new"
            clerk = self._clerk.load(state.read_bytes()) if state.exists() else self._clerk()
            answer = clerk.serve(message, time.monotonic())
            temporary.write_bytes(clerk.dump())
            temporary.replace(state)
            return answer
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def close(self) -> None:
        with self._own:
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None


class _ActorDesk(Desk):
    def __init__(self, actor: Any, number: int) -> None:
        self._actor, self.number = actor, number

    def ask(self, message: bytes, timeout_s: float) -> bytes:
        import ray

        try:
            answer: bytes = ray.get(self._actor.serve.remote(message), timeout=timeout_s)
        except Exception as error:  # dead, being made anew, out of reach: Ray has a word for each
            raise DeskError(type(error).__name__) from error
        return answer


# --- on the driver's side ------------------------------------------------------------------------


class RayDesk(NamedTuple):
    """The desk of a step, as tasks are sent to it."""

    clerk: type[Clerk]
    directory: str | None
    handles: Sequence[Any]
    """What Ray must hand to a task beside its parcel."""

    def ticket(self, number: int, handle: int) -> DeskTicket:
        """For a task with this number; `handle` is where among what it is given the actor's comes, from the end."""
        return DeskTicket(self.clerk, number, self.directory, handle)


class _Standing:
    """The actor."""

    def __init__(self, clerk: type[Clerk]) -> None:
        import ray

        lost = ray.get_runtime_context().was_current_actor_reconstructed
        self._clerk = clerk.after_loss() if lost else clerk()

    def serve(self, message: bytes) -> bytes:
        return self._clerk.serve(message, time.monotonic())


@contextmanager
def ray_desk(session: RaySession, clerk: type[Clerk] | None) -> Iterator[RayDesk | None]:
    """A desk for the tasks of a step on this Ray, for as long as the block runs."""
    if clerk is None:
        yield None
        return
    if session.owned:
        with scratch_directory("ow-") as directory:
            yield RayDesk(clerk, str(directory), ())
        return
    # Without a CPU of its own, so that it keeps no task from one; made anew where its node goes.
    actor = session.ray.remote(_Standing).options(num_cpus=0, max_restarts=-1).remote(clerk)
    try:
        yield RayDesk(clerk, None, (actor,))
    finally:
        if session.answers:
            with contextlib.suppress(Exception):  # it goes with the job, at the latest
                session.ray.kill(actor)
