"""Small tables that answer slow questions at once: made when a run publishes, used while they are fresh.

    work/fetched (FETCHED) --group by host--> work/summaries/hosts-KEY-HASH.parquet

KEY is a hash of the content that the table sums up, HASH one of the table itself. Whoever asks while a step is under
way, or after it was redone, finds no table of that key, and the catalog computes the answer from the rows themselves.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from configs.load import fingerprint
from pipeline.pages import views_of
from pipeline.steps.step import Page
from pipeline.storage.atomic import commit, temporary_name, unwritable
from pipeline.storage.checked import check, digest_of
from pipeline.storage.copies import scratch_copy, scratch_files
from pipeline.storage.duck import open_duckdb, quote_text, read_parquet_sql, spill_beside, use_buckets
from pipeline.storage.location import Files
from pipeline.storage.place import Place, files_in

__all__ = ["SUMMARIES", "Summary", "fresh_summary", "write_summaries"]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A view of the catalog that is a sum over the rows of another."""

    view: str
    """That is summed up."""
    query: str
    """SQL over `$ROWS`; its order makes the file's bytes the same every time."""


SUMMARIES: dict[str, Summary] = {
    "hosts": Summary(
        view="fetched",
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


def fresh_summary(page: Page, name: str) -> Place | None:
    """The summary's file, or None where it is absent, damaged or of other rows."""
    pattern = _pattern(page, name)
    for path in () if pattern is None else files_in(page.run.directory("summaries"), pattern):
        digest = path.stem.rpartition("-")[2]
        if _digest_of(path).startswith(digest):
            return path
    return None


def _digest_of(path: Place) -> str:
    if isinstance(path, Path):
        return digest_of(path)
    with scratch_copy(path) as copy:
        return digest_of(copy)


def write_summaries(page: Page) -> None:
    """Make every summary that is not fresh, and drop those of other rows. Raises OutputError."""
    directory = page.run.directory("summaries")
    kept: set[Place | None] = set()
    for name, summary in SUMMARIES.items():
        pattern = _pattern(page, name)
        if pattern is not None:
            kept.add(fresh_summary(page, name) or _write(page, summary, directory, pattern))
    if directory.is_dir():
        for path in files_in(directory, "*"):
            if path not in kept:
                path.unlink()


def _rows(page: Page, summary: Summary) -> Files:
    """The files that are summed up."""
    view = views_of(page)[summary.view]
    return view.data.present(view.field)


def _pattern(page: Page, name: str) -> str | None:
    """The summary's file name, with a star for the hash of its content; None where there is nothing to sum up."""
    summary = SUMMARIES[name]
    rows = _rows(page, summary)
    if not rows:
        return None
    key = fingerprint(name, summary.query, [(file.name, file.digest) for file in rows])[:12]
    return f"{name}-{key}-*.parquet"


def _write(page: Page, summary: Summary, directory: Place, pattern: str) -> Place:
    files = _rows(page, summary)
    with ExitStack() as stack:
        if isinstance(directory, Path):
            temporary = temporary_name(directory / pattern.replace("*", "new"))
            stack.callback(temporary.unlink, missing_ok=True)
            places: list[Place] = [Path(check(file)) for file in files]
        else:
            temporary = stack.enter_context(scratch_files()) / "new.parquet"
            places = [file.place for file in files]  # by range: one column of them
        query = summary.query.replace("$ROWS", read_parquet_sql(places))
        try:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            with open_duckdb(spill_beside(temporary)) as database:
                use_buckets(database, places)
                database.execute(f"COPY ({query}) TO {quote_text(temporary)} (FORMAT parquet, COMPRESSION zstd)")
            path = directory / pattern.replace("*", digest_of(temporary)[:16])
            if isinstance(path, Path):
                commit(temporary, path)
            else:
                path.put(temporary)
        except OSError as error:
            raise unwritable(directory, error) from error
    return path
