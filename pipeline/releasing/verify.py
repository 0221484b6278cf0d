"""verify, of a release: every file against SHA256SUMS, that against its signature, rows against what is told."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from pipeline.errors import one_line
from pipeline.questions.verify import Verification
from pipeline.questions.verify_shard import Damage
from pipeline.releasing.manifest import MANIFEST, read_manifest
from pipeline.releasing.sums import SIGNATURE, SUMS, read_sums
from pipeline.storage.bucket import BucketPath
from pipeline.storage.duck import open_duckdb, read_parquet_sql, use_buckets
from pipeline.storage.keys import is_signed_by
from pipeline.storage.place import Place, pieces_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

__all__ = ["is_release", "verify_release"]

_AT_A_TIME = 8


def is_release(place: Place) -> bool:
    """Whether a release is there, or what is left of one."""
    return (place / MANIFEST).is_file() or (place / SUMS).is_file()


def verify_release(place: Place, key: Ed25519PublicKey | None = None) -> Verification:
    """Check the release in `place`; with `key` also that its owner signed it. Raises StoreError.

    The result's `shards` are its files.
    """
    try:
        content = (place / SUMS).read_bytes()
    except FileNotFoundError:
        return _nothing(Damage(file=SUMS, what="missing: the release is not whole"))
    damages: list[Damage] = []
    if key is not None:
        damages += _signature(place, content, key)
    sums = read_sums(content)
    if sums is None:
        return _nothing(*damages, Damage(file=SUMS, what="not of the form that sha256sum takes"))
    num_bytes = 0
    with ThreadPoolExecutor(
        _AT_A_TIME if isinstance(place, BucketPath) else min(_AT_A_TIME, os.cpu_count() or 1)
    ) as pool:
        for name, (found, size) in zip(sums, pool.map(lambda name: _digest_of(place / name), sums), strict=True):
            num_bytes += size
            if found is None:
                damages.append(Damage(file=name, what="missing"))
            elif found != sums[name]:
                damages.append(Damage(file=name, what="its bytes are not those that were released"))
    damages += [Damage(file=name, what=f"not in {SUMS}") for name in _strangers(place, sums)]
    samples = 0
    if not damages:
        samples, wrong = _rows(place, sums)
        damages += wrong
    return Verification(shards=len(sums), samples=samples, num_bytes=num_bytes, damages=damages)


def _nothing(*damages: Damage) -> Verification:
    return Verification(shards=0, samples=0, num_bytes=0, damages=damages)


def _signature(place: Place, content: bytes, key: Ed25519PublicKey) -> Iterator[Damage]:
    try:
        signature = (place / SIGNATURE).read_bytes()
    except FileNotFoundError:
        yield Damage(file=SIGNATURE, what="missing: nobody signed this release")
        return
    if not is_signed_by(key, signature, content):
        yield Damage(file=SIGNATURE, what=f"not of {SUMS} by the owner of this key")


def _digest_of(path: Place) -> tuple[str | None, int]:
    found, size = hashlib.sha256(), 0
    try:
        for piece in pieces_of(path):
            found.update(piece)
            size += len(piece)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None, 0
    return found.hexdigest(), size


def _strangers(place: Place, sums: Mapping[str, str]) -> list[str]:
    """Files that a reader would take for the release's."""
    if isinstance(place, BucketPath):
        there = [path.relative_to(place) for path, _ in place.walk()]
    else:
        there = [path.relative_to(place).as_posix() for path in place.rglob("*") if not path.is_dir()]
    return sorted(set(there) - sums.keys() - {SUMS, SIGNATURE})


def _rows(place: Place, sums: Mapping[str, str]) -> tuple[int, list[Damage]]:
    """How many rows there are, and what of them does not fit what release.json says. All files are what they were."""
    manifest = read_manifest(place)
    if manifest is None:
        return 0, [Damage(file=MANIFEST, what="missing, or of another version")]
    listed = {file["name"]: file["sha256"] for file in manifest["files"]}
    if listed != {name: digest for name, digest in sums.items() if name != MANIFEST}:
        return 0, [Damage(file=MANIFEST, what=f"lists other files than {SUMS}")]
    links = [place / name for name in listed if name.startswith("links/")]
    try:
        with open_duckdb(Path(tempfile.gettempdir()) / f"openwit-verify-{os.getpid()}.spill") as database:
            use_buckets(database, links)
            rows, uids = database.execute(
                f"SELECT count(*), count(DISTINCT uid) FROM {read_parquet_sql(links)}"
            ).fetchall()[0]
    except duckdb.Error as error:
        return 0, [Damage(file="links", what=f"cannot be read ({one_line(error)})")]
    wrong = []
    if rows != manifest["samples"]:
        wrong.append(Damage(file="links", what=f"holds {rows:,} rows, {MANIFEST} says {manifest['samples']:,}"))
    if uids != rows:
        wrong.append(Damage(file="links", what=f"names {rows - uids:,} samples twice"))
    return rows, wrong
