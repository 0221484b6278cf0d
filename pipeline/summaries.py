"""Small tables that answer slow questions at once: made when a run publishes, used while they are fresh.

    work/fetched (FETCHED) --group by host--> work/summaries/hosts-KEY-HASH.parquet

KEY is a hash of the content that the table sums up, HASH one of the table itself. Whoever asks while a step is under
way, or after it was redone, finds no table of that key, and the catalog computes the answer from the rows themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from configs.load import fingerprint
from pipeline.checked import Vouched, check, digest_of
from pipeline.duck import full_disk, quote_text
from pipeline.engine import digest_in, read_record
from pipeline.schema import FETCHED
from pipeline.storage import commit, read_sealed, temporary_name, unwritable

__all__ = ["SUMMARIES", "Summary", "fresh_summary", "outputs_of", "read_parquet_sql", "write_summaries"]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A view of the catalog that is a sum over one step's rows."""

    step: str
    ending: str
    """Of the step's files that are read."""
    reads: pa.Schema
    query: str
    """SQL over `$ROWS`; its order makes the file's bytes the same every time."""


SUMMARIES: dict[str, Summary] = {
    "hosts": Summary(
        step="fetched",
        ending=".fetched.parquet",
        reads=FETCHED,
        # The expensive pattern runs once a group rather than once a row.
        query="""
            SELECT lower(regexp_extract(authority, '^(?:.*@)?(\\[[^\\]]*\\]|[^:?#]*)', 1)) AS host,
                   sum(pairs)::BIGINT AS pairs, sum(fetched)::BIGINT AS fetched
            FROM (SELECT split_part(url, '/', 3) AS authority, count(*) AS pairs,
                         count(*) FILTER (status = 'success') AS fetched
                  FROM $ROWS GROUP BY authority)
            GROUP BY host ORDER BY pairs DESC, host""",
    ),
}
"""View -> how it is made."""


def outputs_of(step: Path, ending: str) -> dict[str, str]:
    """File name -> digest of the step's finished tasks' outputs whose names end so, in task order."""
    manifest = read_sealed(step / "manifest.json")
    if manifest is not None:
        records = manifest["tasks"]
        found = {name: str(digest) for record in records for name, digest in record["outputs"].items()}
    else:  # the step is under way
        under_way = filter(None, map(read_record, sorted((step / "done").glob("*.json"))))
        found = {name: digest_in(out) for record in under_way for name, out in record["outputs"].items()}
    return {name: digest for name, digest in found.items() if name.endswith(ending) and (step / name).exists()}


def fresh_summary(output: Path, name: str) -> Path | None:
    """The summary's file, or None where it is absent, damaged or of other rows."""
    pattern = _pattern(output, name)
    for path in () if pattern is None else sorted((output / "work" / "summaries").glob(pattern)):
        digest = path.stem.rpartition("-")[2]
        if digest_of(path).startswith(digest):
            return path
    return None


def write_summaries(output: Path) -> None:
    """Make every summary that is not fresh, and drop those of other rows. Raises OutputError."""
    directory = output / "work" / "summaries"
    kept: set[Path | None] = set()
    for name, summary in SUMMARIES.items():
        pattern = _pattern(output, name)
        if pattern is not None:
            kept.add(fresh_summary(output, name) or _write(output, summary, directory, pattern))
    if directory.is_dir():
        for path in directory.iterdir():
            if path not in kept:
                path.unlink()


def _pattern(output: Path, name: str) -> str | None:
    """The summary's file name, with a star for the hash of its content; None where there is nothing to sum up."""
    summary = SUMMARIES[name]
    outputs = outputs_of(output / "work" / summary.step, summary.ending)
    if not outputs:
        return None
    key = fingerprint(name, summary.query, list(outputs.items()))[:12]
    return f"{name}-{key}-*.parquet"


def _write(output: Path, summary: Summary, directory: Path, pattern: str) -> Path:
    import duckdb

    path = directory / pattern.replace("*", "new")
    temporary = temporary_name(path)
    step = output / "work" / summary.step
    files = [Vouched(str(step / name), digest) for name, digest in outputs_of(step, summary.ending).items()]
    rows = read_parquet_sql([Path(check(file)) for file in files])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with full_disk(path), duckdb.connect() as database:
            database.execute(f"SET temp_directory = {quote_text(f'{temporary}.spill')}")
            query = summary.query.replace("$ROWS", rows)
            database.execute(f"COPY ({query}) TO {quote_text(temporary)} (FORMAT parquet, COMPRESSION zstd)")
        path = directory / pattern.replace("*", digest_of(temporary)[:16])
        commit(temporary, path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def read_parquet_sql(files: Sequence[Path], *, differ: bool = False) -> str:
    """The DuckDB table function over `files`, which must not be empty; where they `differ`, with all of their columns.

    To find those, every file is opened.
    """
    return f"read_parquet([{', '.join(map(quote_text, files))}]{', union_by_name = true' if differ else ''})"
