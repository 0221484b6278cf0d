"""A delta: what went from a set, why and when, with checksums of files before and after, and nothing of its content.

One JSON object, keys sorted: docs/takedown.md has every field. `digest` covers all but itself and `signature`; a
signature is Ed25519's over the same bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.errors import InputError
from pipeline.records.removals import FORMAT, Removals
from pipeline.storage.place import Place

__all__ = ["VERSION", "Delta", "FileChange", "Gone", "read_delta"]

VERSION = 1
_NOT_COVERED = ("digest", "signature")


@dataclass(frozen=True, kw_only=True)
class Gone:
    """A sample that went."""

    uid: bytes
    url_id: bytes
    sha256: str
    """Of the body as served."""
    shard: str
    """The name of its tar."""
    tar_offset: int
    """Where the picture's bytes were, which stay in their place as zeros."""


@dataclass(frozen=True, kw_only=True)
class FileChange:
    """SHA-256 of a published file."""

    before: str
    after: str
    """Empty while the delta is begun."""


@dataclass(frozen=True, kw_only=True)
class Delta:
    """One removal."""

    when: str
    """UTC, as 2026-01-31T23:59:59Z."""
    reason: str
    origin: str
    """Fingerprint of the version that the first removal found: the same for all removals of a version."""
    before: str
    """Fingerprint of the manifest that this removal found."""
    after: str = ""
    """That it left."""
    state: Literal["begun", "done"] = "begun"
    removals: Removals
    samples: Sequence[Gone] = ()
    files: Mapping[str, FileChange] = dataclasses.field(default_factory=dict)
    """File name -> checksums, of the tars and Parquet files that change."""
    signature: Mapping[str, str] | None = None
    """Over `covered()`."""

    @property
    def name(self) -> str:
        """Of its file."""
        asked = hashlib.sha256(_canonical({"removals": self.removals.plain(), "origin": self.origin})).hexdigest()
        return f"{self.when.translate(str.maketrans('', '', '-:'))}-{asked[:8]}.json"

    def covered(self) -> bytes:
        """What digest and signature are over."""
        plain = self._plain()
        return _canonical({name: value for name, value in plain.items() if name not in _NOT_COVERED})

    def content(self) -> bytes:
        """The file."""
        plain = self._plain() | {"digest": hashlib.sha256(self.covered()).hexdigest()}
        if self.signature is not None:
            plain["signature"] = dict(self.signature)
        return json.dumps(plain, sort_keys=True, indent=1, ensure_ascii=False).encode() + b"\n"

    def _plain(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            **{name: getattr(self, name) for name in ("when", "reason", "origin", "before", "after", "state")},
            "removals": self.removals.plain(),
            "samples": [
                {
                    "uid": gone.uid.hex(),
                    "url_id": gone.url_id.hex(),
                    "sha256": gone.sha256,
                    "shard": gone.shard,
                    "tar_offset": gone.tar_offset,
                }
                for gone in self.samples
            ],
            "files": {name: dataclasses.asdict(change) for name, change in self.files.items()},
        }


def read_delta(file: Place) -> Delta:
    """The delta in `file`. Raises InputError where it is none, of a later version, or not what was written."""
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise InputError(f"{file}: is no delta, or was cut short; copy it again") from error
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        raise InputError(f"{file}: is no delta of `python -m pipeline remove`")
    if plain.get("version") != VERSION:
        raise InputError(
            f"{file}: is of version {plain.get('version')!r}, this program knows {VERSION}; update openwit"
        )
    covered = _canonical({name: value for name, value in plain.items() if name not in _NOT_COVERED})
    if hashlib.sha256(covered).hexdigest() != plain.get("digest"):
        raise InputError(f"{file}: damaged, its digest is not that of its content; copy it again")
    try:
        return Delta(
            **{name: str(plain[name]) for name in ("when", "reason", "origin", "before", "after")},
            state="done" if plain["state"] == "done" else "begun",
            removals=Removals.of(plain["removals"]),
            samples=tuple(_gone(each) for each in plain["samples"]),
            files={name: FileChange(**change) for name, change in plain["files"].items()},
            signature=plain.get("signature"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{file}: lacks what a delta has ({error})") from error


def _gone(plain: Mapping[str, Any]) -> Gone:
    return Gone(
        uid=bytes.fromhex(plain["uid"]),
        url_id=bytes.fromhex(plain["url_id"]),
        sha256=str(plain["sha256"]),
        shard=str(plain["shard"]),
        tar_offset=int(plain["tar_offset"]),
    )


def _canonical(plain: Mapping[str, Any]) -> bytes:
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
