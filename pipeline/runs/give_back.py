"""give back the room that published pictures take in the staging tars, so that each lies on the disk once.

    publish --> work/released/VERSION-SEED/00000-HASH.begun.parquet (what lies where) --holes--> 00000-HASH.parquet
    the next version comes: pictures that it lacks --copy--> into their holes, before the version that has them goes

A hole reads as zeros, which no picture's hash fits, so whoever reads a picture looks for it in the published version
(`steps/fetch/pictures.py`). No place changes, and no key. A picture's room is given back only when its twin in the
shard was read and is whole. Not in a bucket, whose objects have no holes, nor in a store that several sets share.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.engine import records_in
from pipeline.errors import DamagedFileError, OutputError
from pipeline.records.schema import FETCHED
from pipeline.records.shard import extension_of
from pipeline.steps.fetch.facts import IMPORTS, STORE, stored_file
from pipeline.steps.fetch.pictures import RELEASED, Pictures, Published, by_bytes, grouped, pictures_of, released_with
from pipeline.steps.shards import WriteShard
from pipeline.steps.shards_config import ShardsConfig
from pipeline.steps.step import Page, Run
from pipeline.storage.atomic import commit, remove_tree, temporary_name, unwritable
from pipeline.storage.bucket import BucketPath
from pipeline.storage.checked import digest_of, read_table
from pipeline.storage.holes import can_punch, merged, punch
from pipeline.storage.location import Location
from pipeline.storage.parquet import write_parquet
from pipeline.storage.place import Place
from pipeline.storage.tar import header_of

__all__ = ["forget_tar", "give_back", "keep_pictures", "make_way_for"]


_PLACES = pa.schema(
    [FETCHED.field(name) for name in ("url_id", "stored_xxh3", "staging_tar", "tar_offset", "num_bytes")]
)
"""A picture, and its place in a staging tar."""
_BEGUN = ".begun.parquet"
_BETWEEN = 1024
"""Bytes of header and padding, at most, between two pictures of a tar."""
_AT_A_TIME = min(4, os.cpu_count() or 1)


def keep_pictures(run: Run, config: ShardsConfig, say: Callable[[str], None]) -> None:
    """Before the steps: all pictures go back where the config keeps them in the staging tars, and where the published
    version has the order of another seed, by which they would not be found. Raises OutputError, DamagedFileError."""
    if not isinstance(run.output, Path):
        return
    seed = released_with(run.output)
    if seed is not None and (config.keep_staging or seed != run.seed):
        _put_all_back(run, say)
        remove_tree(run.output / RELEASED)


def make_way_for(version: Place, *, run: Run, config: ShardsConfig, say: Callable[[str], None]) -> None:
    """Before another version takes the place of the published one: what that one alone has goes back. Raises
    OutputError, DamagedFileError."""
    if isinstance(version, BucketPath):
        if released_with(run.output) is not None:
            raise OutputError(
                f"{run.output}: was copied from a disk, and pictures of its published version lie in the shards alone; "
                "run there once with --shards.keep_staging true, and copy it again"
            )
        return
    _put_all_back(run, say, but=Published(shards=str(version), seed=run.seed))
    if not config.keep_staging and run.directory(STORE) == run.output / "work" / STORE:
        _directory_of(version, run).mkdir(parents=True, exist_ok=True)


def give_back(page: Page, version: Place, say: Callable[[str], None]) -> int:
    """Give back the room in the staging tars of all that the published `version` holds, if `make_way_for` has said so;
    goes on where a killed run stopped. Returns of how many samples. Nothing is done where the disk cannot."""
    if not isinstance(version, Path):
        return 0
    run, directory = page.run, _directory_of(version, page.run)
    done = {path.name.partition("-")[0] for path in directory.glob("*.parquet") if not path.name.endswith(_BEGUN)}
    if not directory.is_dir() or len(done) == len(page["shards"].data.parts):
        return 0
    store = _on_disk(run.directory(STORE))
    if not can_punch(store):
        remove_tree(directory)
        return 0
    _make_durable(version.parent, version.parent.parent)
    tasks = [task for task in page["shards"].cut(run) if isinstance(task, WriteShard) and task.partition not in done]
    published = Published(shards=str(version), seed=run.seed)
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        counts = list(pool.map(partial(_give_back_shard, published=published, store=store, directory=directory), tasks))
    if kept := sum(kept for _, kept in counts):
        say(
            f"damaged: {kept:,} pictures are not whole in their shards, and stay in work/fetch too; "
            "`python -m pipeline verify` names them"
        )
    for other in directory.parent.iterdir():
        if other != directory:
            remove_tree(other)
    return sum(released for released, _ in counts)


def forget_tar(run: Run, name: str) -> None:
    """Before a staging tar goes for good: what lay in it need not go back into another of its name. Raises OutputError,
    DamagedFileError."""
    if not isinstance(run.output, Path):
        return
    for record in sorted((run.output / RELEASED).rglob("*.parquet")):
        partition, _, rest = record.name.partition("-")
        digest, _, ending = rest.partition(".")
        rows = read_table(Location(str(record), digest))
        left = rows.filter(pc.not_equal(rows["staging_tar"], name))
        if len(left) < len(rows):
            temporary = temporary_name(record.with_name(partition))
            write_parquet(temporary, left, _PLACES)
            commit(temporary, record.with_name(f"{partition}-{digest_of(temporary)}.{ending}"))
            record.unlink()


def _put_all_back(run: Run, say: Callable[[str], None], *, but: Published | None = None) -> None:
    """Put pictures that lie in the published version alone back into their staging tars: all of them, or all `but`
    those that another version holds too. Raises OutputError, as on a full disk: nothing is lost then;
    DamagedFileError for facts."""
    seed = released_with(run.output)
    if seed is None:
        return
    published = Published(shards=str(run.output / "shards"), seed=seed)
    lost = 0
    for rows in _released(run, say):
        kept = {} if but is None else but.find(rows)
        with Pictures(run.directory(STORE), published) as pictures:
            for some in by_bytes([row for index, row in enumerate(rows) if index not in kept]):
                staged = pictures.staged(some)
                try:
                    holes = [row for row, there in zip(some, staged, strict=True) if there is None]
                    lost += len(holes) - _put_back(holes, run, published)
                except OSError as error:
                    raise unwritable(run.directory(STORE), error) from error
    if lost:
        say(f"damaged: {lost:,} pictures are whole nowhere any more; a plan that needs them requests them again")


def _released(run: Run, say: Callable[[str], None]) -> Iterator[list[dict[str, Any]]]:
    """What lies where, record by record; of a damaged record what the facts say, of every picture there is."""
    records = sorted((_on_disk(run.output) / RELEASED).rglob("*.parquet"))
    try:
        for record in records:
            yield read_table(Location(str(record), record.name.partition("-")[2].partition(".")[0])).to_pylist()
        return
    except DamagedFileError as error:
        say(f"damaged: {error.path}: {error.what}; every picture is looked for")
    store = run.directory(STORE)
    for directory in (store, store / IMPORTS):
        for record_of_task in records_in(directory):
            rows = pictures_of(record_of_task, directory, store)
            yield [row for row in rows if row["stored_xxh3"] is not None]


def _give_back_shard(task: WriteShard, *, published: Published, store: Path, directory: Path) -> tuple[int, int]:
    """How many samples' pictures are released, and how many are not whole in the shard."""
    all_rows = [row for ranks in task.ranks for row in ranks.samples(_PLACES.names)]
    hashed = [row for row in all_rows if row["stored_xxh3"] is not None]  # others are of an earlier version, and stay
    rows = list(_twinned(hashed, published))
    temporary = temporary_name(directory / task.partition)
    write_parquet(temporary, pa.Table.from_pylist(rows, schema=_PLACES), _PLACES)
    name = f"{task.partition}-{digest_of(temporary)}"
    begun = directory / f"{name}{_BEGUN}"
    commit(temporary, begun)
    for tar, of_tar in grouped(dict(enumerate(rows)), "staging_tar").items():
        ranges = merged(((row["tar_offset"], row["num_bytes"]) for row in of_tar.values()), gap=_BETWEEN)
        if (path := _tar_of(store, tar)) is not None:
            punch(path, ranges)
    begun.replace(directory / f"{name}.parquet")
    return len(rows), len(hashed) - len(rows)


