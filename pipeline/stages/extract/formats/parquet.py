"""Parquet: the reader is `extract/tables/parquet.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from pipeline.stages.extract.formats.source_format import table_format

if TYPE_CHECKING:
    from pipeline.stages.extract.config import ExtractConfig
    from pipeline.stages.extract.tables.rows import Rows

__all__ = ["PARQUET"]


def _rows(path: str, file: BinaryIO, config: ExtractConfig) -> Rows:
    from pipeline.stages.extract.tables.parquet import parquet_rows

    return parquet_rows(path, file, config, says_status=False)


PARQUET = table_format(
    name="parquet", endings=(".parquet", ".pq"), says="a table with columns for URL and text", rows=_rows
)
