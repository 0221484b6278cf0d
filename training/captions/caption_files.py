"""Caption files: what models wrote of a data set's pictures, part by part, and how.

CAPTIONS/captions.json    the facts (`CaptionFacts`), written last: without it nothing here is finished
CAPTIONS/PART.parquet     uid, captions (CAPTIONS), with scores SCORED_CAPTIONS: a row a sample
CAPTIONS/done/PART.json   while parts are made, so that a killed run goes on
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from configs.load import fingerprint
from pipeline.errors import DamagedFileError, PipelineError, one_line
from pipeline.records.schema import CAPTIONS, CAPTIONS_MADE_BY, SCORED_CAPTIONS
from pipeline.storage.atomic import sha256_of, write_json
from pipeline.storage.checked import read_table
from pipeline.storage.location import Location
from pipeline.storage.parquet import write_parquet
from pipeline.storage.place import Place, place_of
from pipeline.storage.written import written
from training.embedding.kept_parts import PartsKind
from training.errors import DataError

__all__ = ["KIND", "CaptionFacts", "CaptionPart", "CaptionSet", "Judge", "open_captions", "write_facts", "write_part"]

FACTS_FILE = "captions.json"
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class CaptionPart:
    """One Parquet file of captions."""

    name: str
    """The file is NAME.parquet."""
    rows: int
    key: str
    """32 hex digits over the model, the options and what of the source the part was made from."""
    sha256: str
    """Of the file."""
    captions: int
    """In all rows."""
    broken: int
    """Rows that name a picture which is none, or not whole."""


KIND = PartsKind(what="captions", facts_file=FACTS_FILE, part=CaptionPart)


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Who scored captions."""

    model: str
    """The word that named the model."""
    fingerprint: str
    """Of the model, and of how it judges: scores of two judges compare only where these are the same."""
    by: str
    """cosine or match."""


@dataclass(frozen=True, kw_only=True)
class CaptionFacts:
    """What captions.json says."""

    name: str
    """What `caption_source` tells of a sample that has one of these captions."""
    model: str
    """The word that named the captioner."""
    model_fingerprint: str
    """Of what the parts were made by: the captioner's, or with scores the judge's."""
    captioner_fingerprint: str
    model_name: str
    """open_clip's name of its architecture."""
    precision: str
    options: Mapping[str, Any]
    """captions, top_p, temperature, min_tokens, max_tokens, seed."""
    source: str
    """The data set, as it was named."""
    kind: str
    """set, tars, folder or list."""
    rows: int
    parts: tuple[CaptionPart, ...]
    judge: Judge | None = None
    """None where nobody has scored them."""

    @property
    def captions(self) -> int:
        """In all rows."""
        return sum(part.captions for part in self.parts)

    @property
    def broken(self) -> int:
        """Rows without a whole picture."""
        return sum(part.broken for part in self.parts)

    @property
    def content(self) -> str:
        """32 hex digits over the bytes of all parts."""
        return fingerprint([(part.name, part.sha256) for part in self.parts])


@dataclass(frozen=True, kw_only=True)
class CaptionSet:
    """Captions that are finished."""

    place: Place
    about: CaptionFacts

    def read(self, name: str) -> pa.Table:
        """`uid` and `captions` of one part, held against its SHA-256. Raises DataError."""
        part = next((part for part in self.about.parts if part.name == name), None)
        if part is None:
            raise DataError(f"{self.place}: has no part {name}: captions of another data set, or of before it grew")
        path = self.place / f"{name}.parquet"
        try:
            return read_table(Location(str(path), part.sha256), CAPTIONS.names)
        except (DamagedFileError, PipelineError, OSError) as error:
            again = "run the same `python -m training caption` again"
            raise DataError(f"{path}: damaged, or not of these captions ({one_line(error)}); {again}") from error


def open_captions(path: str | Place) -> CaptionSet:
    """The captions in `path`. Raises DataError, in one line, for what holds none, or none that are finished."""
    make = "write some with `python -m training caption MODEL DATA`"
    try:
        place = place_of(path)
        text = (place / FACTS_FILE).read_text(encoding="utf-8")
    except (OSError, PipelineError) as error:
        raise DataError(f"{path}: no finished captions here (no {FACTS_FILE}); {make}") from error
    try:
        content = json.loads(text)
        if content["format"] > _FORMAT:
            raise DataError(f"{path}: written by a newer version (format {content['format']}); update openwit")
        named = {name: content[name] for name in CaptionFacts.__dataclass_fields__}
        named["parts"] = tuple(CaptionPart(**part) for part in named["parts"])
        named["judge"] = None if named["judge"] is None else Judge(**named["judge"])
        return CaptionSet(place=place, about=CaptionFacts(**named))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: its {FACTS_FILE} is damaged ({one_line(error)}); {make}") from error


def write_part(
    place: Place, name: str, table: pa.Table, *, key: str, broken: int, source: str, judge: Judge | None
) -> CaptionPart:
    """Write one part, of CAPTIONS or SCORED_CAPTIONS, whole or not at all. Raises OutputError."""
    schema = CAPTIONS if judge is None else SCORED_CAPTIONS
    about = {"source": source} | ({} if judge is None else {"judge": judge.fingerprint})
    schema = schema.with_metadata({CAPTIONS_MADE_BY: json.dumps(about, sort_keys=True)})
    with written(place / f"{name}.parquet") as path:
        write_parquet(path, table.cast(schema), schema)
        sha256 = sha256_of(path)
    count = len(table["captions"].combine_chunks().flatten())
    return CaptionPart(name=name, rows=len(table), key=key, sha256=sha256, captions=count, broken=broken)


def write_facts(place: Place, about: CaptionFacts) -> None:
    """Finish the captions at `place`, all parts of which are there. Raises OutputError."""
    write_json(place / FACTS_FILE, {"format": _FORMAT, **asdict(about)})
