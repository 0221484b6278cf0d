"""Columns of a source table that the pipeline does not read reach the published metadata."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.config import WitConfig
from pipeline.runs.run import run


def test_other_columns_of_a_table_reach_shards_and_their_json(
    make_config: Callable[..., WitConfig], sample_web: Path, tmp_path: Path
) -> None:
    table = pq.read_table(sample_web / "tables" / "links.parquet").slice(0, 150)
    scores = [round(0.01 * row, 2) for row in range(table.num_rows)]
    path = tmp_path / "scored.parquet"
    pq.write_table(table.append_column("score", [scores]), path)
    output = tmp_path / "set"
    run(
        make_config(
            output,
            "--engine.kind",
            "inline",
            "--sources",
            json.dumps([str(path)]),
            "--extract.extra_columns",
            '["score"]',
        )
    )
    shards = output / "shards"
    rows = [row for file in sorted(shards.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    assert rows
    assert all(json.loads(row["extra"]) == {"score": scores[row["record"]]} for row in rows)
    with tarfile.open(min(shards.glob("*.tar"))) as tar:
        name = next(name for name in tar.getnames() if name.endswith(".json"))
        member = tar.extractfile(name)
        assert member is not None
        assert "score" in json.loads(json.load(member)["extra"])
