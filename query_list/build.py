"""The whole build, in order: plan the inputs, count, merge, select, publish.

count/  one task per dump range: words, bigrams, pages      views/  one task per page-view file
merge/  one task per bucket of keys: totals                 list/   one task: rank, cut, write
then OUTPUT gets the list's bytes, whole or not at all
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from configs.load import fingerprint, from_mapping, to_mapping
from pipeline.engine import Done, Task, finished, forget, open_engine
from pipeline.errors import DamagedFileError, OutputError, QueryListError
from pipeline.records.queries import read_queries, write_queries
from pipeline.records.schema import QUERIES
from pipeline.storage.atomic import commit, temporary_name, unwritable
from pipeline.storage.checked import Vouched, check, digest_of
from pipeline.terminal.printable import say
from pipeline.terminal.progress import Progress
from query_list.bigrams import BigramsConfig, bigrams
from query_list.candidate import Candidate
from query_list.config import BuildConfig
from query_list.corpus import PAGES, count_range
from query_list.counting import COUNTS, read_bucket, sum_counts, write_buckets
from query_list.dump import ranges
from query_list.inputs import Input, expand, identify
from query_list.stop_words import FUNCTION_WORDS, EmptyQueriesConfig, Judge
from query_list.titles import TitlesConfig, count_views, titles
from query_list.unigrams import UnigramsConfig, unigrams
from query_list.wordnet import WordnetConfig, wordnet

__all__ = ["BUILD_VERSION", "BuildConfig", "BuildResult", "build"]

BUILD_VERSION = 3
"""Grows with every change that alters a list built from the same inputs."""
_TRIES = 3
"""So often damaged files are made again before the machine is at fault."""
_BYTES_PER_BUCKET = 32 << 20
_MAX_BUCKETS = 512
_SPARE_TITLES = 10_000
"""So many more titles are asked for, since those that say nothing are passed over: letters, digits, short words."""


@dataclass(frozen=True, kw_only=True)
class BuildResult:
    """What a build did."""

    path: Path
    fingerprint: str
    num_queries: int
    built: bool
    """False where everything was there already."""
    facts: Mapping[str, int]
    """Sums over the inputs: pages, articles, redirects, words, ..."""


def build(config: BuildConfig, progress: Progress | None = None) -> BuildResult:
    """Bring the list at `config.output` up to date with its inputs and this config.

    Raises InputError for inputs that are missing or not what they claim, ConfigError, OutputError.
    """
    output = Path(config.output)
    work = output.with_name(f"{output.name}.work")
    inputs = _inputs(config)
    hashes = identify([file for files in inputs.values() for file in files], work / "inputs.json")
    with open_engine(config.engine, progress) as engine:
        num_buckets = _num_buckets([*inputs["dump"], *inputs["pageviews"]])
        count_tasks = _count_tasks(config, inputs["dump"], hashes, num_buckets)
        view_tasks = _view_tasks(config, inputs["pageviews"], hashes, num_buckets)
        for _ in range(_TRIES):
            counted = engine.run_step(work / "count", count_tasks, title="count words")
            viewed = engine.run_step(work / "views", view_tasks, title="count views")
            merge_tasks = _merge_tasks(config, work, counted, viewed, num_buckets)
            merges = any(finished(work / "merge", task) is None for task in merge_tasks)
            if merges and _forget_damaged({work / "count": counted, work / "views": viewed}):
                continue
            merged = engine.run_step(work / "merge", merge_tasks, title="merge counts")
            list_task = _list_task(config, work, inputs, hashes, counted, merged)
            ranks = finished(work / "list", list_task) is None
            if ranks and _forget_damaged({work / "count": counted, work / "merge": merged}):
                continue
            (done,) = engine.run_step(work / "list", [list_task], title="rank and cut")
            if not _forget_damaged({work / "list": [done]}):
                break
        else:
            raise OutputError(f"{work}: files are damaged again after they were made again; look at the machine's disk")
    before = digest_of(output) if output.is_file() else None
    if before != done.outputs["queries.parquet"]:
        _publish(work / "list" / "queries.parquet", output)
    facts: dict[str, int] = {}
    for record in (*counted, *viewed, done):
        for name, value in record.info.items():
            if name not in ("rows", "fingerprint"):
                facts[name] = facts.get(name, 0) + int(value)
    return BuildResult(
        path=output,
        fingerprint=str(done.info["fingerprint"]),
        num_queries=int(done.info["rows"]),
        built=before != done.outputs["queries.parquet"],
        facts=facts,
    )


def _forget_damaged(records: Mapping[Path, Sequence[Done]]) -> bool:
    """Hold files that are about to be read against their records; those of damaged ones are made again, and named."""
    found = False
    for directory, done in records.items():
        for record in done:
            try:
                for name, digest in record.outputs.items():
                    check(Vouched(str(directory / name), digest))
            except DamagedFileError as error:
                say(f"damaged: {error.path}: {error.what}; made again", to=sys.stderr)
                forget(directory, record.partition)
                found = True
    return found


# --- the plan -----------------------------------------------------------------------------------


def _inputs(config: BuildConfig) -> dict[str, list[Input]]:
    titles_files = config.titles.pageviews if config.titles else ()
    index = config.wordnet.index if config.wordnet else ()
    data = config.wordnet.data if config.wordnet else ()
    return {
        "dump": expand(config.dump.files, what="MediaWiki dump"),
        "pageviews": expand(titles_files, what="page-view files"),
        "index": expand(index, what="WordNet index files"),
        "data": expand(data, what="WordNet data files"),
        "lists": [file for path in config.lists for file in expand([path], what="query lists")],
    }


def _num_buckets(inputs: Sequence[Input]) -> int:
    """So many that one bucket of all tasks' counts fits into a worker; it plays no part in the list."""
    packed = sum(file.num_bytes for file in inputs)
    return int(min(_MAX_BUCKETS, max(1, packed // _BYTES_PER_BUCKET)))


def _count_tasks(config: BuildConfig, dump: Sequence[Input], hashes: Mapping[str, str], num_buckets: int) -> list[Task]:
    tasks: list[Task] = []
    for file in dump:
        for begin, end in ranges(file, config.dump.split_mb << 20):
            partition = f"range-{len(tasks):05}"
            arguments = {
                "path": file.path,
                "begin": begin,
                "end": end,
                "num_buckets": num_buckets,
                "max_entries": config.dump.max_entries_in_memory,
                "disambiguation_templates": list(config.dump.disambiguation_templates),
                "disambiguation_suffix": config.dump.disambiguation_suffix,
                "title_words": list(config.dump.title_words),
                "lowercase_templates": list(config.dump.lowercase_templates),
                "function_words": sorted(FUNCTION_WORDS[config.empty_queries.function_words]),
            }
            tasks.append(
                Task(
                    partition=partition,
                    work=count_range,
                    arguments=arguments,
                    outputs=tuple(f"{partition}.{kind}" for kind in ("words.arrow", "bigrams.arrow", "pages.parquet")),
                    key=_key(_without(arguments, "path", "max_entries"), hashes[file.path]),
                )
            )
    return tasks


def _view_tasks(config: BuildConfig, files: Sequence[Input], hashes: Mapping[str, str], num_buckets: int) -> list[Task]:
    tasks: list[Task] = []
    projects = list(config.titles.projects) if config.titles else []
    for i, file in enumerate(files):
        arguments = {
            "path": file.path,
            "num_buckets": num_buckets,
            "max_entries": config.dump.max_entries_in_memory,
            "projects": projects,
        }
        key = _key(_without(arguments, "path", "max_entries"), hashes[file.path])
        name = f"views-{i:05}"
        tasks.append(
            Task(partition=name, work=count_views, arguments=arguments, outputs=(f"{name}.views.arrow",), key=key)
        )
    return tasks


def _merge_tasks(
    config: BuildConfig, work: Path, counted: Sequence[Done], viewed: Sequence[Done], num_buckets: int
) -> list[Task]:
    tasks: list[Task] = []
    # Words that are no unigram may still be half of a bigram that is refused later, but never of one that is taken.
    floors = {
        "words.arrow": config.unigrams.min_count if config.unigrams else 1,
        "bigrams.arrow": config.bigrams.min_count if config.bigrams else 1,
        "views.arrow": 1,
    }
    sources: dict[str, list[str]] = {kind: [] for kind in floors}
    for directory, records in (("count", counted), ("views", viewed)):
        for record in records:
            for name in sorted(record.outputs):
                kind = name.partition(".")[2]
                if kind in sources:
                    sources[kind].append(str(work / directory / name))
    digests = [dict(record.outputs) for record in (*counted, *viewed)]
    for bucket in range(num_buckets):
        partition = f"bucket-{bucket:04}"
        tasks.append(
            Task(
                partition=partition,
                work=_merge_bucket,
                arguments={"bucket": bucket, "sources": sources, "floors": floors},
                outputs=tuple(f"{partition}.{kind}" for kind in floors),
                key=_key(bucket, floors, digests),
            )
        )
    return tasks


def _list_task(
    config: BuildConfig,
    work: Path,
    inputs: Mapping[str, Sequence[Input]],
    hashes: Mapping[str, str],
    counted: Sequence[Done],
    merged: Sequence[Done],
) -> Task:
    sections = {
        name: to_mapping(getattr(config, name))
        for name in ("unigrams", "bigrams", "titles", "wordnet", "empty_queries")
    }
    files = {name: [file.path for file in inputs[name]] for name in ("index", "data", "lists")}
    arguments = {
        **sections,
        **files,
        "output": config.output,
        "merged": str(work / "merge"),
        "buckets": [record.partition for record in merged],
        "pages": [str(work / "count" / f"{record.partition}.pages.parquet") for record in counted],
        "num_words": sum(int(record.info["words"]) for record in counted),
    }
    contents = [[hashes[path] for path in paths] for paths in files.values()]
    digests = [dict(record.outputs) for record in (*counted, *merged)]
    key = _key(sections, contents, arguments["num_words"], digests)
    return Task(partition="list", work=_select, arguments=arguments, outputs=("queries.parquet",), key=key)


def _key(*parts: Any) -> str:
    return fingerprint(BUILD_VERSION, *parts)


def _without(arguments: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The arguments that a result depends on: a file's name and the memory allowed play no part."""
    return {name: value for name, value in arguments.items() if name not in names}


# --- the work -----------------------------------------------------------------------------------


def _merge_bucket(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    """Engine task: the totals of one bucket's words, bigrams and views, without those under their floor."""
    rows = 0
    for name, path in outputs.items():
        kind = name.partition(".")[2]
        total = sum_counts(read_bucket(Path(source), arguments["bucket"]) for source in arguments["sources"][kind])
        floor = int(arguments["floors"][kind])
        rows += write_buckets(path, [total.filter(pa.compute.greater_equal(total.column("count"), floor))])
    return {"rows": rows}


def _select(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    """Engine task: take from each source in turn what no earlier one gave, up to its budget."""
    chosen: dict[str, tuple[str, int, Candidate]] = {}
    dropped = {"lone_letter": 0, "near_stop_word": 0}
    words = _merged(arguments, "words.arrow")
    judge = _judge(arguments, words)

    def take(source: str, candidates: Sequence[Candidate], budget: int | None) -> None:
        rank = 0
        for candidate in candidates:
            if rank == budget:
                return
            empty = judge.reason(candidate.query) if judge and source != "file" else None
            if empty is not None:
                dropped[empty[0]] += 1
            elif candidate.query not in chosen:
                chosen[candidate.query] = (source, rank, candidate)
                rank += 1

    for path in arguments["lists"]:
        take("file", [Candidate(query=query) for query in read_queries(path).queries], None)
    single: set[str] = set()
    if arguments["unigrams"] is not None:
        unigrams_config = from_mapping(UnigramsConfig, arguments["unigrams"])
        found = unigrams(words, unigrams_config)
        take("unigrams", found, unigrams_config.budget)
        single = {candidate.query for candidate in found[: unigrams_config.budget]}
    if arguments["bigrams"] is not None:
        bigrams_config = from_mapping(BigramsConfig, arguments["bigrams"])
        pairs = _merged(arguments, "bigrams.arrow")
        take("bigrams", bigrams(pairs, words, arguments["num_words"], single, bigrams_config), bigrams_config.budget)
    if arguments["titles"] is not None:
        titles_config = from_mapping(TitlesConfig, arguments["titles"])
        # What earlier sources gave already is passed over, so so many more are asked for.
        limit = titles_config.budget + len(chosen) + _SPARE_TITLES
        (output,) = outputs.values()
        views, pages = _merged_reader(arguments, "views.arrow"), _pages_reader(arguments["pages"])
        take("titles", titles(views, pages, titles_config, limit=limit, scratch=output.parent), titles_config.budget)
    if arguments["wordnet"] is not None:
        wordnet_config = from_mapping(WordnetConfig, arguments["wordnet"])
        take("wordnet", wordnet(arguments["index"], arguments["data"], wordnet_config), wordnet_config.budget)
    if not chosen:
        raise QueryListError(
            f"{arguments['output']}: the sources give no query; set dump.files, wordnet.index or lists, "
            "or lower the minimum counts"
        )
    mark = write_queries(_table(chosen), outputs["queries.parquet"])
    return {"rows": len(chosen), "fingerprint": mark, **dropped}


def _judge(arguments: Mapping[str, Any], words: pa.Table) -> Judge | None:
    config = from_mapping(EmptyQueriesConfig, arguments["empty_queries"])
    if config.rule == "keep":
        return None
    counts = dict(zip(words.column("key").to_pylist(), words.column("count").to_pylist(), strict=True))
    return Judge(config, counts, arguments["num_words"])


def _merged(arguments: Mapping[str, Any], kind: str) -> pa.Table:
    directory = Path(arguments["merged"])
    tables = [read_bucket(directory / f"{bucket}.{kind}", 0) for bucket in arguments["buckets"]]
    return pa.concat_tables(tables) if tables else COUNTS.empty_table()


def _merged_reader(arguments: Mapping[str, Any], kind: str) -> pa.RecordBatchReader:
    """The same, bucket by bucket."""
    directory = Path(arguments["merged"])
    files = (directory / f"{bucket}.{kind}" for bucket in arguments["buckets"])
    return pa.RecordBatchReader.from_batches(
        COUNTS, (batch for path in files for batch in read_bucket(path, 0).to_batches())
    )


def _pages_reader(paths: Sequence[str]) -> pa.RecordBatchReader:
    return pa.RecordBatchReader.from_batches(
        PAGES, (batch.cast(PAGES) for path in paths for batch in pq.ParquetFile(path).iter_batches())
    )


def _table(chosen: Mapping[str, tuple[str, int, Candidate]]) -> pa.Table:
    rows = list(chosen.values())
    columns = {
        "query_id": pa.array(range(len(rows)), pa.int32()),
        "query": pa.array(list(chosen), pa.string()),
        "source": pa.array([source for source, _, _ in rows], pa.string()),
        "count": pa.array([candidate.count for _, _, candidate in rows], pa.int64()),
        "views": pa.array([candidate.views for _, _, candidate in rows], pa.int64()),
        "pmi": pa.array([candidate.pmi for _, _, candidate in rows], pa.float64()),
        "rank": pa.array([rank for _, rank, _ in rows], pa.int32()),
    }
    return pa.table(columns, schema=QUERIES)


def _publish(source: Path, output: Path) -> None:
    temporary = temporary_name(output)
    try:
        temporary.write_bytes(source.read_bytes())
        commit(temporary, output)
    except OSError as error:
        if os.path.lexists(temporary):
            temporary.unlink()
        raise unwritable(output, error) from error
