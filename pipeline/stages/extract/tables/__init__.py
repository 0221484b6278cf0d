"""Tables of URLs and texts: Parquet, CSV, TSV, JSON lines; all but Parquet also as .gz or .zst.

    bytes --unpack--> lines --separated, json_lines--> rows (url, text, page_url, license, extra) --> LinkBatch
    row groups --parquet----------------------------------^

A row is one record with one link, 0; where its text is a list of captions, with one link for each. Entities are
decoded in neither column: a table holds text, not HTML. The Parquet files of an img2dataset directory are such
tables too, whose rows say whether their picture is stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pipeline.records.outcome import Outcome
from pipeline.stages.extract.batch import LinkBatch
from pipeline.stages.extract.config import ExtractConfig
from pipeline.stages.extract.files import open_binary
from pipeline.stages.extract.tables.rows import BadRow, RowReader, Rows
from pipeline.web.urls import resolver

__all__ = ["check_table", "read_table"]


def read_table(path: str, config: ExtractConfig, rows: RowReader, *, max_rows: int | None = None) -> Iterator[Outcome]:
    """Outcomes of one table, of rows before number `max_rows`; the unit is a link, of which a row has one unless its
    text is a list.

    Raises InputError where the file cannot be opened, is not of its format, or lacks a column for the
    URL or the text.
    """
    batch = LinkBatch(path, config, one_by_one=True)
    with open_binary(path) as file:
        yield from _outcomes(batch, _up_to(max_rows, rows(path, file, config)))


def check_table(path: str, config: ExtractConfig, rows: RowReader) -> None:
    """Raise InputError as `read_table` does, of a file without rows too, having read its head."""
    with open_binary(path) as file:
        next(rows(path, file, replace(config, batch_rows=1)), None)


def _up_to(most: int | None, rows: Rows) -> Rows:
    """The rows before number `most`; nothing is read for the sake of others."""
    for row in rows:
        yield row
        if most is not None and row.number is not None and row.number + 1 >= most:
            return


def _outcomes(batch: LinkBatch, rows: Rows) -> Iterator[Outcome]:
    resolve = resolver("")  # no base: trims, and leaves relative URLs without a host
    for row in rows:
        if isinstance(row, BadRow):
            batch.count_record()
            batch.reject_record(row.number, row.reason, row.detail)
            if batch.full():
                yield batch.take()
            continue
        raw_url = row.url or ""
        batch.count_read()
        batch.count_record(len(raw_url) + len(row.extra or "") + sum(len(text or "") for text in row.texts))
        for link, text in enumerate(row.texts):
            if not text:
                batch.reject_link(row.number, link, "no_text", row.url)
            elif row.failure is not None:
                batch.reject_link(row.number, link, "no_picture", row.failure)
            else:
                batch.add_row(
                    row.number,
                    resolve(raw_url),
                    raw_url,
                    text,
                    page_url=row.page_url,
                    license_url=row.license,
                    extra=row.extra,
                    text_source=row.text_source,
                    link=link,
                )
        if batch.full():
            yield batch.take()
    if batch.holds_anything():
        yield batch.take()
