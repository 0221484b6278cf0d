"""img2dataset: its Parquet files are tables, whose rows say whether their picture lies in the tar beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from pipeline.stages.extract.formats.source_format import table_format

if TYPE_CHECKING:
    from pipeline.stages.extract.config import ExtractConfig
    from pipeline.stages.extract.tables.rows import Rows

__all__ = ["IMG2DATASET"]


def _rows(path: str, file: BinaryIO, config: ExtractConfig) -> Rows:
    from pipeline.stages.extract.stretch import WHOLE
    from pipeline.stages.extract.tables.parquet import parquet_rows

    return parquet_rows(path, file, config, WHOLE, says_status=config.missing_pictures == "reject")


IMG2DATASET = table_format(
    name="img2dataset",
    endings=(),
    says="the Parquet files of a directory that img2dataset wrote as webdataset; the pictures in its tars are used, "
    "see extract.missing_pictures",
    rows=_rows,
    stores_pictures=True,
)
