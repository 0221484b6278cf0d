"""The whole text path, Parquet in, Parquet out: clean, language, match; ours against the peer's stack, in one run.

    python -m benchmarks.text_path [--data DIR] [--texts 1500000] [--queries 500000] [--repeats 3]

Texts: four fifths are those of `published_like` (web alternative texts, sentences of crowd workers, captions of the
sample web), one fifth are captions in other languages; each kind is repeated as often as needed. Ours is the task of
the step `texts` as a run executes it: candidates with all their columns, identities and the ledger of rejections
included, once with the published matching rule, once with the default, and once without the look for personal data;
then the same stages with the columns that the peer writes and no ledger. The peer's stack, written for this file:
read Parquet, fastText's list predict on each batch (which gives labels alone; kept is English), pyahocorasick with
the published rule on what is left, write Parquet with URL, caption and query ids. It cleans nothing but white space
and keeps no ledger; it is given one text in eleven.

CPU seconds of one process, the two in turn. Below that, ours stage by stage, per row that enters the stage, and
what that makes for --links links of which --english have English text.
"""

from __future__ import annotations

import argparse
import csv
import functools
import gzip
import os
import platform
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ahocorasick  # type: ignore[import-not-found]  # ships no types
import fasttext
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.published_like import make_captions, make_queries
from pipeline.engine import Data, Done
from pipeline.matching.config import MatchConfig
from pipeline.matching.matcher import Matcher
from pipeline.records.identity import canonical_url, uid_of, url_id_of
from pipeline.records.ledger_config import LedgerConfig
from pipeline.records.queries import query_list_of
from pipeline.records.schema import CANDIDATES
from pipeline.stages.clean.clean import Clean, clean
from pipeline.stages.clean.config import CleanConfig
from pipeline.stages.language.config import LanguageConfig
from pipeline.stages.language.language import Language, identify
from pipeline.stages.language.model import model_path
from pipeline.stages.match import Match, match
from pipeline.stages.privacy.config import PrivacyConfig
from pipeline.stages.privacy.pii import Privacy, mark_pii
from pipeline.stages.stage import Stage
from pipeline.steps.extract import Candidates
from pipeline.steps.judge_links import judge_links
from pipeline.steps.step import Run
from pipeline.steps.texts_config import TextsConfig
from pipeline.storage.location import Files, Location
from pipeline.storage.parquet import parquet_writer

_PRIVACY = PrivacyConfig()
PEER_SHARE = 11  # not a multiple of 5, after which the kinds of text repeat
ROWS_PER_BATCH = 65_536
MARKS = re.compile(r"([,.;:?!`])")
PEER_OUTPUT = pa.schema([("url", pa.string()), ("caption", pa.string()), ("query_ids", pa.list_(pa.int32()))])


