"""Faces: boxes by uid, found by a detector in YuNet's form that the test makes, which finds white squares."""

from __future__ import annotations

import io
import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import training.faces.faces as module
from pipeline.commands import main
from tests.pipeline.loopback_server import LoopbackServer, text
from tests.pipeline.small_run import SmallRun
from training.commands import main as training
from training.errors import ModelError, OutputError
from training.faces.config import FacesConfig
from training.faces.detect import Detector, share_of
from training.faces.faces import FACES, find_faces

_PLACES = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}


def write_detector(path: Path) -> Path:
    """A face is a cell of 32 x 32 pixels; its score is its mean brightness."""
    constants = {"white": np.float32(1 / 255), "none": np.float32(0), "list": np.array([1, -1, 1], np.int64)}
    nodes = []
    for stride in (8, 16, 32):
        pooled = {"kernel_shape": [stride, stride], "strides": [stride, stride]}
        nodes.append(helper.make_node("AveragePool", ["input"], [f"mean{stride}"], **pooled))
        nodes.append(helper.make_node("ReduceMean", [f"mean{stride}"], [f"gray{stride}"], axes=[1], keepdims=1))
        nodes.append(helper.make_node("Mul", [f"gray{stride}", "white" if stride == 32 else "none"], [f"at{stride}"]))
        nodes += [helper.make_node("Reshape", [f"at{stride}", "list"], [f"{name}_{stride}"]) for name in ("cls", "obj")]
        nodes.append(helper.make_node("Mul", [f"cls_{stride}", "none"], [f"zero{stride}"]))
        for name, value in (("bbox", [[[0.5, 0.5, 0.0, 0.0]]]), ("kps", np.zeros((1, 1, 10)))):
            constants[f"{name}{stride}"] = np.array(value, np.float32)
            nodes.append(helper.make_node("Add", [f"zero{stride}", f"{name}{stride}"], [f"{name}_{stride}"]))
    outputs = [
        helper.make_tensor_value_info(f"{name}_{stride}", TensorProto.FLOAT, [1, f"n{stride}", places])
        for name, places in _PLACES.items()
        for stride in (8, 16, 32)
    ]
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "h", "w"])
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "squares", [image], outputs, tensors), opset_imports=[helper.make_opsetid("", 13)]
    )
    model.ir_version = 8
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_detector(tmp_path_factory.mktemp("model") / "squares.onnx")


SQUARES = [[], [(32, 0)], [(0, 64), (96, 32)]]
"""Where the pictures have white squares of 32 pixels: x, y."""
SIZE = (128, 96)


def picture(squares: list[tuple[int, int]]) -> bytes:
    pixels = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    for x, y in squares:
        pixels[y : y + 32, x : x + 32] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published set of these pictures."""
    root = tmp_path_factory.mktemp("made")
    with LoopbackServer({f"/{i}": text(picture(squares)) for i, squares in enumerate(SQUARES)}) as server:
        small = SmallRun.make(root, server, [f"/{i}" for i in range(len(SQUARES))])
        options = {"resize_mode": "no", "encode_format": "png", "encode_quality": "1"}
        assert small.run(*(f"--image.{name}={value}" for name, value in options.items())) == 0
    return small.output


def boxes_by_picture(data: Path, file: Path) -> dict[int, list[list[float]]]:
    """Number of the picture -> boxes in pixels, sorted."""
    shards = [pq.read_table(path) for path in (data / "shards").glob("*.parquet")]
    number = {row["uid"]: int(row["url"][-1]) for table in shards for row in table.to_pylist()}
    found = {}
    for row in pq.read_table(file).to_pylist():
        flat = np.array(row["face_boxes"], np.float32).reshape(-1, 5)
        assert len(flat) == row["faces"]
        assert row["face_share"] == pytest.approx(share_of(flat))
        found[number[row["uid"]]] = sorted((flat[:, :4] * [*SIZE, *SIZE]).round(2).tolist())
    return found


def test_boxes_are_where_the_squares_are_and_the_same_bytes_again(made: Path, detector: Path, tmp_path: Path) -> None:
    first = find_faces(FacesConfig(model=str(detector), data=str(made), to=str(tmp_path / "a.parquet")))
    assert (first.rows, first.with_faces, first.broken) == (3, 2, 0)
    expected = {i: sorted([float(x), float(y), 32.0, 32.0] for x, y in squares) for i, squares in enumerate(SQUARES)}
    assert boxes_by_picture(made, tmp_path / "a.parquet") == expected
    assert pq.read_schema(tmp_path / "a.parquet").names == FACES.names
    find_faces(FacesConfig(model=str(detector), data=str(made), to=str(tmp_path / "b.parquet")))
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert not list(tmp_path.glob("*.work"))


def test_killed_run_goes_on_and_another_file_is_not_replaced(
    made: Path, detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = FacesConfig(model=str(detector), data=str(made), to=str(tmp_path / "faces.parquet"))

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(module, "written", dies)
        with pytest.raises(KeyboardInterrupt):
            find_faces(config)
    assert not (tmp_path / "faces.parquet").exists()
    with monkeypatch.context() as done:
        done.setattr(module, "_looked_at", dies)  # every part is there already
        assert find_faces(config).with_faces == 2
        assert find_faces(config).made_before
    with pytest.raises(OutputError, match="not of this model and data"):
        find_faces(FacesConfig(model=str(detector), data=str(made), to=config.to, min_score=0.5))


def test_commands_of_the_docs_choose_by_faces(made: Path, detector: Path, tmp_path: Path) -> None:
    docs = (Path(__file__).parents[2] / "docs" / "privacy.md").read_text(encoding="utf-8").partition("## Faces")[2]
    (block,) = re.findall(r"```bash\n(.+?)```", docs, re.DOTALL)
    places = {"data/wit": str(made), "yunet.onnx": str(detector), "data/wit.faces.parquet": str(tmp_path / "f.parquet")}
    places |= {"data/without-faces": str(tmp_path / "subset"), "data/faces-blurred": str(tmp_path / "blurred")}
    for line in block.splitlines():
        command, *words = shlex.split(line)[1:]
        words = [places.get(word, word) for word in words]
        assert (training if command == "faces" else main)([command, *words]) == 0
    urls = pq.read_table(tmp_path / "subset" / "shards" / "00000.parquet")["url"].to_pylist()
    assert [url[-1] for url in urls] == ["0"]


def test_large_picture_is_seen_smaller_and_its_boxes_stay_where_they_are(detector: Path) -> None:
    small = np.zeros((96, 128, 3), np.uint8)
    small[32:64, 64:96] = 255
    large = cv2.resize(small, (512, 384), interpolation=cv2.INTER_NEAREST)
    boxes = Detector(str(detector), min_score=0.8, overlap=0.3, longest_side=128).find(large)
    assert boxes[:, :4] == pytest.approx(np.array([[0.5, 1 / 3, 0.25, 1 / 3]]))
    assert share_of(boxes) == pytest.approx(1 / 12)


def test_file_that_is_no_detector_is_refused_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match="as YuNet does"):
        Detector(str(tmp_path / "a.onnx"), min_score=0.9, overlap=0.3, longest_side=640)
    with pytest.raises(ModelError, match="no such file"):
        Detector(str(tmp_path / "b.onnx"), min_score=0.9, overlap=0.3, longest_side=640)
