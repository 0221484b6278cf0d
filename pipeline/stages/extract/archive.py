"""Records of a WARC-framed file (WARC, WAT), read past damage.

    open --> FastWARC from the start --> record, record, ... , damage or silent end
                  ^                                             |
                  `-- next member that FastWARC can read <-- scan for its first bytes

FastWARC stops at the first damaged compressed member, and stops without a word at an empty one. Each
record of a compressed archive is a member of its own, so reading can go on with the next.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from pipeline.errors import InputError
from pipeline.stages.extract.blocks import MAX_BYTES, Blocks, joined
from pipeline.stages.extract.files import open_binary
from pipeline.stages.extract.members import WholeMembers

__all__ = ["Damage", "Record", "read_blocks", "read_records"]

_MAGIC = {b"\x1f\x8b\x08": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4", b"WARC/": "plain"}
_SCAN_BYTES = 1 << 20
_BUFFER_BYTES = 1 << 18


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
    path: str, *, wanted: Callable[[WarcRecord], bool], max_record_bytes: int
) -> Iterator[Record | Damage]:
    """Every record of `path` for which `wanted` is true, in file order, and every damage.

    Raises InputError where the file cannot be opened or is no WARC-framed file; an OSError of the
    storage itself (with an errno) passes through, for the caller to try again.
    """
    with open_binary(path) as file:
        yield from _read_carefully(path, file, 0, wanted=wanted, max_record_bytes=max_record_bytes)


def read_blocks(path: str, *, record_type: str, others: set[str], max_record_bytes: int) -> Iterator[Blocks | Damage]:
    """As `read_records`, but the blocks of the records of one WARC-Type, many at a time; the types of the rest are
    added to `others`.

    A gzip archive of one record a member, all whole, is read by a faster way, up to the first member that
    is anything else.
    """

    def wanted(head: WarcRecord) -> bool:
        found = str(head.headers.get("WARC-Type"))
        if found == record_type:
            return True
        others.add(found)
        return False

    with open_binary(path) as file:
        members = WholeMembers(file, record_type=record_type, others=others, max_record_bytes=max_record_bytes)
        yield from members
        if members.at_end and members.last is not None:
            return
        offsets: list[int] = []
        blocks: list[bytes] = []
        size = 0
        start = members.last or 0
        for item in _read_carefully(path, file, start, wanted=wanted, max_record_bytes=max_record_bytes):
            if blocks and (size >= MAX_BYTES or isinstance(item, Damage)):
                yield joined(offsets, blocks)
                offsets, blocks, size = [], [], 0
            if isinstance(item, Damage):
                yield item
            elif item.offset != members.last:  # that one is read again, to start from
                offsets.append(item.offset)
                blocks.append(item.block)
                size += len(item.block)
        if blocks:
            yield joined(offsets, blocks)


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
    while True:
        segment = _Segment(file, start, wanted=wanted, max_record_bytes=max_record_bytes)
        for item in segment:
            if damage is not None:
                yield damage
                damage = None
            yield item
        if damage is not None and segment.num_records:  # records followed, though none was wanted
            yield damage
            damage = None
        num_records += segment.num_records
        if num_records == 0 and start == 0:
            raise InputError(
                f"{path}: not a WARC or WAT file ({segment.error or 'it holds no record'}); "
                "check the path or set the format"
            )
        end = _member_end(file, segment.last_offset) if kind == "gzip" else None
        if segment.damage is not None:
            found = segment.damage
            if found.offset is None and end is not None:
                found = Damage(offset=end, reason=found.reason, detail=found.detail)
            damage = damage or found
        elif end is None or _size(file) <= end:
            break  # a clean end, or a last record that only lacks its checksum
        following = _next_member(file, end or max(segment.last_offset, start) + 1, magic, kind)
        if following is None:
            if damage is None and end is not None and not _all_empty_members(file, end):
                damage = Damage(offset=end, reason="bad_record", detail="too short to be a record")
            break
        start = following
    if damage is not None:
        # Nothing readable came after it, so the file ends here.
        reason = "truncated_file" if damage.reason == "bad_record" else damage.reason
        yield Damage(offset=damage.offset, reason=reason, detail=damage.detail)


class _Segment:
    """Records from `start` until FastWARC stops; afterwards, why it stopped and where it had come to."""

    def __init__(
        self, file: BinaryIO, start: int, *, wanted: Callable[[WarcRecord], bool], max_record_bytes: int
    ) -> None:
        self._file = file
        self._start = start
        self._wanted = wanted
        self._max_record_bytes = max_record_bytes
        self.last_offset = start - 1
        self.num_records = 0
        self.damage: Damage | None = None
        self.error = ""

    def __iter__(self) -> Iterator[Record | Damage]:
        self._file.seek(self._start)
        reading: int | None = None  # offset of the record whose body is being read
        try:
            for head in ArchiveIterator(
                self._file, record_types=WarcRecordType.any_type, parse_http=False, buffer_size=_BUFFER_BYTES
            ):
                reading = offset = head.stream_pos
                self.last_offset = offset
                if not head.content_length and not {"WARC-Type", "Content-Length"} <= set(head.headers.keys()):
                    # Of a header that is cut short FastWARC makes a record without content.
                    self.damage = Damage(offset=offset, reason="bad_record", detail="the record's header is cut short")
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
            after = f" after the record at byte {self.last_offset}" if reading is None else ""
            self.damage = Damage(offset=reading, reason="bad_record", detail=f"{error}{after}")


def _next_member(file: BinaryIO, start: int, magic: bytes, kind: str) -> int | None:
    """Offset of the first member at or after `start` that begins with a readable WARC record."""
    if kind == "plain":
        magic = b"\r\n\r\nWARC/1."  # inside a record, "WARC/" alone may be somebody's text
    position = start
    window = b""
    while True:
        file.seek(position)
        window = file.read(_SCAN_BYTES)
        if len(window) < len(magic):
            return None
        found = window.find(magic)
        while found >= 0:
            candidate = position + found + (4 if kind == "plain" else 0)
            if _starts_record(file, candidate):
                return candidate
            found = window.find(magic, found + 1)
        position += len(window) - len(magic) + 1


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


def _starts_record(file: BinaryIO, offset: int) -> bool:
    file.seek(offset)
    try:
        head = next(iter(ArchiveIterator(file, parse_http=False)), None)
    except OSError as error:
        if error.errno is not None:
            raise
        return False
    return head is not None
