"""Feature files: the unit features of a data set, part by part, and what they were made with.

FEATURES/features.json    the facts (`FeatureFacts`), written last: without it nothing here is finished
FEATURES/PART.parquet     uid, name, image, text: a row a sample (`feature_schema`)
FEATURES/done/PART.json   while parts are made: what PART.parquet was made of, so that a killed run goes on

    open_features --features.json--> FeatureSet --parts()--> tables, each held against its SHA-256
                                                    --image_matrix, text_matrix--> float32[n, D], bool[n]

D is the width of the model's embedding. FEATURES is a directory, or a place in a bucket.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from configs.load import fingerprint
from pipeline.errors import DamagedFileError, PipelineError, one_line
from pipeline.storage.atomic import sha256_of, write_json
from pipeline.storage.checked import read_table
from pipeline.storage.location import Location
from pipeline.storage.parquet import write_parquet
from pipeline.storage.place import Place
from pipeline.storage.written import written
from training.data.facts_file import read_facts
from training.errors import FeaturesError

__all__ = [
    "FACTS_FILE",
    "FeatureFacts",
    "FeaturePart",
    "FeatureSet",
    "feature_column",
    "feature_schema",
    "image_matrix",
    "open_features",
    "text_matrix",
    "write_facts",
    "write_part",
]

FACTS_FILE = "features.json"
_FORMAT = 1
_AGAIN = "run the same `python -m training embed` again"


@dataclass(frozen=True, kw_only=True)
class FeaturePart:
    """One Parquet file of features."""

    name: str
    """The file is NAME.parquet."""
    rows: int
    key: str
    """32 hex digits over the model, the options and what of the source the part was made from."""
    sha256: str
    """Of the file."""
    images: int
    """Rows that have a feature of a picture."""
    texts: int
    """Rows that have a feature of a text."""
    broken: int
    """Rows that name a picture which is none, or not whole: their `image` is null."""
    left_out: int = 0
    """Pictures of the source that are no row's."""


@dataclass(frozen=True, kw_only=True)
class FeatureFacts:
    """What features.json says."""

    model: str
    """The word that named the model: see `load_model`."""
    model_fingerprint: str
    """`fingerprint_of` the model: features of two models that share it are the same."""
    model_name: str
    """open_clip's name of its architecture."""
    width: int
    """D."""
    logit_scale: float
    """What the model multiplies similarities by."""
    logit_bias: float | None
    """What a model of the sigmoid loss adds to them; None for others."""
    image_size: int
    precision: str
    """Of the forward pass: fp32 or bf16. What is stored is float16."""
    what: str
    """both, image or text: what was asked for."""
    source: str
    """The data set, folder or list, as it was named."""
    kind: str
    """set, tars, folder or list."""
    rows: int
    parts: tuple[FeaturePart, ...]
    columns: Mapping[str, str] = field(default_factory=dict)
    """Of a list whose columns were named: image_column, text_column, uid_column."""

    @property
    def images(self) -> int:
        """Rows that have a feature of a picture."""
        return sum(part.images for part in self.parts)

    @property
    def texts(self) -> int:
        """Rows that have a feature of a text."""
        return sum(part.texts for part in self.parts)

    @property
    def broken(self) -> int:
        """Rows whose picture is none, or not whole."""
        return sum(part.broken for part in self.parts)

    @property
    def left_out(self) -> int:
        """Pictures of the source that are no row's."""
        return sum(part.left_out for part in self.parts)

    @property
    def content(self) -> str:
        """32 hex digits over the model and the bytes of all parts: what was made of equal features is still fresh."""
        return fingerprint(self.model_fingerprint, self.width, [(part.name, part.sha256) for part in self.parts])


def feature_schema(width: int) -> pa.Schema:
    """The columns of a part, features of `width` numbers."""
    feature = pa.list_(pa.field("element", pa.float16(), nullable=False), width)
    return pa.schema(
        [
            pa.field("uid", pa.binary(16), nullable=False),
            pa.field("name", pa.string()),  # by which people know it: key in a tar, path in a folder, row of a list
            pa.field("image", feature),  # of unit length; null where there is no whole picture
            pa.field("text", feature),  # of unit length; null where there is no text
        ]
    )


