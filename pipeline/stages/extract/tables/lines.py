"""Lines of a stream, none of them longer than may be held."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from pipeline.errors import InputError, one_line
from pipeline.stages.extract.config import ExtractConfig
from pipeline.stages.extract.tables.rows import BadRow, Rows
from pipeline.stages.extract.tables.unpack import Bytes, unpacked

__all__ = ["Lines", "Oversized", "end_of", "lines_of"]

_READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Oversized:
    """Stands for a line that was passed over."""

    num_bytes: int


class Lines:
    """Lines of a stream with their line ends, each at most `max_bytes`; a longer one is passed over
    without being held. Afterwards `damage` says whether the stream broke."""

    def __init__(self, stream: Bytes, max_bytes: int) -> None:
        self._stream = stream
        self._max_bytes = max_bytes
        self.damage: str | None = None
        self.num_bytes = 0

    @property
    def strays(self) -> int:
        """Bytes that stand outside of the compressed data."""
        return self._stream.strays

    def __iter__(self) -> Iterator[bytes | Oversized]:
        pending = bytearray()
        skipped = 0  # bytes of an oversized line that are gone already
        first = True
        while chunk := self._read():
            if first and chunk.startswith(b"\xef\xbb\xbf"):
                chunk = chunk[3:]
            first = False
            self.num_bytes += len(chunk)
            *whole, rest = chunk.split(b"\n")
            for line in whole:
                if skipped or len(pending) + len(line) > self._max_bytes:
                    yield Oversized(skipped + len(pending) + len(line))
                    skipped = 0
                    pending.clear()
                elif pending:
                    pending += line
                    yield bytes(pending) + b"\n"
                    pending.clear()
                else:
                    yield line + b"\n"
            if skipped or len(pending) + len(rest) > self._max_bytes:
                skipped += len(pending) + len(rest)
                pending.clear()
            else:
                pending += rest
        if skipped:
            yield Oversized(skipped)
        elif pending and self.damage is None:  # after damage, half a line is no row
            yield bytes(pending)

    def _read(self) -> bytes:
        try:
            return self._stream.read(_READ_BYTES)
        except (EOFError, ValueError) as error:
            self.damage = one_line(error)
            return b""


def lines_of(file: BinaryIO, config: ExtractConfig) -> Lines:
    """The lines of a file, unpacked where it is packed."""
    return Lines(unpacked(file), config.max_record_bytes)


def end_of(path: str, lines: Lines, num_rows: int, format_name: str) -> Rows:
    """What is to be told at the end of a file of `num_rows` rows. Raises InputError where there was nothing."""
    if lines.damage is not None and not num_rows:
        raise InputError(f"{path}: cannot be unpacked ({lines.damage}); fetch it again")
    if not lines.num_bytes:
        raise InputError(f"{path}: the file is empty; a {format_name} file was expected")
    if lines.strays:
        yield BadRow(None, "bad_record", f"{lines.strays} bytes outside of the compressed data")
    if lines.damage is not None:
        yield BadRow(None, "truncated_file", lines.damage)
