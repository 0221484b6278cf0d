"""The lock of an output in a bucket: a lease that its holder renews, with a number that rises with every holder.

    OUT/lock   {"token": 7, "holder": "node process", "lease_s": 30.0, "free": false, "beat": ...}

Whoever takes it compares and swaps, so that of two one wins. A holder is gone when the object has not changed for
`lease_s` seconds by the clock of the one that looks: no two clocks are compared. The number is the fence: it stands in
the name of everything that a run puts and in its records, and nobody takes the place of what a later holder put.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import LockedError, OutputError
from pipeline.storage.bucket import BucketPath, ConflictError, Tag
from pipeline.storage.place import Place
from pipeline.storage.store_client import patiently

__all__ = ["Hold", "Lease", "held", "hold_of", "take_lease"]

LEASE_S = 30.0
_RENEWALS = 6
"""In the time of a lease."""
_LOOK_EVERY_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Hold:
    """What a worker shows when it puts something: for which holder it works. Of a local output it says nothing."""

    lock: BucketPath | None = None
    token: int = 0
    compares: bool = True
    """Whether the store compares and swaps."""

    def check(self) -> None:
        """Raise LockedError where somebody else holds the output by now."""
        if self.lock is not None:
            found = _read(self.lock)[0]
            if found.get("token", self.token) != self.token:
                raise LockedError(f"{self.lock.parent}: another run has taken it over; what this one began is void")


def _now() -> float:
    """Seconds that go on while the machine sleeps: others may have taken the lock meanwhile. `time.monotonic` stands
    still then, on Linux and on macOS."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(kw_only=True)
