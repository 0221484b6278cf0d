"""What of the features is there already: a killed run goes on, and changed data are embedded where they changed.

    features.json, done/before.json, done/PART.json --same key, same bytes--> kept     all others --> made again

While parts are made there is no features.json, so that nobody takes what is half made for whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from pipeline.errors import DamagedFileError
from pipeline.storage.atomic import read_sealed, remove_tree, sweep, write_bytes, write_sealed
from pipeline.storage.bucket import BucketPath
from pipeline.storage.checked import check_in_passing
from pipeline.storage.location import Location
from pipeline.storage.place import Place, files_in
from training.embedding.feature_files import FACTS_FILE, FeatureFacts, FeaturePart, write_facts
from training.errors import FeaturesError, OutputError

__all__ = ["FEATURES", "PartsKind", "finish", "kept_parts", "note_part", "remove_others"]

_BEFORE = "before.json"
_CHECKS = 4
"""Parts that are read at the same time, to see whether they are whole."""


class _Part(Protocol):
    """What is said of a part."""

    @property
    def name(self) -> str:
        """The file is NAME.parquet."""

    @property
    def key(self) -> str:
        """Over all that it was made of."""

    @property
    def sha256(self) -> str:
        """Of the file."""


Part = TypeVar("Part", bound=_Part)


@dataclass(frozen=True, kw_only=True)
class PartsKind(Generic[Part]):
    """What is made part by part, by a model."""

    what: str
    """For people, in the plural."""
    facts_file: str
    """Is there when all of it is."""
    part: Callable[..., Part]
    """A dataclass, what is said of a part."""


FEATURES = PartsKind(what="features", facts_file=FACTS_FILE, part=FeaturePart)


def kept_parts(
    place: Place, keys: Mapping[str, str], *, model_fingerprint: str, kind: PartsKind[Part]
) -> dict[str, Part]:
    """The parts at `place` that stay, by name; `keys`: name -> key of all that there are to be.

    Every byte of them is read. Where a part is missing, the features there are unfinished from now on. Raises
    OutputError where the place holds files that are not ours, FeaturesError where it has features of another model.
    """
    file = place / kind.facts_file
    if isinstance(place, Path) and place.is_dir() and any(place.iterdir()) and not _is_ours(place, file):
        raise OutputError(f"{place}: not empty, and holds no {kind.what}; set --to to another directory")
    sweep(place)
    facts = next((path for path in (file, place / "done" / _BEFORE) if path.is_file()), None)
    known: dict[str, Part] = {}
    if facts is not None:
        known |= _of_facts(facts, model_fingerprint, kind)
    for path in files_in(place / "done", "*.json") if (place / "done").is_dir() else ():
        if path.name != _BEFORE and (said := read_sealed(path)) is not None:
            known[path.stem] = kind.part(**said)
    same = [known[name] for name, key in keys.items() if name in known and known[name].key == key]
    with ThreadPoolExecutor(_CHECKS) as pool:
        whole = list(pool.map(lambda part: _is_whole(place, part), same))
    kept = {part.name: part for part, is_whole in zip(same, whole, strict=True) if is_whole}
    if len(kept) < len(keys) and file.is_file():
        write_bytes(place / "done" / _BEFORE, file.read_bytes())
        file.unlink()
    elif len(kept) < len(keys):
        write_bytes(place / "done" / "begun", b"by openwit\n")
    return kept


def _is_ours(place: Place, facts: Place) -> bool:
    return facts.is_file() or (place / "done").is_dir()


def _of_facts(path: Place, model_fingerprint: str, kind: PartsKind[Part]) -> dict[str, Part]:
    """The parts that `path` lists; none where it is damaged. Raises FeaturesError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        parts = {part["name"]: kind.part(**part) for part in content["parts"]}
        found, word = content["model_fingerprint"], content["model"]
    except (ValueError, KeyError, TypeError):
        return {}
    if found != model_fingerprint:
        raise FeaturesError(
            f"{path}: {kind.what} of another model ({word}, fingerprint {found[:12]}); set --to or --name to another "
            "place, or remove these"
        )
    return parts


def _is_whole(place: Place, part: _Part) -> bool:
    try:
        check_in_passing(Location(str(place / f"{part.name}.parquet"), part.sha256))
    except DamagedFileError:
        return False
    return True


def note_part(place: Place, part: _Part) -> None:
    """Say that a part is there. Raises OutputError."""
    write_sealed(place / "done" / f"{part.name}.json", vars(part))


def finish(place: Place, about: FeatureFacts) -> None:
    """Write the facts; parts that they do not name go. Raises OutputError."""
    write_facts(place, about)
    remove_others(place, about.parts)


def remove_others(place: Place, parts: Iterable[_Part]) -> None:
    """All that is not of `parts` goes, and what was noted of them. Raises OutputError."""
    names = {f"{part.name}.parquet" for part in parts}
    gone = [path for path in files_in(place, "*.parquet") if path.name not in names]
    for path in gone:
        path.unlink()
    if isinstance(place, BucketPath) or (place / "done").is_dir():
        remove_tree(place / "done")
