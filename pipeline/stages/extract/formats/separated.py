"""CSV and TSV: the reader is `extract/tables/separated.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from pipeline.stages.extract.formats.source_format import table_format

if TYPE_CHECKING:
    from pipeline.stages.extract.config import ExtractConfig
    from pipeline.stages.extract.tables.rows import Rows

__all__ = ["CSV", "TSV"]


def _csv_rows(path: str, file: BinaryIO, config: ExtractConfig) -> Rows:
    from pipeline.stages.extract.tables.separated import separated_rows

    return separated_rows(path, file, config, comma=True)


def _tsv_rows(path: str, file: BinaryIO, config: ExtractConfig) -> Rows:
    from pipeline.stages.extract.tables.separated import separated_rows

    return separated_rows(path, file, config, comma=False)


CSV = table_format(name="csv", endings=(".csv",), says="comma-separated rows, read with quoting", rows=_csv_rows)
TSV = table_format(
    name="tsv", endings=(".tsv",), says="tab-separated rows, without quoting unless extract.tsv_quoting", rows=_tsv_rows
)
