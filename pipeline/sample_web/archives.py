"""Pages into crawl archives: WARC as a crawler writes it, WAT as Common Crawl publishes it.

    page -> request, response and metadata records of a WARC, one gzip member each
         -> one WAT record (JSON) for each of them, likewise

Formats: ISO 28500:2009 (WARC 1.0); the WAT layout of Common Crawl's ia-web-commons extractor. Dates and
identifiers come from the seed: two builds are equal to the byte.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.sample_web.dice import Dice
from pipeline.sample_web.pages import Page

__all__ = ["NUM_ARCHIVES", "Place", "write_archives"]

NUM_ARCHIVES = 3
_CRAWL_DATE = "2026-01-01T12:00:00Z"
_EXTRACTION_DATE = "2026-01-02T12:00:00Z"
_HTTP_DATE = "Thu, 01 Jan 2026 12:00:00 GMT"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a page's records are: file names, and byte offsets of the gzip members."""

    warc_file: str
    warc_record: int
    wat_file: str
    wat_record: int


def write_archives(seed: int, pages: Sequence[Page], directory: Path) -> list[Place]:
    """Write `warc/` and `wat/` under `directory`; where each page went, in the order of `pages`."""
    places: list[Place | None] = [None] * len(pages)
    (directory / "warc").mkdir()
    (directory / "wat").mkdir()
    for number in range(NUM_ARCHIVES):
        name = f"sample-{number:05d}.warc"
        archive = _Archive(seed, f"{name}.gz")
        archive.begin()
        for i in range(number, len(pages), NUM_ARCHIVES):
            warc_record, wat_record = archive.add(pages[i])
            places[i] = Place(
                warc_file=f"warc/{name}.gz",
                warc_record=warc_record,
                wat_file=f"wat/{name}.wat.gz",
                wat_record=wat_record,
            )
        (directory / "warc" / f"{name}.gz").write_bytes(bytes(archive.warc))
        (directory / "wat" / f"{name}.wat.gz").write_bytes(bytes(archive.wat))
    return [place for place in places if place is not None]


