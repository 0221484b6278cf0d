"""A directory for as long as this process needs it: private, and swept by the next run where a kill left it.

PREFIXxxxxxxxx/owner.json   node, container, process and its start: whose directory this is
PREFIXxxxxxxxx/r/           what the caller fills, and may open to whom it likes (Ray makes its own 0777)
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["is_dead", "owner_record", "scratch_directory", "sweep_scratch"]

_OWNER = "owner.json"


@contextmanager
def scratch_directory(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """A new directory in `parent` (default: the temporary directory), gone after the block.

    Nobody else can enter it (0700), whatever modes the caller gives to what is inside. Directories of the same
    prefix that dead processes of this user left there are removed first.
    """
    place = Path(tempfile.gettempdir()) if parent is None else parent
    sweep_scratch(prefix, place)
    private = Path(tempfile.mkdtemp(prefix=prefix, dir=place))  # mkdtemp makes it 0700
    try:
        (private / "r").mkdir()  # one letter: socket paths may not pass 107 bytes
        temporary = private / f"{_OWNER}.tmp"
        temporary.write_text(json.dumps(owner_record()), encoding="utf-8")
        temporary.rename(private / _OWNER)
        yield private / "r"
    finally:
        shutil.rmtree(private, ignore_errors=True)


def sweep_scratch(prefix: str, place: Path) -> None:
    """Remove the directories of this prefix in `place` that are this user's and whose owner is dead.

    One without a readable record stays, since it may be young or not ours at all; so does one of another node, and for
    the time being one that a process still names: Ray's daemons outlive a killed driver by seconds, and what is taken
    from under them they make again, without a record and open to all.
    """
    for path in place.glob(f"{prefix}*"):
        try:
            if path.is_symlink() or not path.is_dir() or path.stat().st_uid != os.geteuid():
                continue
            owner = json.loads((path / _OWNER).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(owner, dict) and is_dead(owner) and not _is_named(path):
            shutil.rmtree(path, ignore_errors=True)


def owner_record() -> dict[str, Any]:
    """What tells this process from every other, for `is_dead` to be asked of; plain JSON."""
    process = os.getpid()
    started = _start_of(process)
    return {"node": os.uname().nodename, "boot": _boot(), "among": _among(), "process": process, "started": started}


def is_dead(owner: dict[str, Any]) -> bool:
    """Whether the process of the record is surely gone: its number may be another's by now."""
    process = owner.get("process")
    if owner.get("node") != os.uname().nodename or not isinstance(process, int) or process < 1:
        return False
    if owner.get("boot") != _boot():
        return True
    if owner.get("among", _among()) != _among():
        return False  # of another container of this machine, whose processes are not seen here
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # someone else's, so not the owner, who was this user
        return True
    started = _start_of(process)
    return started is not None and started != owner.get("started")


def _is_named(directory: Path) -> bool:
    """Whether a live process has been started with a path inside; never without /proc."""
    inside = os.fsencode(directory) + b"/"
    for arguments in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if inside in arguments.read_bytes():
                return True
        except OSError:  # ended meanwhile
            continue
    return False


def _boot() -> str | None:
    """What tells one start of the machine from another; None where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def _among() -> str | None:
    """The processes that see each other (namespaces(7)); None where the system does not say."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def _start_of(process: int) -> str | None:
    """When the process began, in ticks since the machine did (proc(5), field 22); None without /proc."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None
