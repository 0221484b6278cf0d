"""texts: CANDIDATES -> clean -> language -> match -> MATCHED, one task per file of candidates."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from configs.load import from_mapping, to_mapping
from pipeline.checked import Vouched, check, read_batches
from pipeline.engine import Done, Task
from pipeline.ledger import Ledger, LedgerConfig
from pipeline.schema import CANDIDATES, MATCHED
from pipeline.stages.clean import CleanConfig, clean
from pipeline.stages.language import LanguageConfig, identify, lexicon_fingerprints
from pipeline.stages.match import MatchConfig, Matcher, match
from pipeline.steps.step import Step, key_of
from pipeline.steps.texts_config import TextsConfig
from pipeline.storage import parquet_writer

__all__ = ["VERSION", "TextsConfig", "plan"]

VERSION = "texts-4"
_ROW_GROUP_ROWS = 65_536
_TEXT = "alt_text"
_JUDGED = ["uid", "source", "record", "link"]
_PLACE = pa.field("place", pa.int32(), nullable=False)


def plan(
    extracted: Sequence[tuple[Done, Path]],
    queries: Done,
    queries_directory: Path,
    *,
    texts: TextsConfig,
    clean_config: CleanConfig,
    language: LanguageConfig,
    match_config: MatchConfig,
    ledger: LedgerConfig,
) -> Step:
    """One task per file of candidates, named like it. Raises InputError for a word list that cannot be read."""
    tables = tuple(queries.file(queries_directory, name) for name in Matcher.FILES)
    tasks = []
    # What a word is, in which case, depends on these beyond the config.
    words = (lexicon_fingerprints(language), unicodedata.unidata_version)
    for done, directory in extracted:
        config = {
            "batch_rows": texts.batch_rows,
            "clean": to_mapping(clean_config),
            "language": to_mapping(language),
            "match": to_mapping(match_config),
            "ledger": to_mapping(ledger),
        }
        tasks.append(
            Task(
                partition=done.partition,
                work=_work,
                arguments={"candidates": done.file(directory, "candidates"), "matcher": tables, **config},
                outputs=(f"{done.partition}.matched.parquet", f"{done.partition}.rejections.parquet"),
                key=key_of(VERSION, [done, queries], config, words),
            )
        )
    return Step(name="texts", title="clean, language, match", tasks=tasks)


@functools.lru_cache(maxsize=1)
def _open_matcher(tables: tuple[Vouched, ...]) -> Matcher:
    """Memory-mapped tables, checked and opened once a worker process."""
    (directory,) = {Path(check(table)).parent for table in tables}
    return Matcher.open(directory)


def _work(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    matched_path, rejections_path = outputs.values()
    clean_config = from_mapping(CleanConfig, arguments["clean"])
    language = from_mapping(LanguageConfig, arguments["language"])
    match_config = from_mapping(MatchConfig, arguments["match"])
    matcher = _open_matcher(arguments["matcher"])
    ledger = Ledger(rejections_path, from_mapping(LedgerConfig, arguments["ledger"]))
    held: list[pa.RecordBatch] = []
    rows = held_rows = matched = 0
    with parquet_writer(matched_path, MATCHED) as writer:
        for batch in read_batches(arguments["candidates"], arguments["batch_rows"]):
            rows += batch.num_rows
            kept = ledger.add("clean", "link", clean(_to_judge(batch), clean_config)).drop_columns(_TEXT)
            kept = ledger.add("language", "link", identify(kept, language))
            kept = ledger.add("match", "link", match(kept, match_config, matcher))
            kept = _with_all_columns(kept, batch)
            held.append(kept)
            held_rows += kept.num_rows
            matched += kept.num_rows
            if held_rows >= _ROW_GROUP_ROWS:
                writer.write_table(pa.Table.from_batches(held, MATCHED))
                held, held_rows = [], 0
        if held_rows:
            writer.write_table(pa.Table.from_batches(held, MATCHED))
    return {"rows": rows, "kept": matched, "lines": ledger.close()}


def _to_judge(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The columns that the stages read, and each row's place, so that the others are copied once and not thrice."""
    return batch.select([*_JUDGED, _TEXT]).append_column(_PLACE, pa.array(np.arange(batch.num_rows, dtype=np.int32)))


def _with_all_columns(kept: pa.RecordBatch, batch: pa.RecordBatch) -> pa.RecordBatch:
    """MATCHED, from what the stages kept and the batch that it came from."""
    others = batch.select([name for name in CANDIDATES.names if name not in _JUDGED]).take(kept[_PLACE.name])
    columns = [kept[name] if name in kept.schema.names else others[name] for name in MATCHED.names]
    return pa.RecordBatch.from_arrays(columns, schema=MATCHED)
