"""The scores of a set of features, in one Parquet, by uid.

    FEATURES --parts.py, a task a part--> scores --+
             --clusters.py--> duplicates ----------+--join by uid, order by uid (DuckDB, which spills)--> TO
    NAME=FEATURES --parts.py--> NAME_score --------+

What is done of it lies in TO.work until TO is whole, so that a killed run goes on. The rows are those of the first
features. The same features and options give the same bytes, on the same kind of processor.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from configs.load import ConfigError, fingerprint, to_mapping
from pipeline.engine import AnyTask, Data, Engine, EngineConfig, open_engine
from pipeline.storage.atomic import remove_tree, sha256_of
from pipeline.storage.checked import check_in_passing, read_schema
from pipeline.storage.copies import scratch_files
from pipeline.storage.duck import open_duckdb, read_parquet_sql, use_buckets
from pipeline.storage.location import Files, Location
from pipeline.storage.output import open_output
from pipeline.storage.parquet import parquet_writer
from pipeline.storage.place import Place, place_of
from pipeline.storage.written import written
from pipeline.terminal.progress import Progress
from training.distributed import place_of as device_of
from training.embedding.feature_files import FeatureSet, open_features
from training.errors import FeaturesError, ModelError, OutputError
from training.scores.aesthetic import load_head
from training.scores.clusters import ALIKE, Alike, Assigned, AssignPart, Centroids, CompareClusters, FindClusters
from training.scores.config import ScoreConfig, named_features
from training.scores.parts import EmbedPrompts, PartScores, Prompts, ScorePart, score_fields
from training.scores.policy_config import PolicyConfig, load_policy

__all__ = ["ColumnFacts", "ScoreResult", "score"]

Out = TypeVar("Out")
_MADE_BY = "openwit.scores"
"""Key in the file's metadata: the options, the features, and a fingerprint of both, as JSON."""
_MOST_RANGES = 10_000


@dataclass(kw_only=True)
class ColumnFacts:
    """What a column holds, in all rows."""

    values: int = 0
    """Rows that are not null; of policy_flags, rows with a flag."""
    sum: float = 0.0
    least: float = math.inf
    greatest: float = -math.inf

    @property
    def mean(self) -> float:
        """NaN where there is no value."""
        return self.sum / self.values if self.values else math.nan

    def add(self, column: pa.Array) -> None:
        """More rows of it."""
        if pa.types.is_list(column.type):
            self.values += int(pc.sum(pc.greater(pc.list_value_length(column), 0)).as_py() or 0)
            return
        self.values += len(column) - column.null_count
        if pa.types.is_floating(column.type) and column.null_count < len(column):
            self.sum += pc.sum(pc.cast(column, pa.float64())).as_py()
            extremes = pc.min_max(column).as_py()
            self.least, self.greatest = min(self.least, extremes["min"]), max(self.greatest, extremes["max"])


@dataclass(frozen=True, kw_only=True)
class ScoreResult:
    """What was written."""

    to: Place
    rows: int
    columns: dict[str, ColumnFacts] = field(default_factory=dict)
    made_before: bool = False
    """The very file was there already; then nothing was counted."""


def score(config: ScoreConfig, *, progress: Progress | None = None) -> ScoreResult:
    """Write the scores that `config` asks for, whole or not at all.

    Raises ConfigError, FeaturesError, ModelError where what is asked for cannot be made of these features, before any
    work; OutputError where `to` is taken or cannot be written, LockedError where it is being written.
    """
    progress = progress or Progress(quiet=True)
    asked = _check(config)
    made_by = {"key": _key(config, asked), "features": asked.first.about.content, "config": to_mapping(config)}
    if (rows := _there(asked.to, made_by["key"])) is not None:
        return ScoreResult(to=asked.to, rows=rows, made_before=True)
    work = asked.to.with_name(f"{asked.to.name}.work")
    with open_output(work, say=progress.say):
        with open_engine(EngineConfig(kind=config.engine), progress) as engine:
            tables = _scored(config, asked, _Steps(engine=engine, work=work))
        result = _write(asked.to, tables, made_by)
        remove_tree(work)
    return result


# --- before any work ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What the options name, looked at."""

    first: FeatureSet
    others: dict[str, FeatureSet]
    """By the name of their column."""
    policy: PolicyConfig | None
    head: Location | None
    to: Place


