"""The answers to requests for robots.txt that one archive holds."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.consent.robots_answer import text_of_answer
from pipeline.consent.robots_file import MAX_ROBOTS_BYTES
from pipeline.steps.robots.archives import CAPTURES, rejected, row_of
from pipeline.web.urls import resolver

if TYPE_CHECKING:
    from fastwarc.warc import WarcRecord

    from pipeline.stages.extract.archive import Record

__all__ = ["captures_in"]

_BATCH_ROWS = 4096
_MAX_RECORD_BYTES = 16 << 20
_STATUS = re.compile(rb"[\r\n]*HTTP/\S*[ \t]+([1-9]\d\d)", re.IGNORECASE)


def captures_in(source: str, product: str, bad: list[dict[str, object]]) -> Iterator[pa.RecordBatch]:
    """Batches of CAPTURES; to `bad` the rejections. Raises InputError where the archive cannot be read."""
    from pipeline.stages.extract.archive import Damage, read_records
    from pipeline.stages.extract.http_message import OversizedBodyError, UnreadableAnswerError

    rows: list[dict[str, Any]] = []
    for item in read_records(source, wanted=_is_response, max_record_bytes=_MAX_RECORD_BYTES):
        if isinstance(item, Damage):
            bad.append(rejected(source, item.offset, item.reason, item.detail))
            continue
        try:
            rows.append(_capture(item, product))
        except (UnreadableAnswerError, OversizedBodyError, ValueError) as error:
            bad.append(rejected(source, item.offset, "bad_record", str(error)))
        if len(rows) == _BATCH_ROWS:
            yield pa.RecordBatch.from_pylist(rows, schema=CAPTURES)
            rows = []
    if rows:
        yield pa.RecordBatch.from_pylist(rows, schema=CAPTURES)


def _is_response(head: WarcRecord) -> bool:
    return str(head.headers.get("WARC-Type")) == "response"


def _capture(item: Record, product: str) -> dict[str, Any]:
    """One row. Raises ValueError where the record is no answer to a request for a URL."""
    from pipeline.stages.extract.http_message import parse_answer, unpack

    url = resolver("")((item.head.headers.get("WARC-Target-URI") or "").strip("<> \t\r\n"))
    found = _STATUS.match(item.block)
    if not url.startswith(("http://", "https://")) or found is None:
        raise ValueError("no answer to a request over HTTP")
    status = int(found[1])
    answer = parse_answer(item.block)
    body = unpack(answer, _MAX_RECORD_BYTES)[:MAX_ROBOTS_BYTES] if 200 <= status < 300 else b""
    location = next(iter(answer.values("location")), None)
    text = text_of_answer(url, status, location, body, product)
    return row_of(url, _time_of(item.head.headers.get("WARC-Date") or ""), status, text)


def _time_of(text: str) -> datetime.datetime | None:
    try:
        time = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo is not None else time.replace(tzinfo=datetime.UTC)
