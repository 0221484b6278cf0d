"""remove and compact: what is asked to go, goes at once for all readers of ours, and its bytes right after, or later.

    remove   lock -> finish what was begun -> match -> OUT/removed/*.json -> ledger, tombstones -> compact (on a disk)
    compact  each delta that was begun: shards -> work/ -> the delta is done, signed if asked -> no tombstones

A kill at any point leaves a delta that was begun or none; the same command, or `compact`, goes on from there.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.load import ConfigError
from pipeline.catalog.catalog import joined_files
from pipeline.engine import steps_in
from pipeline.errors import InputError
from pipeline.pages import config_of, page_of, views_of
from pipeline.records.removals import REMOVED, TOMBSTONES, Removals, begun_in, lists_of, read_removals, tombstones_of
from pipeline.runs.run import opened
from pipeline.steps.step import Page
from pipeline.storage.atomic import sweep, write_bytes, write_sealed
from pipeline.storage.bucket import BucketPath
from pipeline.storage.location import Location
from pipeline.storage.output import is_output, open_output
from pipeline.storage.place import Place, place_of
from pipeline.takedown import account
from pipeline.takedown.delta import Delta, FileChange, Gone, read_delta
from pipeline.takedown.editing import write_rows
from pipeline.takedown.matching import also_meant, ids_in_plan, named_in_facts, samples_named
from pipeline.takedown.published import manifest_at, origin_of, parquet_of, rows_without, take_out_of_shards
from pipeline.takedown.replace import replace
from pipeline.takedown.sign import signed
from pipeline.takedown.work import answers_in, planned_in, released_in, take_out_of_work
from pipeline.terminal.progress import Progress

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = ["Removed", "begin", "compact", "files_before", "finish", "held_set", "remove", "shards_of", "would_go"]


@dataclass(frozen=True, kw_only=True)
class Removed:
    """What a removal did, or would do."""

    delta: Delta
    file: Place | None
    """Where the delta is; None where nothing is new, or nothing was done."""
    answers: int = 0
    """Facts about pictures in the store."""
    replaced: int = 0
    """Samples that came from the reserve."""


def remove(
    output: Place,
    removals: Removals,
    *,
    reason: str = "",
    key: Ed25519PrivateKey | None = None,
    with_replacements: bool = False,
    progress: Progress | None = None,
) -> Removed:
    """Take what `removals` name out of the data set in `output`, for good; in a bucket, hide it until `compact`.

    The delta is signed with `key`. `with_replacements`, what the queries lost is filled up from the reserve. What an
    earlier, killed removal left on a disk is finished first. Raises InputError where nothing is published, OutputError,
    LockedError, DamagedFileError where a file is not what was written.
    """
    progress = progress or Progress()
    with held_set(output, progress):
        finished = [] if isinstance(output, BucketPath) else list(_compacted(output, key))
        asked = removals - _known(output)
        matched = _matched(output, removals)
        if not (asked or matched.samples):
            gone = finished[-1] if finished else Removed(delta=_delta(output, removals, (), reason), file=None)
            return _replaced(output, gone) if with_replacements else gone
        begun = _delta(output, also_meant(removals, matched.samples, matched.url_ids), matched.samples, reason)
        file = begin(output, begun)
        if isinstance(output, BucketPath):
            return Removed(delta=begun, file=file, answers=len(matched.url_ids))
        done, answers = finish(output, file, key)
        gone = Removed(delta=done, file=file, answers=answers)
        return _replaced(output, gone) if with_replacements else gone


def _replaced(output: Place, gone: Removed) -> Removed:
    page, shards = _page(output), shards_of(output)
    if page is None or not isinstance(shards, Path):
        raise ConfigError(f"--replace: {output} has no reserve; only a set on a disk, with its work/, may have one")
    return dataclasses.replace(gone, replaced=replace(page, shards))


def would_go(output: Place, removals: Removals, *, progress: Progress | None = None) -> Removed:
    """What `remove` would take; changes nothing."""
    with held_set(output, progress or Progress()):
        matched = _matched(output, removals)
        delta = _delta(output, removals, matched.samples, "")
        return Removed(delta=delta, file=None, answers=len(matched.url_ids))


def compact(
    output: Place, *, key: Ed25519PrivateKey | None = None, progress: Progress | None = None
) -> Sequence[Removed]:
    """Take the bytes of what was removed out of every file, as far as that is not done. Raises as `remove` does."""
    with held_set(output, progress or Progress()):
        return list(_compacted(output, key))


def _compacted(output: Place, key: Ed25519PrivateKey | None) -> Iterator[Removed]:
    for file in begun_in(output):
        _sweep(output)
        begin(output, read_delta(place_of(file)))  # what of it a kill kept from being said
        done, answers = finish(output, place_of(file), key)
        yield Removed(delta=done, file=place_of(file), answers=answers)


def _sweep(output: Place) -> None:
    """Remove unfinished files of a removal that was killed."""
    page, work = _page(output), output / "work"
    sweep(shards_of(output))
    for directory in (work / "shards", work / account.STAGE, *steps_in(work)) if work.is_dir() else ():
        sweep(directory)
        sweep(directory / "done")
    if page is not None:
        for directory in {directory for directory, _, _ in answers_in(page)}:
            sweep(directory)
        for directory in released_in(output):
            sweep(directory)


# --- one removal ----------------------------------------------------------------------------------


def begin(output: Place, delta: Delta) -> Place:
    """Write down what goes: from here on it is removed. Returns the delta's file."""
    file = output / REMOVED / delta.name
    sweep(output / REMOVED)
    write_bytes(file, delta.content())
    shards = shards_of(output)
    manifest = manifest_at(shards)
    if is_output(output):
        there = [gone for gone in delta.samples if gone.shard in {entry["name"] for entry in manifest["shards"]}]
        if manifest["fingerprint"] == delta.before:
            account.enter(output, list(parquet_of(shards, manifest)), there, manifest["samples"])
    _write_tombstones(output)
    return file