def make_texts(data: Path, size: int) -> list[str]:
    """`size` texts, every fifth in another language."""
    with gzip.open(data / "captions" / "captions.tsv.gz", "rt", encoding="utf-8", newline="") as lines:
        rows = list(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
    foreign = [row[4] for row in rows if row[1] not in ("en", "und") and row[4]]
    english = iter(make_captions(data, size))
    return [foreign[i * 7919 % len(foreign)] if i % 5 == 4 else next(english) for i in range(size)]


def write_candidates(texts: list[str], path: Path) -> None:
    """A file as the step `extract` leaves it."""
    with parquet_writer(path, CANDIDATES) as writer:
        for start in range(0, len(texts), ROWS_PER_BATCH):
            part = texts[start : start + ROWS_PER_BATCH]
            urls = [
                canonical_url(f"https://cdn{i % 977}.example.com/uploads/{i:07x}.jpg")
                for i in range(start, start + len(part))
            ]
            columns = {
                "uid": pa.array(
                    [uid_of(url, "alt", text) for url, text in zip(urls, part, strict=True)], pa.binary(16)
                ),
                "url_id": pa.array([url_id_of(url) for url in urls], pa.binary(16)),
                "url": pa.array(urls),
                "alt_text": pa.array(part),
                "text_source": pa.array(["alt"] * len(part)),
                "page_url": pa.array(
                    [f"https://www{i % 977}.example.com/page/{i // 9}" for i in range(start, start + len(part))]
                ),
                "source": pa.array(["crawl/00000.warc.wat.gz"] * len(part)),
                "record": pa.array([9000 * (i // 9) for i in range(start, start + len(part))], pa.int64()),
                "link": pa.array([i % 9 for i in range(start, start + len(part))], pa.int32()),
            }
            rest = {
                name: pa.nulls(len(part), CANDIDATES.field(name).type)
                for name in CANDIDATES.names
                if name not in columns
            }
            filled = {**columns, **rest}
            writer.write_batch(
                pa.RecordBatch.from_arrays([filled[name] for name in CANDIDATES.names], schema=CANDIDATES)
            )


def ours(candidates: Path, tables: Path, rule: MatchConfig, scratch: Path, privacy: PrivacyConfig = _PRIVACY) -> int:
    """Matched rows. The task of the step, called as a worker calls it."""
    name = candidates.name.partition(".")[0]
    links = Data("extract", Candidates)
    links.directory = candidates.parent
    links.finish([Done(partition=name, key="", outputs={candidates.name: "", f"{name}.rejections.parquet": ""})])
    matcher = Files(Location(str(tables / file)) for file in Matcher.FILES)
    stages: list[Stage] = [
        Clean(config=CleanConfig()),
        Language(config=LanguageConfig()),
        Match(config=rule, tables=matcher),
    ]
    stages.append(Privacy(config=privacy))
    run = Run(output=scratch, seed=0, ledger=LedgerConfig())
    (task,) = judge_links(links, stages, TextsConfig()).cut(run)
    info = task.perform({output: Location(str(scratch / output)) for output in task.outputs})
    return int(info["kept"])


def ours_bare(candidates: Path, tables: Path, rule: MatchConfig, scratch: Path) -> int:
    """Matched rows. The same stages, but the peer's columns and no ledger: like for like."""
    matcher = Matcher.open(tables)
    found = 0
    with pq.ParquetFile(candidates) as file, parquet_writer(scratch / "bare.parquet", PEER_OUTPUT) as writer:
        for batch in file.iter_batches(ROWS_PER_BATCH, columns=["uid", "url", "alt_text", "source", "record", "link"]):
            kept = identify(clean(batch, CleanConfig()).kept, LanguageConfig()).kept
            kept = match(kept, rule, matcher).kept
            found += kept.num_rows
            writer.write_table(pa.table([kept[name] for name in PEER_OUTPUT.names], schema=PEER_OUTPUT))
    return found


def peer(candidates: Path, automaton: Any, scratch: Path) -> int:
    """Matched rows."""
    library = fasttext.load_model(str(model_path()))
    found = 0
    with pq.ParquetFile(candidates) as file, pq.ParquetWriter(scratch / "peer.parquet", PEER_OUTPUT) as writer:
        for batch in file.iter_batches(ROWS_PER_BATCH, columns=["url", "alt_text"]):
            captions = [" ".join(text.split()) for text in batch.column("alt_text").to_pylist()]
            labels = library.f.multilinePredict([caption + "\n" for caption in captions], 1, 0.0, "strict")
            rows: tuple[list[str], list[str], list[list[int]]] = ([], [], [])
            for url, caption, label in zip(batch.column("url").to_pylist(), captions, labels, strict=True):
                if label[0] != "__label__en":
                    continue
                ids = sorted({query for _, query in automaton.iter(MARKS.sub(r" \1 ", f" {caption} "))})
                if ids:
                    rows[0].append(url)
                    rows[1].append(caption)
                    rows[2].append(ids)
            found += len(rows[0])
            writer.write_table(pa.table(list(rows), schema=PEER_OUTPUT))
    return found


class Stopwatch:
    """CPU seconds and rows by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.rows: dict[str, int] = {}

    @contextmanager
    def stage(self, name: str, rows: int) -> Iterator[None]:
        start = time.process_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - start
        self.rows[name] = self.rows.get(name, 0) + rows


def stage_by_stage(candidates: Path, tables: Path, rule: MatchConfig) -> Stopwatch:
    """The stages alone, with nothing between them."""
    matcher = Matcher.open(tables)
    watch = Stopwatch()
    with pq.ParquetFile(candidates) as file:
        batches = file.iter_batches(ROWS_PER_BATCH)
        for _ in range(-(-file.metadata.num_rows // ROWS_PER_BATCH)):
            with watch.stage("read", 0):
                batch = next(batches)
            watch.rows["read"] += batch.num_rows
            with watch.stage("clean", batch.num_rows):
                batch = clean(batch, CleanConfig()).kept
            with watch.stage("language", batch.num_rows):
                batch = identify(batch, LanguageConfig()).kept
            with watch.stage("match", batch.num_rows):
                batch = match(batch, rule, matcher).kept
            with watch.stage("privacy", batch.num_rows):
                mark_pii(batch, _PRIVACY)
    return watch


def timed(work: Callable[[], int]) -> tuple[float, int]:
    """CPU seconds, result."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("OPENWIT_SHARED_DATA", "../shared/data")))
    parser.add_argument("--texts", type=int, default=1_500_000)
    parser.add_argument("--queries", type=int, default=500_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--links", type=float, default=1e11)
    parser.add_argument("--english", type=float, default=5e9)
    options = parser.parse_args()

    texts = make_texts(options.data, options.texts)
    queries, invented = make_queries(options.data, options.queries / 500_000)
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, CPU time of one process")
    print(
        f"{len(texts):,} texts of {statistics.mean(map(len, texts)):.0f} characters; "
        f"{len(queries):,} queries, {invented:,} of them invented"
    )
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        write_candidates(texts, scratch / "all.candidates.parquet")
        write_candidates(texts[::PEER_SHARE], scratch / "some.candidates.parquet")
        automaton = ahocorasick.Automaton()
        for query_id, query in enumerate(queries):
            automaton.add_word(f" {query} ", query_id)
        automaton.make_automaton()
        rules = {"openwit, published rule": MatchConfig(rule="metaclip"), "openwit, default rule": MatchConfig()}
        for name, rule in rules.items():
            Matcher.build(query_list_of(queries), rule).save(scratch / name)
            ours(
                scratch / "some.candidates.parquet", scratch / name, rule, scratch
            )  # compiles, and warms the page cache
        bare = "the same, peer's columns"
        unmarked = "the same, privacy.pii off"
        seconds: dict[str, list[float]] = {name: [] for name in ("peer's stack", *rules, unmarked, bare)}
        matched: dict[str, int] = {}
        for _ in range(options.repeats):
            cost, matched["peer's stack"] = timed(
                functools.partial(peer, scratch / "some.candidates.parquet", automaton, scratch)
            )
            seconds["peer's stack"].append(cost)
            for name, rule in rules.items():
                cost, matched[name] = timed(
                    functools.partial(ours, scratch / "all.candidates.parquet", scratch / name, rule, scratch)
                )
                seconds[name].append(cost)
            off = PrivacyConfig(pii="off")
            cost, matched[unmarked] = timed(
                functools.partial(ours, scratch / "all.candidates.parquet", scratch / name, rule, scratch, off)
            )
            seconds[unmarked].append(cost)
            cost, matched[bare] = timed(
                functools.partial(ours_bare, scratch / "all.candidates.parquet", scratch / name, rule, scratch)
            )
            seconds[bare].append(cost)
        counts = {name: len(texts) for name in (*rules, unmarked, bare)} | {"peer's stack": len(texts[::PEER_SHARE])}
        base = min(seconds["peer's stack"]) / counts["peer's stack"]
        print(f"{'':<26}{'texts/s':>10}{'spread':>8}{'ratio':>8}{'matched':>9}")
        for name, times in seconds.items():
            best = min(times)
            spread = (statistics.median(times) - best) / best
            print(
                f"{name:<26}{counts[name] / best:>10,.0f}{spread:>8.0%}{base / (best / counts[name]):>7.1f}x"
                f"{matched[name] / counts[name]:>9.1%}"
            )
        name, rule = "openwit, default rule", MatchConfig()
        watch = min(
            (stage_by_stage(scratch / "all.candidates.parquet", scratch / name, rule) for _ in range(options.repeats)),
            key=lambda watch: sum(watch.seconds.values()),
        )
    # Every link with text is read, cleaned and identified; what is English is matched and written.
    whole = min(seconds[name]) / len(texts)
    alone = {stage: watch.seconds[stage] / max(1, watch.rows[stage]) for stage in watch.seconds}
    rest = (min(seconds[name]) - sum(watch.seconds.values())) / len(texts)
    print(f"\n{'stage':<34}{'us/row':>8}   rows at the design point   core hours")
    for stage, cost in alone.items():
        rows = options.english if stage in ("match", "privacy") else options.links
        print(f"{stage:<34}{cost * 1e6:>8.2f}{rows:>26,.0f}{cost * rows / 3600:>13,.0f}")
    hours = rest * options.links / 3600
    print(f"{'ledger, partitions, writing':<34}{rest * 1e6:>8.2f}{options.links:>26,.0f}{hours:>13,.0f}")
    total = (
        sum(c * (options.english if s in ("match", "privacy") else options.links) for s, c in alone.items())
        + rest * options.links
    )
    print(f"{'sum':<34}{whole * 1e6:>8.2f}{'':>26}{total / 3600:>13,.0f}")


if __name__ == "__main__":
    main()
