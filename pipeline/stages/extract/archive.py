"""Records of a WARC-framed file (WARC, WAT), read past damage.

    open --> FastWARC from the start --> record, record, ... , damage or silent end
                  ^                                             |
                  `-- next member that FastWARC can read <-- scan for its first bytes

FastWARC stops at the first damaged compressed member, and stops without a word at an empty one. Each
record of a compressed archive is a member of its own, so reading can go on with the next.

Some writers end the lines of records' headers in LF alone. FastWARC reads such headers in its quirks mode, where it
also passes over what it does not understand; so that is turned on at the first header that needs it, and from there on
the space between records is looked at.
"""

from __future__ import annotations

import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

from fastwarc.stream_io import GzipReader, Lz4Reader, ZstdReader
from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from pipeline.errors import InputError
from pipeline.stages.extract.blocks import MAX_BYTES, Blocks, joined
from pipeline.stages.extract.files import open_binary
from pipeline.stages.extract.member_starts import bounds_of
from pipeline.stages.extract.members import WholeMembers
from pipeline.stages.extract.stretch import WHOLE, Stretch

__all__ = ["Damage", "Record", "read_blocks", "read_records"]

_MAGIC = {b"\x1f\x8b\x08": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4", b"WARC/": "plain"}
_SCAN_BYTES = 1 << 20
_MAX_START_BYTES = 9
"""Of what tells a record's start, all but one."""
_BUFFER_BYTES = 1 << 18
_MAX_HEAD_BYTES = 1 << 15  # FastWARC's
_WHOLE_HEAD = re.compile(rb".*?\n\r?\n", re.DOTALL)
_CONTENT_LENGTH = re.compile(rb"^Content-Length:[ \t]*([0-9]{1,15})", re.IGNORECASE | re.MULTILINE)
_READERS: dict[str, Callable[[BinaryIO], Any]] = {"gzip": GzipReader, "zstd": ZstdReader, "lz4": Lz4Reader}


class Record(NamedTuple):
    """One whole record."""

    offset: int
    """Byte offset of its compressed member (of its first byte, in an uncompressed file)."""
    head: WarcRecord
    """Headers; its reader is used up."""
    block: bytes


@dataclass(frozen=True, kw_only=True)
class Damage:
    """A record, or a stretch of the file, that cannot be read."""

    offset: int | None
    """As in Record; null where damage hides where the record began."""
    reason: str
    """bad_record, oversized_record or truncated_file."""
    detail: str


def read_records(
    path: str, *, wanted: Callable[[WarcRecord], bool], max_record_bytes: int, stretch: Stretch = WHOLE
) -> Iterator[Record | Damage]:
    """Every record of `path`, or of a stretch of it, for which `wanted` is true, in file order, and every damage.

    Raises InputError where the file cannot be opened or is no WARC-framed file; an OSError of the
    storage itself (with an errno) passes through, for the caller to try again.
    """
    with open_binary(path) as file:
        bounds = bounds_of(file, stretch)
        if bounds is None:
            return
        asked = _Asked(bounds.stop, stretch.max_rows)
        yield from asked.of(
            _read_carefully(path, file, bounds.start, wanted=asked.counting(wanted), max_record_bytes=max_record_bytes)
        )


def read_blocks(
    path: str, *, record_type: str, others: Counter[str], max_record_bytes: int, stretch: Stretch = WHOLE
) -> Iterator[Blocks | Damage]:
    """As `read_records`, but the blocks of the records of one WARC-Type, many at a time; the rest are counted in
    `others`, by type.

    A gzip archive of one record a member, all whole, is read by a faster way, up to the first member that
    is anything else.
    """

    def wanted(head: WarcRecord) -> bool:
        found = str(head.headers.get("WARC-Type"))
        if found == record_type:
            return True
        others[found] += 1
        return False

    with open_binary(path) as file:
        bounds = bounds_of(file, stretch)
        if bounds is None:
            return
        asked = _Asked(bounds.stop, stretch.max_rows)
        members = WholeMembers(
            file,
            record_type=record_type,
            others=others,
            max_record_bytes=max_record_bytes,
            bounds=bounds,
            most=asked.most,
        )
        yield from members
        if members.at_end and members.last is not None:
            return
        offsets: list[int] = []
        blocks: list[bytes] = []
        size = 0
        start = bounds.start
        if members.last is not None:  # that one is read again, to start from
            start = asked.known = members.last
            asked.num_seen = members.num_read
        read = _read_carefully(path, file, start, wanted=asked.counting(wanted), max_record_bytes=max_record_bytes)
        for item in asked.of(read):
            if blocks and (size >= MAX_BYTES or isinstance(item, Damage)):
                yield joined(offsets, blocks)
                offsets, blocks, size = [], [], 0
            if isinstance(item, Damage):
                yield item
            else:
                offsets.append(item.offset)
                blocks.append(item.block)
                size += len(item.block)
        if blocks:
            yield joined(offsets, blocks)


class _Asked:
    """Of what `_read_carefully` finds, what is asked for: it is stopped at the first record that is not."""

    def __init__(self, stop: int, most: int | None) -> None:
        self._stop = stop
        self.most = sys.maxsize if most is None else most
        self.num_seen = 0
        """Records and damages so far, of whatever type."""
        self.known: int | None = None
        """Offset of a record that counts already."""

    def counting(self, wanted: Callable[[WarcRecord], bool]) -> Callable[[WarcRecord], bool]:
        """`wanted`, which is asked of what is asked for and nothing else. The record to stop at is wanted in any case,
        since only then is it known that something follows a damage before it."""

        def counted(head: WarcRecord) -> bool:
            if head.stream_pos == self.known:
                return False
            if self._is_over(head.stream_pos) or wanted(head):
                return True
            self.num_seen += 1
            return False

        return counted

    def of(self, found: Iterator[Record | Damage]) -> Iterator[Record | Damage]:
        """Up to the last that is asked for."""
        for item in found:
            if self._is_over(item.offset):
                return
            self.num_seen += 1
            yield item

    def _is_over(self, offset: int | None) -> bool:
        return self.num_seen >= self.most or (offset is not None and offset >= self._stop)


def _read_carefully(
    path: str, file: BinaryIO, start: int, *, wanted: Callable[[WarcRecord], bool], max_record_bytes: int
) -> Iterator[Record | Damage]:
    file.seek(0)
    first = file.read(5)
    kind = next((name for magic, name in _MAGIC.items() if first.startswith(magic)), None)
    if kind is None:
        what = "it is empty" if not first else f"it starts with {first!r}"
        raise InputError(f"{path}: not a WARC or WAT file ({what}); check the path or set the format")
    magic = next(magic for magic, name in _MAGIC.items() if name == kind)
    damage: Damage | None = None  # told when it is known whether anything follows
    num_records = 0
    is_lenient = False
    while True:
        segment = _Segment(file, start, kind, wanted=wanted, max_record_bytes=max_record_bytes, is_lenient=is_lenient)
        for item in segment:
            if damage is not None:
                yield damage
                damage = None
            yield item
        if damage is not None and segment.num_records:  # records followed, though none was wanted
            yield damage
            damage = None
        num_records += segment.num_records
        if not is_lenient and (unread := segment.unread_head()) is not None:
            start, is_lenient = unread, True
            continue
        has_none = segment.last_offset < start
        end = _member_end(file, segment.last_offset) if kind == "gzip" and not has_none else None
        if segment.damage is not None:
            found = segment.damage
            if found.offset is None and (has_none or end is not None):
                found = Damage(offset=start if has_none else end, reason=found.reason, detail=found.detail)
            damage = damage or found
        elif end is None or _size(file) <= end:
            if is_lenient and (found_gap := segment.gap(_size(file))) is not None:
                damage = damage or found_gap
            break  # a clean end, or a last record that only lacks its checksum
        following = _next_member(file, end or max(segment.last_offset, start) + 1, magic, kind, is_lenient)
        if following is None:
            if damage is None and end is not None and not _all_empty_members(file, end):
                damage = Damage(offset=end, reason="bad_record", detail="too short to be a record")
            elif damage is None and is_lenient:
                damage = segment.gap(_size(file))
            break
        start = following
    if num_records == 0:
        why = segment.error or "it holds no record"
        raise InputError(f"{path}: not a WARC or WAT file ({why}); check the path or set the format")
    if damage is not None:
        # Nothing readable came after it, so the file ends here.
        reason = "truncated_file" if damage.reason == "bad_record" else damage.reason
        yield Damage(offset=damage.offset, reason=reason, detail=damage.detail)


class _Segment:
    """Records from `start` until FastWARC stops; afterwards, why it stopped and where it had come to."""

    def __init__(
        self,
        file: BinaryIO,
        start: int,
        kind: str,
        *,
        wanted: Callable[[WarcRecord], bool],
        max_record_bytes: int,
        is_lenient: bool,
    ) -> None:
        self._file = file
        self._start = start
        self._kind = kind
        self._is_lenient = is_lenient
        self._wanted = wanted
        self._max_record_bytes = max_record_bytes
        self.last_offset = start - 1
        self.num_records = 0
        self.damage: Damage | None = None
        self.error = ""
        self._has_no_head = False

    def __iter__(self) -> Iterator[Record | Damage]:
        self._file.seek(self._start)
        reading: int | None = None  # offset of the record whose body is being read
        try:
            for head in ArchiveIterator(
                self._file,
                record_types=WarcRecordType.any_type,
                parse_http=False,
                buffer_size=_BUFFER_BYTES,
                quirks_mode=self._is_lenient,
            ):
                reading = offset = head.stream_pos
                if self._is_lenient and (gap := self.gap(offset)) is not None:
                    yield gap
                self.last_offset = offset
                if (not head.content_length and not {"WARC-Type", "Content-Length"} <= set(head.headers.keys())) or (
                    not self._is_lenient and any("\n" in value for value in head.headers.values())
                ):
                    # Of a header that is cut short FastWARC makes a record without content; of lines that end in LF
                    # alone, one line.
                    self.damage = Damage(offset=offset, reason="bad_record", detail="the record's header is cut short")
                    self._has_no_head = True
                    return
                self.num_records += 1
                if self._wanted(head):
                    size = head.content_length
                    if size > self._max_record_bytes:
                        yield Damage(offset=offset, reason="oversized_record", detail=f"{size} bytes")
                    else:
                        block = head.reader.read()
                        if len(block) < size:
                            self.damage = Damage(
                                offset=offset,
                                reason="bad_record",
                                detail=f"{len(block)} bytes of {size}",
                            )
                            return
                        yield Record(offset=offset, head=head, block=block)
                reading = None
        except OSError as error:
            if error.errno is not None:
                raise  # the storage failed, not the data
            self.error = str(error)
            follows = reading is None and self.last_offset >= self._start
            after = f" after the record at byte {self.last_offset}" if follows else ""
            self.damage = Damage(offset=reading, reason="bad_record", detail=f"{error}{after}")

    def unread_head(self) -> int | None:
        """Where FastWARC stopped at something that begins as a record; null if it stopped for another cause."""
        if self.damage is None:
            return None
        if self._has_no_head:
            offset: int | None = self.last_offset
        elif self.damage.offset is not None:
            return None
        else:
            offset = _record_end(self._file, self.last_offset, self._kind) if self.num_records else self._start
        return offset if offset is not None and _begins_record(self._file, offset, self._kind) else None

    def gap(self, offset: int) -> Damage | None:
        """What is between the last record and `offset`, if that is anything."""
        position = self._file.tell()
        end = _record_end(self._file, self.last_offset, self._kind) if self.num_records else self._start
        is_gap = end is not None and end < offset and _holds_anything(self._file, end, offset, self._kind)
        self._file.seek(position)
        if not is_gap or end is None:
            return None
        return Damage(offset=end, reason="bad_record", detail=f"{offset - end} bytes that are no record")


def _next_member(file: BinaryIO, start: int, magic: bytes, kind: str, is_lenient: bool) -> int | None:
    """Offset of the first member at or after `start` that begins with a readable WARC record."""
    # Inside a record, "WARC/" alone may be somebody's text.
    pattern = re.compile(rb"\n\r?\n(?=WARC/1\.)" if kind == "plain" else rb"(?=" + re.escape(magic) + rb")")
    position = start
    while True:
        file.seek(position)
        window = file.read(_SCAN_BYTES)
        if len(window) < len(magic):
            return None
        for found in pattern.finditer(window):
            if _starts_record(file, position + found.end(), kind, is_lenient):
                return position + found.end()
        position += max(len(window) - _MAX_START_BYTES, 1)


def _begins_record(file: BinaryIO, offset: int, kind: str) -> bool:
    """Whether the first line of a record stands at `offset`, unpacked, be the rest as it may."""
    file.seek(offset)
    reader = _READERS.get(kind)
    try:
        return bytes((reader(file) if reader is not None else file).read(7)) == b"WARC/1."
    except OSError as error:
        if error.errno is not None:
            raise
        return False


def _record_end(file: BinaryIO, offset: int, kind: str) -> int | None:
    """Offset of the byte after the record at `offset`, and after the empty lines behind it; null if not known."""
    if kind == "gzip":
        return _member_end(file, offset)
    if kind != "plain":
        return None
    file.seek(offset)
    head = _WHOLE_HEAD.match(file.read(_MAX_HEAD_BYTES))
    length = _CONTENT_LENGTH.search(head[0]) if head is not None else None
    if head is None or length is None:
        return None
    end = offset + head.end() + int(length[1])
    file.seek(end)
    behind = file.read(4)
    return end + len(behind) - len(behind.lstrip(b"\r\n"))


def _holds_anything(file: BinaryIO, start: int, end: int, kind: str) -> bool:
    """Whether anything but white space and empty members is between two offsets."""
    while start < end:
        file.seek(start)
        piece = file.read(min(end - start, _SCAN_BYTES))
        if not piece:
            return False
        following: int | None = start + len(piece)
        if kind == "gzip":
            try:
                piece = zlib.decompressobj(wbits=31).decompress(piece, _MAX_HEAD_BYTES)
            except zlib.error:
                return True
            following = _member_end(file, start)
        if piece.strip() or following is None:
            return True
        start = following
    return False


def _member_end(file: BinaryIO, offset: int) -> int | None:
    """Offset of the byte after the gzip member at `offset`; null if it is damaged or cut short."""
    file.seek(offset)
    inflate = zlib.decompressobj(wbits=31)
    size = 0
    try:
        while not inflate.eof:
            chunk = file.read(_SCAN_BYTES)
            if not chunk:
                return None
            size += len(chunk)
            while chunk and not inflate.eof:
                inflate.decompress(chunk, _SCAN_BYTES)
                chunk = inflate.unconsumed_tail
    except zlib.error:
        return None
    return offset + size - len(inflate.unused_data)


def _all_empty_members(file: BinaryIO, offset: int) -> bool:
    """Whether only whole gzip members follow: FastWARC found no record in them, so they are empty."""
    size = _size(file)
    while offset < size:
        end = _member_end(file, offset)
        if end is None:
            return False
        offset = end
    return True


def _size(file: BinaryIO) -> int:
    return file.seek(0, 2)


def _starts_record(file: BinaryIO, offset: int, kind: str, is_lenient: bool) -> bool:
    if is_lenient and not _begins_record(file, offset, kind):
        return False  # FastWARC would look for one behind it
    file.seek(offset)
    try:
        head = next(iter(ArchiveIterator(file, parse_http=False, quirks_mode=is_lenient)), None)
    except OSError as error:
        if error.errno is not None:
            raise
        return False
    return head is not None