def finish(output: Place, file: Place, key: Ed25519PrivateKey | None = None) -> tuple[Delta, int]:
    """Take what the begun delta in `file` names out of every file; returns it as it is then, and how many facts there
    were of it."""
    shards, page = shards_of(output), _page(output)
    delta = _rebased(output, read_delta(file), manifest_at(shards))
    done = dataclasses.replace(delta, state="done", after=delta.before)
    if manifest_at(shards)["fingerprint"] in (delta.before, _after_of(shards, delta)):  # else a run has published anew
        work = output / "work" / "shards"
        done = dataclasses.replace(take_out_of_shards(shards, work if work.is_dir() else None, delta), state="done")
    _joined_go(output, delta.samples)
    answers = 0 if page is None else take_out_of_work(page, _pictures(page, delta.removals, delta.samples))
    done = done if key is None else signed(done, key)
    _write_tombstones(output, but=file)
    write_bytes(file, done.content())
    return done, answers


def _joined_go(output: Place, samples: Sequence[Gone]) -> None:
    """Take the samples out of the tables that users have joined, whatever these say of them."""
    for place in joined_files(output).values():
        rows, went = rows_without(Location(str(place)), samples)
        if went:
            write_rows(place, rows)


def _rebased(output: Place, delta: Delta, manifest: Mapping[str, Any]) -> Delta:
    """The delta, said of the version that it finds: others that were begun before it may be done by now."""
    done = (read_delta(place_of(file)) for file in lists_of(output))
    if manifest["fingerprint"] not in (each.after for each in done if each.state == "done"):
        return delta
    files = files_before(manifest, {gone.shard for gone in delta.samples})
    return dataclasses.replace(delta, before=manifest["fingerprint"], files=files)


def _after_of(shards: Place, delta: Delta) -> str:
    """The present fingerprint, if it is of a version that came of the delta's."""
    manifest = manifest_at(shards)
    return str(manifest["fingerprint"]) if origin_of(manifest) == delta.origin else ""