def _check(config: ScoreConfig) -> _Asked:
    """Everything that can be wrong is found here."""
    first = open_features(config.features[0])
    others = {name: open_features(directory) for name, directory in named_features(config.features[1:])}
    policy = head = None
    if "clip" in config.scores:
        _needs(first, "images", "texts", what=f"{config.name}_score")
    for name, other in others.items():
        _needs(other, "images", "texts", what=f"{name}_score")
    if "aesthetic" in config.scores:
        _needs(first, "images", what="aesthetic")
        head = _head_for(first, str(config.aesthetic.head))
    if "policy" in config.scores:
        policy = load_policy(str(config.policy.file))
        for name, rule in policy.rules.items():
            if rule.looks_at != "either":
                _needs(first, f"{rule.looks_at}s", what=f"policy_{name}")
    if "duplicates" in config.scores:
        _needs(first, "images", what="duplicates")
    names = _columns(config, others, policy)
    if len(set(names)) < len(names):
        raise ConfigError(f"two columns would have one name ({', '.join(names)}); give another --name or rule")
    to = config.to if config.to is not None else f"{config.features[0].rstrip('/')}.scores.parquet"
    return _Asked(first=first, others=others, policy=policy, head=head, to=place_of(to))


def _needs(features: FeatureSet, *kinds: str, what: str) -> None:
    for kind in kinds:
        if not getattr(features.about, kind):
            raise FeaturesError(
                f"{features.place}: has features of no {kind}, which {what} is made of; embed them too (--what both), "
                "or leave it out of --scores"
            )


def _head_for(features: FeatureSet, file: str) -> Location:
    width = load_head(file).width
    if width != features.about.width:
        raise ModelError(
            f"aesthetic.head: {file} takes features of {width} numbers, {features.place} has {features.about.width} "
            f"({features.about.model_name}); give the head of that model, or features of the head's"
        )
    return Location(file, sha256_of(Path(file)))


def _columns(config: ScoreConfig, others: dict[str, FeatureSet], policy: PolicyConfig | None) -> list[str]:
    rules = [] if policy is None else list(policy.rules)
    name = config.name if "clip" in config.scores else None
    own = [each.name for each in score_fields(name, aesthetic="aesthetic" in config.scores, rules=rules)]
    return [*own, *(ALIKE.names[1:] if "duplicates" in config.scores else []), *(f"{name}_score" for name in others)]


def _key(config: ScoreConfig, asked: _Asked) -> str:
    """Of what decides the bytes."""
    others = {name: other.about.content for name, other in asked.others.items()}
    head = None if asked.head is None else asked.head.digest
    of_clusters = config.duplicates if "duplicates" in config.scores else None
    return fingerprint(
        1, asked.first.about.content, others, sorted(config.scores), config.name, head, asked.policy, of_clusters
    )


def _there(to: Place, key: str) -> int | None:
    """The rows of the file if it is the very one that would be written; None where there is none. Raises OutputError
    where it is another."""
    if not to.exists():
        return None
    try:
        with to.open("rb") as opened, pa.parquet.ParquetFile(pa.PythonFile(opened, mode="r")) as file:
            made_by = json.loads((file.schema_arrow.metadata or {}).get(_MADE_BY.encode(), b"{}"))
            rows = int(file.metadata.num_rows)
    except (OSError, pa.ArrowException, ValueError):
        made_by = {}
    if made_by.get("key") != key:
        raise OutputError(
            f"{to}: is there already, and not of these features and options; give another --to, or delete it"
        )
    return rows


# --- the work -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Steps:
    engine: Engine
    work: Place

    def run(self, name: str, out: type[Out], tasks: Sequence[AnyTask[Out]], title: str) -> Data[Out]:
        """What `tasks` write; those that are done stay."""
        data: Data[Out] = Data(name, out)
        data.directory = self.work / "work" / name
        data.finish(self.engine.run_step(data.directory, tasks, step=name, title=title))
        return data


def _parts_of(features: FeatureSet) -> Iterator[tuple[str, Location]]:
    for part in features.about.parts:
        yield part.name, Location(str(features.place / f"{part.name}.parquet"), part.sha256)


def _scored(config: ScoreConfig, asked: _Asked, steps: _Steps) -> list[Files]:
    """Parquet with a column uid and others each: the rows' own scores first, then what is joined to them."""
    about = asked.first.about
    rules = {} if asked.policy is None else asked.policy.rules
    device = device_of(config.device).type
    prompts = None
    if rules:
        embed = EmbedPrompts(
            partition="all",
            rules=rules,
            model_fingerprint=about.model_fingerprint,
            model=config.model or about.model,
            device=device,
        )
        prompts = steps.run("prompts", Prompts, [embed], "embed prompts").only.files.texts
    tasks = [
        ScorePart(
            partition=name,
            part=part,
            name=config.name if "clip" in config.scores else None,
            head=asked.head,
            rules=rules,
            prompts=prompts,
            logit_scale=about.logit_scale,
        )
        for name, part in _parts_of(asked.first)
    ]
    tables = [steps.run("scores", PartScores, tasks, "score").files(lambda out: out.scores)]
    for column, other in asked.others.items():
        tasks = [
            ScorePart(partition=name, part=part, name=column, rules={}, logit_scale=other.about.logit_scale)
            for name, part in _parts_of(other)
        ]
        step = steps.run(f"scores-{column}", PartScores, tasks, f"score by {column}")
        tables.append(step.files(lambda out: out.scores))
    if "duplicates" in config.scores:
        tables.append(_alike(config, asked.first, steps, device))
    return tables