def _twinned(rows: Sequence[dict[str, Any]], published: Published) -> Iterator[dict[str, Any]]:
    """Those whose pictures are whole in the published version."""
    for some in by_bytes(rows):
        for row, picture in zip(some, published.read(some), strict=True):
            if picture is not None:
                yield row


def _put_back(rows: Sequence[dict[str, Any]], run: Run, published: Published) -> int:
    """Fill the holes of `rows`; how many of them are whole, or need not be."""
    store = _on_disk(run.directory(STORE))
    pictures = dict(enumerate(published.read(rows)))
    filled = 0
    for name, of_tar in grouped(dict(enumerate(rows)), "staging_tar").items():
        if (path := _tar_of(store, name)) is None:
            filled += len(of_tar)  # its whole pictures have gone to another (`salvage.py`), or somebody removed it
            continue
        with path.open("r+b") as tar:
            for index, row in of_tar.items():
                if (picture := pictures[index]) is not None:
                    header = header_of(f"{row['url_id'].hex()}.{extension_of(picture)}", len(picture))
                    tar.seek(row["tar_offset"] - len(header))  # it went where the member before went too
                    tar.write(header + picture)
                    filled += 1
            tar.flush()
            os.fsync(tar.fileno())
    return filled


def _tar_of(store: Path, name: str) -> Path | None:
    with contextlib.suppress(DamagedFileError):
        path = stored_file(store, name).local
        return path if path.exists() else None
    return None


def _directory_of(version: Path, run: Run) -> Path:
    return _on_disk(run.output) / RELEASED / f"{version.name}-{run.seed}"


def _on_disk(place: Place) -> Path:
    assert isinstance(place, Path)
    return place


def _make_durable(*directories: Path) -> None:
    """Before anything is given back, the names of what holds its like are on the disk."""
    for directory in directories:
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
