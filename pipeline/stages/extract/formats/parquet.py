"""Parquet: the reader is `extract/tables/parquet.py`. A file is read whole, or some row groups of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from pipeline.stages.extract.formats.source_format import table_format
from pipeline.stages.extract.stretch import Stretch

if TYPE_CHECKING:
    from pipeline.stages.extract.config import ExtractConfig
    from pipeline.stages.extract.tables.rows import RowReader, Rows

__all__ = ["PARQUET"]


def _rows_in(stretch: Stretch) -> RowReader:
    def rows(path: str, file: BinaryIO, config: ExtractConfig) -> Rows:
        from pipeline.stages.extract.tables.parquet import parquet_rows

        return parquet_rows(path, file, config, stretch, says_status=False)

    return rows


PARQUET = table_format(
    name="parquet",
    endings=(".parquet", ".pq"),
    says="a table with columns for URL and text",
    rows_in=_rows_in,
)