def _alike(config: ScoreConfig, features: FeatureSet, steps: _Steps, device: str) -> Files:
    about, options = features.about, config.duplicates
    parts = dict(_parts_of(features))
    wanted = min(options.clusters or round(math.sqrt(about.images)), about.images)
    learnt_from = wanted * options.rows_per_cluster
    find = FindClusters(
        partition="all",
        parts_read=Files(parts.values()),
        clusters=wanted,
        share=min(1.0, learnt_from / about.images),
        iterations=options.iterations,
        seed=options.seed,
        device=device,
        memory_mb=1000 + 10 * about.width * min(learnt_from, about.images) // 1_000_000,
    )
    centroids = steps.run("clusters", Centroids, [find], "find clusters").only
    assign: list[AnyTask[Assigned]] = [
        AssignPart(partition=name, part=part, centroids=centroids.files.centroids, device=device)
        for name, part in parts.items()
    ]
    assigned = steps.run("assigned", Assigned, assign, "sort by cluster").files(lambda out: out.rows)
    clusters = int(centroids.info["clusters"])
    fit = max(1, options.memory_mb * 1_000_000 * clusters // (8 * about.width * about.images))
    fit = max(fit, -(-clusters // _MOST_RANGES))
    compare: list[AnyTask[Alike]] = [
        CompareClusters(
            partition=f"clusters-{first:07d}",
            assigned=assigned,
            first=first,
            last=min(first + fit, clusters),
            eps=options.eps,
            keep=options.keep,
            seed=options.seed,
            device=device,
            memory_mb=500 + options.memory_mb,
        )
        for first in range(0, clusters, fit)
    ]
    return steps.run("alike", Alike, compare, "compare within clusters").files(lambda out: out.alike)


# --- the table ------------------------------------------------------------------------------------


def _write(to: Place, tables: Sequence[Files], made_by: dict[str, Any]) -> ScoreResult:
    """Join by uid, in the order of uid. Raises FeaturesError where a uid is there twice, or a table knows none."""
    for file in (file for table in tables for file in table):
        check_in_passing(file)
    fields = [each for table in tables for each in read_schema(table[0])]
    schema = pa.schema([fields[0], *(each.with_nullable(True) for each in fields if each.name != "uid")])
    columns = {name: ColumnFacts() for name in schema.names[1:]}
    rows = 0
    with scratch_files() as scratch, open_duckdb(scratch / "spill") as database:
        sources = [_view(database, number, table) for number, table in enumerate(tables)]
        _check_uids(database, sources)
        joins = " ".join(f"LEFT JOIN {source} USING (uid)" for source in sources[1:])
        query = f"SELECT {', '.join(schema.names)} FROM {sources[0]} {joins} ORDER BY uid"
        with (
            written(to) as path,
            parquet_writer(path, schema.with_metadata({_MADE_BY: json.dumps(made_by, sort_keys=True)})) as writer,
        ):
            for batch in database.sql(query).to_arrow_reader(65_536):
                batch = pa.RecordBatch.from_arrays(
                    [column.cast(each.type) for column, each in zip(batch.columns, schema, strict=True)], schema=schema
                )
                writer.write_batch(batch)
                rows += batch.num_rows
                for name, facts in columns.items():
                    facts.add(batch.column(name))
    return ScoreResult(to=to, rows=rows, columns=columns)


def _view(database: duckdb.DuckDBPyConnection, number: int, table: Files) -> str:
    places = [file.place for file in table]
    use_buckets(database, places)
    name = f"table_{number}"
    database.execute(f"CREATE VIEW {name} AS SELECT * FROM {read_parquet_sql(places)}")
    return name


def _check_uids(database: duckdb.DuckDBPyConnection, sources: Sequence[str]) -> None:
    for source in sources:
        count, different = database.execute(f"SELECT count(*), count(DISTINCT uid) FROM {source}").fetchall()[0]
        if count != different:
            again = database.execute(
                f"SELECT lower(hex(uid)) FROM {source} GROUP BY uid HAVING count(*) > 1 ORDER BY uid LIMIT 1"
            ).fetchall()[0][0]
            raise FeaturesError(
                f"{count - different:,} rows of the features repeat a uid, for example {again}; embed each sample once"
            )
        known = f"SELECT count(*) FROM {sources[0]} SEMI JOIN {source} USING (uid)"
        if not database.execute(known).fetchall()[0][0]:
            raise FeaturesError("the features share no uid; give features of one data set, each made by another model")
