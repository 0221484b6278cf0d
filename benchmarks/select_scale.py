"""Dedup, count and balance of generated match rows through the real steps on Ray.

    python -m benchmarks.select_scale --rows 1e7 --scratch DIR [--max-urls-per-caption 10] [--compare]

Rows are like matched pairs: 500,000 queries in a Zipf-like order, about 3.5 matches a text, a sixth of the rows
seen before, a fifth of the pictures with more than one text, a hundredth of the texts with one of 1,000 captions;
strings are short. t is scaled like CLIP's 20,000
for 1.6e9 pairs. Printed for each step: rows a second, the largest resident memory of any worker, of the
driver, and bytes that spilled to disk. `--compare` selects from the same rows with the published method
(MetaCLIP: independent draws) in NumPy and with one DuckDB query.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.engine import Data, Done, Engine, EngineConfig, Info, Task, open_engine
from pipeline.matching.matcher import Matcher
from pipeline.records.identity import text_hash
from pipeline.records.ledger_config import LedgerConfig
from pipeline.records.schema import MATCHED, REJECTIONS
from pipeline.stages.balance import BalanceConfig
from pipeline.steps.balance.plan import balance
from pipeline.steps.dedup import dedup
from pipeline.steps.dedup_config import DedupConfig
from pipeline.steps.exchange import exchange
from pipeline.steps.judge_links import Matched
from pipeline.steps.queries import Queries
from pipeline.steps.schedule import schedule
from pipeline.steps.step import Page, Run, Step, step
from pipeline.steps.texts_config import TextsConfig
from pipeline.storage.checked import digest_of
from pipeline.storage.parquet import parquet_writer, save_vector, write_parquet

QUERIES = 500_000
ROWS_PER_FILE = 1_000_000
EXPONENT = 1.2
"""Of the Zipf law: with it 3.2 % of the queries hold about 94 % of the matches, as published."""


def mix(x: np.ndarray) -> np.ndarray:
    """splitmix64, so that every column is a function of the row's number."""
    with np.errstate(over="ignore"):
        x = (x + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def ids(numbers: np.ndarray, salt: int) -> pa.Array:
    """binary(16)[N]"""
    halves = np.stack(
        [mix(numbers * np.uint64(2) + np.uint64(salt)), mix(numbers * np.uint64(2) + np.uint64(salt + 1))]
    )
    data = np.ascontiguousarray(halves.T)
    return pa.Array.from_buffers(pa.binary(16), len(numbers), [None, pa.py_buffer(data)])


def zipf_table() -> np.ndarray:
    """float64[Q]: cumulative probability of the queries."""
    weights = np.arange(1, QUERIES + 1, dtype=np.float64) ** -EXPONENT
    return np.cumsum(weights / weights.sum())


def match_rows(first: int, count: int, total: int, table: np.ndarray) -> pa.RecordBatch:
    """Rows first..first+count-1 of `total`, with the columns of MATCHED."""
    row = np.arange(first, first + count, dtype=np.uint64)
    distinct = np.uint64(max(1, total * 5 // 6))
    text = np.where(row < distinct, row, mix(row) % distinct)
    url = text - (text % np.uint64(5) == np.uint64(4))  # every fifth shares the picture of the one before
    lengths = 1 + (mix(text ^ np.uint64(0x5EED)) % np.uint64(8)).astype(np.int64)  # 1..8; 3.5 without repeats
    owner = np.repeat(text, lengths)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    draw = mix(owner * np.uint64(8) + place.astype(np.uint64) + np.uint64(0xABC)) / 2.0**64
    query = np.minimum(np.searchsorted(table, draw), QUERIES - 1).astype(np.int64)
    pairs = np.sort(np.repeat(np.arange(count), lengths) * QUERIES + query)
    pairs = pairs[np.concatenate(([True], pairs[1:] != pairs[:-1]))]  # each once; np.unique is far slower here
    offsets = np.concatenate(([0], np.cumsum(np.bincount(pairs // QUERIES, minlength=count)))).astype(np.int32)
    lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array((pairs % QUERIES).astype(np.int32)))
    stock = mix(text ^ np.uint64(0xB017)) % np.uint64(100) == 0  # one text in a hundred is a phrase of many sites
    phrase = np.where(stock, mix(text) % np.uint64(1000), text + np.uint64(1000))
    words = pc.binary_join_element_wise(pa.scalar("c"), pa.array(phrase).cast(pa.string()), "")
    columns = {
        "uid": ids(text, 0x1111),
        "url_id": ids(url, 0x7777),
        "url": pc.binary_join_element_wise(pa.scalar("http://h/"), pa.array(url).cast(pa.string()), ""),
        "alt_text": words,
        "text_source": pa.array(["alt"]).take(pa.array(np.zeros(count, np.int32))),
        "source": pa.array(["s"]).take(pa.array(np.zeros(count, np.int32))),
        "record": pa.array(row.astype(np.int64)),
        "link": pa.array(np.zeros(count, np.int32)),
        "caption": words,
        "lang": pa.array(["en"]).take(pa.array(np.zeros(count, np.int32))),
        "p_en": pa.array((mix(text) % np.uint64(100)).astype(np.float32) / 100),
        "lang_by": pa.array(["model"]).take(pa.array(np.zeros(count, np.int32))),
        "query_ids": lists,
    }
    arrays = [columns[f.name] if f.name in columns else pa.nulls(count, f.type) for f in MATCHED]
    return pa.RecordBatch.from_arrays(arrays, schema=MATCHED)


@dataclass(frozen=True, kw_only=True)
class GenerateRows(Task[Matched]):
    """One file of match rows, like the texts step's."""

    first: int
    count: int
    total: int

    def work(self, out: Matched) -> Info:
        batch = match_rows(self.first, self.count, self.total, zipf_table())
        with parquet_writer(out.matched.local, MATCHED) as writer:
            for start in range(0, batch.num_rows, 65_536):
                writer.write_batch(batch.slice(start, 65_536))
        write_parquet(out.rejections.local, REJECTIONS.empty_table(), REJECTIONS)
        return {"rows": batch.num_rows, "kept": batch.num_rows}


@step("texts", GenerateRows, title="generate match rows", per="file")
def generate(run: Run, total: int) -> Iterator[GenerateRows]:
    """One task per file."""
    for number, first in enumerate(range(0, total, ROWS_PER_FILE)):
        count = min(ROWS_PER_FILE, total - first)
        yield GenerateRows(partition=f"f{number:05d}", first=first, count=count, total=total)


def query_hashes(directory: Path) -> Data[Queries]:
    """A query list of which there is no more than what dedup and balance read."""
    directory.mkdir(parents=True, exist_ok=True)
    hashes = np.array([text_hash(f"query {i}") for i in range(QUERIES)], np.uint64)
    save_vector(directory / "all.query_hashes.npy", hashes)
    names = ("all.queries.parquet", "all.query_hashes.npy", *Matcher.FILES)
    data = Data("queries", Queries)
    data.directory = directory
    outputs = dict.fromkeys(names, "") | {"all.query_hashes.npy": digest_of(directory / "all.query_hashes.npy")}
    data.finish([Done(partition="all", key="", outputs=outputs, info={"num_queries": QUERIES})])
    return data


# --- measuring -----------------------------------------------------------------------------------


class Watch:
    """Samples, five times a second, the memory of this process and all below it, and the spilled bytes."""

    def __init__(self, root: Path) -> None:
        self.root, self._stop = root, threading.Event()
        self.reset()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def reset(self) -> None:
        self.worker = self.driver = self.spilled = 0

    def _run(self) -> None:
        while not self._stop.wait(0.2):
            for pid, name, resident in processes(os.getpid()):
                if pid == os.getpid():
                    self.driver = max(self.driver, resident)
                elif name.startswith("ray::"):
                    self.worker = max(self.worker, resident)
            spill = 0
            for path in self.root.glob("work/*/*.spill/*"):
                try:
                    spill += path.stat().st_size
                except OSError:
                    continue  # gone again
            self.spilled = max(self.spilled, spill)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


def processes(root: int) -> list[tuple[int, str, int]]:
    """(pid, command, resident bytes) of a process and its descendants."""
    parents: dict[int, int] = {}
    found: dict[int, tuple[str, int]] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            status = Path(f"/proc/{entry}/status").read_text()
            command = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        parents[int(entry)] = int(fields["PPid"])
        found[int(entry)] = command, 1024 * int(fields.get("VmRSS", "0 kB").split()[0])
    inside = {root}
    while True:
        more = {pid for pid, parent in parents.items() if parent in inside} - inside
        if not more:
            return [(pid, *found[pid]) for pid in inside if pid in found]
        inside |= more


def cpu_seconds() -> float:
    """User and system time of this process and all below it; Ray's workers live as long as the run."""
    total = 0
    for pid, _, _ in processes(os.getpid()):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def measure(root: Path, rows: int, partitions: int, same: DedupConfig, engine: Engine, watch: Watch) -> dict[str, Any]:
    """Generate, then every step from dedup to the plan; returns what each cost."""
    t = max(1, round(20_000 * rows / 1.6e9))
    result: dict[str, Any] = {"rows": rows, "partitions": partitions, "t": t, "steps": {}}

    def run(step: Step[Any]) -> None:
        directory, tasks = page.run.directory(step.name), list(step.cut(page.run))
        watch.reset()
        start, used = time.perf_counter(), cpu_seconds()
        step.data.finish(engine.run_step(directory, tasks))
        seconds, used = time.perf_counter() - start, cpu_seconds() - used
        size = sum(path.stat().st_size for path in directory.iterdir() if path.is_file())
        result["steps"][step.name] = figures = {
            "seconds": round(seconds, 2),
            "cpu_s": round(used, 1),
            "rows_per_cpu_s": round(rows / max(used, 0.01)),
            "worker_mb": watch.worker >> 20,
            "driver_mb": watch.driver >> 20,
            "spilled_mb": watch.spilled >> 20,
            "written_mb": size >> 20,
        }
        print(f"{rows:>12,} {step.name:<12}", json.dumps(figures), flush=True)

    page = Page(root, seed=0, ledger=LedgerConfig(max_rows_per_task=1000))
    texts = TextsConfig(partitions=partitions)
    queries = query_hashes(page.run.directory("queries"))
    exchanged = page.add(exchange(page.add(generate(rows)), texts))
    unique = dedup(page, exchanged, queries, texts, same)
    chosen = balance(page, unique, queries, BalanceConfig(max_pairs_per_query=t))
    page.add(schedule(chosen.pairs, 10_000))
    for each in page.steps:
        run(each)
    counts = page["count"].data.only.info
    result |= {
        "pairs": counts["pairs"],
        "matches_per_pair": round(counts["matches"] / counts["pairs"], 2),
        "head_queries": chosen.limit.only.info["head_queries"],
        "edges_gathered": page["gather"].data.total("rows"),
        "gathered_again": chosen.thresholds.only.info["gathered_again"],
        "kept": chosen.pairs.total("selected"),
    }
    print(json.dumps({key: value for key, value in result.items() if key != "steps"}), flush=True)
    return result


# --- others on the same rows ---------------------------------------------------------------------


def compare(root: Path, t: int) -> None:
    """Balance alone, of the unique rows, by the published method in NumPy, and by one DuckDB query."""
    files = sorted((root / "work" / "dedup").glob("*.unique.parquet"))
    start = time.perf_counter()
    lists = pa.chunked_array([c for f in files for c in pq.read_table(f, columns=["query_ids"])["query_ids"].chunks])
    lists = lists.combine_chunks()
    lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
    loaded = time.perf_counter()
    values, offsets = lists.flatten().to_numpy(), lists.offsets.to_numpy()
    counts = np.bincount(values, minlength=QUERIES)
    probability = t / np.maximum(counts, t)
    draws = np.random.default_rng(0).random(len(values)) < probability[values]
    kept = np.add.reduceat(draws, offsets[:-1]) > 0
    end = time.perf_counter()
    line = {
        "rows": len(lists),
        "kept": int(kept.sum()),
        "read_s": round(loaded - start, 2),
        "s": round(end - loaded, 2),
    }
    print("published method, NumPy, in memory: ", json.dumps(line), flush=True)
    names = ", ".join(f"'{name}'" for name in files)
    with duckdb.connect(config={"threads": 2, "memory_limit": "8GB", "temp_directory": str(root / "duck")}) as database:
        start = time.perf_counter()
        (number,) = database.execute(
            f"""SELECT count(DISTINCT uid) FROM (
                    SELECT uid, row_number() OVER (PARTITION BY query ORDER BY hash(uid, query), uid) AS place
                    FROM (SELECT uid, unnest(query_ids) AS query FROM read_parquet([{names}]))
                ) WHERE place <= {t}"""
        ).fetchone() or (0,)
        line = {"kept": number, "s": round(time.perf_counter() - start, 2)}
    print("exact quota as one DuckDB query, 2 threads: ", json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=float, nargs="+", default=[1e6])
    parser.add_argument("--rows-per-partition", type=float, default=1.5e6)
    parser.add_argument("--scratch", type=Path, required=True, help="a directory on a disk with about 300 bytes a row")
    parser.add_argument("--by", choices=("url", "pair"), default="url", help="what dedup keeps one of")
    parser.add_argument("--max-urls-per-caption", type=int, help="more make a caption boilerplate; default: no limit")
    parser.add_argument("--memory-mb", type=int, default=1024, help="of a dedup task, before it spills")
    parser.add_argument("--engine", choices=("ray", "inline"), default="ray")
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--to", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}", flush=True)
    same = DedupConfig(by=options.by, max_urls_per_caption=options.max_urls_per_caption, memory_mb=options.memory_mb)
    results = []
    for rows in map(int, options.rows):
        root = options.scratch / f"rows-{rows}"
        shutil.rmtree(root, ignore_errors=True)
        watch = Watch(root)
        with open_engine(EngineConfig(kind=options.engine)) as engine:
            partitions = max(2, round(rows / options.rows_per_partition))
            results.append(measure(root, rows, partitions, same, engine, watch))
        watch.close()
        if options.compare:
            compare(root, results[-1]["t"])
        shutil.rmtree(root)
    if options.to:
        options.to.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
