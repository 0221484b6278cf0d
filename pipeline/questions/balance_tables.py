"""The tables of `balance-report`, by name: several t, the modes, the published figures."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from pipeline.catalog.catalog import named_query, open_catalog
from pipeline.questions.balance_report import compare_modes
from pipeline.questions.limits_report import compare_limits
from pipeline.questions.published import PUBLISHED
from pipeline.storage.place import Place

__all__ = ["TABLES", "balance_table", "compare_published"]

TABLES = {
    "limits": "What each t would keep:",
    "modes": "What each mode keeps at this set's t:",
    "published": "Beside the published figures:",
}
"""Name -> what stands above it."""
_PUBLISHED = pa.schema(
    [("figure", pa.string()), ("here", pa.float64()), ("published", pa.float64()), ("source", pa.string())]
)


def balance_table(output: Place, name: str, limits: Sequence[int] = ()) -> pa.Table:
    """One of `TABLES`; `limits` are the t to compare, where they are not to be chosen. Raises OutputError before the
    set is balanced."""
    if name == "limits":
        return compare_limits(output, limits)
    return compare_modes(output) if name == "modes" else compare_published(output)


def compare_published(output: Place) -> pa.Table:
    """figure, here, published, source: the named query `balance_summary`, and where the published ones are from."""
    query = named_query("balance_summary")
    with open_catalog(output, query) as database:
        here = {figure: value for figure, value, _ in database.execute(query).fetchall()}
    rows = [
        {"figure": each.figure, "here": here.get(each.figure), "published": each.value, "source": each.source}
        for each in PUBLISHED
    ]
    return pa.Table.from_pylist(rows, schema=_PUBLISHED)
