"""apply-delta: what somebody removed from the set that they published, removed from a copy of it.

    DELTA --digest, signature, origin--> is it for this set? --begin, finish (remove.py)--> the same files as theirs

A copy that lost other samples before, or lacks some shards, loses what it still has of the delta's. The delta itself
comes to OUT/removed as it is, so that no run of the copy brings anything back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError, OutputError
from pipeline.records.removals import REMOVED
from pipeline.storage.atomic import read_json, write_bytes
from pipeline.storage.bucket import BucketPath
from pipeline.storage.place import Place
from pipeline.takedown.delta import Delta, read_delta
from pipeline.takedown.matching import samples_named
from pipeline.takedown.published import manifest_at, origin_of, parquet_of
from pipeline.takedown.remove import begin, files_before, finish, held_set, shards_of
from pipeline.takedown.sign import check_signature
from pipeline.terminal.progress import Progress

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

__all__ = ["Applied", "apply_delta"]


@dataclass(frozen=True, kw_only=True)
class Applied:
    """What came of a delta."""

    delta: Delta
    samples: int
    """That went from the copy."""
    was_applied: bool
    """Whether there was nothing left to do."""
    differ: tuple[str, ...] = ()
    """Files that were what the delta says before it, and are not what it says after it. Parquet of another version of
    pyarrow may have other bytes; a tar may not."""


def apply_delta(
    output: Place, file: Place, *, key: Ed25519PublicKey | None = None, progress: Progress | None = None
) -> Applied:
    """Remove from the copy in `output`, a data set or a directory of its shards, what the delta in `file` names.

    Raises InputError where the file is damaged, not signed by `key`'s owner, not whole, or of another data set; nothing
    has changed then. In a bucket the copy hides it until `compact`.
    """
    delta = read_delta(file)
    if key is not None:
        check_signature(delta, key, file)
    if delta.state != "done":
        raise InputError(f"{file}: is of a removal that is under way; take the delta that `compact` leaves there")
    with held_set(output, progress or Progress()):
        manifest = manifest_at(shards_of(output))
        _refuse_other_set(output, manifest, delta, file)
        kept = output / REMOVED / delta.name
        known = read_delta(kept) if kept.exists() else None
        if known is not None and known.state == "done":
            if known != delta:  # a kill, or `compact`, left what was said of the copy alone
                write_bytes(kept, delta.content())
            return Applied(delta=delta, samples=0, was_applied=True)
        ours = known or _of_copy(output, manifest, delta)
        begin(output, ours)
        if isinstance(output, BucketPath):
            return Applied(delta=delta, samples=len(ours.samples), was_applied=False)
        done, _ = finish(output, kept)
        write_bytes(kept, delta.content())
        return Applied(delta=delta, samples=len(ours.samples), was_applied=False, differ=tuple(_differ(delta, done)))


def _refuse_other_set(output: Place, manifest: dict[str, Any], delta: Delta, file: Place) -> None:
    taken_from = (read_json(output / "subset.json") or {}).get("taken_from")
    if origin_of(manifest) == delta.origin or taken_from in (delta.origin, delta.before, delta.after):
        return
    raise InputError(
        f"{file}: is for another data set, or another version of it (of fingerprint {delta.origin[:12]}; "
        f"{output} is of {origin_of(manifest)[:12]})"
    )


def _of_copy(output: Place, manifest: dict[str, Any], delta: Delta) -> Delta:
    """The delta as far as the copy has what it names, at the copy's own places."""
    shards = shards_of(output)
    uids = frozenset(gone.uid for gone in delta.samples)
    meant = dataclasses.replace(delta.removals, uids=delta.removals.uids | uids)
    samples = tuple(samples_named(list(parquet_of(shards, manifest)), meant))
    if any(gone.shard not in {entry["name"] for entry in manifest["shards"]} for gone in samples):
        raise OutputError(f"{output}: lacks a shard of its manifest; copy it again")
    return dataclasses.replace(
        delta,
        state="begun",
        before=manifest["fingerprint"],
        after="",
        samples=samples,
        files=files_before(manifest, {gone.shard for gone in samples}),
        signature=None,
    )


def _differ(delta: Delta, done: Delta) -> Iterator[str]:
    for name, change in delta.files.items():
        ours = done.files.get(name)
        if ours is not None and ours.before == change.before and ours.after != change.after:
            yield name
