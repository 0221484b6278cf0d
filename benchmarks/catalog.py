"""The catalog's named queries on a large set: python benchmarks/catalog.py [--rows N] [--repeats R] [--threads T]

Makes a data set's Parquet files (candidates' rejections, matched, fetched, samples, query counts; no tars) with
DuckDB in a scratch directory, laid out as a run leaves them, and measures every named query, opening the catalog
included. Hosts and queries follow Zipf's law; one pair in seven is not fetched. Times are wall-clock seconds, the
files in the page cache. There is no peer: img2dataset and cc2dataset leave such questions to the user.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb

from pipeline.catalog.catalog import NAMED_QUERIES, named_query, open_catalog
from pipeline.catalog.summaries import write_summaries
from pipeline.pages import page_of
from pipeline.storage.atomic import write_json
from pipeline.storage.checked import digest_of

NUM_QUERIES = 500_000
ROWS_PER_SHARD = 10_000
ROWS_PER_SOURCE = 100_000


def main() -> None:
    """Make the set (or take --directory), then print a table of seconds per query."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--directory", type=Path, help="make the set here and keep it; a set that is there is used")
    arguments = parser.parse_args()
    root = arguments.directory or Path(tempfile.mkdtemp(prefix="openwit-catalog-"))
    try:
        if not (root / "openwit.json").exists():
            started = time.perf_counter()
            make_set(root, arguments.rows)
            print(f"made {arguments.rows:,} rows in {time.perf_counter() - started:.0f} s")
        print(f"{platform.platform()}, Python {platform.python_version()}, DuckDB {duckdb.__version__}")
        print(
            f"{arguments.rows:,} rows, {arguments.threads} threads, {arguments.repeats} repeats: median (least, most)"
        )
        measure(root, arguments.repeats, arguments.threads)
    finally:
        if arguments.directory is None:
            shutil.rmtree(root)


def measure(root: Path, repeats: int, threads: int) -> None:
    """Print seconds per named query and for a few questions of other kinds."""

    def opened(query: str) -> Callable[[], object]:
        def work() -> object:
            with open_catalog(root) as database:
                database.execute(f"SET threads = {threads}")
                return database.execute(query).fetchall()

        return work

    questions = {name: named_query(name).strip().rstrip(";") for name in NAMED_QUERIES}
    questions |= {
        "(open only)": "SELECT 1",
        "(count of samples)": "SELECT count(*) FROM samples",
        "(condition on two columns)": "SELECT count(*) FROM samples WHERE width > 300 AND p_en > 0.9",
        "(one uid among samples)": "SELECT caption FROM samples WHERE uid = unhex(md5('4567'))",
        "(one uid among fetched)": "SELECT status FROM fetched WHERE uid = unhex(md5('4567'))",
    }
    for name, query in questions.items():
        seconds, cpu = [], []
        for _ in range(repeats):
            start, start_cpu = time.perf_counter(), time.process_time()
            opened(query)()
            seconds.append(time.perf_counter() - start)
            cpu.append(time.process_time() - start_cpu)
        spread = f"({min(seconds):.3f}, {max(seconds):.3f})"
        print(f"{name:<28} {statistics.median(seconds):7.3f} s  {spread}  CPU {statistics.median(cpu):.3f} s")


