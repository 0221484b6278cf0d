"""WARC and WAT records made by hand, for the tests of extraction."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from typing import Any


def warc_record(
    block: bytes, *, url: str = "http://example.com/", kind: str = "metadata", content_type: str = "application/json"
) -> bytes:
    """One uncompressed record."""
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2024-05-31T01:17:49Z\r\n"
        f"WARC-Record-ID: <urn:uuid:3d3f4785-c69a-4f8c-968c-d23302c55ef4>\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(block)}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def wat_block(
    links: Sequence[Mapping[str, Any]],
    *,
    url: str = "http://example.com/",
    head: Mapping[str, Any] | None = None,
    headers: Mapping[str, Any] | None = None,
) -> bytes:
    """The JSON of a WAT record; each link gets the path of an image unless it has one."""
    return json.dumps(
        {
            "Container": {"Filename": "x.warc.gz"},
            "Envelope": {
                "Format": "WARC/1.0",
                "WARC-Header-Metadata": {"WARC-Target-URI": url},
                "Payload-Metadata": {
                    "HTTP-Response-Metadata": {
                        "Headers": dict(headers or {"Content-Type": "text/html"}),
                        "HTML-Metadata": {
                            "Head": dict(head or {}),
                            "Links": [{"path": "IMG@/src", **link} for link in links],
                        },
                    }
                },
            },
        }
    ).encode()


def html_block(html: str | bytes, *, headers: str = "Content-Type: text/html; charset=utf-8\r\n") -> bytes:
    """An HTTP answer."""
    body = html.encode() if isinstance(html, str) else html
    return f"HTTP/1.1 200 OK\r\n{headers}\r\n".encode() + body


def members(records: Sequence[bytes]) -> list[bytes]:
    """Each record as a gzip member of its own."""
    return [gzip.compress(record, mtime=0) for record in records]
