"""One bucket of keys: its totals over all that was counted."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow.compute as pc

from pipeline.engine import Data, Info, Task, output
from pipeline.storage.location import Files, Location
from query_list.config import BUILD_VERSION
from query_list.counting import read_bucket, sum_counts, write_buckets

__all__ = ["MergeBucket", "Merged", "Totals"]


@dataclass(frozen=True, kw_only=True)
class Merged:
    """The totals of a bucket, each in the form of counting.COUNTS, in one batch."""

    words: Location = output("words.arrow")
    bigrams: Location = output("bigrams.arrow")
    views: Location = output("views.arrow")


@dataclass(frozen=True, kw_only=True)
class MergeBucket(Task[Merged]):
    """Add up one bucket's words, bigrams and views, without those under their minimum."""

    bucket: int
    words: Files
    bigrams: Files
    views: Files
    min_words: int
    min_bigrams: int

    version = BUILD_VERSION

    def work(self, out: Merged) -> Info:
        words = self._add_up(self.words, out.words, self.min_words)
        bigrams = self._add_up(self.bigrams, out.bigrams, self.min_bigrams)
        return {"rows": words + bigrams + self._add_up(self.views, out.views, 1)}

    def _add_up(self, counted: Files, out: Location, least: int) -> int:
        total = sum_counts(read_bucket(file.place, self.bucket) for file in counted)
        return write_buckets(out.local, [total.filter(pc.greater_equal(total.column("count"), least))])


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Those of all buckets, in their order."""

    words: Files
    bigrams: Files
    views: Files

    @classmethod
    def of(cls, data: Data[Merged]) -> Totals:
        """What the finished step wrote."""
        return cls(
            words=data.files(lambda out: out.words),
            bigrams=data.files(lambda out: out.bigrams),
            views=data.files(lambda out: out.views),
        )
