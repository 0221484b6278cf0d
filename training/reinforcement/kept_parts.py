"""What of the reinforcements is there already: a killed run goes on, and data that grew are reinforced where they did.

    reinforced.json, done/before.json, done/PART.json --same key, same bytes--> kept     all others --> made again

While parts are made there is no reinforced.json, so that nobody takes what is half made for whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from configs.load import ConfigError
from pipeline.errors import DamagedFileError
from pipeline.storage.atomic import read_sealed, remove_tree, sweep, write_bytes, write_sealed
from pipeline.storage.bucket import BucketPath
from pipeline.storage.checked import check_in_passing
from pipeline.storage.location import Location
from pipeline.storage.place import Place, files_in
from training.data.reinforcements import (
    FACTS_FILE,
    ReinforcementFacts,
    ReinforcementPart,
    facts_of,
    part_file,
    write_facts,
)
from training.errors import FeaturesError, OutputError

__all__ = ["begin", "finish", "kept_parts", "note_part"]

_BEFORE = "before.json"
_CHECKS = 4
"""Parts that are read at the same time, to see whether they are whole."""


def kept_parts(place: Place, keys: Mapping[str, str], wanted: ReinforcementFacts) -> dict[str, ReinforcementPart]:
    """The parts at `place` that stay, by name; `keys`: name -> key of all that there are to be. Nothing is changed.

    Every byte of them is read. Raises OutputError where the place holds files that are not ours, FeaturesError where
    it has reinforcements by other teachers, another seed or other augmentations than `wanted`.
    """
    if isinstance(place, Path) and place.is_dir() and any(place.iterdir()) and not _is_ours(place):
        raise OutputError(f"{place}: not empty, and holds no reinforcements; set --to to another directory")
    known: dict[str, ReinforcementPart] = {}
    for path in (place / FACTS_FILE, place / "done" / _BEFORE):
        if path.is_file():
            known |= _of_facts(path, wanted)
            break
    for path in files_in(place / "done", "*.json") if (place / "done").is_dir() else ():
        if path.name != _BEFORE and (said := read_sealed(path)) is not None:
            known[path.stem] = ReinforcementPart(**said)
    same = [known[name] for name, key in keys.items() if name in known and known[name].key == key]
    with ThreadPoolExecutor(_CHECKS) as pool:
        whole = list(pool.map(lambda part: _is_whole(place, part), same))
    return {part.name: part for part, is_whole in zip(same, whole, strict=True) if is_whole}


def begin(place: Place) -> None:
    """What is there is unfinished from now on, until `finish`. Raises OutputError."""
    sweep(place)
    if (place / FACTS_FILE).is_file():
        write_bytes(place / "done" / _BEFORE, (place / FACTS_FILE).read_bytes())
        (place / FACTS_FILE).unlink()
    else:
        write_bytes(place / "done" / "begun", b"by openwit\n")


def _is_ours(place: Place) -> bool:
    return (place / FACTS_FILE).is_file() or (place / "done").is_dir()


def _of_facts(path: Place, wanted: ReinforcementFacts) -> dict[str, ReinforcementPart]:
    """The parts that `path` lists; none where it is damaged. Raises FeaturesError."""
    try:
        found = facts_of(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, ConfigError):
        return {}
    for what in ("teachers", "seed", "augmentations", "augment"):
        if _compared(found, what) != _compared(wanted, what):
            raise FeaturesError(
                f"{path}: reinforcements with other {what}; set --to or --name to another place, or remove these"
            )
    return {part.name: part for part in found.parts}


def _compared(about: ReinforcementFacts, what: str) -> object:
    value = getattr(about, what)
    return [teacher.fingerprint for teacher in value] if what == "teachers" else value


def _is_whole(place: Place, part: ReinforcementPart) -> bool:
    try:
        check_in_passing(Location(str(part_file(place, part.name)), part.sha256))
    except DamagedFileError:
        return False
    return True


def note_part(place: Place, part: ReinforcementPart) -> None:
    """Say that a part is there. Raises OutputError."""
    write_sealed(place / "done" / f"{part.name}.json", asdict(part))


def finish(place: Place, about: ReinforcementFacts) -> None:
    """Write the facts; parts that they do not name go. Raises OutputError."""
    write_facts(place, about)
    names = {part_file(place, part.name).name for part in about.parts}
    gone = [path for path in files_in(place, "*.safetensors") if path.name not in names]
    for path in gone:
        path.unlink()
    if isinstance(place, BucketPath) or (place / "done").is_dir():
        remove_tree(place / "done")
