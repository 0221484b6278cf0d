"""What a removal leaves in the set's books: a line of the ledger and a rejection a sample, until the next run.

work/takedown/all.rejections.parquet: where each was found, its uid, `removed`         OUT/ledger.json: takedown
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.engine import Done, amend
from pipeline.engine.record import write_manifest
from pipeline.records.ledger import Line, totals
from pipeline.records.outcome import reject
from pipeline.records.removals import REMOVED
from pipeline.records.schema import REJECTIONS
from pipeline.steps.step import Page
from pipeline.storage.atomic import read_json, write_json
from pipeline.storage.checked import digest_of, read_table
from pipeline.storage.copies import scratch_copy
from pipeline.storage.location import Location
from pipeline.storage.place import Place
from pipeline.takedown.delta import Gone
from pipeline.takedown.editing import write_rows

__all__ = ["STAGE", "enter", "enter_replacements"]

STAGE = "takedown"
_FINAL, _RESERVE = "final_balance", "reserve_not_needed"
_WHERE_FOUND = ("source", "record", "link", "uid")


def enter(output: Place, parquet: Sequence[tuple[str, Location]], samples: Sequence[Gone], published: int) -> None:
    """Enter `samples`, whose rows are in `parquet` (tar's name, file) still; once each, however often it is called.

    `published` samples were there before, as far as no removal of this version is entered yet.
    """
    directory = output / "work" / STAGE
    place = directory / "all.rejections.parquet"
    before = read_table(Location(str(place))) if place.is_file() else REJECTIONS.empty_table()
    entered = set(before["uid"].to_pylist())
    rows = pa.concat_tables([before, *_rejections(parquet, [gone for gone in samples if gone.uid not in entered])])
    if rows.num_rows > before.num_rows:
        write_rows(place, rows)
    if rows.num_rows:
        _vouch(directory, place)
        _write_line(output, rows.num_rows, published)


def enter_replacements(page: Page, added: int) -> None:
    """Say that `added` samples came from the reserve, which the final balance had turned away. The sum is made of what
    that said itself, so that it may be said again."""
    output = page.run.output
    content = read_json(output / "ledger.json")
    (said,) = (line for line in totals(page[_FINAL].data.said()) if line.stage == _FINAL)
    said.kept += added
    said.rejected[_RESERVE] -= added
    said.rejected = {reason: count for reason, count in said.rejected.items() if count}
    said.check()
    lines = [vars(said) if line["stage"] == _FINAL else line for line in content["lines"]]
    for line in lines:
        if line["stage"] == STAGE:
            line["rows_in"], line["kept"] = said.kept, said.kept - sum(line["rejected"].values())
    write_json(output / "ledger.json", {"lines": lines})


def _rejections(parquet: Sequence[tuple[str, Location]], samples: Sequence[Gone]) -> list[pa.Table]:
    uids = pa.array([gone.uid for gone in samples], pa.binary(16))
    shards, found = {gone.shard for gone in samples}, []
    for tar, file in parquet:
        if tar in shards:
            table = read_table(file, list(_WHERE_FOUND))
            rows = table.filter(pc.is_in(table["uid"], uids)).combine_chunks()
            for batch in rows.to_batches():
                reasons = pa.array([REMOVED] * batch.num_rows, pa.string())
                found.append(pa.Table.from_batches([reject(batch, stage=STAGE, reasons=reasons).rejected]))
    return found


def _vouch(directory: Place, place: Place) -> None:
    """A record, by which a run sweeps the directory, and a manifest, by which the catalog finds the file."""
    if isinstance(place, Path):
        digest, size = digest_of(place), place.stat().st_size
    else:
        with scratch_copy(place) as copy:
            digest, size = digest_of(copy), copy.stat().st_size
    record = Done(partition="all", key="", outputs={place.name: digest}, num_bytes={place.name: size})
    amend(directory, [record])
    write_manifest(directory, [record])


def _write_line(output: Place, removed: int, published: int) -> None:
    content = read_json(output / "ledger.json")
    lines = [] if content is None else content["lines"]
    published = next((int(line["rows_in"]) for line in lines if line["stage"] == STAGE), published)
    lines = [line for line in lines if line["stage"] != STAGE]
    line = Line(stage=STAGE, unit="pair", rows_in=published, kept=published - removed, rejected={REMOVED: removed})
    line.check()
    write_json(output / "ledger.json", {"lines": [*lines, vars(line)]})
