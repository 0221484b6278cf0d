"""What of a set a removal means: samples that are published, and answers that are kept in the store of facts.

    shards/*.parquet: uid, url_id, sha256, host of url --> Gone         FACTS: url_id, sha256, redirects --> url_ids

A pair's uid stands for its picture: it does not come back under another caption. A picture whose URL was redirected to
one that is named, or to a host that is, goes as well, as far as the store of facts knows of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.records.removals import Removals
from pipeline.stages.fetch.block import BlockList
from pipeline.storage.checked import read_batches, read_schema
from pipeline.storage.location import Location
from pipeline.takedown.delta import Gone

__all__ = ["Meant", "also_meant", "ids_in_plan", "named_in_facts", "samples_named"]

_AUTHORITY = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://([^/?#\\]*)")
_ID = pa.binary(16)


class Meant:
    """The rows that a removal means."""

    def __init__(self, removals: Removals) -> None:
        self._removals = removals
        self._block = BlockList(removals=removals)
        self._url_ids, self._uids = (pa.array(sorted(ids), _ID) for ids in (removals.url_ids, removals.uids))
        self._sha256 = pa.array(sorted(removals.sha256), pa.string())
        self._hosts: dict[str, bool] = {}

    def rows(self, table: pa.Table | pa.RecordBatch) -> pa.Array | pa.ChunkedArray:
        """bool[N]: by those of `url_id`, `uid`, `sha256`, `url` and `redirects` that are columns."""
        found = pa.array([False] * table.num_rows, pa.bool_())
        names = table.schema.names
        for column, values in (("url_id", self._url_ids), ("uid", self._uids), ("sha256", self._sha256)):
            if column in names and len(values):
                found = pc.or_(found, pc.is_in(table.column(column), values))
        if "url" in names and self._removals.hosts:
            found = pc.or_(found, self._by_host(table.column("url")))
        if "redirects" in names and (self._removals.hosts or self._removals.url_ids):
            found = pc.or_(found, self._by_redirect(table.column("redirects")))
        return found

    def _by_host(self, urls: pa.Array | pa.ChunkedArray) -> pa.Array:
        return pa.array([self._is_host_named(url) for url in urls.to_pylist()], pa.bool_())

    def _is_host_named(self, url: str) -> bool:
        match = _AUTHORITY.match(url)
        authority = match[1] if match else ""
        if authority not in self._hosts:
            self._hosts[authority] = self._is_url_named(f"http://{authority}/")
        return self._hosts[authority]

    def _is_url_named(self, url: str) -> bool:
        try:
            return self._block.match_url(url) is not None
        except ValueError:
            return False

    def _by_redirect(self, redirects: pa.Array | pa.ChunkedArray) -> pa.Array:
        if redirects.null_count == len(redirects):
            return pa.array([False] * len(redirects), pa.bool_())
        return pa.array([any(map(self._is_url_named, urls or ())) for urls in redirects.to_pylist()], pa.bool_())


def samples_named(
    shards: Sequence[tuple[str, Location]], removals: Removals, also: Iterable[bytes] = ()
) -> Iterator[Gone]:
    """The samples of `shards` (tar's name, Parquet) that go: those named, those whose url_id is in `also`, and all of a
    picture of which one goes by its uid. Raises DamagedFileError."""
    meant = Meant(removals | Removals(url_ids=frozenset(also)))
    found = list(_samples(shards, meant))
    if removals.uids:  # of which a picture may have several
        pictures = frozenset(gone.url_id for gone in found if gone.uid in removals.uids)
        found = list(_samples(shards, Meant(removals | Removals(url_ids=pictures | frozenset(also)))))
    yield from found


def _samples(shards: Sequence[tuple[str, Location]], meant: Meant) -> Iterator[Gone]:
    columns = ["uid", "url_id", "url", "sha256", "tar_offset"]
    for tar, parquet in shards:
        for batch in read_batches(parquet, columns=columns):
            rows = batch.filter(meant.rows(batch)).drop_columns(["url"])
            yield from (Gone(**row, shard=tar) for row in rows.to_pylist())


def also_meant(removals: Removals, samples: Iterable[Gone], answers: Iterable[bytes]) -> Removals:
    """`removals`, the pictures of those pairs that it names by uid, and those that it means by their `answers`."""
    pictures = frozenset(gone.url_id for gone in samples if gone.uid in removals.uids)
    return removals | Removals(url_ids=pictures | frozenset(answers))


def named_in_facts(files: Iterable[Location], removals: Removals) -> set[bytes]:
    """The url_ids of facts that are meant by their body or their redirects. Raises DamagedFileError."""
    return _ids(files, ("url_id", "sha256", "redirects"), removals)


def ids_in_plan(files: Iterable[Location], removals: Removals) -> set[bytes]:
    """The url_ids of pairs, with their URLs, that are meant by their host or uid. Raises DamagedFileError."""
    return _ids(files, ("url_id", "uid", "url"), removals)


def _ids(files: Iterable[Location], columns: Sequence[str], removals: Removals) -> set[bytes]:
    meant, found = Meant(removals), set[bytes]()
    for file in files:
        names = set(read_schema(file).names)
        for batch in read_batches(file, columns=[name for name in columns if name in names]):
            found.update(_ids_of(batch.filter(meant.rows(batch))))
    return found


def _ids_of(batch: pa.RecordBatch) -> list[Any]:
    ids: list[Any] = batch.column("url_id").to_pylist()
    return ids
