"""Taking pictures out of work/: their bytes in staging tars, their facts, and the plan's rows of what came of them.

    work/fetch, its imports   FACTS: status failed, reason `removed`, nothing else left; the tar's bytes are zeros
    FETCHED of each step      the same, beside the link, which stays as the sources have it
    work/released             which pictures lie in the published version alone: without these

Done-records say what the files are now, so `verify --work` finds all whole; the next run joins plan and facts anew.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.catalog.summaries import write_summaries
from pipeline.engine import Done, Records, amend, outputs_of, records_in
from pipeline.errors import DamagedFileError
from pipeline.records.removals import REMOVED
from pipeline.records.schema import FACTS, FETCHED, SELECTED
from pipeline.steps.fetch.facts import STORE, STORES, Answers, answers_of
from pipeline.steps.fetch.pictures import RELEASED
from pipeline.steps.step import Page, Step
from pipeline.storage.atomic import commit, temporary_name
from pipeline.storage.checked import digest_of, read_table
from pipeline.storage.copies import scratch_copy
from pipeline.storage.location import Location
from pipeline.storage.parquet import write_parquet
from pipeline.storage.place import Place
from pipeline.takedown.blank import blank_ranges
from pipeline.takedown.editing import edited, write_rows

__all__ = ["amended", "answers_in", "planned_in", "released_in", "take_out_of_work", "write_rows_of"]

_SAID = {"status": "failed_to_download", "stage": "fetch", "reason": REMOVED}
"""What is said of a removed answer; `detail` and all else is null."""
_ID = pa.binary(16)


def answers_in(page: Page) -> Iterator[tuple[Place, Done, Answers]]:
    """The facts of every fetch and import task, of this plan and of earlier ones."""
    for name in STORES:
        store = page.run.directory(STORE)
        directory = store if name == STORE else store / name.removeprefix(f"{STORE}/")
        for record in records_in(directory):
            answers = answers_of(record, directory)
            if answers is not None:
                yield directory, record, answers


def planned_in(page: Page) -> Iterator[tuple[Step[object], str]]:
    """The steps whose rows say what came of a planned pair, and the output that has them."""
    for step in page.steps:
        for field, about in outputs_of(step.data.out).items():
            if about.rows is FETCHED:
                yield step, field


def take_out_of_work(page: Page, url_ids: Iterable[bytes], advance: Callable[[int], None] = lambda _: None) -> int:
    """Take the pictures of `url_ids` out of everything beneath the published version; returns how many facts there were
    of them. Calls `advance(facts)` after each file. Raises DamagedFileError where a file is not what was written."""
    ids = pa.array(sorted(url_ids), _ID)
    found = _facts_go(page, ids, advance)
    for step, field in planned_in(page):
        end = outputs_of(step.data.out)[field].files("")[0]
        changed = [_rows_go(record, step.data.directory, end, ids) for record in Records.of(step.data.directory)]
        amend(step.data.directory, [record for record in changed if record is not None])
    _released_go(page.run.output, ids)
    if page.run.directory("summaries").is_dir():
        write_summaries(page)
    return found


def _facts_go(page: Page, ids: pa.Array, advance: Callable[[int], None]) -> int:
    found, digests, changed = 0, dict[str, str](), dict[Place, list[Done]]()
    for directory, record, answers in answers_in(page):
        present, files = _answers_go(answers, ids)
        if not present:
            continue
        found += present
        advance(present)
        digests[answers.facts.name] = files[answers.facts.name][0]
        changed.setdefault(directory, []).append(amended(record, files))
    for directory, records in changed.items():
        amend(directory, records)
    _splits_follow(page, digests)
    return found


def _answers_go(answers: Answers, ids: pa.Array) -> tuple[int, Mapping[str, tuple[str, int]]]:
    """(how many of `ids` are in a file of facts, name -> digest and size of the files that have them, afterwards)."""
    if not _names_any(answers.facts, ids):
        return 0, {}
    table = _read(answers.facts, ids)
    named = pc.is_in(table["url_id"], ids)
    present = int(pc.sum(named).as_py())
    rows = table.filter(named)
    kept = rows.filter(pc.is_valid(rows["tar_offset"]))
    with edited(answers.tar.place) as tar:
        places = zip(kept["tar_offset"].to_pylist(), kept["num_bytes"].to_pylist(), strict=True)
        blank_ranges(tar, places)
        of_tar = digest_of(tar), tar.stat().st_size
    if pc.any(pc.not_equal(pc.fill_null(rows["reason"], ""), REMOVED)).as_py():
        write_rows(answers.facts.place, _without(table, named))
    return present, {answers.facts.name: _about(answers.facts.place), answers.tar.name: of_tar}


def _rows_go(record: Done, directory: Place, end: str, ids: pa.Array) -> Done | None:
    """Take `ids` out of a task's rows; its record afterwards, None where none was there."""
    for name, file in record.located(directory).items():
        if not name.endswith(end) or not file.place.exists():
            continue
        if not _names_any(file, ids):
            return None
        table = _read(file, ids)
        named = pc.is_in(table["url_id"], ids)
        rows = table.filter(named)
        if pc.any(pc.not_equal(pc.fill_null(rows["reason"], ""), REMOVED)).as_py():
            table = _without(table, named)
            write_rows(file.place, table)
        success = int(pc.sum(pc.equal(table["status"], "success")).as_py() or 0)
        changed = amended(record, {name: _about(file.place)})
        return dataclasses.replace(changed, info={**record.info, "success": success})
    return None