class Lease:
    """Held until `release`, or until it is lost: `check` tells."""

    hold: Hold
    tag: Tag | None
    seconds: float
    _renewed: float = field(default_factory=_now)
    _lost: bool = False
    _over: threading.Event = field(default_factory=threading.Event)
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock)
    _thread: threading.Thread | None = None

    def check(self) -> None:
        """Raise LockedError where somebody else has taken it.

        Where it could have been taken meanwhile, since the store did not answer, it is renewed first: nobody else can
        have had it if that succeeds. Raises StoreError where the store does not answer for minutes.
        """
        if self._is_overdue:
            patiently(self._renew)
        if self._lost:
            assert self.hold.lock is not None
            raise LockedError(
                f"{self.hold.lock.parent}: this run lost its hold of it, another has taken it; run again when that one "
                "is done"
            )

    @property
    def _is_overdue(self) -> bool:
        return self.hold.compares and not self._lost and _now() - self._renewed > 0.8 * self.seconds

    def start(self) -> None:
        """Renew it from now on."""
        self._thread = threading.Thread(target=self._renew_always, daemon=True, name="lease")
        self._thread.start()

    def _renew_always(self) -> None:
        while not self._lost and not self._over.wait(self.seconds / _RENEWALS):
            with contextlib.suppress(OSError):  # `check` tells when it was too long
                self._renew()

    def _renew(self) -> None:
        with self._one_at_a_time:
            began = _now()
            try:
                self._put(free=False)
            except ConflictError:
                self._lost = True
            self._renewed = began

    def _put(self, *, free: bool) -> None:
        assert self.hold.lock is not None
        content = _content(self.hold.token, self.seconds, free=free)
        if self.tag is not None:
            self.tag = self.hold.lock.put_over(content, self.tag)
        else:
            self.hold.lock.put(content)

    def release(self) -> None:
        """Let others take it at once."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        if not self._lost:
            try:
                self._put(free=True)
            except (ConflictError, OSError):
                return  # it is another's by now, or runs out


def take_lease(output: BucketPath, *, single_driver: bool, say: Callable[[str], None]) -> Lease:
    """Take the lock of `output`, and renew it from now on; `say` tells what there is to wait for.

    Raises LockedError while another live run holds it; OutputError where the store cannot compare and swap, unless
    the user vouches for a `single_driver`; StoreError.
    """
    lock = output / "lock"
    if not single_driver:
        _check_store(output)
    while True:
        found, tag = _read(lock)
        if found and not found.get("free") and not single_driver:
            _watch(lock, found, tag, say)
        hold = Hold(lock=lock, token=_next_token(output, found), compares=not single_driver)
        content = _content(hold.token, LEASE_S, free=False)
        try:
            if single_driver:
                lock.put(content)
                tag = None
            else:
                tag = lock.put_new(content) if tag is None else lock.put_over(content, tag)
        except ConflictError:
            continue  # another was first: look whether it lives
        lease = Lease(hold=hold, tag=tag, seconds=LEASE_S)
        lease.start()
        return lease


def _next_token(output: BucketPath, found: dict[str, Any]) -> int:
    """Above that of every holder before: of an output that lost its lock the seconds since 1970, which none counted
    up to."""
    last = found.get("token")
    if isinstance(last, int):
        return last + 1
    return int(time.time()) if output.is_dir() else 1


_LEASES: dict[BucketPath, Lease] = {}
"""Of the outputs that this process holds."""


@contextmanager
def held(output: BucketPath, *, single_driver: bool, say: Callable[[str], None]) -> Iterator[None]:
    """Hold `output` for the block. Raises as `take_lease` does, and LockedError where this process holds it already."""
    if output in _LEASES:
        raise LockedError(f"{output}: this process holds it already")
    lease = take_lease(output, single_driver=single_driver, say=say)
    _LEASES[output] = lease
    try:
        yield
    finally:
        del _LEASES[output]
        lease.release()


def hold_of(place: Place) -> Hold:
    """What a task shows when it puts something into `place`, an output that this process holds, or a place in one.

    Asks nobody, unless the hold could have been taken meanwhile. Raises LockedError where it is lost.
    """
    if isinstance(place, BucketPath) and _LEASES:
        for path in (place, *place.parents):
            if path in _LEASES:
                _LEASES[path].check()
                return _LEASES[path].hold
    return Hold()


def _check_store(output: BucketPath) -> None:
    probe = output / f"lock.probe-{uuid.uuid4().hex[:12]}"
    try:
        compares = probe.can_compare()
    finally:
        probe.unlink()
    if not compares:
        raise OutputError(
            f"{output}: this store does not refuse to put what is there already, so two runs could not be told apart; "
            "if you see to it that one runs at a time, set single_driver (`run` has it as --engine.single_driver true)"
        )


def _watch(lock: BucketPath, found: dict[str, Any], tag: Tag | None, say: Callable[[str], None]) -> None:
    """Return when the holder is gone. Raises LockedError as soon as it shows that it lives."""
    seconds = float(found.get("lease_s", LEASE_S))
    say(f"{lock.parent}: was held by {found.get('holder', 'another process')}; {seconds:.0f} s show whether it lives")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(min(_LOOK_EVERY_S, seconds / 4))
        now, later = _read(lock)
        if later != tag:
            if now.get("free"):
                return
            raise LockedError(
                f"{lock.parent}: a live run holds it ({now.get('holder', 'another process')}); wait for it or choose "
                "another --output"
            )


def _read(lock: BucketPath) -> tuple[dict[str, Any], Tag | None]:
    try:
        data, tag = lock.read_tagged()
    except FileNotFoundError:
        return {}, None
    try:
        found = json.loads(data)
    except ValueError:
        return {}, tag
    return found if isinstance(found, dict) else {}, tag


def _content(token: int, seconds: float, *, free: bool) -> bytes:
    """Every beat differs, so that a change shows that the holder lives."""
    holder = f"{os.uname().nodename} process {os.getpid()}"
    said = {"token": token, "holder": holder, "lease_s": seconds, "free": free, "beat": uuid.uuid4().hex}
    return json.dumps(said, sort_keys=True).encode()
