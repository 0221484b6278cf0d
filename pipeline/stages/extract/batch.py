"""The rows of one source, collected to batches.

    add_page, add_row, reject_... --> lists ----.
                                                >-- take --> Outcome
    the compiled pass (WAT) ------> columns ----'

A batch is taken when it holds about `batch_rows` links, or the records that it comes from fill 256 MiB.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.records.identity import canonical_url, uid_of, url_id_of
from pipeline.records.outcome import Outcome
from pipeline.records.schema import CANDIDATES, REJECTIONS
from pipeline.stages.extract.columns import LinkColumns
from pipeline.stages.extract.config import ExtractConfig
from pipeline.web.urls import SCHEME, without_user_info

__all__ = ["LinkBatch"]

_MAX_DETAIL_CHARS = 200
_MAX_PENDING_BYTES = 1 << 28
"""Flush a batch whose records come to more: string columns address 2 GiB."""


class LinkBatch:
    """Collects the links of one source and gives them back as Outcomes of about `batch_rows` links."""

    def __init__(
        self, source: str, config: ExtractConfig, columns: LinkColumns | None = None, *, one_by_one: bool = False
    ) -> None:
        """`columns`: where the rest of the rows is, if there is more than is added here; emptied by `take`. With
        `one_by_one` each record is counted twice: as it comes, and as it is read, passed over or rejected."""
        self._source = source
        self._config = config
        self._columns = columns if columns is not None else LinkColumns(())
        self._pending_bytes = 0
        self._num_records = 0
        self._num_read = 0
        self._passed_over: dict[str, int] = {}
        self._one_by_one = one_by_one
        self._clear()

    def _clear(self) -> None:
        self._url: list[str] = []
        self._alt_text: list[str] = []
        self._text_source: list[str] = []
        self._page_url: list[str | None] = []
        self._license: list[str | None] = []
        self._extra: list[str | None] = []  # shorter where archives, which have none, fill the batch
        self._record: list[int] = []
        self._link: list[int] = []
        self._bad_record: list[int | None] = []
        self._bad_link: list[int | None] = []
        self._bad_reason: list[str] = []
        self._bad_detail: list[str | None] = []
        self._columns.clear()

    def count_record(self, num_bytes: int = 0) -> None:
        """One record came, `num_bytes` long."""
        self.count_records(1, num_bytes)

    def count_records(self, num_records: int, num_bytes: int = 0) -> None:
        """So many records came, `num_bytes` long together."""
        self._num_records += num_records
        self._pending_bytes += num_bytes

    def count_read(self, num_records: int = 1) -> None:
        """So many of them were read as pages, be there links or none."""
        self._num_read += num_records

    def pass_over(self, reason: str, num_records: int = 1) -> None:
        """So many of them hold nothing to read, for one reason: counted, without a row each."""
        if num_records:
            self._passed_over[reason] = self._passed_over.get(reason, 0) + num_records

    def add_page(
        self,
        record: int,
        links: Sequence[int],
        urls: Sequence[str],
        texts: Sequence[str],
        text_sources: Sequence[str],
        resolve: Callable[[str], str],
        *,
        page_url: str | None,
        license_url: str | None,
        textless: tuple[Sequence[int], Sequence[str]],
    ) -> None:
        """The links of one page that have a text: ordinals, URLs as the page wrote them, texts and their sources; of
        those without, ordinals and URLs alone."""
        max_chars = self._config.max_url_chars
        num_before, num_bad_before = len(self._url), len(self._bad_link)
        self.reject_textless(record, *textless)
        bad: list[tuple[int, str, str]] = []
        for link, named, text, text_source in zip(links, urls, texts, text_sources, strict=True):
            url = resolve(named)
            if len(url) <= max_chars and url.startswith(("http://", "https://")):
                self._url.append(url)
                self._alt_text.append(text)
                self._text_source.append(text_source)
                self._link.append(link)
            else:
                bad.append((link, *self._against_url(url, named)))
        num_added = len(self._url) - num_before
        self._page_url += [page_url and without_user_info(page_url)] * num_added
        self._license += [license_url and without_user_info(license_url)] * num_added
        self._record += [record] * num_added
        if bad:
            self._bad_record += [record] * len(bad)
            columns: tuple[list[Any], ...] = self._bad_link, self._bad_reason, self._bad_detail
            bad += zip(*(column[num_bad_before:] for column in columns), strict=True)
            for column, values in zip(columns, zip(*sorted(bad), strict=True), strict=True):
                column[num_bad_before:] = values

    def add_row(
        self,
        record: int,
        url: str,
        raw_url: str,
        text: str,
        *,
        page_url: str | None,
        license_url: str | None,
        extra: str | None,
        text_source: str = "alt",
        link: int = 0,
    ) -> None:
        """A link of a table's row, with text. `url` is what the resolver made of `raw_url`."""
        if not url.startswith(("http://", "https://")) or len(url) > self._config.max_url_chars:
            self.reject_link(record, link, *self._against_url(url, raw_url))
            return
        self._url.append(url)
        self._alt_text.append(text)
        self._text_source.append(text_source)
        self._page_url.append(page_url and without_user_info(page_url))
        self._license.append(license_url and without_user_info(license_url))
        self._extra.append(extra)
        self._record.append(record)
        self._link.append(link)

    @staticmethod
    def _against_url(url: str, raw_url: str) -> tuple[str, str]:
        if url.startswith(("http://", "https://")):
            return "bad_url", f"{len(url)} characters: {without_user_info(raw_url)[:100]}"
        return ("not_http" if SCHEME.match(url) else "bad_url"), raw_url

    def reject_link(self, record: int, link: int, reason: str, detail: str | None) -> None:
        """One link turned away."""
        self._bad_record.append(record)
        self._bad_link.append(link)
        self._bad_reason.append(reason)
        self._bad_detail.append(detail)

    def reject_textless(self, record: int, links: Sequence[int], urls: Sequence[str]) -> None:
        """The links of one page that have no text: ordinals, and URLs as the page wrote them."""
        num_links = len(links)
        self._bad_record += [record] * num_links
        self._bad_link += links
        self._bad_reason += ["no_text"] * num_links
        self._bad_detail += urls

    def reject_record(self, record: int | None, reason: str, detail: str) -> None:
        """A whole record turned away; `record` is null where damage hides its place."""
        self._bad_record.append(record)
        self._bad_link.append(None)
        self._bad_reason.append(reason)
        self._bad_detail.append(detail)

    def room(self) -> int:
        """How many more rows make it full; may be negative."""
        return self._config.batch_rows - len(self._url) - len(self._bad_reason) - len(self._columns)

    def full(self) -> bool:
        """Whether it is time to call `take`."""
        return self.room() <= 0 or self._pending_bytes >= _MAX_PENDING_BYTES

    def holds_anything(self) -> bool:
        """Whether `take` would return something to count."""
        return bool(self._num_records or self._bad_reason or self._url or len(self._columns))

    def take(self) -> Outcome:
        """The links since the last call. Rows keep the order of the source."""
        kept, rejected = self._kept(), self._rejections()
        if len(self._columns):
            kept = _in_order(kept, self._columns.candidates(self._source))
            rejected = _in_order(rejected, self._columns.textless(self._source, _MAX_DETAIL_CHARS))
        outcome = Outcome(
            kept=kept,
            rejected=rejected,
            num_in=kept.num_rows + rejected.num_rows - rejected["link"].null_count,
            num_records=self._num_records,
            num_read=self._num_read if self._one_by_one else None,
            passed_over=self._passed_over,
        )
        self._pending_bytes = self._num_records = self._num_read = 0
        self._passed_over = {}
        self._clear()
        return outcome

    def _kept(self) -> pa.RecordBatch:
        """Drops the rows without a canonical URL, so that the rejections come after it."""
        canonical = self._canonical_urls()
        n = len(canonical)
        return pa.RecordBatch.from_arrays(
            [
                _ids(list(map(uid_of, canonical, self._text_source, self._alt_text))),
                _ids(list(map(url_id_of, canonical))),
                pa.array(self._url, pa.string()),
                pa.array(self._alt_text, pa.string()),
                pa.array(self._text_source, pa.string()),
                pa.array(self._page_url, pa.string()),
                pa.array(self._license, pa.string()),
                pa.array(self._extra, pa.string()) if self._extra else pa.nulls(n, pa.string()),
                pa.repeat(pa.scalar(self._source, pa.string()), n),
                pa.array(self._record, pa.int64()),
                pa.array(self._link, pa.int32()),
            ],
            schema=CANDIDATES,
        )

    def _canonical_urls(self) -> list[str]:
        """The canonical form of each URL; the links of those that have none become rejections."""
        try:
            return list(map(canonical_url, self._url))
        except ValueError:
            self._drop([i for i, url in enumerate(self._url) if not _has_canonical(url)])
            return list(map(canonical_url, self._url))

    def _drop(self, rows: Sequence[int]) -> None:
        """Turn links whose URL has no canonical form into rejections, in the order of the source."""
        for i in rows:
            self.reject_link(self._record[i], self._link[i], "bad_url", self._url[i])
        order = sorted(range(len(self._bad_link)), key=lambda i: (self._bad_record[i] or 0, self._bad_link[i] or 0))
        self._bad_record = [self._bad_record[i] for i in order]
        self._bad_link = [self._bad_link[i] for i in order]
        self._bad_reason = [self._bad_reason[i] for i in order]
        self._bad_detail = [self._bad_detail[i] for i in order]
        columns: tuple[list[Any], ...] = (
            self._url,
            self._alt_text,
            self._text_source,
            self._page_url,
            self._license,
            self._record,
            self._link,
            *([self._extra] if self._extra else []),
        )
        for column in columns:
            for i in reversed(rows):
                del column[i]

    def _rejections(self) -> pa.RecordBatch:
        n = len(self._bad_link)
        columns = [
            pa.repeat(pa.scalar(self._source, pa.string()), n),
            pa.array(self._bad_record, pa.int64()),
            pa.array(self._bad_link, pa.int32()),
            pa.nulls(n, pa.binary(16)),
            pa.repeat(pa.scalar("extract", pa.string()), n),
            pa.array(self._bad_reason, pa.string()),
            # Many are URLs as the page wrote them; what is published holds nobody's password.
            pa.array([d and without_user_info(d)[:_MAX_DETAIL_CHARS] for d in self._bad_detail], pa.string()),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=REJECTIONS)


def _has_canonical(url: str) -> bool:
    try:
        canonical_url(url)
    except ValueError:
        return False
    return True


def _ids(ids: list[bytes]) -> pa.FixedSizeBinaryArray:
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(ids), [None, pa.py_buffer(b"".join(ids))])


def _in_order(listed: pa.RecordBatch, scanned: pa.RecordBatch) -> pa.RecordBatch:
    """Both together in the order of the source. What has no record comes first."""
    if not scanned.num_rows or not listed.num_rows:
        return scanned if scanned.num_rows else listed
    both = pa.concat_batches([listed, scanned])
    record, link = (pc.fill_null(both[name], -1).to_numpy() for name in ("record", "link"))
    return both.take(pa.array(np.lexsort((link, record))))
