"""The data card: one self-contained HTML page with funnel, balance curve, tables and pictures of a data set."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable, Sequence
from typing import Any

import duckdb

from pipeline.catalog.catalog import named_query, open_catalog
from pipeline.errors import OutputError
from pipeline.pages import page_of
from pipeline.questions.balance_report import compare_modes
from pipeline.records.shard import extension_of, shard_name
from pipeline.steps.fetch.retries import retries_of
from pipeline.storage.atomic import read_json, write_bytes
from pipeline.storage.checked import open_file, read_ranges
from pipeline.storage.duck import open_duckdb
from pipeline.storage.place import Place
from pipeline.terminal.printable import printable

__all__ = ["write_report"]

_PICTURES = 48
_MODES_PAIRS = 2_000_000  # above this, `balance-report` is the place
_WIDTH, _HEIGHT, _MARGIN = 720, 320, 48  # of a chart, in CSS pixels

_STYLE = """
:root { --ink: #1d2430; --soft: #667085; --line: #e4e7ec; --a: #98a2b3; --b: #175cd3; --c: #f79009; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); margin: 0 auto; max-width: 1080px; padding: 2rem 1rem; }
h1 { font-size: 1.6rem; margin: 0 } h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem }
p.soft, small { color: var(--soft) } code { font-size: 13px }
table { border-collapse: collapse; font-size: 14px } td, th { padding: .2rem .8rem .2rem 0; text-align: left;
  border-bottom: 1px solid var(--line) } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
