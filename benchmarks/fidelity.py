"""Does our balance give what is published of CLIP's? Generated matches through the real steps, beside MetaCLIP's.

    python -m benchmarks.fidelity --rows 1e6 1e7 --scratch DIR

    published_matches.py -> exchange -> dedup -> count -> limit -> gather -> threshold -> balance  (mode quota)
                                         `----> count -> limit -> gather -> threshold -> balance   (mode metaclip)

`--rows` are texts after dedup; a twenty-fifth more come in, and are found again. t is 20,000 scaled by the rows.
Laws and lengths are fitted to the matches of a text, the head queries and their share, and the quarter that
independent draws keep of 1.6e9 texts. What is not fitted: what a set of this size gets through the steps, how many
queries match nothing, and what exact quotas make of it. `--scratch` needs about 140 bytes a row: what was read is
deleted as the run goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.published_matches import PUBLISHED, fitted
from benchmarks.select_scale import QUERIES, ROWS_PER_FILE, ids, mix, query_hashes
from pipeline.engine import Engine, EngineConfig, Info, Task, open_engine
from pipeline.records.ledger_config import LedgerConfig
from pipeline.records.schema import MATCHED, REJECTIONS
from pipeline.stages.balance import BalanceConfig
from pipeline.steps.balance.plan import Balanced, balance
from pipeline.steps.balance.rule import add_up
from pipeline.steps.dedup import dedup
from pipeline.steps.dedup_config import DedupConfig
from pipeline.steps.exchange import exchange
from pipeline.steps.judge_links import Matched
from pipeline.steps.step import Page, Run, step
from pipeline.steps.texts_config import TextsConfig
from pipeline.storage.parquet import parquet_writer, write_parquet

assert PUBLISHED.queries == QUERIES

_SEEN_AGAIN = 25
"""One row in so many repeats an earlier one."""
_ROWS_PER_BATCH = 100_000
_MEMORY_MB = 1024


def matched_rows(first: int, count: int, texts: int) -> pa.RecordBatch:
    """Rows first..first+count-1, with the columns of MATCHED: each text once, then some again."""
    row = np.arange(first, first + count, dtype=np.uint64)
    text = np.where(row < texts, row, mix(row) % np.uint64(texts))
    text_E, query_E = fitted().of(text)
    ends = np.cumsum(np.bincount(text_E, minlength=count))
    lists = pa.ListArray.from_arrays(
        pa.array(np.concatenate(([0], ends)).astype(np.int32)), pa.array(query_E.astype(np.int32))
    )
    name = pa.array(text).cast(pa.string())
    columns = {
        "uid": ids(text, 0x1111),
        "url_id": ids(text, 0x7777),
        "url": pc.binary_join_element_wise(pa.scalar("http://h/"), name, ""),
        "alt_text": name,
        "text_source": pa.repeat("alt", count),
        "source": pa.repeat("s", count),
        "record": pa.array(row.astype(np.int64)),
        "link": pa.repeat(pa.scalar(0, pa.int32()), count),
        "caption": name,
        "lang": pa.repeat("en", count),
        "p_en": pa.repeat(pa.scalar(1.0, pa.float32()), count),
        "lang_by": pa.repeat("model", count),
        "query_ids": lists,
    }
    arrays = [columns[f.name] if f.name in columns else pa.nulls(count, f.type) for f in MATCHED]
    return pa.RecordBatch.from_arrays(arrays, schema=MATCHED)


@dataclass(frozen=True, kw_only=True)
class MakeRows(Task[Matched]):
    """One file of them, like the texts step's."""

    first: int
    count: int
    texts: int

    def work(self, out: Matched) -> Info:
        with parquet_writer(out.matched.local, MATCHED) as writer:
            for start in range(0, self.count, _ROWS_PER_BATCH):
                size = min(_ROWS_PER_BATCH, self.count - start)
                writer.write_batch(matched_rows(self.first + start, size, self.texts))
        write_parquet(out.rejections.local, REJECTIONS.empty_table(), REJECTIONS)
        return {"rows": self.count, "kept": self.count}


@step("texts", MakeRows, title="make match rows", per="file")
def make_rows(run: Run, texts: int) -> Iterator[MakeRows]:
    """One task per file."""
    rows = texts + texts // _SEEN_AGAIN
    for number, first in enumerate(range(0, rows, ROWS_PER_FILE)):
        yield MakeRows(partition=f"f{number:05d}", first=first, count=min(ROWS_PER_FILE, rows - first), texts=texts)


