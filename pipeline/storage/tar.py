"""Tar archives with reproducible bytes: plain ustar members, fixed times and owners, known offsets."""

from __future__ import annotations

import tarfile
from pathlib import Path
from types import TracebackType

__all__ = ["TarWriter", "header_of"]

_BLOCK = 512
_RECORD = 20 * _BLOCK  # what GNU tar pads an archive to


def header_of(name: str, size: int) -> bytes:
    """What stands before a member of so many bytes: 512 bytes."""
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = 0o644
    return member.tobuf(tarfile.USTAR_FORMAT)


class TarWriter:
    """Appends members to a new archive. The same names and bytes in the same order give the same file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._position = 0

    def add(self, name: str, data: bytes) -> int:
        """Append one member; returns the offset of its bytes in the archive."""
        self._write(header_of(name, len(data)))
        offset = self._position
        self._write(data)
        self._write(b"\0" * (-len(data) % _BLOCK))
        return offset

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._position += len(data)

    def close(self) -> None:
        """End the archive as tar does: two zero blocks, padded to a whole record."""
        self._write(b"\0" * (2 * _BLOCK))
        self._write(b"\0" * (-self._position % _RECORD))
        self._file.close()

    def __enter__(self) -> TarWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._file.close()
