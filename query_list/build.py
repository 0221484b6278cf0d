"""The whole build, in order: plan the inputs, count, merge, select, publish.

count/  one task per dump range: words, bigrams, pages      views/  one task per page-view file
merge/  one task per bucket of keys: totals                 list/   one task: rank, cut, write
then OUTPUT gets the list's bytes, whole or not at all
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from pipeline.engine import AnyTask, Data, Engine, Records, forget, open_engine, outputs_of
from pipeline.errors import DamagedFileError, OutputError
from pipeline.storage.bucket import BucketPath
from pipeline.storage.checked import check_in_passing
from pipeline.storage.location import Files, Location
from pipeline.storage.place import Place, place_of
from pipeline.storage.written import written
from pipeline.terminal.printable import say
from pipeline.terminal.progress import Progress
from query_list.config import BuildConfig
from query_list.corpus import Counted, CountRange
from query_list.dump import ranges
from query_list.inputs import Input, expand, identify
from query_list.merge import MergeBucket, Merged, Totals
from query_list.rank import RankAndCut, Ranked
from query_list.stop_words import FUNCTION_WORDS
from query_list.titles import CountViews, Viewed

__all__ = ["BuildResult", "build"]

Out = TypeVar("Out")
_TRIES = 3
"""So often damaged files are made again before the machine is at fault."""
_BYTES_PER_BUCKET = 32 << 20
_MAX_BUCKETS = 512


@dataclass(frozen=True, kw_only=True)
class BuildResult:
    """What a build did."""

    path: Place
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
    output = place_of(config.output)
    work = output.with_name(f"{output.name}.work")
    inputs = _inputs(config, work / "inputs.json")
    counted, viewed = _data(work, "count", Counted), _data(work, "views", Viewed)
    merged, ranked = _data(work, "merge", Merged), _data(work, "list", Ranked)
    with open_engine(config.engine, progress) as engine:
        for _ in range(_TRIES):
            _run(engine, counted, _count_tasks(config, inputs), "count words")
            _run(engine, viewed, _view_tasks(config, inputs), "count views")
            merges = list(_merge_tasks(config, inputs, counted, viewed))
            if not _all_finished(merged, merges) and _forget_damaged(counted, viewed):
                continue
            _run(engine, merged, merges, "merge counts")
            ranks = [_rank_task(config, inputs, counted, merged)]
            if not _all_finished(ranked, ranks) and _forget_damaged(counted, merged):
                continue
            _run(engine, ranked, ranks, "rank and cut")
            if not _forget_damaged(ranked):
                break
        else:
            raise OutputError(f"{work}: files are damaged again after they were made again; look at the machine's disk")
    made = ranked.only
    built = not _is_at(output, made.files.queries)
    if built:
        _publish(made.files.queries, output)
    facts: dict[str, int] = {}
    for part in (*counted.parts, *viewed.parts, made):
        for name, value in part.info.items():
            if name not in ("rows", "fingerprint"):
                facts[name] = facts.get(name, 0) + int(value)
    return BuildResult(
        path=output,
        fingerprint=str(made.info["fingerprint"]),
        num_queries=int(made.info["rows"]),
        built=built,
        facts=facts,
    )


def _data(work: Place, name: str, out: type[Out]) -> Data[Out]:
    data = Data(name, out)
    data.directory = work / name
    return data


def _run(engine: Engine, data: Data[Out], tasks: Iterable[AnyTask[Out]], title: str) -> None:
    data.finish(engine.run_step(data.directory, list(tasks), title=title))


def _all_finished(data: Data[Out], tasks: Iterable[AnyTask[Out]]) -> bool:
    records = Records.of(data.directory)
    return all(records.finished(task) is not None for task in tasks)


def _forget_damaged(*made: Data[Any]) -> bool:
    """Hold files that are about to be read against their records; those of damaged ones are made again, and named."""
    found = False
    for data in made:
        for part in data.parts:
            try:
                for name in outputs_of(data.out):
                    check_in_passing(getattr(part.files, name))
            except DamagedFileError as error:
                say(f"damaged: {error.path}: {error.what}; made again", to=sys.stderr)
                forget(data.directory, part.name)
                found = True
    return found


# --- the plan -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Inputs:
    """The files that a config names. A task's key goes by their content, not by their names."""

    dump: Sequence[Input]
    pageviews: Sequence[Input]
    index: Sequence[Input]
    data: Sequence[Input]
    lists: Sequence[Input]
    hashes: Mapping[str, str]
    """By path."""

    def locate(self, file: Input) -> Location:
        """Where it is. Of a remote file the digest is its store's own mark: good for a key, not for `check`."""
        return Location(file.path, self.hashes[file.path])

    def locate_all(self, files: Iterable[Input]) -> Files:
        """Of each."""
        return Files(map(self.locate, files))

    @cached_property
    def num_buckets(self) -> int:
        """So many that one bucket of all tasks' counts fits into a worker; it plays no part in the list."""
        packed = sum(file.num_bytes for file in (*self.dump, *self.pageviews))
        return int(min(_MAX_BUCKETS, max(1, packed // _BYTES_PER_BUCKET)))


def _inputs(config: BuildConfig, memory: Place) -> _Inputs:
    """Raises InputError where one is not there."""
    pageviews = config.titles.pageviews if config.titles else ()
    index = config.wordnet.index if config.wordnet else ()
    data = config.wordnet.data if config.wordnet else ()
    found = {
        "dump": expand(config.dump.files, what="MediaWiki dump"),
        "pageviews": expand(pageviews, what="page-view files"),
        "index": expand(index, what="WordNet index files"),
        "data": expand(data, what="WordNet data files"),
        "lists": [file for path in config.lists for file in expand([path], what="query lists")],
    }
    return _Inputs(**found, hashes=identify([file for files in found.values() for file in files], memory))


def _count_tasks(config: BuildConfig, inputs: _Inputs) -> Iterator[CountRange]:
    split_bytes = config.dump.split_mb << 20
    cut = [(file, begin, end) for file in inputs.dump for begin, end in ranges(file, split_bytes)]
    function_words = tuple(sorted(FUNCTION_WORDS[config.empty_queries.function_words]))
    for number, (file, begin, end) in enumerate(cut):
        yield CountRange(
            partition=f"range-{number:05}",
            dump=inputs.locate(file),
            begin=begin,
            end=end,
            num_buckets=inputs.num_buckets,
            max_entries=config.dump.max_entries_in_memory,
            disambiguation_templates=config.dump.disambiguation_templates,
            disambiguation_suffix=config.dump.disambiguation_suffix,
            title_words=config.dump.title_words,
            lowercase_templates=config.dump.lowercase_templates,
            function_words=function_words,
        )


def _view_tasks(config: BuildConfig, inputs: _Inputs) -> Iterator[CountViews]:
    for number, file in enumerate(inputs.pageviews):
        yield CountViews(
            partition=f"views-{number:05}",
            pageviews=inputs.locate(file),
            projects=config.titles.projects if config.titles else (),
            num_buckets=inputs.num_buckets,
            max_entries=config.dump.max_entries_in_memory,
        )


def _merge_tasks(
    config: BuildConfig, inputs: _Inputs, counted: Data[Counted], viewed: Data[Viewed]
) -> Iterator[MergeBucket]:
    words, bigrams = counted.files(lambda out: out.words), counted.files(lambda out: out.bigrams)
    views = viewed.files(lambda out: out.views)
    for bucket in range(inputs.num_buckets):
        yield MergeBucket(
            partition=f"bucket-{bucket:04}",
            bucket=bucket,
            words=words,
            bigrams=bigrams,
            views=views,
            # Words that are no unigram may still be half of a bigram that is refused later, but never of one that
            # is taken.
            min_words=config.unigrams.min_count if config.unigrams else 1,
            min_bigrams=config.bigrams.min_count if config.bigrams else 1,
        )


def _rank_task(config: BuildConfig, inputs: _Inputs, counted: Data[Counted], merged: Data[Merged]) -> RankAndCut:
    return RankAndCut(
        partition="queries",
        path=config.output,
        lists=inputs.locate_all(inputs.lists),
        totals=Totals.of(merged),
        pages=counted.files(lambda out: out.pages),
        num_words=counted.total("words"),
        wordnet_index=inputs.locate_all(inputs.index),
        wordnet_data=inputs.locate_all(inputs.data),
        unigrams=config.unigrams,
        bigrams=config.bigrams,
        titles=config.titles,
        wordnet=config.wordnet,
        empty_queries=config.empty_queries,
    )


def _is_at(output: Place, made: Location) -> bool:
    """Whether the list is there already, as it was made."""
    if not output.is_file():
        return False
    try:
        check_in_passing(Location(str(output), made.digest))
    except DamagedFileError:
        return False
    return True


def _publish(made: Location, output: Place) -> None:
    source = made.place
    if isinstance(source, BucketPath) and isinstance(output, BucketPath):
        source.copy(output)
        return
    with written(output) as path:
        path.write_bytes(source.read_bytes())