def make_set(root: Path, rows: int) -> None:
    """The Parquet files, manifests and marks of a finished run over `rows` selected pairs."""
    root.mkdir(parents=True, exist_ok=True)
    with duckdb.connect() as database:
        _macros(database)
        _step(database, root, "texts", ".matched.parquet", _ranges(rows, ROWS_PER_SOURCE), _MATCHED)
        _step(database, root, "fetched", ".fetched.parquet", _ranges(rows, ROWS_PER_SHARD), _FETCHED)
        _step(database, root, "dedup", ".rejections.parquet", _ranges(rows, ROWS_PER_SOURCE), _REJECTIONS)
        _step(database, root, "queries", ".queries.parquet", [(0, NUM_QUERIES)], _QUERIES)
        _step(database, root, "query_counts", ".query_counts.parquet", [(0, NUM_QUERIES)], _QUERY_COUNTS)
        shards = root / "versions" / "0"
        shards.mkdir(parents=True)
        entries = []
        for number, (first, last) in enumerate(_ranges(rows, ROWS_PER_SHARD)):
            name = f"{number:05d}"
            _write(database, shards / f"{name}.parquet", f"{_SAMPLES} WHERE status = 'success'", first, last)
            entries.append({"name": f"{name}.tar", "samples": last - first, "bytes": 0, "parquet": f"{name}.parquet"})
        write_json(shards / "manifest.json", {"version": 1, "shards": entries})
    (root / "shards").symlink_to("versions/0")
    started = time.perf_counter()
    write_summaries(page_of(root))  # as publishing does
    print(f"summaries made in {time.perf_counter() - started:.1f} s")
    stages = {"language": {"other_language": rows // 2, "low_confidence": rows // 4}, "match": {"no_query": rows // 4}}
    lines = [
        {"stage": stage, "unit": "link", "rows_in": rows + sum(reasons.values()), "kept": rows, "rejected": reasons}
        for stage, reasons in stages.items()
    ]
    write_json(root / "ledger.json", {"lines": lines})
    write_json(root / "openwit.json", {"layout_version": 1, "made_by": "openwit"})


def _ranges(rows: int, size: int) -> list[tuple[int, int]]:
    return [(first, min(first + size, rows)) for first in range(0, rows, size)]


def _step(
    database: duckdb.DuckDBPyConnection, root: Path, step: str, ending: str, ranges: list[tuple[int, int]], select: str
) -> None:
    directory = root / "work" / step
    directory.mkdir(parents=True)

    def tasks() -> Iterator[dict[str, object]]:
        for number, (first, last) in enumerate(ranges):
            name = f"{number:05d}{ending}"
            _write(database, directory / name, select, first, last)
            yield {
                "partition": f"{number:05d}",
                "key": f"{step}-{number}",
                "outputs": {name: digest_of(directory / name)},
            }

    write_json(directory / "manifest.json", {"tasks": list(tasks())})


def _write(database: duckdb.DuckDBPyConnection, path: Path, select: str, first: int, last: int) -> None:
    query = select.replace("$ROWS", f"range({first}, {last})")
    database.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 65536)")


def _macros(database: duckdb.DuckDBPyConnection) -> None:
    """Draws from a hash of (row, salt), so that the set is the same every time."""
    database.execute("CREATE MACRO draw(i, salt) AS (hash(i * 64 + salt) >> 11) / 9007199254740992.0")
    database.execute("CREATE MACRO zipf(i, salt, n) AS floor(n ** draw(i, salt))::INTEGER - 1")
    database.execute("CREATE MACRO host_of(i) AS 'host' || zipf(i, 1, 300000) || '.example.com'")


_PAIR = f"""
    unhex(md5(i::VARCHAR)) AS uid, unhex(md5((i * 3)::VARCHAR)) AS url_id,
    'https://' || host_of(i) || '/images/' || hash(i, 2) || '/' || i || '.jpg' AS url,
    'a caption of the picture ' || hash(i, 3) || ' as the page says it' AS alt_text, 'alt' AS text_source,
    'https://' || host_of(i) || '/page/' || hash(i, 4) AS page_url, NULL::VARCHAR AS license,
    'crawl/' || (i // 100000) || '.warc.wat.gz' AS source, i * 1000 AS record, (i % 30)::INTEGER AS link,
    'a caption of the picture ' || hash(i, 3) || ' as the page says it' AS caption,
    'en' AS lang, (0.5 + draw(i, 5) / 2)::FLOAT AS p_en, 'model' AS lang_by,
    [zipf(i, 6, {NUM_QUERIES}), zipf(i, 7, {NUM_QUERIES}), zipf(i, 8, {NUM_QUERIES})] AS query_ids"""
_FACTS = f"""
    [zipf(i, 6, {NUM_QUERIES})] AS selected_by, (i * 1844674407)::UBIGINT AS "order",
    CASE WHEN draw(i, 9) < 0.86 THEN 'success' ELSE 'failed_to_download' END AS status,
    CASE WHEN draw(i, 9) < 0.86 THEN NULL ELSE 'http_404' END AS reason, 200 AS http_status,
    256 AS width, (200 + 100 * draw(i, 10))::INTEGER AS height, (100 + 2000 * draw(i, 11))::INTEGER AS original_width,
    (100 + 2000 * draw(i, 12))::INTEGER AS original_height, 'JPEG' AS original_format,
    (1e5 * draw(i, 13))::BIGINT AS original_bytes, NULL::VARCHAR AS exif, md5(i::VARCHAR) || md5(i::VARCHAR) AS sha256,
    hash(i, 14) AS phash, i * 20480 AS tar_offset, (1e4 + 1e4 * draw(i, 15))::BIGINT AS num_bytes"""
_MATCHED = f"SELECT {_PAIR} FROM (SELECT range AS i FROM $ROWS)"
_FETCHED = (
    f"SELECT {_PAIR}, {_FACTS}, (i // {ROWS_PER_SHARD})::INTEGER AS staging_shard FROM (SELECT range AS i FROM $ROWS)"
)
_SAMPLES = f"""SELECT * EXCLUDE (reason, http_status) FROM (
    SELECT {_PAIR}, {_FACTS}, lpad(i::VARCHAR, 9, '0') AS key, NULL::VARCHAR AS error_message,
           (i // {ROWS_PER_SHARD})::INTEGER AS shard
    FROM (SELECT range AS i FROM $ROWS))"""
_REJECTIONS = """SELECT 'crawl/' || (i // 100000) || '.warc.wat.gz' AS source, i * 1000 AS record,
    (i % 30)::INTEGER AS link, unhex(md5(i::VARCHAR)) AS uid,
    CASE WHEN i % 100000 < 75000 THEN 'language' ELSE 'match' END AS stage,
    CASE WHEN i % 100000 < 75000 THEN 'other_language' ELSE 'no_query' END AS reason,
    CASE WHEN i % 100000 < 75000
         THEN ['de', 'fr', 'ja', 'ru', 'zh', 'es', 'pt', 'nl', 'it', 'pl'][1 + zipf(i, 1, 10)] || ' ' || round(draw(i, 2), 2)
         END AS detail
    FROM (SELECT range AS i FROM $ROWS)"""  # noqa: E501
_QUERIES = """SELECT i::INTEGER AS query_id, 'query ' || i AS query, 'unigram' AS source, i AS count,
    NULL::BIGINT AS views, NULL::DOUBLE AS pmi, i::INTEGER AS rank FROM (SELECT range AS i FROM $ROWS)"""
_QUERY_COUNTS = """SELECT i::INTEGER AS query_id, (1e7 / (i + 1))::BIGINT AS matched, 0::UBIGINT AS threshold,
    least(20000, (1e7 / (i + 1))::BIGINT) AS selected, least(40000, (1e7 / (i + 1))::BIGINT) AS contained
    FROM (SELECT range AS i FROM $ROWS)"""


if __name__ == "__main__":
    main()
