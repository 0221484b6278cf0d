"""Feature files: what is written is read back, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from training.embedding.feature_files import (
    FeatureFacts,
    feature_column,
    feature_schema,
    image_matrix,
    open_features,
    text_matrix,
    write_facts,
    write_part,
)
from training.errors import FeaturesError

WIDTH = 8


def unit_rows(count: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def make_features(place: Path) -> FeatureFacts:
    """Two parts of five and three rows; in each the first row lacks a picture, the last a text."""
    parts = []
    for number, count in enumerate((5, 3)):
        with_image, with_text = np.arange(count) > 0, np.arange(count) < count - 1
        columns = [
            pa.array([bytes([number, row] * 8) for row in range(count)], pa.binary(16)),
            pa.array([f"{number}-{row}" for row in range(count)]),
            feature_column(unit_rows(count - 1, number), with_image),
            feature_column(unit_rows(count - 1, 10 + number), with_text),
        ]
        table = pa.Table.from_arrays(columns, schema=feature_schema(WIDTH))
        parts.append(write_part(place, f"{number:05d}", table, key="k" * 32, broken=1))
    about = FeatureFacts(
        model="runs/a",
        model_fingerprint="f" * 32,
        model_name="tiny",
        width=WIDTH,
        logit_scale=14.3,
        logit_bias=None,
        image_size=32,
        precision="fp32",
        what="both",
        source="data",
        kind="set",
        rows=8,
        parts=tuple(parts),
    )
    write_facts(place, about)
    return about


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    about = make_features(tmp_path)
    found = open_features(tmp_path)
    assert found.about == about
    assert (about.images, about.texts, about.broken) == (6, 6, 2)
    tables = list(found.parts())
    assert [len(table) for table in tables] == [5, 3]
    for number, table in enumerate(tables):
        assert table.schema.field("uid").type == pa.binary(16)
        images, there = image_matrix(table)
        assert there.tolist() == [False, *[True] * (len(table) - 1)]
        assert images.dtype == np.float32
        assert not images[0].any()
        assert np.array_equal(images[1:], unit_rows(len(table) - 1, number).astype(np.float16).astype(np.float32))
        texts, there = text_matrix(table)
        assert there.tolist() == [*[True] * (len(table) - 1), False]
        assert np.allclose(np.linalg.norm(texts[there], axis=1), 1, atol=1e-3)


def test_matrices_of_a_slice_are_those_rows(tmp_path: Path) -> None:
    make_features(tmp_path)
    whole = next(open_features(tmp_path).parts())
    chunked = pa.concat_tables([whole.slice(3), whole.slice(0, 2)])
    for matrix in (image_matrix, text_matrix):
        rows, there = matrix(whole)
        assert np.array_equal(matrix(chunked)[0], rows[[3, 4, 0, 1]])
        assert np.array_equal(matrix(chunked)[1], there[[3, 4, 0, 1]])


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = make_features(tmp_path / "a"), make_features(tmp_path / "b")
    assert first == second
    assert first.content == second.content


def test_what_is_no_features_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FeaturesError, match=r"no features here.*training embed MODEL DATA"):
        open_features(tmp_path)
    (tmp_path / "done").mkdir()
    with pytest.raises(FeaturesError, match=r"unfinished; run the same"):
        open_features(tmp_path)
    for text in ("{", "[]", '{"format": 1}'):
        (tmp_path / "features.json").write_text(text)
        with pytest.raises(FeaturesError, match=r"features\.json: damaged"):
            open_features(tmp_path)
    (tmp_path / "features.json").write_text('{"format": 9}')
    with pytest.raises(FeaturesError, match="newer version"):
        open_features(tmp_path)


def test_damaged_missing_and_foreign_parts_are_refused(tmp_path: Path) -> None:
    make_features(tmp_path)
    part = tmp_path / "00001.parquet"
    whole = part.read_bytes()
    part.write_bytes((tmp_path / "00000.parquet").read_bytes())
    tables = open_features(tmp_path).parts()
    assert len(next(tables)) == 5
    with pytest.raises(FeaturesError, match=r"00001\.parquet: damaged, or not of these features"):
        next(tables)
    part.write_bytes(whole[:-1])
    with pytest.raises(FeaturesError, match=r"00001\.parquet: damaged"):
        list(open_features(tmp_path).parts())
    part.unlink()
    with pytest.raises(FeaturesError, match=r"00001\.parquet.*run the same"):
        list(open_features(tmp_path).parts())


def test_facts_that_contradict_each_other_are_damage(tmp_path: Path) -> None:
    make_features(tmp_path)
    facts = tmp_path / "features.json"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"rows": 9}))
    with pytest.raises(FeaturesError, match="contradict"):
        open_features(tmp_path)
