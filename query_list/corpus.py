"""One dump range: its words, its pairs of neighbouring words, and its titles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.engine import Info, Task, apart, output
from pipeline.matching.characters import word_spans
from pipeline.storage.location import Location
from pipeline.storage.parquet import write_parquet
from query_list.config import BUILD_VERSION
from query_list.counting import SpillingCounter
from query_list.dump import read_namespaces, read_pages
from query_list.prose import read_article
from query_list.title_case import name_of_article

__all__ = ["PAGES", "CountRange", "Counted", "neighbours"]

PAGES = pa.schema(
    [
        pa.field("title", pa.string(), nullable=False),
        pa.field("redirect", pa.string()),  # the title that it leads to, null for an article
        pa.field("disambiguation", pa.bool_(), nullable=False),
        pa.field("name", pa.string()),  # of an article: the title in the case of its own prose
    ]
)
"""One page of the article namespace."""
_SPACES = np.array([ord(c) for c in " \t\u00a0\u2009\u202f"], np.uint32)


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What a range of a dump holds. A part tells its number of `words`."""

    words: Location = output("words.arrow")
    """counting.COUNTS, a batch per bucket; so are the bigrams."""
    bigrams: Location = output("bigrams.arrow")
    pages: Location = output("pages.parquet", PAGES)


@dataclass(frozen=True, kw_only=True)
class CountRange(Task[Counted]):
    """Read one byte range of a dump part."""

    dump: Location
    begin: int
    end: int
    num_buckets: int
    max_entries: int = apart()
    disambiguation_templates: tuple[str, ...]
    disambiguation_suffix: str
    title_words: tuple[str, ...]
    lowercase_templates: tuple[str, ...]
    function_words: tuple[str, ...]

    version = BUILD_VERSION

    def work(self, out: Counted) -> Info:
        words, bigrams = (
            SpillingCounter(file.local, num_buckets=self.num_buckets, max_entries=self.max_entries)
            for file in (out.words, out.bigrams)
        )
        info = {"pages": 0, "articles": 0, "redirects": 0, "disambiguations": 0, "broken_pages": 0, "words": 0}
        try:
            rows = list(self._pages(words, bigrams, info))
            write_parquet(out.pages.local, pa.Table.from_pylist(rows, schema=PAGES), PAGES)
            info["distinct_words"] = words.write(out.words.local)
            info["distinct_bigrams"] = bigrams.write(out.bigrams.local)
        finally:
            words.close()
            bigrams.close()
        return {**info, "rows": info["pages"]}

    def _pages(
        self, words: SpillingCounter, bigrams: SpillingCounter, info: dict[str, int]
    ) -> Iterator[dict[str, Any]]:
        namespaces = read_namespaces(self.dump.path)
        templates = frozenset(self.disambiguation_templates)
        suffix = self.disambiguation_suffix
        title_words = frozenset(self.title_words)
        lowercase_templates = frozenset(self.lowercase_templates)
        function_words = frozenset(self.function_words)
        for page in read_pages(self.dump.path, self.begin, self.end):
            info["pages"] += 1
            if page.broken or not page.title:
                info["broken_pages"] += 1
                continue
            if page.redirect is not None:
                info["redirects"] += 1
                yield {"title": page.title, "redirect": page.redirect, "disambiguation": False, "name": None}
                continue
            article = read_article(page.text, namespaces)
            if article is None:
                info["broken_pages"] += 1  # its name still counts
            disambiguation = bool(suffix and page.title.endswith(suffix)) or bool(
                article and not templates.isdisjoint(article.templates)
            )
            name = page.title
            if article is not None and not disambiguation:
                name = name_of_article(
                    page.title,
                    article.prose,
                    page.text,
                    article.templates,
                    title_words=title_words,
                    lowercase_templates=lowercase_templates,
                    function_words=function_words,
                )
            yield {"title": page.title, "redirect": None, "disambiguation": disambiguation, "name": name}
            if disambiguation:
                info["disambiguations"] += 1  # a list of names, not prose
            elif article is not None:
                info["articles"] += 1
                found, pairs = neighbours(article.prose)
                info["words"] += len(found)
                words.add(found)
                bigrams.add(pairs)


def neighbours(prose: str) -> tuple[list[str], list[str]]:
    """The words of a text, and "first second" of those that only white space of one line separates."""
    text, starts, ends = word_spans(prose)
    found = [text[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    solid = np.concatenate(([0], np.cumsum(~np.isin(points, _SPACES))))
    gap_is_space = (solid[starts[1:]] == solid[ends[:-1]]) & (starts[1:] > ends[:-1])
    pairs = zip(compress(found, gap_is_space), compress(found[1:], gap_is_space), strict=True)
    return found, [f"{first} {second}" for first, second in pairs]
