"""Rows that an earlier version wrote, in today's columns."""

from __future__ import annotations

from typing import TypeVar

import pyarrow as pa

__all__ = ["as_now"]

Rows = TypeVar("Rows", pa.RecordBatch, pa.Table)


def as_now(rows: Rows, schema: pa.Schema) -> Rows:
    """`rows` in the columns and the order of `schema`: nullable ones that are not there yet are null.

    Raises ValueError or ArrowInvalid where they are no rows of `schema`, of whatever version.
    """
    there = rows.schema.names
    for field in schema:
        if field.nullable and field.name not in there:
            rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
    in_order = sorted(rows.schema.names) == sorted(schema.names)
    return (rows.select(schema.names) if in_order else rows).cast(schema)
