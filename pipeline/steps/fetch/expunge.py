"""expunge: a fetch task's pictures and facts -> the same without what a list of hashes names by now.

The tar is written anew: in a bucket there are no holes. Of a picture that goes nothing is told but what is told of one
that a list forbade from the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.engine import Done, Info, Task, apart
from pipeline.pictures.pdq_record import Pdq
from pipeline.pictures.rejected import Rejected
from pipeline.records.schema import FACTS
from pipeline.stages.check_image.config import ImageConfig
from pipeline.stages.check_image.isolate import IsolatedChecker
from pipeline.stages.privacy.hash_lists import FILE_HASHES, HashLists
from pipeline.steps.fetch.facts import STORED, Answers, answers_of, read_facts
from pipeline.steps.fetch.pictures import Pictures, Published, by_bytes, pictures_of
from pipeline.steps.fetch.salvage import kept_rows
from pipeline.storage.location import Location
from pipeline.storage.parquet import write_parquet
from pipeline.storage.place import Place, place_of
from pipeline.storage.tar import TarWriter

__all__ = ["Expunge", "expunge", "listed_in"]


@dataclass(frozen=True, kw_only=True)
class Expunge(Task[Answers]):
    """Leave some pictures out."""

    facts: Location
    tar: Location
    hits: Mapping[str, Mapping[str, Any]]
    """`url_id` in hex -> its facts from now on."""
    info: Mapping[str, Any]
    """What the fetch task said, which holds for what is left."""
    lists: str
    """Their key."""
    store: str = apart()
    """The directory of the store of facts."""
    before: Published = apart()
    """The published version, where some of the pictures lie alone."""

    def work(self, out: Answers) -> Info:
        orders = (self.info["first"], self.info["last"])
        rows = read_facts(self.facts, orders, STORED.names).to_pylist()
        hits = {bytes.fromhex(url_id): facts for url_id, facts in self.hits.items()}
        left = [row for row in rows if row["url_id"] not in hits]
        gone = [{"url_id": row["url_id"], **hits[row["url_id"]]} for row in rows if row["url_id"] in hits]
        with Pictures(place_of(self.store), self.before) as pictures, TarWriter(out.tar.local) as tar:
            kept = [*kept_rows(left, pictures, tar, is_whole=True), *gone]
        write_parquet(out.facts.local, pa.Table.from_pylist(kept, schema=FACTS), FACTS)
        success = sum(1 for row in kept if row["status"] == "success")
        return {**self.info, "rows": len(kept), "success": success, "lists": self.lists}


def expunge(
    store: Place, record: Done, hits: Mapping[bytes, Mapping[str, Any]], lists: HashLists, before: Published
) -> Expunge:
    """The one task, in the store of facts; `record` is of the task that wrote the facts. Its name is new: whoever
    relies on the old files must see that they are gone."""
    answers = answers_of(record, store)
    assert answers is not None
    return Expunge(
        partition=f"{record.partition}-{answers.facts.digest[:8]}",
        facts=answers.facts,
        tar=answers.tar,
        hits={url_id.hex(): facts for url_id, facts in sorted(hits.items())},
        info=record.info,
        lists=lists.key,
        store=str(store),
        before=before,
    )


def listed_in(
    record: Done, directory: Place, store: Place, lists: HashLists, before: Published
) -> dict[bytes, dict[str, Any]]:
    """`url_id` -> its facts from now on, of the pictures of a fetch or import task that are listed. Raises
    DamagedFileError.

    Where the facts have no PDQ, since no list asked for it then, that of the picture as it is stored is taken.
    """
    rows = pictures_of(record, directory, store)
    hits: dict[bytes, dict[str, Any]] = {}
    for row in rows:
        digests = {kind: row[kind] for kind in FILE_HASHES if kind != "sha256"}
        digests["sha256"] = None if row["sha256"] is None else bytes.fromhex(row["sha256"])
        name = lists.match_digests(digests)
        if name is None and row["pdq"] is not None:
            name = lists.match_pdq(Pdq(hashes=row["pdq"], quality=row["pdq_quality"]))
        if name is not None:
            hits[row["url_id"]] = lists.facts_of_hit(name)
    if lists.wants_pdq:
        unseen = [row for row in rows if row["pdq"] is None and row["url_id"] not in hits]
        for url_id, pdq in _looked_at(unseen, store, before):
            if (name := lists.match_pdq(pdq)) is not None:
                hits[url_id] = lists.facts_of_hit(name)
    return hits


_AS_STORED = ImageConfig(resize_mode="no", min_side=1, max_aspect_ratio=0.0, isolate="unsafe")


def _looked_at(rows: list[dict[str, Any]], store: Place, before: Published) -> Iterator[tuple[bytes, Pdq | None]]:
    with Pictures(store, before) as pictures, IsolatedChecker(_AS_STORED, with_pdq=True) as checker:
        for some in by_bytes(rows):
            for row, image in zip(some, pictures.find(some), strict=True):
                if image is not None:
                    (checked,) = checker.check([image])
                    yield row["url_id"], None if isinstance(checked, Rejected) else checked.pdq
