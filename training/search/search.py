"""One search, from words or a picture to what was found.

words, picture --model that the features name--> query [D] --nearest, among those that fit--> hits --> originals
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.errors import PipelineError, one_line
from pipeline.storage.place import place_of
from training.errors import DataError, FeaturesError, ModelError
from training.learning.features import image_features, prepare, text_features
from training.learning.model import Model
from training.learning.pretrained import fingerprint_of, load_model
from training.search.config import SearchConfig
from training.search.index_files import IndexFacts, open_index
from training.search.nearest import Vectors
from training.search.originals import Original, originals_of
from training.search.where import rows_there, rows_where

__all__ = ["Answer", "Hit", "search"]


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One sample that was found."""

    rank: int
    """From 1."""
    score: float
    """Cosine similarity to what was looked for."""
    uid: bytes
    name: str
    original: Original


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was found, the best first."""

    asked: SearchConfig
    about: IndexFacts
    hits: Sequence[Hit]
    searched: int
    """Vectors that might have been found."""
    picture: bytes | None
    """What was looked for, where it is a picture."""
    problem: str | None
    """Why originals are missing, in one line."""


def search(config: SearchConfig) -> Answer:
    """Find what `config` looks for.

    Raises FeaturesError where there is no index, or the model is another one than made it, ModelError, DataError for a
    picture that is none, SqlError for a wrong condition.
    """
    index = open_index(config.index)
    about = index.about
    vectors = Vectors(index)
    source = config.source or about.source
    if config.where is None:
        among = rows_there(place_of(source), vectors.rows)
    else:
        among = rows_where(place_of(source), config.where, vectors.rows)
    picture = None if config.image is None else _read(config.image)
    query = _query(config, _model(config, about), picture)
    found = vectors.nearest(query, config.k, among=among, effort=config.effort, exact=config.exact)
    rows = vectors.rows.take(found.rows).to_pylist()
    originals, problem = originals_of(
        about, source, [(row["uid"], row["part"], row["row"]) for row in rows], pictures=config.shape == "html"
    )
    return Answer(
        asked=config,
        about=about,
        hits=[
            Hit(rank=rank, score=float(score), uid=row["uid"], name=row["name"], original=original)
            for rank, (score, row, original) in enumerate(zip(found.scores, rows, originals, strict=True), start=1)
        ],
        searched=about.rows if among is None else len(among),
        picture=picture,
        problem=problem,
    )


def _read(path: str) -> bytes:
    try:
        return place_of(path).read_bytes()
    except (OSError, PipelineError) as error:
        raise DataError(f"{path}: cannot be read ({one_line(error)}); give a picture's file") from error


def _model(config: SearchConfig, about: IndexFacts) -> Model:
    """The model that made the index. Raises FeaturesError for another one."""
    word = config.model or about.model
    try:
        model = load_model(word, device=config.device, precision=config.precision, tokenizer=config.tokenizer)
    except ModelError as error:
        if config.model is not None:
            raise
        raise ModelError(
            f"{error}; the index names this model: if it lies elsewhere now, say where by --model"
        ) from error
    if (found := fingerprint_of(model)) != about.model_fingerprint:
        raise FeaturesError(
            f"{config.index}: made with another model ({about.model}, fingerprint {about.model_fingerprint[:12]}) than "
            f"{word} is now ({found[:12]}); give that one by --model, or run embed and index again"
        )
    return model


def _query(config: SearchConfig, model: Model, picture: bytes | None) -> npt.NDArray[np.float32]:
    if config.text is not None:
        return _unit(text_features(model, [config.text])[0].float().cpu().numpy())
    pixels = None if picture is None else prepare(picture, model)
    if pixels is None:
        raise DataError(f"{config.image}: not a whole picture; give another")
    return _unit(image_features(model, pixels[None])[0].float().cpu().numpy())


def _unit(vector: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    unit: npt.NDArray[np.float32] = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return unit