# --- measuring -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What is published, or came out here."""

    matches_per_text: float
    head_queries: float
    """Share of the list."""
    head_share: float
    """Of all matches."""
    without_match: float
    """Share of the list."""
    kept: float
    selections: float
    """Of a kept pair."""


AS_PUBLISHED = Figures(
    matches_per_text=PUBLISHED.matches / PUBLISHED.texts,
    head_queries=PUBLISHED.heads / PUBLISHED.queries,
    head_share=PUBLISHED.head_share,
    without_match=PUBLISHED.without_match / PUBLISHED.queries,
    kept=PUBLISHED.kept,
    selections=PUBLISHED.selections,
)


def figures_of(chosen: Balanced, counts_Q: np.ndarray, pairs: int) -> Figures:
    """Of a set that the steps chose."""
    selected_Q = add_up(chosen.pairs.files(lambda out: out.selected))
    kept = chosen.pairs.total("selected")
    heads = counts_Q > chosen.limit.only.info["t"]
    return Figures(
        matches_per_text=float(counts_Q.sum() / pairs),
        head_queries=float(heads.mean()),
        head_share=float(counts_Q[heads].sum() / counts_Q.sum()),
        without_match=float((counts_Q == 0).mean()),
        kept=kept / pairs,
        selections=float(selected_Q.sum() / kept),
    )


def measure(root: Path, texts: int, engine: Engine) -> dict[str, Figures]:
    """By mode; each step is timed as it goes."""
    t = max(1, round(PUBLISHED.t * texts / PUBLISHED.texts))
    partitions = max(2, round(texts / 1.5e6))

    def run(page: Page) -> None:
        for each in page.steps:
            start, used = time.perf_counter(), time.process_time()
            each.data.finish(engine.run_step(page.run.directory(each.name), list(each.cut(page.run))))
            seconds, used = time.perf_counter() - start, time.process_time() - used
            here = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
            line = {"s": round(seconds), "cpu_s": round(used), "on_disk_gb": round(here / 1e9, 2)}
            print(f"{texts:>12,} {page.run.output.name:<8} {each.name:<12} {json.dumps(line)}", flush=True)
            if each.name in _READ_ONCE:
                shutil.rmtree(page.run.directory(_READ_ONCE[each.name]))

    first = Page(root / "dedup", seed=0, ledger=LedgerConfig(max_rows_per_task=1000))
    config = TextsConfig(partitions=partitions)
    queries = query_hashes(first.run.directory("queries"))
    exchanged = first.add(exchange(first.add(make_rows(texts)), config))
    unique = dedup(first, exchanged, queries, config, DedupConfig(memory_mb=_MEMORY_MB))
    run(first)
    counts_Q = add_up(unique.files(lambda out: out.counts))
    done: dict[str, Figures] = {}
    for mode in ("quota", "metaclip"):
        page = Page(root / mode, seed=0, ledger=LedgerConfig(max_rows_per_task=1000))
        chosen = balance(page, unique, queries, BalanceConfig(mode=mode, max_pairs_per_query=t))
        run(page)
        done[mode] = figures_of(chosen, counts_Q, unique.total("kept"))
        if mode == "quota":
            selected_Q = add_up(chosen.pairs.files(lambda out: out.selected))
            assert (selected_Q == np.minimum(counts_Q, t)).all(), "a query selected more or less than its t"
        shutil.rmtree(page.run.directory("balance"))
    return done


_READ_ONCE = {"exchange": "texts", "dedup": "exchange"}
"""Step -> the one whose files nobody reads after it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=float, nargs="+", default=[1e6])
    parser.add_argument("--scratch", type=Path, required=True, help="a directory on a disk with about 140 bytes a row")
    parser.add_argument("--engine", choices=("ray", "inline"), default="inline")
    options = parser.parse_args()
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}", flush=True)
    found = {"published": AS_PUBLISHED}
    for texts in map(int, options.rows):
        root = options.scratch / f"texts-{texts}"
        shutil.rmtree(root, ignore_errors=True)
        with open_engine(EngineConfig(kind=options.engine)) as engine:
            found |= {f"{mode}, {texts:,}": figures for mode, figures in measure(root, texts, engine).items()}
        shutil.rmtree(root)
        for name, figures in found.items():
            print(f"{name:>24} ", "  ".join(f"{key} {value:.4g}" for key, value in vars(figures).items()), flush=True)


if __name__ == "__main__":
    main()