def _names_any(file: Location, ids: pa.Array) -> bool:
    """Whether a file has any of `ids`: most have none, and are read no further. Nobody vouches for it here."""
    return bool(pc.any(pc.is_in(read_table(Location(file.path), ["url_id"])["url_id"], ids)).as_py())


def _read(file: Location, ids: pa.Array) -> pa.Table:
    """The rows, held against the record; of a removal that was cut short the record may be the older one. Raises
    DamagedFileError."""
    try:
        return read_table(file)
    except DamagedFileError:
        table = read_table(Location(file.path))
        rows = table.filter(pc.is_in(table["url_id"], ids))
        if rows.num_rows and pc.all(pc.equal(rows["reason"], REMOVED)).as_py():
            return table
        raise


def _without(table: pa.Table, named: pa.ChunkedArray) -> pa.Table:
    """The rows, with nothing in those that are `named` but that they were removed; links stay."""
    of_answer = {*FACTS.names, *FETCHED.names} - {*SELECTED.names}
    for place, field in enumerate(table.schema):
        if field.name in of_answer:
            said = pa.scalar(_SAID.get(field.name), field.type)
            table = table.set_column(place, field, pc.if_else(named, said, table.column(place)))
    return table


def _about(place: Place) -> tuple[str, int]:
    """Digest and size."""
    if isinstance(place, Path):
        return digest_of(place), place.stat().st_size
    with scratch_copy(place) as copy:
        return digest_of(copy), copy.stat().st_size


def write_rows_of(place: Place, rows: pa.Table, *, but: pa.Table) -> tuple[str, int]:
    """Replace a Parquet by these rows, unless they are as many as there are, `but`; its digest and size."""
    if rows.num_rows < but.num_rows:
        write_rows(place, rows)
    return _about(place)


def amended(record: Done, files: Mapping[str, tuple[str, int]]) -> Done:
    """What a record says of its task where these files are others by now, name -> digest and size."""
    outputs = {**record.outputs, **{name: digest for name, (digest, _) in files.items()}}
    sizes = {**record.num_bytes, **{name: size for name, (_, size) in files.items()}}
    return dataclasses.replace(record, outputs=outputs, num_bytes=sizes)


def _splits_follow(page: Page, digests: Mapping[str, str]) -> None:
    """Let the splits of `requests` rely on the facts as they are now, or they would be made anew twice."""
    directory = page.run.directory("requests")
    changed = []
    for record in Records.of(directory):
        relied = record.info.get("digests", {})
        if now := {name: digests[name] for name in relied if digests.get(name, relied[name]) != relied[name]}:
            changed.append(dataclasses.replace(record, info={**record.info, "digests": {**relied, **now}}))
    amend(directory, changed)


def released_in(output: Place) -> list[Path]:
    """Directories of notes about pictures that lie in the published version alone."""
    directory = output / RELEASED
    return sorted(directory.iterdir()) if isinstance(directory, Path) and directory.is_dir() else []


def _released_go(output: Place, ids: pa.Array) -> None:
    """A record's name holds its hash: another takes its place."""
    for record in (path for directory in released_in(output) for path in sorted(directory.glob("*.parquet"))):
        table = read_table(Location(str(record)))
        rows = table.filter(pc.invert(pc.is_in(table["url_id"], ids)))
        if rows.num_rows == table.num_rows:
            continue
        shard, end = record.name.partition("-")[0], record.name.partition(".")[2]
        temporary = temporary_name(record)
        write_parquet(temporary, rows, rows.schema)
        commit(temporary, record.with_name(f"{shard}-{digest_of(temporary)}.{end}"))
        record.unlink()
