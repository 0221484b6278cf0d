"""Names of articles that people look up: "names of all Wikipedia articles above a search volume" (CLIP, 2.2).

page-view files --sum per title--> views --follow redirects--> views per article --> names by views

A name has the case of its article's prose (title_case.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pyarrow as pa

from pipeline.engine import Info, Task, apart, output
from pipeline.errors import InputError
from pipeline.storage.location import Location
from query_list.candidate import Candidate
from query_list.config import BUILD_VERSION, TitlesConfig
from query_list.counting import SpillingCounter
from query_list.inputs import open_text_lines

__all__ = ["MAX_MEMORY", "CountViews", "Viewed", "titles"]

MAX_MEMORY = "1GB"
"""Of the join of views, redirects and articles."""
_QUALIFIER = r"\s+\([^()]*\)$"
_MAX_HOPS = 5  # MediaWiki follows one redirect; double ones are repaired by bots, but exist in any dump


@dataclass(frozen=True, kw_only=True)
class Viewed:
    """What a page-view file holds."""

    views: Location = output("views.arrow")
    """Per title, in the form of counting.COUNTS, a batch per bucket."""


@dataclass(frozen=True, kw_only=True)
class CountViews(Task[Viewed]):
    """Sum the views per title of one page-view file.

    Hourly files have `project title views bytes`; daily ones `project title page_id access views hours`.
    """

    pageviews: Location
    projects: tuple[str, ...]
    num_buckets: int
    max_entries: int = apart()

    version = BUILD_VERSION

    def work(self, out: Viewed) -> Info:
        projects = frozenset(project.encode() for project in self.projects)
        counter = SpillingCounter(out.views.local, num_buckets=self.num_buckets, max_entries=self.max_entries)
        info = {"lines": 0, "project_lines": 0, "broken_lines": 0}
        try:
            with open_text_lines(self.pageviews.path) as lines:
                for line in lines:
                    info["lines"] += 1
                    if line.partition(b" ")[0] not in projects:
                        continue
                    info["project_lines"] += 1
                    fields = line.split()
                    place = {4: 2, 5: 3, 6: 4}.get(len(fields))  # daily files leave out the page id of missing pages
                    if place is None or not fields[place].isdigit():
                        info["broken_lines"] += 1
                        continue
                    title = unquote_to_bytes(fields[1]).decode("utf-8", "replace").replace("_", " ").strip()
                    if title:
                        counter.add_counts(title[:1].upper() + title[1:], int(fields[place]))
            if not info["lines"]:
                raise InputError(f"{self.pageviews.path}: an empty page-view file; fetch it again")
            info["titles"] = counter.write(out.views.local)
        finally:
            counter.close()
        return {**info, "rows": info["lines"]}


def titles(
    views: pa.RecordBatchReader,
    pages: pa.RecordBatchReader,
    config: TitlesConfig,
    *,
    limit: int | None = None,
    scratch: Path | None = None,
) -> list[Candidate]:
    """The first `limit` candidates by views, then by name (by code point).

    `views` (counting.COUNTS) per title as requested; `pages` (corpus.PAGES) says which titles are articles,
    redirects and disambiguations; every other title is dropped. Both may be larger than memory: what does not
    fit into MAX_MEMORY lies in the directory `scratch`.
    """
    import duckdb

    with duckdb.connect() as database:
        database.execute(f"SET memory_limit = '{MAX_MEMORY}'; SET threads = 1; SET preserve_insertion_order = false")
        if scratch is not None:
            database.execute("SET temp_directory = $1", [str(scratch)])
        database.register("views_given", views)
        database.register("pages_given", pages)
        database.execute("CREATE TABLE views_0 AS SELECT key, count FROM views_given")
        # Parts of a dump may overlap; a title is one page all the same.
        database.execute(
            "CREATE TABLE pages AS SELECT title, min(redirect) AS redirect, bool_or(disambiguation) AS disambiguation,"
            " coalesce(min(name), title) AS name FROM pages_given GROUP BY title"
        )
        for hop in range(_MAX_HOPS):
            database.execute(
                f"CREATE TABLE views_{hop + 1} AS SELECT coalesce(redirect, key) AS key, sum(count)::BIGINT AS count"
                f" FROM views_{hop} LEFT JOIN pages ON title = key GROUP BY ALL"
            )
            database.execute(f"DROP TABLE views_{hop}")
        name = f"coalesce(nullif(regexp_replace(pages.name, '{_QUALIFIER}', ''), ''), pages.name)"
        found = database.execute(
            f"SELECT {name if config.strip_qualifier else 'pages.name'} AS query, sum(count)::BIGINT AS total"
            f" FROM views_{_MAX_HOPS} JOIN pages ON title = key WHERE redirect IS NULL AND NOT disambiguation"
            " GROUP BY query HAVING total >= $1 ORDER BY total DESC, query LIMIT $2",
            [config.min_views, 1 << 62 if limit is None else limit],
        ).fetchall()
    return [Candidate(query=name, views=views) for name, views in found]