def _write_tombstones(output: Place, *, but: Place | None = None) -> None:
    """Of every delta that is begun `but` one; none where none is."""
    begun = [read_delta(place_of(file)) for file in begun_in(output) if file != str(but)]
    uids = sorted({gone.uid.hex() for delta in begun for gone in delta.samples})
    place = shards_of(output) / TOMBSTONES
    if uids:
        write_sealed(place, {"uids": uids})
    else:
        place.unlink(missing_ok=True)


def _delta(output: Place, removals: Removals, samples: Sequence[Gone], reason: str) -> Delta:
    manifest = manifest_at(shards_of(output))
    return Delta(
        when=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        reason=reason,
        origin=origin_of(manifest),
        before=manifest["fingerprint"],
        removals=removals,
        samples=tuple(samples),
        files=files_before(manifest, {gone.shard for gone in samples}),
    )


def files_before(manifest: Mapping[str, Any], shards: set[str]) -> dict[str, FileChange]:
    """The files that change where these tars do."""
    found = {}
    for entry in manifest["shards"]:
        if entry["name"] in shards:
            found[entry["name"]] = FileChange(before=entry["sha256"], after="")
            found[entry["parquet"]] = FileChange(before=entry["parquet_sha256"], after="")
    return found


# --- what is meant ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Matched:
    samples: Sequence[Gone]
    url_ids: set[bytes]
    """Of pictures that go by what is known of their answers, published or not."""


def _matched(output: Place, removals: Removals) -> _Matched:
    shards, page = shards_of(output), _page(output)
    also = set() if page is None else named_in_facts(_facts(page), removals)
    hidden = tombstones_of(shards)
    found = samples_named(list(parquet_of(shards, manifest_at(shards))), removals, also)
    samples = [gone for gone in found if gone.uid not in hidden]
    return _Matched(samples=samples, url_ids=also)


def _pictures(page: Page, removals: Removals, samples: Sequence[Gone]) -> set[bytes]:
    """The url_ids of everything that is meant: what is published, what is kept, and what was planned. Where a kill came
    in between, records do not vouch for the files that are changed already; they are held against them after this."""
    found = {gone.url_id for gone in samples} | removals.url_ids
    found |= named_in_facts((Location(file.path) for file in _facts(page)), removals)
    if removals.hosts or removals.uids:
        found |= ids_in_plan((Location(file.path) for file in _plan(page)), removals)
    return found


def _facts(page: Page) -> Iterator[Location]:
    return (answers.facts for _, _, answers in answers_in(page))


def _plan(page: Page) -> Iterator[Location]:
    """Every pair that may ever have been asked for: those that match, and those of the plan."""
    views = views_of(page)
    yield from views["matched"].data.present(views["matched"].field)
    for step, field in planned_in(page):
        yield from step.data.present(field)


def _known(output: Place) -> Removals:
    known = Removals()
    for file in lists_of(output):
        known |= read_removals(file)
    return known


# --- the set ---------------------------------------------------------------------------------------


def shards_of(output: Place) -> Place:
    """The published version of a data set, or `output` itself where it is a directory of shards."""
    return (output / "shards").resolve() if (output / "shards").is_dir() else output


def _page(output: Place) -> Page | None:
    """The page of a data set that has work/ of its own; none of a subset, whose config is its source's."""
    if (output / "subset.json").exists() or not is_output(output) or config_of(output) is None:
        return None
    return page_of(output)


@contextlib.contextmanager
def held_set(output: Place, progress: Progress) -> Iterator[None]:
    """The set, held by this process alone, with the store of pictures that it shares with others. Raises InputError
    where nothing is there, and as `open_output` does."""
    if not output.is_dir():
        raise InputError(f"{output}: no such directory; name that of a data set")
    manifest_at(shards_of(output))
    if not is_output(output):  # shards that were copied alone: nobody runs there
        yield
        return
    config = None if (output / "subset.json").exists() else config_of(output)
    with open_output(output, say=progress.say) if config is None else opened(output, config, progress):
        yield