class _Archive:
    """One WARC and its WAT, growing side by side."""

    def __init__(self, seed: int, name: str) -> None:
        self.warc = bytearray()
        self.wat = bytearray()
        self._name = name
        self._dice = Dice(seed, "archive", name)
        self._info_id = self._new_id()

    def begin(self) -> None:
        """The warcinfo records that open both files."""
        fields = {
            "software": "openwit sample web",
            "format": "WARC File Format 1.0",
            "conformsTo": "http://bibnum.bnf.fr/WARC/WARC_ISO_28500_version1_latestdraft.pdf",
        }
        block = _lines(fields)
        wat_headers = {
            "WARC-Type": "warcinfo",
            "WARC-Date": _EXTRACTION_DATE,
            "WARC-Filename": self._name.replace(".warc.gz", ".warc.wat.gz"),
            "WARC-Record-ID": self._new_id(),
            "Content-Type": "application/warc-fields",
        }
        self.wat += _member(_record(wat_headers, _lines({**fields, "Extracted-Date": _EXTRACTION_DATE})))
        headers = {
            "WARC-Type": "warcinfo",
            "WARC-Date": _CRAWL_DATE,
            "WARC-Filename": self._name,
            "WARC-Record-ID": self._info_id,
            "Content-Type": "application/warc-fields",
        }
        payload: dict[str, object] = {"Actual-Content-Type": "application/warc-fields", "WARC-Info-Metadata": fields}
        self._append(headers, block, payload, target=self._name)

    def add(self, page: Page) -> tuple[int, int]:
        """A page's records; the offsets of its response in the WARC and of that record's WAT record."""
        shared = {
            "WARC-Date": _CRAWL_DATE,
            "WARC-Warcinfo-ID": self._info_id,
            "WARC-IP-Address": "127.0.0.1",
            "WARC-Target-URI": page.url,
        }
        host = page.url.split("/")[2]
        request_id, response_id = self._new_id(), self._new_id()
        asked = {
            "User-Agent": "openwit-sample-crawler",
            "Accept": "text/html,application/xhtml+xml,*/*;q=0.8",
            "Host": host,
            "Connection": "Keep-Alive",
        }
        request = f"GET {page.path} HTTP/1.1\r\n".encode() + _lines(asked) + b"\r\n"
        self._append(
            {
                "WARC-Type": "request",
                "WARC-Record-ID": request_id,
                "Content-Type": "application/http; msgtype=request",
                **shared,
            },
            request,
            {
                "Actual-Content-Type": "application/http; msgtype=request",
                "HTTP-Request-Metadata": {
                    "Request-Message": {"Method": "GET", "Path": page.path, "Version": "HTTP/1.1"},
                    "Headers-Length": str(len(request)),
                    "Headers": asked,
                    "Entity-Length": "0",
                    "Entity-Digest": _sha1(b""),
                    "Entity-Trailing-Slop-Length": "0",
                },
            },
            target=page.url,
        )
        answered = {
            "Date": _HTTP_DATE,
            "Server": "openwit-sample-web",
            "Content-Type": page.content_type,
            **dict(page.headers),
            "Content-Length": str(len(page.body)),
        }
        header_block = b"HTTP/1.1 200 OK\r\n" + _lines(answered) + b"\r\n"
        html: dict[str, object] = {"Head": page.head}
        if page.links:
            html["Links"] = list(page.links)
        places = self._append(
            {
                "WARC-Type": "response",
                "WARC-Record-ID": response_id,
                "Content-Type": "application/http; msgtype=response",
                "WARC-Concurrent-To": request_id,
                "WARC-Payload-Digest": _sha1(page.body),
                "WARC-Identified-Payload-Type": "text/html",
                **shared,
            },
            header_block + page.body,
            {
                "Actual-Content-Type": "application/http; msgtype=response",
                "HTTP-Response-Metadata": {
                    "Response-Message": {"Status": "200", "Version": "HTTP/1.1", "Reason": "OK"},
                    "Headers-Length": str(len(header_block)),
                    "Headers": answered,
                    "HTML-Metadata": html,
                    "Entity-Length": str(len(page.body)),
                    "Entity-Digest": _sha1(page.body),
                    "Entity-Trailing-Slop-Length": "0",
                },
            },
            target=page.url,
        )
        fetched = {"fetchTimeMs": "12", "charset-detected": page.charset}
        self._append(
            {
                "WARC-Type": "metadata",
                "WARC-Record-ID": self._new_id(),
                "Content-Type": "application/warc-fields",
                "WARC-Concurrent-To": response_id,
                **shared,
            },
            _lines(fetched),
            {
                "Actual-Content-Type": "application/metadata-fields",
                "WARC-Metadata-Metadata": {
                    "Metadata-Records": [{"Name": name, "Value": value} for name, value in fetched.items()]
                },
            },
            target=page.url,
        )
        return places

    def _append(
        self, headers: dict[str, str], block: bytes, payload: Mapping[str, object], *, target: str
    ) -> tuple[int, int]:
        """One WARC record and its WAT record; their offsets."""
        headers = {**headers, "WARC-Block-Digest": _sha1(block)}
        record = _record(headers, block)
        member = _member(record)
        warc_offset, wat_offset = len(self.warc), len(self.wat)
        self.warc += member
        crc = zlib.crc32(record)
        container = {
            "Filename": self._name,
            "Compressed": True,
            "Offset": str(warc_offset),
            "Gzip-Metadata": {
                "Deflate-Length": str(len(member)),
                "Header-Length": "10",
                "Footer-Length": "8",
                # A signed 32-bit number: that is how the extractor prints it.
                "Inflated-CRC": str(crc - (1 << 32) if crc >= 1 << 31 else crc),
                "Inflated-Length": str(len(record)),
            },
        }
        envelope = {
            "Payload-Metadata": {
                **payload,
                "Actual-Content-Length": str(len(block)),
                "Trailing-Slop-Length": "4",
                "Block-Digest": _sha1(block),
            },
            "Format": "WARC/1.0",
            "WARC-Header-Length": str(len(record) - len(block) - 4),
            "WARC-Header-Metadata": {**headers, "Content-Length": str(len(block))},
        }
        text = json.dumps(
            {"Container": container, "Envelope": envelope}, ensure_ascii=False, separators=(",", ":")
        ).encode()
        wat_headers = {
            "WARC-Type": "metadata",
            "WARC-Target-URI": target,
            "WARC-Date": _EXTRACTION_DATE,
            "WARC-Record-ID": self._new_id(),
            "WARC-Refers-To": headers["WARC-Record-ID"],
            "Content-Type": "application/json",
            "WARC-Payload-Digest": _sha1(text),
            "WARC-Block-Digest": _sha1(text),
        }
        self.wat += _member(_record(wat_headers, text))
        return warc_offset, wat_offset

    def _new_id(self) -> str:
        digits = bytearray(self._dice.data(16))
        digits[6] = (digits[6] & 0x0F) | 0x40  # the marks of a version 4 UUID (RFC 9562)
        digits[8] = (digits[8] & 0x3F) | 0x80
        text = digits.hex()
        return f"<urn:uuid:{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}>"


def _record(headers: dict[str, str], block: bytes) -> bytes:
    lines = _lines({**headers, "Content-Length": str(len(block))})
    return b"WARC/1.0\r\n" + lines + b"\r\n" + block + b"\r\n\r\n"


def _member(data: bytes) -> bytes:
    """One gzip member without a time stamp."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    return packer.compress(data) + packer.flush()


def _lines(fields: dict[str, str]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in fields.items()).encode()


def _sha1(data: bytes) -> str:
    return "sha1:" + base64.b32encode(hashlib.sha1(data, usedforsecurity=False).digest()).decode()