.facts { display: flex; gap: 2.5rem; margin: 1.2rem 0; flex-wrap: wrap } .facts b { display: block; font-size: 1.5rem }
.bar { background: var(--line); height: 10px; width: 240px }
.bar i { display: block; height: 10px; background: var(--b) }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 14px }
.grid figure { margin: 0 } .grid img { width: 100%; aspect-ratio: 1; object-fit: contain; background: #f2f4f7 }
figcaption { font-size: 12.5px; line-height: 1.35; overflow-wrap: anywhere } svg text { font-size: 12px; fill: #667085 }
.columns { display: flex; gap: 3rem; flex-wrap: wrap } pre { background: #f9fafb; padding: 1rem; overflow-x: auto }
"""


def write_report(output: Place, path: Place) -> None:
    """Write the data card of the data set in `output` to `path`. Raises OutputError as the catalog does."""
    with open_catalog(output) as database:
        page = _page(output, database)
    write_bytes(path, page.encode())


def _page(output: Place, database: duckdb.DuckDBPyConnection) -> str:
    samples, size, pictures = _row(
        database, "SELECT count(*), coalesce(sum(num_bytes), 0), count(DISTINCT url_id) FROM published"
    )
    manifest = read_json(output / "shards" / "manifest.json") or {}
    matches, texts = _row(database, "SELECT coalesce(sum(len(query_ids)), 0), count(*) FROM matched")
    total, with_match = _row(database, "SELECT count(*), count(*) FILTER (matched > 0) FROM query_counts")
    facts = [
        (f"{samples:,}", "samples"),
        (f"{pictures:,}", "pictures"),
        (f"{size / 1e6:,.1f} MB", "of images"),
        (f"{len(manifest.get('shards', [])):,}", "shards"),
        (f"{matches / texts:.2f}" if texts else "-", "matches a caption"),
        (f"{with_match:,} of {total:,}", "queries with a match"),
    ]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>Data card: {_text(output.name)}</title><style>{_STYLE}</style>",
        f"<h1>Data card: {_text(output.name)}</h1>",
        f"<p class=soft>Version {_text(str(manifest.get('fingerprint', 'none yet'))[:12])}, "
        "a WIT-style set: English web captions that match a query list, balanced per query.</p>",
        "<div class=facts>" + "".join(f"<div><b>{a}</b>{b}</div>" for a, b in facts) + "</div>",
        "<h2>Funnel</h2>" + _funnel(database) + _retries(output),
        "<h2>Balance</h2><p class=soft>Pairs per query by rank, both axes logarithmic: what the web offers, what each "
        "query selects (at most t), and what the selected pairs contain.</p>" + _curve(database),
        "<div class=columns><div>" + _table(database, named_query("balance_summary"), limit=10) + "</div>",
        "<div>" + _modes(output) + "</div></div>",
        "<h2>Samples</h2><p class=soft>The first of the set's order, which is random.</p>" + _grid(output, database),
        "<h2>Head queries</h2>" + _table(database, named_query("balance"), limit=20),
        "<h2>Why things were rejected</h2>" + _table(database, named_query("failures"), limit=30),
        "<div class=columns>",
        "<div><h2>Languages</h2>" + _table(database, named_query("languages"), limit=15) + "</div>",
        "<div><h2>Shorter side as served</h2>" + _table(database, named_query("image_sizes"), limit=20) + "</div>",
        "<div><h2>Hosts</h2>" + _table(database, named_query("hosts"), limit=15) + "</div></div>",
        "<h2>Config</h2><pre>" + _text(_config(output)) + "</pre>",
    ]
    return "\n".join(parts)


def _retries(output: Place) -> str:
    """One line on the failures that were asked again; nothing where none were."""
    finished = retries_of(output).finished
    if not finished:
        return ""
    asked, healed = sum(one.retried for one in finished), sum(one.healed for one in finished)
    return f"<p class=soft>{asked:,} failed URLs asked again in {len(finished)} retries, {healed:,} of them healed.</p>"


def _modes(output: Place) -> str:
    """Captions by mode of balancing; nothing before the set is balanced, or where that would take minutes."""
    pairs = sum(int(said["pairs"]) for said in page_of(output)["count"].data.said())
    if not 0 < pairs <= _MODES_PAIRS:
        return ""
    try:
        table = compare_modes(output)
    except OutputError:
        return ""
    with open_duckdb() as database:
        database.register("modes", table)
        return _table(database, "SELECT * FROM modes", limit=10)


def _text(value: Any) -> str:
    return html.escape(printable(str(value)))


def _row(database: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    return database.execute(query).fetchone() or ()


def _config(output: Place) -> str:
    try:
        return (output / "config.yaml").read_text(encoding="utf-8")
    except OSError:
        return "(none yet)"


def _funnel(database: duckdb.DuckDBPyConnection) -> str:
    rows = database.execute(named_query("funnel")).fetchall()
    cells = []
    for stage, unit, came, kept, rejected, percent in rows:
        width = 0 if percent is None else percent
        cells.append(
            f"<tr><td>{_text(stage)}</td><td>{_text(unit)}</td><td class=n>{came:,}</td><td class=n>{kept:,}</td>"
            f"<td class=n>{rejected:,}</td><td class=n>{width:.1f} %</td>"
            f"<td><div class=bar><i style='width:{width:.1f}%'></i></div></td></tr>"
        )
    head = "<tr><th>stage<th>unit<th class=n>in<th class=n>kept<th class=n>rejected<th class=n>kept<th></tr>"
    return f"<table>{head}{''.join(cells)}</table>"


def _table(database: duckdb.DuckDBPyConnection, query: str, *, limit: int) -> str:
    result = database.execute(query)
    names = [column[0] for column in result.description or []]
    rows = result.fetchmany(limit)

    def cell(value: Any) -> str:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return f"<td class=n>{value:,}</td>"
        return f"<td>{_text('' if value is None else value)}</td>"

    head = "".join(f"<th>{_text(name)}" for name in names)
    body = "".join("<tr>" + "".join(cell(value) for value in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _curve(database: duckdb.DuckDBPyConnection) -> str:
    """Three lines over the rank of the query, log-log, as inline SVG."""
    rows = database.execute(named_query("balance_curve")).fetchall()
    if not rows:
        return "<p>No query has a match yet.</p>"
    top = max(row[1] for row in rows)
    x_scale = (_WIDTH - 2 * _MARGIN) / max(math.log10(len(rows)), 1e-9)
    y_scale = (_HEIGHT - 2 * _MARGIN) / max(math.log10(max(top, 10)), 1e-9)

    def point(rank: int, value: int) -> str:
        x = _MARGIN + math.log10(rank) * x_scale
        return f"{x:.1f},{_HEIGHT - _MARGIN - math.log10(max(value, 1)) * y_scale:.1f}"

    picked = _thin([row[0] for row in rows])
    lines = []
    for column, color, name in ((1, "--a", "matched"), (3, "--c", "contained"), (2, "--b", "selected")):
        points = " ".join(point(rows[i][0], rows[i][column]) for i in picked)
        lines.append(
            f"<polyline points='{points}' fill=none stroke='var({color})' stroke-width=2>"
            f"<title>{name}</title></polyline>"
        )
    ticks = []
    for power in range(int(math.log10(max(top, 10))) + 1):
        y = _HEIGHT - _MARGIN - power * y_scale
        ticks.append(f"<text x=4 y={y + 4:.0f}>{10**power:,}</text>")
        ticks.append(f"<line x1={_MARGIN} x2={_WIDTH - _MARGIN} y1={y:.0f} y2={y:.0f} stroke='var(--line)' />")
    for power in range(int(math.log10(len(rows))) + 1):
        x = _MARGIN + power * x_scale
        ticks.append(f"<text x={x:.0f} y={_HEIGHT - _MARGIN + 18}>{10**power:,}</text>")
    legend = "".join(
        f"<text x={_WIDTH - 150} y={24 + 18 * i} style='fill:var({color})'>{name}</text>"
        for i, (name, color) in enumerate((("matched", "--a"), ("selected", "--b"), ("contained", "--c")))
    )
    label = f"<text x={_WIDTH // 2 - 40} y={_HEIGHT - 8}>rank of the query</text>"
    return f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT}' width={_WIDTH}>{''.join(ticks + lines)}{legend}{label}</svg>"


def _thin(ranks: Sequence[int], points_per_decade: int = 60) -> list[int]:
    """Indices of at most so many ranks per decade: a curve of 500,000 queries stays a small page."""
    seen: set[int] = set()
    picked = []
    for index, rank in enumerate(ranks):
        bucket = int(math.log10(rank) * points_per_decade)
        if bucket not in seen or index == len(ranks) - 1:
            seen.add(bucket)
            picked.append(index)
    return picked


def _grid(output: Place, database: duckdb.DuckDBPyConnection) -> str:
    """Pictures read straight from the tars by offset, with captions and the queries that chose them."""
    rows = database.execute(
        f"""SELECT shard, tar_offset, num_bytes, caption, list(query ORDER BY query)
            FROM (SELECT *, unnest(selected_by) AS query_id
                  FROM (SELECT * FROM published ORDER BY "order", uid LIMIT {_PICTURES}))
            JOIN queries USING (query_id)
            GROUP BY shard, tar_offset, num_bytes, caption, "order", uid
            ORDER BY "order", uid"""
    ).fetchall()
    return "<div class=grid>" + "".join(_figures(output, rows)) + "</div>"


def _figures(output: Place, rows: Sequence[tuple[Any, ...]]) -> Iterable[str]:
    places: dict[int, list[tuple[int, int]]] = {}
    for shard, offset, size, *_ in rows:
        places.setdefault(shard, []).append((offset, size))
    images = {(shard, offset): image for shard, of in places.items() for offset, image in _pictures(output, shard, of)}
    for shard, offset, _, caption, chosen in rows:
        image = images[shard, offset]
        kind = extension_of(image).replace("jpg", "jpeg")
        source = f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
        yield (
            f"<figure><img loading=lazy alt='' src='{source}'><figcaption>{_text(caption)}"
            f"<br><small>{_text(', '.join(chosen[:6]))}</small></figcaption></figure>"
        )


def _pictures(output: Place, shard: int, places: Sequence[tuple[int, int]]) -> Iterable[tuple[int, bytes]]:
    """(offset, bytes) of each picture at (offset, size) of a tar."""
    with open_file(output / "shards" / f"{shard_name(shard)}.tar") as tar:
        images = read_ranges(tar, [(offset, size, None) for offset, size in places])
    return [(offset, image) for (offset, _), image in zip(places, images, strict=True)]
