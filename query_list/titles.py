"""Names of articles that people look up: "names of all Wikipedia articles above a search volume" (CLIP, 2.2).

page-view files --sum per title--> views --follow redirects--> views per article --> names by views
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import InputError
from query_list.candidate import Candidate
from query_list.counting import SpillingCounter
from query_list.inputs import open_text_lines

__all__ = ["TitlesConfig", "count_views", "titles"]

_QUALIFIER = re.compile(r"\s+\([^()]*\)$")
_MAX_HOPS = 5  # MediaWiki follows one redirect; double ones are repaired by bots, but exist in any dump


@dataclass(frozen=True, kw_only=True)
class TitlesConfig:
    """Article names, the most viewed first."""

    pageviews: tuple[str, ...] = ()
    """Wikimedia page-view files (hourly or daily, .gz or .bz2): paths, globs or fsspec URLs."""
    projects: tuple[str, ...] = ("en", "en.m", "en.wikipedia", "en.wikipedia.org")
    """Project codes of the lines that count: desktop and mobile, as hourly and as daily files write them."""
    min_views: int = 1
    """Fewest views, over all page-view files and all names that redirect to the article."""
    strip_qualifier: bool = True
    """`Avatar (2009 film)` becomes `Avatar`: no caption holds the bracket. Views of equal names add up."""
    budget: int = 61_235
    """Most queries from this source; the default is the published size."""


def count_views(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    """Engine task: sum the views per title of one page-view file (counting.COUNTS).

    Hourly files have `project title views bytes`; daily ones `project title page_id access views hours`.
    """
    (path,) = outputs.values()
    projects = frozenset(str(project).encode() for project in arguments["projects"])
    counter = SpillingCounter(
        path, num_buckets=int(arguments["num_buckets"]), max_entries=int(arguments["max_entries"])
    )
    info = {"lines": 0, "project_lines": 0, "broken_lines": 0}
    try:
        with open_text_lines(str(arguments["path"])) as lines:
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
            raise InputError(f"{arguments['path']}: an empty page-view file; fetch it again")
        info["titles"] = counter.write(path)
    finally:
        counter.close()
    return {**info, "rows": info["lines"]}


def titles(views: pa.Table, pages: pa.Table, config: TitlesConfig) -> list[Candidate]:
    """Candidates by views, then by name.

    `views` (counting.COUNTS) per title as requested; `pages` (corpus.PAGES) says which titles are articles,
    redirects and disambiguations; every other title is dropped.
    """
    redirects = pages.filter(pc.is_valid(pages.column("redirect"))).select(["title", "redirect"])
    for _ in range(_MAX_HOPS):
        if not redirects.num_rows:
            break
        joined = views.join(redirects, keys="key", right_keys="title", join_type="left outer", use_threads=False)
        if joined.column("redirect").null_count == joined.num_rows:
            break
        key = pc.coalesce(joined.column("redirect"), joined.column("key"))
        sums = pa.table({"key": key, "count": joined.column("count")}).group_by("key", use_threads=False)
        summed = sums.aggregate([("count", "sum")])
        views = pa.table({"key": summed.column("key"), "count": summed.column("count_sum")})
    is_article = pc.and_(pc.is_null(pages.column("redirect")), pc.invert(pages.column("disambiguation")))
    articles = pages.filter(is_article).select(["title"])
    kept = views.join(articles, keys="key", right_keys="title", join_type="left semi", use_threads=False)
    total: dict[str, int] = {}
    for title, count in zip(kept.column("key").to_pylist(), kept.column("count").to_pylist(), strict=True):
        name = (_QUALIFIER.sub("", title) or title) if config.strip_qualifier else title
        total[name] = total.get(name, 0) + count
    ranked = sorted((-count, name) for name, count in total.items() if count >= config.min_views)
    return [Candidate(query=name, views=-count) for count, name in ranked]
