"""An index on the disk: everything in it is mapped into memory, so that a search reads what it needs and no more.

INDEX/index.json           the facts (`IndexFacts`), written last
INDEX/vectors-ID.npy       float16[N, D], the features as they are: what scores are made of
INDEX/rows-ID.arrow        uid, name, part, row of each vector: Arrow's IPC format, uncompressed
INDEX/graph-ID.usearch     a graph over the vectors as bytes (HNSW), where there are too many to compare with all

ID tells the content, so that a copy of a bucket's file is never of another index.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.errors import PipelineError, one_line
from pipeline.storage.atomic import write_json
from pipeline.storage.copies import kept_copy
from pipeline.storage.place import Place, place_of
from training.embedding.feature_files import FACTS_FILE, open_features
from training.errors import FeaturesError

__all__ = ["INDEX_FILE", "ROWS", "IndexFacts", "IndexPlace", "open_index", "write_index_facts"]

INDEX_FILE = "index.json"
_FORMAT = 1
_AGAIN = "make it again: python -m training index"

ROWS = pa.schema(
    [
        pa.field("uid", pa.binary(16), nullable=False),
        pa.field("name", pa.string()),
        pa.field("part", pa.int32(), nullable=False),  # place in the features' parts
        pa.field("row", pa.int32(), nullable=False),  # in that part
    ]
)


@dataclass(frozen=True, kw_only=True)
class IndexFacts:
    """What index.json says."""

    features: str
    """The features that it is of, as they were named."""
    content: str
    """`FeatureFacts.content` of them."""
    of: str
    """image or text."""
    rows: int
    """N."""
    width: int
    """D."""
    model: str
    model_fingerprint: str
    model_name: str
    source: str
    """What the features were made from, of kind `kind`; see FeatureFacts."""
    kind: str
    columns: Mapping[str, str] = field(default_factory=dict)
    parts: tuple[str, ...] = ()
    """Names of the features' parts."""
    neighbours: int
    effort: int
    files: Mapping[str, str]
    """vectors, rows and, where there is one, graph: the file's name."""
    num_bytes: Mapping[str, int]
    """The size of each."""


@dataclass(frozen=True, kw_only=True)
class IndexPlace:
    """An index that is whole."""

    place: Place
    about: IndexFacts

    def file(self, what: str) -> Path:
        """The file `what` (vectors, rows, graph) on this machine. Raises FeaturesError where it is not whole."""
        path = self.place / self.about.files[what]
        try:
            here = path if isinstance(path, Path) else kept_copy(path)
            if here.stat().st_size == self.about.num_bytes[what]:
                return here
        except (OSError, PipelineError) as error:
            raise FeaturesError(f"{path}: cannot be read ({one_line(error)}); {_AGAIN}") from error
        raise FeaturesError(f"{path}: damaged, its size is not what was written; {_AGAIN}")


def open_index(path: str | Place) -> IndexPlace:
    """The index at `path`, or in the features there.

    Raises FeaturesError, in one line, where there is none, where it is damaged, or where the features have changed.
    """
    try:
        named = place_of(path)
        places = (named, named / "index")
        place = next((place for place in places if (place / INDEX_FILE).is_file()), None)
        if place is None:
            if (named / FACTS_FILE).is_file() or (named / "done").is_dir():
                raise FeaturesError(f"{path}: has no index yet; run `python -m training index {path}`")
            raise FeaturesError(
                f"{path}: no index here (no {INDEX_FILE}); run `python -m training embed MODEL DATA`, then `python -m "
                "training index FEATURES`"
            )
        text = (place / INDEX_FILE).read_text(encoding="utf-8")
    except (OSError, PipelineError) as error:
        raise FeaturesError(f"{path}: cannot be read ({one_line(error)})") from error
    try:
        content = json.loads(text)
        if content.pop("format") > _FORMAT:
            raise FeaturesError(f"{place}: written by a newer version; update openwit")
        about = IndexFacts(**{**content, "parts": tuple(content["parts"])})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FeaturesError(f"{place / INDEX_FILE}: damaged ({one_line(error)}); {_AGAIN}") from error
    _check_fresh(place, about)
    return IndexPlace(place=place, about=about)


def _check_fresh(place: Place, about: IndexFacts) -> None:
    """Raise FeaturesError where the features are there, and are others by now."""
    features = place.parent if place.name == "index" else place_of(about.features)
    if not (features / FACTS_FILE).is_file() and not (features / "done").is_dir():
        return  # an index may be carried off alone
    if open_features(features).about.content != about.content:
        raise FeaturesError(f"{place}: the features have changed since; run `python -m training index {features}`")


def write_index_facts(place: Place, about: IndexFacts) -> None:
    """Finish the index at `place`, whose files are there. Raises OutputError."""
    write_json(place / INDEX_FILE, {"format": _FORMAT, **asdict(about)})


def facts_of_index(place: Place) -> Mapping[str, Any]:
    """What is said at `place`, whether it still holds or not; empty where nothing is."""
    try:
        content = json.loads((place / INDEX_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
