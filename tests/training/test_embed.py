"""`embed`: every kind of source, by any number of processes, stopped and gone on, changed and made again."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import training.embedding.embed as embed_module
from pipeline.storage.place import place_of
from tests.conftest import REPOSITORY
from tests.ports import free_port
from tests.training.conftest import put_tree
from tests.training.tiny_shards import make_shards
from training.commands import main
from training.data.index import write_index
from training.distributed import World
from training.embedding.config import EmbedConfig
from training.embedding.embed import embed
from training.embedding.feature_files import (
    FACTS_FILE,
    FeatureFacts,
    FeaturePart,
    FeatureSet,
    image_matrix,
    open_features,
    text_matrix,
    write_facts,
)
from training.errors import DataError, FeaturesError, OutputError
from training.learning.features import image_features, prepare, text_features
from training.learning.pretrained import fingerprint_of, load_model


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty samples in three shards, of which two pictures are cut short."""
    root = tmp_path_factory.mktemp("embed") / "set"
    make_shards(root, counts=(9, 8, 3), size=40, broken=(4, 18))
    return root


def features_of(model: str, source: object, to: Path | str | None = None, **options: Any) -> FeatureSet:
    options = {"device": "cpu", "precision": "fp32", "threads": 1, "batch_size": 4, **options}
    return embed(EmbedConfig(model=model, data=str(source), to=None if to is None else str(to), **options), quiet=True)


def rows_of(features: FeatureSet) -> dict[bytes, dict[str, Any]]:
    rows = {}
    for table in features.parts():
        (images, has_image), (texts, has_text) = image_matrix(table), text_matrix(table)
        for row, (uid, name) in enumerate(zip(table["uid"].to_pylist(), table["name"].to_pylist(), strict=True)):
            image, text = images[row] if has_image[row] else None, texts[row] if has_text[row] else None
            rows[uid] = {"name": name, "image": image, "text": text}
    return rows


def files_of(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(place.iterdir())}


@contextmanager
def counted(patch: pytest.MonkeyPatch, *, stop_after: int | None = None) -> Iterator[list[str]]:
    """The names of the parts that are made meanwhile; the process dies in the one after `stop_after`."""
    made: list[str] = []
    real = embed_module._features_of

    def counting(config: Any, model: Any, part: Any, *rest: Any) -> Any:
        if len(made) == stop_after:
            raise KeyboardInterrupt
        made.append(part.name)
        return real(config, model, part, *rest)

    with patch.context() as patched:
        patched.setattr(embed_module, "_features_of", counting)
        yield made


def test_a_data_set_has_its_features_beside_it(data: Path, tiny_model: str) -> None:
    features = features_of(tiny_model, data)
    model = load_model(tiny_model, device="cpu", precision="fp32")
    about = features.about
    assert features.place == data / "features" / fingerprint_of(model)[:12]
    assert (about.kind, about.rows, about.images, about.texts, about.broken) == ("set", 20, 18, 20, 2)
    assert (about.model_fingerprint, about.image_size, about.width) == (fingerprint_of(model), 32, 16)
    assert about.logit_scale == pytest.approx(1 / 0.07, rel=1e-3)
    assert about.logit_bias is None
    rows = rows_of(open_features(features.place))
    for parquet in sorted((data / "shards").glob("*.parquet")):
        tar = parquet.with_suffix(".tar").read_bytes()
        for sample in pq.read_table(parquet).to_pylist():
            row = rows.pop(sample["uid"])
            assert row["name"] == sample["key"]
            pixels = prepare(tar[sample["tar_offset"] : sample["tar_offset"] + sample["num_bytes"]], model)
            if pixels is None:
                assert row["image"] is None
            else:
                expected = image_features(model, pixels[None])[0].numpy()
                assert np.allclose(row["image"], expected, atol=1e-3)
            assert np.allclose(row["text"], text_features(model, [sample["caption"]])[0].numpy(), atol=1e-3)
    assert not rows


def test_one_kind_of_features_may_be_asked_for(data: Path, tiny_model: str, tmp_path: Path) -> None:
    images = features_of(tiny_model, data, tmp_path / "images", what="image").about
    texts = features_of(tiny_model, data, tmp_path / "texts", what="text").about
    assert (images.images, images.texts, images.broken) == (18, 0, 2)
    assert (texts.images, texts.texts, texts.broken) == (0, 20, 0)