@dataclass(frozen=True, kw_only=True)
class FeatureSet:
    """Features that are finished."""

    place: Place
    about: FeatureFacts

    def parts(self) -> Iterator[pa.Table]:
        """The tables of all parts, in order, one at a time. Raises FeaturesError where one is not what was written."""
        for part in self.about.parts:
            yield self.read(part)

    def read(self, part: FeaturePart) -> pa.Table:
        """One part, of `feature_schema`, held against its SHA-256. Raises FeaturesError."""
        path = self.place / f"{part.name}.parquet"
        try:
            table = read_table(Location(str(path), part.sha256))
        except DamagedFileError as error:
            raise FeaturesError(f"{path}: damaged, or not of these features ({error.what}); {_AGAIN}") from error
        except (OSError, PipelineError) as error:
            raise FeaturesError(f"{path}: cannot be read ({one_line(error)}); {_AGAIN}") from error
        if table.schema.names != feature_schema(self.about.width).names or table.num_rows != part.rows:
            raise FeaturesError(f"{path}: its rows are not those that {FACTS_FILE} tells of; {_AGAIN}")
        return table


def open_features(path: str | Place) -> FeatureSet:
    """The features in `path`, a directory or a bucket's URL.

    Raises FeaturesError, in one line, for what holds none, none that are finished, or whose facts are damaged.
    """
    place, about = read_facts(
        path,
        FACTS_FILE,
        _facts,
        version=_FORMAT,
        what="features",
        make="python -m training embed MODEL DATA",
        again=_AGAIN,
    )
    return FeatureSet(place=place, about=about)


def _facts(content: Mapping[str, Any]) -> FeatureFacts:
    named = {name: content[name] for name in FeatureFacts.__dataclass_fields__ if name in content or name != "columns"}
    columns = FeaturePart.__dataclass_fields__
    parts = tuple(
        # Features of an earlier version do not tell what they left out.
        FeaturePart(**{name: part[name] for name in columns if name in part or name != "left_out"})
        for part in named.pop("parts")
    )
    about = FeatureFacts(**named, parts=parts)
    if sum(part.rows for part in parts) != about.rows or about.width < 1:
        raise ValueError("its counts contradict each other")
    return about


def image_matrix(table: pa.Table) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """(float32[n, D], bool[n]): the features of a part's pictures, and which rows have one; the others are zeros."""
    return _matrix(table["image"])


def text_matrix(table: pa.Table) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """(float32[n, D], bool[n]): the features of a part's texts, and which rows have one; the others are zeros."""
    return _matrix(table["text"])


def _matrix(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    there = column.is_valid().to_numpy()
    matrix = np.zeros((len(column), column.type.list_size), np.float32)
    begin = 0
    for chunk in column.chunks:
        rows = begin + np.flatnonzero(there[begin : begin + len(chunk)])
        matrix[rows] = chunk.flatten().to_numpy(zero_copy_only=False).reshape(len(rows), matrix.shape[1])
        begin += len(chunk)
    return matrix, there


def feature_column(features_mD: npt.NDArray[np.floating[Any]], there: npt.NDArray[np.bool_]) -> pa.Array:
    """A column of n rows: `features_mD` in the m rows that `there` bool[n] says, null in the others."""
    width = features_mD.shape[1]
    halves = np.zeros((len(there), width), np.float16)
    halves[there] = features_mD
    kind = feature_schema(width).field("image").type
    return pa.FixedSizeListArray.from_arrays(pa.array(halves.reshape(-1)), type=kind, mask=pa.array(~there))


def write_part(
    place: Place, name: str, table: pa.Table, *, key: str, broken: int = 0, left_out: int = 0
) -> FeaturePart:
    """Write one part into the features at `place`, whole or not at all. Raises OutputError."""
    with written(place / f"{name}.parquet") as path:
        write_parquet(path, table, table.schema)
        sha256 = sha256_of(path)
    counts = {f"{what}s": len(table) - table[what].null_count for what in ("image", "text")}
    return FeaturePart(name=name, rows=len(table), key=key, sha256=sha256, broken=broken, left_out=left_out, **counts)


def write_facts(place: Place, about: FeatureFacts) -> None:
    """Finish the features at `place`, all parts of which are there. Raises OutputError."""
    write_json(place / FACTS_FILE, {"format": _FORMAT, **asdict(about)})
