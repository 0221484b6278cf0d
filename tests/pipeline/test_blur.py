"""Faces, or what else lies in boxes, are blurred in a subset, and in nothing else."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.commands import main
from pipeline.pictures.blur import blurred
from pipeline.questions.verify import verify
from tests.pipeline.loopback_server import LoopbackServer, text
from tests.pipeline.small_run import SmallRun, picture

BOXES: list[list[float] | None] = [[0.25, 0.25, 0.5, 0.5, 0.9], [], None]
"""A face, none, and a picture in which nobody looked."""


def _samples(root: Path) -> dict[bytes, tuple[dict[str, Any], bytes]]:
    """uid -> row and stored picture."""
    found = {}
    for shard in json.loads((root / "shards/manifest.json").read_text())["shards"]:
        tar = (root / "shards" / shard["name"]).read_bytes()
        for row in pq.read_table(root / "shards" / shard["parquet"]).to_pylist():
            found[row["uid"]] = (row, tar[row["tar_offset"] : row["tar_offset"] + row["num_bytes"]])
    return found


def _pixels(stored: bytes) -> npt.NDArray[np.float64]:
    return np.asarray(Image.open(io.BytesIO(stored)).convert("RGB"), np.float64)


def test_boxes_are_blurred_for_good_and_all_else_keeps_its_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [f"/{i}" for i in range(6)]
    with LoopbackServer({path: text(picture(i)) for i, path in enumerate(paths)}) as server:
        made = SmallRun.make(tmp_path, server, paths)
        assert made.run() == 0
    before = _samples(made.output)
    boxes = dict(zip(before, BOXES * 2, strict=True))
    column = pa.array(boxes.values(), pa.list_(pa.float32()))
    pq.write_table(pa.table({"uid": list(boxes), "face_boxes": column}), tmp_path / "faces.parquet")
    words = ["subset", str(made.output), "--out", str(tmp_path / "out"), "--scores", str(tmp_path / "faces.parquet")]
    for column_name, said in (("face_boxes", "nobody has looked for boxes"), ("width", "no such column of numbers")):
        assert main([*words, "--blur", column_name]) == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
    assert main([*words, "--blur", "face_boxes", "--where", "face_boxes IS NOT NULL"]) == 0
    assert verify(tmp_path / "out").damages == []
    after = _samples(tmp_path / "out")
    assert after.keys() == {uid for uid, box in boxes.items() if box is not None}
    for uid, (row, stored) in after.items():
        old, was = before[uid]
        if not boxes[uid]:
            assert stored == was
            continue
        names = ("sha256", "width", "height", "caption", "phash")
        assert [row[name] for name in names] == [old[name] for name in names]
        face, outside = np.s_[8:24, 8:24], np.s_[:3, :]  # of 32 pixels
        assert _pixels(stored)[face].std() < 0.8 * _pixels(was)[face].std()
        assert np.abs(_pixels(stored)[outside] - _pixels(was)[outside]).mean() < 8, "encoded anew, otherwise as it was"


def test_blur_leaves_means_of_cells_and_touches_nothing_else() -> None:
    noise = np.random.default_rng(3).integers(0, 255, (80, 120, 3), np.uint8)
    assert (blurred(noise, []) == noise).all()
    after = blurred(noise, [[0.25, 0.25, 0.5, 0.5, 0.7], [0.9, 0.9, 0.5, 0.5], [2.0, 2.0, 0.1, 0.1]])
    left, right, top, bottom = 21, 99, 14, 66  # 15 % of 60 and 40 pixels around the box
    assert (after[:top] == noise[:top]).all()
    assert (after[top:bottom, :left] == noise[top:bottom, :left]).all()
    assert (after[top : bottom - 10, right:] == noise[top : bottom - 10, right:]).all()
    inside = after[top:bottom, left:right].astype(float)
    assert inside.std() < 0.25 * noise.std(), "noise averages out"
    assert abs(inside.mean() - noise[top:bottom, left:right].mean()) < 3
    assert (after[75:, 112:] != noise[75:, 112:]).any(), "a box that leaves the picture is cut"
