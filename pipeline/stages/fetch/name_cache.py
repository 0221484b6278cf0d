"""The names that the tasks of this machine have looked up: a small SQLite file of this user.

What is in it holds for minutes. It spares look-ups and decides nothing else, so a file that cannot be made or read is
as good as none; addresses from it pass the address guard like any other.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

__all__ = ["NameCache", "machine_directory"]

_LONGEST_S = 3600.0
"""More is left of no entry, unless the clock was set back."""
_WAIT_S = 0.05
"""For another task that writes; rather look a name up again."""
_WAIT_TO_OPEN_S = 1.0


def machine_directory() -> Path:
    """Where the file lies: a directory of the temporary one, of this user."""
    return Path(tempfile.gettempdir()) / f"openwit-names-{os.geteuid()}"


class NameCache:
    """Threads may share it. Times are of the machine's wall clock, since a file may outlive a start of it."""

    def __init__(self, directory: Path, resolvers: Sequence[str] = ()) -> None:
        """`resolvers` are those that were asked: others may say something else."""
        self._whom = ",".join(resolvers)
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None
        with contextlib.suppress(OSError, sqlite3.Error):
            directory.mkdir(mode=0o700, exist_ok=True)
            about = directory.lstat()
            if stat.S_ISDIR(about.st_mode) and about.st_uid == os.geteuid() and not about.st_mode & 0o077:
                self._database = _opened(directory / "names.sqlite")

    def get(self, host: str) -> tuple[tuple[str, ...], float] | None:
        """The addresses of a name (none where it has none), and for how many seconds they hold; None if unknown."""
        with self._lock, contextlib.suppress(sqlite3.Error):
            if self._database is None:
                return None
            query = "SELECT addresses, until FROM names WHERE host = ? AND whom = ?"
            row = self._database.execute(query, (host, self._whom)).fetchone()
            left_s = 0.0 if row is None else row[1] - time.time()
            if 0 < left_s <= _LONGEST_S:
                return tuple(row[0].split()), left_s
        return None

    def put(self, host: str, addresses: Sequence[str], holds_s: float) -> None:
        """Remember them."""
        with self._lock, contextlib.suppress(sqlite3.Error):
            if self._database is not None:
                row = (host, self._whom, " ".join(addresses), time.time() + holds_s)
                self._database.execute("INSERT OR REPLACE INTO names VALUES (?, ?, ?, ?)", row)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock, contextlib.suppress(sqlite3.Error):
            if self._database is not None:
                self._database.close()
            self._database = None


def _opened(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=_WAIT_TO_OPEN_S, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = OFF")
        database.execute(
            "CREATE TABLE IF NOT EXISTS names (host TEXT, whom TEXT, addresses TEXT NOT NULL, until REAL NOT NULL, "
            "PRIMARY KEY (host, whom)) WITHOUT ROWID"
        )
        with contextlib.suppress(sqlite3.OperationalError):  # busy: the next one will
            database.execute("DELETE FROM names WHERE until < ?", (time.time(),))
        database.execute(f"PRAGMA busy_timeout = {round(_WAIT_S * 1000)}")
    except sqlite3.DatabaseError as error:
        database.close()
        if not isinstance(error, sqlite3.OperationalError):  # no database any more: the next task makes it anew
            path.unlink(missing_ok=True)
        raise
    return database
