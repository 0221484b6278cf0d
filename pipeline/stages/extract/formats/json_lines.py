"""JSON lines: the reader is `extract/tables/json_lines.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from pipeline.stages.extract.formats.source_format import table_format

if TYPE_CHECKING:
    from pipeline.stages.extract.config import ExtractConfig
    from pipeline.stages.extract.tables.rows import Rows

__all__ = ["JSONL"]


def _rows(path: str, file: BinaryIO, config: ExtractConfig) -> Rows:
    from pipeline.stages.extract.tables.json_lines import json_rows

    return json_rows(path, file, config)


JSONL = table_format(name="jsonl", endings=(".jsonl", ".ndjson"), says="a JSON object a line", rows=_rows)
