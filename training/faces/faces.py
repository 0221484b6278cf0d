"""Boxes of faces by uid, in one Parquet.

    DATA --parts of at most 4,096 rows, a task each--> PART.boxes.parquet --all of them, by uid--> TO

What is done of it lies in TO.work until TO is whole, so that a killed run goes on. The same pictures, model and options
give the same bytes, on the same kind of processor.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.load import fingerprint
from pipeline.engine import Data, EngineConfig, Info, Task, apart, open_engine, output
from pipeline.pictures.decode import decode_upright
from pipeline.pictures.rejected import Rejected
from pipeline.storage.atomic import remove_tree, sha256_of
from pipeline.storage.checked import read_table
from pipeline.storage.location import Location
from pipeline.storage.output import open_output
from pipeline.storage.parquet import write_parquet
from pipeline.storage.place import Place, place_of
from pipeline.storage.written import written
from pipeline.terminal.progress import Progress
from pipeline.watching import counting
from training.embedding.parts import SourcePart
from training.embedding.shard_parts import shard_parts
from training.errors import OutputError
from training.faces.config import FacesConfig
from training.faces.detect import Detector, share_of

__all__ = ["FACES", "FacesResult", "FindFaces", "PartBoxes", "find_faces"]

FACES = pa.schema(
    [
        pa.field("uid", pa.binary(16), nullable=False),
        pa.field("faces", pa.int32()),  # null where there is no whole picture
        pa.field("face_share", pa.float32()),  # of the picture's area, in 0..1
        # x, y, width, height in shares of the picture, score; and so on
        pa.field("face_boxes", pa.list_(pa.float32())),
    ]
)
"""Of one sample."""
_MADE_BY = "openwit.faces"
"""Key in the file's metadata: the options, the model's SHA-256, and a fingerprint of both and the data, as JSON."""
_MAX_PIXELS = 64 * 1024 * 1024
_AT_A_TIME = 64


@dataclass(frozen=True, kw_only=True)
class FacesResult:
    """What was written."""

    to: Place
    rows: int
    with_faces: int
    broken: int
    """Rows without a whole picture."""
    made_before: bool = False
    """The very file was there already."""


@dataclass(frozen=True, kw_only=True)
class PartBoxes:
    """FACES of a part, in its order."""

    boxes: Location = output("boxes.parquet", FACES)


@dataclass(frozen=True, kw_only=True)
class FindFaces(Task[PartBoxes]):
    """Those of a part's pictures."""

    content: str
    """What tells that the part has changed."""
    model: Location
    min_score: float
    overlap: float
    longest_side: int
    part: SourcePart = apart()

    def work(self, out: PartBoxes) -> Info:
        detector = Detector(
            self.model.path, min_score=self.min_score, overlap=self.overlap, longest_side=self.longest_side
        )
        rows = self.part.rows()
        tally = counting("picture", total=len(rows.uids))
        found: list[dict[str, object]] = [{"uid": uid} for uid in rows.uids]
        there = np.flatnonzero(rows.has_picture).tolist()
        for first in range(0, len(there), _AT_A_TIME):
            some = there[first : first + _AT_A_TIME]
            for row, image in zip(some, rows.pictures(some), strict=True):
                found[row] |= {} if image is None else _looked_at(image, detector)
            tally.done += len(some)
        write_parquet(out.boxes.local, pa.Table.from_pylist(found, schema=FACES), FACES)
        return {"rows": len(found)}


def _looked_at(image: bytes, detector: Detector) -> dict[str, object]:
    pixels = decode_upright(image, max_pixels=_MAX_PIXELS, at_least=lambda _: None)
    if isinstance(pixels, Rejected):
        return {}
    boxes = detector.find(pixels)
    return {"faces": len(boxes), "face_share": share_of(boxes), "face_boxes": boxes.ravel().tolist()}


def find_faces(config: FacesConfig, *, progress: Progress | None = None) -> FacesResult:
    """Write the boxes, whole or not at all.

    Raises ModelError, DataError for what cannot be read, before any work; OutputError where `to` is taken or cannot be
    written, LockedError where it is being written.
    """
    progress = progress or Progress(quiet=True)
    Detector(config.model, min_score=config.min_score, overlap=config.overlap, longest_side=config.longest_side)
    model = Location(config.model, sha256_of(Path(config.model)))
    _, parts = shard_parts(place_of(config.data))
    options = {name: getattr(config, name) for name in ("min_score", "overlap", "longest_side")}
    key = fingerprint(1, model.digest, options, [part.content for part in parts])
    made_by = {"key": key, "model_sha256": model.digest, "options": options}
    to = place_of(config.to if config.to is not None else f"{config.data.rstrip('/')}.faces.parquet")
    if (there := _there(to, key)) is not None:
        return _result(to, there, made_before=True)
    work = to.with_name(f"{to.name}.work")
    tasks = [FindFaces(partition=part.name, content=part.content, model=model, part=part, **options) for part in parts]
    with open_output(work, say=progress.say):
        data: Data[PartBoxes] = Data("boxes", PartBoxes)
        data.directory = work / "work" / "boxes"
        with open_engine(EngineConfig(kind=config.engine), progress) as engine:
            data.finish(engine.run_step(data.directory, tasks, step="boxes", title="find faces"))
        tables = [read_table(file) for file in data.files(lambda out: out.boxes)]
        table = pa.concat_tables(tables).cast(FACES).sort_by("uid")
        schema = FACES.with_metadata({_MADE_BY: json.dumps(made_by, sort_keys=True)})
        with written(to) as path:
            write_parquet(path, table.cast(schema), schema)
        remove_tree(work)
    return _result(to, table)


def _result(to: Place, table: pa.Table, *, made_before: bool = False) -> FacesResult:
    broken = int(table["faces"].null_count)
    with_faces = int(pc.sum(pc.greater(table["faces"], 0)).as_py() or 0)
    return FacesResult(to=to, rows=len(table), with_faces=with_faces, broken=broken, made_before=made_before)


def _there(to: Place, key: str) -> pa.Table | None:
    """The file's column of counts if it is the very one that would be written; None where there is none. Raises
    OutputError where it is another."""
    if not to.exists():
        return None
    try:
        with to.open("rb") as opened, pq.ParquetFile(pa.PythonFile(opened, mode="r")) as file:
            made_by = json.loads((file.schema_arrow.metadata or {}).get(_MADE_BY.encode(), b"{}"))
            if made_by.get("key") == key:
                return file.read(["faces"])
    except (OSError, pa.ArrowException, ValueError):
        pass
    raise OutputError(f"{to}: is there already, and not of this model and data; give another --to, or delete it")