def test_a_killed_run_goes_on_to_the_same_bytes(
    data: Path, tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = features_of(tiny_model, data, tmp_path / "whole")
    killed = tmp_path / "killed"
    with counted(monkeypatch, stop_after=2), pytest.raises(KeyboardInterrupt):
        features_of(tiny_model, data, killed)
    with pytest.raises(FeaturesError, match="unfinished"):
        open_features(killed)
    with counted(monkeypatch) as made:
        features_of(tiny_model, data, killed)
    assert made == ["00002"]
    assert files_of(killed) == files_of(tmp_path / "whole")
    with counted(monkeypatch) as made:
        assert features_of(tiny_model, data, killed).about == whole.about
    assert made == []


def test_any_number_of_processes_gives_the_same_bytes(
    data: Path, tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = features_of(tiny_model, data, tmp_path / "whole")

    class Rank(World):
        """Rank 1 of two; the other one has made its parts, and tells of them."""

        def gather_objects(self, value: Any) -> list[Any]:
            if not isinstance(value, list):
                return [value]
            return [[part for part in whole.about.parts if part not in value], value]

    @contextmanager
    def ranks(**_: Any) -> Iterator[World]:
        yield Rank(rank=1, size=2)

    for name in ("from_first", "on_first"):
        monkeypatch.setattr(Rank, name, lambda self, told: told() if callable(told) else told)
    monkeypatch.setattr(embed_module, "distributed", ranks)
    with counted(monkeypatch) as made:
        features_of(tiny_model, data, tmp_path / "ranks")
    assert made == ["00001"]
    for name in ("00001.parquet", "features.json"):
        assert (tmp_path / "ranks" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
def test_processes_of_torchrun_give_the_same_bytes(data: Path, tiny_model: str, tmp_path: Path) -> None:
    features_of(tiny_model, data, tmp_path / "one")
    words = [
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(free_port()),
        "-m",
        "training",
    ]
    words += ["embed", tiny_model, str(data), "--to", str(tmp_path / "two"), "--device", "cpu", "--precision", "fp32"]
    done = subprocess.run(
        [sys.executable, *words, "--batch_size", "4"],
        cwd=REPOSITORY,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("rows 20") == 1
    assert files_of(tmp_path / "two") == files_of(tmp_path / "one")


def test_changed_missing_and_damaged_parts_are_made_again(
    data: Path, tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, to = tmp_path / "set", tmp_path / "features"
    shutil.copytree(data / "shards", copy / "shards")
    features_of(tiny_model, copy, to)
    (to / "00000.parquet").write_bytes(b"damaged")
    (copy / "shards" / "00002.tar").unlink()
    sizes = {"00000.tar": 9, "00001.tar": 8}
    (copy / "shards" / "sizes.json").write_text(json.dumps(sizes))
    rows = pq.read_table(copy / "shards" / "00001.parquet")
    captions = pa.array(["changed", *rows["caption"].to_pylist()[1:]])
    pq.write_table(rows.set_column(1, "caption", captions), copy / "shards" / "00001.parquet")
    with counted(monkeypatch) as made:
        features = features_of(tiny_model, copy, to)
    assert made == ["00000", "00001"]
    assert sorted(path.name for path in to.iterdir()) == ["00000.parquet", "00001.parquet", "features.json"]
    assert features.about.rows == 17
    with counted(monkeypatch) as made:
        features_of(tiny_model, copy, to, batch_size=5)  # sums in another order
    assert made == ["00000", "00001"]


def test_foreign_tars_are_known_by_tar_and_key(tiny_model: str, tmp_path: Path) -> None:
    make_shards(tmp_path / "tars", counts=(5, 4), size=40, offsets=False, broken=(2,))
    features = features_of(tiny_model, tmp_path / "tars" / "shards", tmp_path / "features")
    assert (features.about.kind, features.about.images, features.about.broken) == ("tars", 8, 1)
    rows = rows_of(features)
    assert sorted(row["name"] for row in rows.values())[0] == "000000000"
    index = write_index(tmp_path / "tars", root=tmp_path / "index")
    assert {int.from_bytes(uid[:8], "big") for uid in rows} == set(index.uid.tolist())


def test_a_long_shard_is_several_parts(
    data: Path, tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = rows_of(features_of(tiny_model, data, tmp_path / "whole", batch_size=4))
    monkeypatch.setattr("training.embedding.shard_parts.PART_ROWS", 4)
    features = features_of(tiny_model, data, tmp_path / "cut", batch_size=4)
    assert [part.name for part in features.about.parts][:4] == ["00000-000", "00000-001", "00000-002", "00001-000"]
    found = rows_of(features)
    assert found.keys() == whole.keys()
    for uid, row in whole.items():
        assert (row["image"] is None) == (found[uid]["image"] is None)


def make_folder(root: Path) -> None:
    for number, name in enumerate(("b.png", "a/x.JPG", "a/deep/y.webp", ".hidden/z.png", "a/.z.png")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 36), (40 * number, 90, 200)).save(root / name)
    (root / "a" / "x.txt").write_text(" a blue picture \n")
    (root / "a" / "broken.jpg").write_bytes(b"no picture")
    (root / "a" / "notes.md").write_text("no picture either")


def test_a_folder_is_looked_through_to_its_end(
    tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder(tmp_path / "pictures")
    features = features_of(tiny_model, tmp_path / "pictures")
    assert features.place.parent == tmp_path / "pictures" / "features"
    rows = {row["name"]: row for row in rows_of(features).values()}
    assert list(rows) == ["a/broken.jpg", "a/deep/y.webp", "a/x.JPG", "b.png"]
    assert rows["a/broken.jpg"]["image"] is None
    assert [name for name, row in rows.items() if row["text"] is not None] == ["a/x.JPG"]
    (tmp_path / "pictures" / "a" / "x.txt").write_text("another text")
    with counted(monkeypatch) as made:
        features_of(tiny_model, tmp_path / "pictures")
    assert made == ["00000"]


def test_a_picture_more_changes_one_part(tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.embedding.folder_parts.PART_ROWS", 4)
    for number in range(10):
        Image.new("RGB", (32, 32), (20 * number, 0, 0)).save(tmp_path / f"{number}.png")
    before = features_of(tiny_model, tmp_path).about
    assert 2 <= len(before.parts) <= 8
    Image.new("RGB", (32, 32), (255, 255, 255)).save(tmp_path / "0 first.png")
    with counted(monkeypatch) as made:
        after = features_of(tiny_model, tmp_path).about
    assert len(made) == 1
    assert after.rows == before.rows + 1


def test_a_list_names_pictures_and_texts(tiny_model: str, tmp_path: Path) -> None:
    make_folder(tmp_path)
    rows = [
        {"path": "b.png", "caption": 'blue, "very"\nblue'},
        {"path": str(tmp_path / "a/x.JPG"), "caption": None},
        {"path": "gone.png", "caption": "gone"},
    ]
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, tmp_path / "list.parquet")
    (tmp_path / "list.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    quoted = '"blue, ""very""\nblue"'
    (tmp_path / "list.csv").write_text(f"path,caption\nb.png,{quoted}\n{rows[1]['path']},\ngone.png,gone\n")
    (tmp_path / "list.tsv").write_text(f"path\tcaption\nb.png\t{quoted}\n{rows[1]['path']}\t\ngone.png\tgone\n")
    found = {}
    for ending in ("parquet", "jsonl", "csv", "tsv"):
        features = features_of(tiny_model, tmp_path / f"list.{ending}")
        assert features.place.parent == tmp_path / f"list.{ending}.features"
        about = features.about
        assert (about.kind, about.images, about.texts, about.broken) == ("list", 2, 2, 1)
        found[ending] = (features.place / "00000.parquet").read_bytes()
    assert len(set(found.values())) == 1
    (tmp_path / "words.txt").write_text("a red circle\n\na blue one\n")
    assert features_of(tiny_model, tmp_path / "words.txt").about.texts == 2


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("spark.csv", rb"path,caption" + b"\n" + rb'b.png,"a \"big\" dog, on a mat"' + b"\n", "line 2 is not CSV"),
        ("cells.csv", b"path,caption\nb.png,a big, red dog\n", "line 2 has more cells than there are columns"),
        ("twice.csv", b"path,caption,caption\nb.png,a,b\n", "two columns are called 'caption'"),
        ("old.csv", "path,caption\nb.png,caf\u00e9\n".encode("cp1252"), "line 2 is not UTF-8"),
        ("lists.jsonl", b'{"path": "b.png", "caption": ["a", "b"]}\n', "row 1: caption is no text"),
    ],
)
def test_a_list_is_read_as_it_was_written_or_not_at_all(
    tiny_model: str, tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    Image.new("RGB", (32, 32), (20, 0, 0)).save(tmp_path / "b.png")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        features_of(tiny_model, tmp_path / name)
    assert str(caught.value).count(name) == 1


def test_a_list_in_parquet_with_nested_or_doubled_columns_is_told(tiny_model: str, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32), (20, 0, 0)).save(tmp_path / "b.png")
    for name, table, says in (
        ("lists", pa.table({"path": ["b.png"], "caption": [["a", "b"]]}), "caption is list<.*unnest"),
        ("bytes", pa.table({"image": [{"bytes": b"x", "path": "b.png"}]}), "image is struct<.*as files"),
        ("twice", pa.table([["b.png"], ["a"], ["b"]], names=["path", "caption", "caption"]), "two columns are called"),
    ):
        pq.write_table(table, tmp_path / f"{name}.parquet")
        with pytest.raises(DataError, match=says):
            features_of(tiny_model, tmp_path / f"{name}.parquet")


def test_texts_of_a_list_keep_what_is_no_line_end_and_half_a_surrogate_costs_no_row(
    tiny_model: str, tmp_path: Path
) -> None:
    Image.new("RGB", (32, 32), (20, 0, 0)).save(tmp_path / "b.png")
    (tmp_path / "words.txt").write_bytes("one\u2028still one\n\ntwo\x0cstill two\n".encode())
    about = features_of(tiny_model, tmp_path / "words.txt").about
    assert (about.rows, about.texts) == (3, 2)
    rows = ['{"file_name": "b.png", "text": "a", "score": NaN}', '{"file_name": "b.png", "text": "half \\ud83d"}']
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    about = features_of(tiny_model, tmp_path / "metadata.jsonl").about
    assert (about.rows, about.images, about.texts) == (2, 2, 2)


def test_pictures_of_a_tar_that_are_no_samples_are_counted(
    tiny_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A key ends at the first dot of a name: of v0.1.webp at `v0`, and `1.webp` is no extension of a picture."""
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (20, 0, 0)).save(buffer, "png")
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / "0.tar", "w") as tar:
        for name in ("a.png", "a.txt", "v0.1.webp", "v0.2.webp", "c.gif", "d.jpg", "d.left.jpg", "e.json"):
            member = tarfile.TarInfo(name)
            member.size = len(buffer.getvalue())
            tar.addfile(member, io.BytesIO(buffer.getvalue()))
    assert main(["embed", tiny_model, str(tmp_path / "tars"), "--to", str(tmp_path / "features")]) == 0
    assert "4 pictures left out that are no sample's" in capsys.readouterr().out
    about = open_features(tmp_path / "features").about
    assert (about.rows, about.images, about.left_out) == (2, 2, 4)


def test_a_folder_tells_of_what_it_passes_over(
    tiny_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (32, 32), (20, 0, 0)).save(folder / "a.png")
    (folder / "a.txt").write_text("a text")
    (folder / "notes.doc").write_bytes(b"x")
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    for _ in range(2):  # the second time with the features of the first beside them
        about = embed(EmbedConfig(model=tiny_model, data=str(folder))).about
        assert (about.rows, about.images, about.texts, about.broken) == (2, 1, 1, 1)
        assert "1 other files are passed over" in capsys.readouterr().err


def test_columns_of_a_list_may_be_named(tiny_model: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f"id,says\n{'0a' * 16},one\npet 7,two\n")
    columns = {"text_column": "says", "uid_column": "id"}
    rows = rows_of(features_of(tiny_model, tmp_path / "list.csv", tmp_path / "features", **columns))
    assert bytes.fromhex("0a" * 16) in rows
    assert [row["name"] for row in rows.values()] == ["row 1", "pet 7"]


def test_from_bucket_to_bucket_the_bytes_are_the_same(
    data: Path, tiny_model: str, tmp_path: Path, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{bucket.url}/embed-set"
    put_tree(data / "shards", f"{url}/shards")
    local = features_of(tiny_model, data, tmp_path / "features")
    remote = features_of(tiny_model, url, f"{bucket.url}/embed-features")
    for part in local.about.parts:
        assert (remote.place / f"{part.name}.parquet").read_bytes() == files_of(local.place)[f"{part.name}.parquet"]
    assert rows_of(open_features(f"{bucket.url}/embed-features")).keys() == rows_of(local).keys()
    with counted(monkeypatch) as made:
        features_of(tiny_model, url, f"{bucket.url}/embed-features")
    assert made == []


def test_what_cannot_be_embedded_is_one_line(data: Path, tiny_model: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "links.csv").write_text("path,caption\nhttps://x.test/a.png,a\n")
    (tmp_path / "gone.csv").write_text("path,caption\na.png,a\nb.png,b\n")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    (tmp_path / "blank.txt").write_text("\n\n")
    (tmp_path / "file.doc").write_text("")
    for source, told in {
        tmp_path / "nothing": "no such data set, directory or list",
        tmp_path / "empty": "no pictures here",
        tmp_path / "links.csv": "row 1 names https://x.test/a.png, and nothing is downloaded",
        tmp_path / "gone.csv": "none of its 2 pictures is there",
        tmp_path / "other.csv": "no column of pictures .* --image_column and --text_column",
        tmp_path / "blank.txt": "no row with a picture or a text",
        tmp_path / "file.doc": r"a list ends in \.csv",
    }.items():
        with pytest.raises(DataError, match=told) as error:
            features_of(tiny_model, source, tmp_path / "features")
        assert "\n" not in str(error.value)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("")
    with pytest.raises(OutputError, match="not empty, and holds no features"):
        features_of(tiny_model, data, tmp_path / "mine")


def test_features_of_another_model_are_left_alone(
    data: Path, tiny_model: str, other_tiny_model: str, tmp_path: Path
) -> None:
    features_of(tiny_model, data, tmp_path / "features")
    before = files_of(tmp_path / "features")
    with pytest.raises(FeaturesError, match="of another model"):
        features_of(other_tiny_model, data, tmp_path / "features")
    assert files_of(tmp_path / "features") == before


def test_a_damaged_shard_stops_with_its_name(data: Path, tiny_model: str, tmp_path: Path) -> None:
    shutil.copytree(data / "shards", tmp_path / "set" / "shards")
    parquet = tmp_path / "set" / "shards" / "00001.parquet"
    parquet.write_bytes(parquet.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"00001\.parquet"):
        features_of(tiny_model, tmp_path / "set", tmp_path / "features")


def test_the_command_says_what_it_made(
    data: Path, tiny_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["embed", tiny_model, str(data), "--to", str(tmp_path / "f"), "--device", "cpu", "--threads", "1"]
    threads = torch.get_num_threads()
    try:
        assert main(words) == 0
    finally:
        torch.set_num_threads(threads)
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'f'}: rows 20, with a picture 18, with a text 20, 2 pictures not whole; width 16\n"
    assert "samples/s" in err
    assert main(["embed", tiny_model]) == 2
    assert "data" in capsys.readouterr().err
    assert main([*words, "--name", "x"]) == 2


def test_features_that_do_not_tell_what_they_left_out_are_read(tmp_path: Path) -> None:
    part = FeaturePart(name="00000", rows=1, images=1, texts=0, broken=0, key="k", sha256="0" * 64)
    model = {"model": "m", "model_fingerprint": "0" * 32, "model_name": "n", "width": 2, "image_size": 8}
    numbers = {"logit_scale": 1.0, "logit_bias": None, "precision": "fp32", "what": "image"}
    about = FeatureFacts(**model, **numbers, source="s", kind="set", rows=1, parts=(part,))
    write_facts(place_of(tmp_path), about)
    facts = tmp_path / FACTS_FILE
    content = json.loads(facts.read_text())
    del content["parts"][0]["left_out"]
    facts.write_text(json.dumps(content))
    assert open_features(str(tmp_path)).about == about
