"""What `evaluate MODEL ...` leaves: one table for people, and files for programs.

    TO/results.json         every pair: the model, the set, the options, the metrics
    TO/results.parquet      model, set, metric, value, chance: a row a figure
    TO/classes.parquet      model, set, class, name, examples, top1, top5, and what it is most often taken for
    TO/confusions.parquet   model, set, class, name, predicted, predicted_name, count
    TO/templates.parquet    model, set, template, top1 with it alone
    TO/results.html         the figures as one page (page.py)
    TO/pairs/               what a later command need not compute again (compare.py)

The same pairs give the same bytes, whether they were computed now or before.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.storage.atomic import write_bytes, write_json
from pipeline.storage.place import Place
from pipeline.terminal.table import terminal_width, write_table
from training.evaluation.compare import Pair
from training.evaluation.page import render

__all__ = ["COLUMNS", "show_pairs", "write_results"]

COLUMNS: Mapping[str, str] = {
    "zeroshot_top1": "top-1",
    "zeroshot_top5": "top-5",
    "zeroshot_mean_per_class": "per class",
    "linear_probe_top1": "probe",
    "image_to_text_recall_at_1": "image to text @1",
    "text_to_image_recall_at_1": "text to image @1",
    "clip_score": "CLIP score",
    "caption_token_accuracy": "caption tokens",
}
"""The figures of the short table: metric -> its heading."""

_PAIR = [("model", pa.string()), ("set", pa.string())]
_RESULTS = pa.schema([*_PAIR, ("metric", pa.string()), ("value", pa.float64()), ("chance", pa.float64())])
_CLASSES = pa.schema(
    [
        *_PAIR,
        ("class", pa.int32()),
        ("name", pa.string()),
        ("examples", pa.int64()),
        ("top1", pa.float64()),
        ("top5", pa.float64()),
        ("confused_with", pa.int32()),
        ("confused_name", pa.string()),
        ("confused", pa.int64()),
    ]
)
_CONFUSIONS = pa.schema(
    [
        *_PAIR,
        ("class", pa.int32()),
        ("name", pa.string()),
        ("predicted", pa.int32()),
        ("predicted_name", pa.string()),
        ("count", pa.int64()),
    ]
)
_TEMPLATES = pa.schema([*_PAIR, ("template", pa.string()), ("top1", pa.float64())])


def write_results(directory: Place, pairs: Sequence[Pair]) -> None:
    """All files, each whole from its first appearance. Raises OutputError."""
    metrics = [{"metric": name, **about, "pair": pair} for pair in pairs for name, about in pair.metrics.items()]
    content = {
        "pairs": [
            {
                "model": {"source": pair.model, **pair.found["model"]},
                "set": {"path": pair.set, **pair.found["set"]},
                "metrics": pair.metrics,
                **{name: pair.found[name] for name in ("options", "templates", "probe_l2")},
            }
            for pair in pairs
        ]
    }
    write_json(directory / "results.json", content)
    _write(directory / "results.parquet", metrics, _RESULTS)
    for name, schema in (("classes", _CLASSES), ("confusions", _CONFUSIONS), ("templates", _TEMPLATES)):
        rows = [{**row, "class": row.get("number"), "pair": pair} for pair in pairs for row in pair.found[name]]
        _write(directory / f"{name}.parquet", rows, schema)
    write_bytes(directory / "results.html", render(pairs).encode())


def show_pairs(pairs: Sequence[Pair]) -> None:
    """Print the table: of one pair every figure beside what guessing scores, of several a row each."""
    if len(pairs) == 1:
        metrics = pairs[0].metrics
        rows = [[name.replace("_", " "), _percent(m["value"]), _percent(m["chance"])] for name, m in metrics.items()]
        write_table(["metric", "result", "chance"], rows, sys.stdout, terminal_width(sys.stdout))
        return
    names = [name for name in COLUMNS if any(name in pair.metrics for pair in pairs)]
    rows = [
        [pair.model, pair.set, *(_percent(pair.metrics.get(name, {}).get("value")) for name in names)] for pair in pairs
    ]
    headings = ["model", "set", *(COLUMNS[name] for name in names)]
    write_table(headings, rows, sys.stdout, terminal_width(sys.stdout))


def _write(path: Place, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
    plain = [{**row, "model": row["pair"].model, "set": row["pair"].set} for row in rows]
    table = pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in plain], schema=schema)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_bytes(path, sink.getvalue().to_pybytes())


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"
