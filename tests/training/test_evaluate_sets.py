"""Evaluation sets in every form that is read say the same of the same pictures, and what is missing is one line."""

from __future__ import annotations

import csv
import io
import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.conftest import REPOSITORY
from tests.object_store.fixtures import Bucket
from tests.training.conftest import put_tree
from tests.training.tiny_shards import CLASSES, draw_sample, encode, make_evaluation
from training.commands import main
from training.distributed import World
from training.errors import EvaluationError
from training.evaluation.encode import share_of_parts
from training.evaluation.sets.form import EvaluationSet
from training.evaluation.sets.open import open_set
from training.evaluation.sets.survey import Survey, survey
from training.evaluation.sets.write import write_tars
from training.learning.imagenet import imagenet_names, imagenet_templates

NAMES = CLASSES[:4]
SHARED = REPOSITORY.parent / "shared" / "data"


def look(path: Path | str, *, train: bool = False) -> Survey:
    return survey(open_set(path), train=train)


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets") / "tars"
    make_evaluation(root, per_class=3, size=24, classes=NAMES)
    return root


def beside(tars: Path, directory: Path) -> Path:
    """A new directory with the set's class names and templates."""
    directory.mkdir()
    for name in ("classnames.txt", "zeroshot_classification_templates.txt"):
        shutil.copy(tars / name, directory / name)
    return directory


def rows_of(tars: Path, directory: Path | None = None) -> list[dict[str, Any]]:
    """A row a picture; with `directory` the pictures lie there and rows have their paths."""
    rows: list[dict[str, Any]] = []
    for number, example in enumerate(open_set(tars).examples()):
        image: Any = example.image
        if directory is not None:
            path = directory / "pictures" / f"{number}.jpg"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(example.image)
            image = f"pictures/{number}.jpg"
        rows.append({"image": image, "label": example.label, "caption": list(example.captions)})
    return rows


def as_csv(tars: Path, root: Path) -> Path:
    directory = beside(tars, root)
    with (directory / "set.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["filepath", "class", "title"])
        writer.writeheader()
        for row in rows_of(tars, directory):
            label = NAMES[row["label"]]
            writer.writerows({"filepath": row["image"], "class": label, "title": text} for text in row["caption"])
    return directory / "set.csv"


def as_jsonl(tars: Path, root: Path) -> Path:
    directory = beside(tars, root)
    lines = (
        json.dumps({"image": r["image"], "cls": r["label"], "captions": r["caption"]}) for r in rows_of(tars, directory)
    )
    (directory / "set.jsonl").write_text("\n".join(lines))
    return directory / "set.jsonl"


def as_parquet(tars: Path, root: Path) -> Path:
    directory = beside(tars, root)
    pq.write_table(pa.Table.from_pylist(rows_of(tars)), directory / "set.parquet", row_group_size=5)
    return directory / "set.parquet"


def write_arrow(directory: Path, rows: Sequence[dict[str, Any]], *, files: int = 2) -> None:
    """As `save_to_disk` of `datasets` writes it."""
    directory.mkdir(parents=True, exist_ok=True)
    features = {
        "picture": {"_type": "Image"},
        "what": {"names": NAMES, "_type": "ClassLabel"},
        "text": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"},
    }
    kinds = [("picture", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("what", pa.int64())]
    schema = pa.schema([*kinds, ("text", pa.list_(pa.string()))])
    schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    names = [f"data-{number:05d}-of-{files:05d}.arrow" for number in range(files)]
    for number, name in enumerate(names):
        size = -(-len(rows) // files)
        part = [
            {"picture": {"bytes": row["image"], "path": None}, "what": row["label"], "text": row["caption"]}
            for row in rows[number * size : (number + 1) * size]
        ]
        with pa.OSFile(str(directory / name), "wb") as sink, pa.ipc.new_stream(sink, schema) as stream:
            stream.write_table(pa.Table.from_pylist(part, schema=schema), max_chunksize=2)
    (directory / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))


def as_arrow(tars: Path, root: Path) -> Path:
    root.mkdir()
    shutil.copy(tars / "zeroshot_classification_templates.txt", root / "zeroshot_classification_templates.txt")
    rows = rows_of(tars)
    write_arrow(root / "test", rows)
    write_arrow(root / "train", rows[:5])
    (root / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    return root


FORMS: list[Callable[[Path, Path], Path]] = [as_csv, as_jsonl, as_parquet, as_arrow]


@pytest.mark.parametrize("make", FORMS, ids=lambda make: make.__name__)
def test_every_form_of_a_set_says_the_same(make: Callable[[Path, Path], Path], tars: Path, tmp_path: Path) -> None:
    found = look(make(tars, tmp_path / "other"))
    assert found == look(tars)
    assert (found.examples, found.labelled, found.captions) == (12, 12, 12)


def folders(root: Path, *, names: Sequence[str] = NAMES, pictures: int = 2) -> Path:
    for label, name in enumerate(names):
        for number in range(pictures):
            path = root / name.replace(" ", "_") / "more" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(draw_sample(NAMES[label % 4], random.Random(f"{label}/{number}"), size=24)[0]))
    return root


def test_folders_are_classes_in_their_order(tmp_path: Path) -> None:
    plain = open_set(folders(tmp_path / "plain"))
    assert plain.classes == tuple(sorted(NAMES))
    assert plain.templates == ("a photo of a {c}.",)
    assert [example.label for example in plain.examples()] == [0, 0, 1, 1, 2, 2, 3, 3]
    folders(tmp_path / "split" / "val")
    folders(tmp_path / "split" / "train", names=NAMES[:2])
    (tmp_path / "split" / "classnames.txt").write_text("A\nB\nC\nD\n")
    split = open_set(tmp_path / "split")
    assert split.classes == ("A", "B", "C", "D")
    assert (look(tmp_path / "split", train=True).examples, look(tmp_path / "split", train=True).train) == (8, 4)


def test_folders_called_by_wordnet_numbers_have_imagenets_names_and_templates(tmp_path: Path) -> None:
    found = open_set(folders(tmp_path / "set", names=["n01443537", "n01440764"]))
    assert found.classes == ("tench", "goldfish")
    assert len(found.templates) == 80
    assert found.templates[0] == "a bad photo of a {c}."
    assert len(imagenet_names()) == 1000
    assert imagenet_templates() == found.templates


def test_rows_of_one_picture_add_to_its_captions(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "b.png")
    (tmp_path / "set.tsv").write_text("image\ttext\na.png\tone\nb.png\ttwo\na.png\tthree\n")
    found = open_set(tmp_path / "set.tsv")
    assert [example.captions for example in found.examples()] == [("one", "three"), ("two",)]
    assert (found.classes, found.templates) == ((), ())


def test_list_called_test_has_train_beside_it(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "test.csv").write_text("image,label\na.png,dog\n")
    (tmp_path / "train.csv").write_text("image,label\na.png,cat\na.png,cat\n")
    assert open_set(tmp_path / "test.csv").classes == ("cat", "dog")
    assert look(tmp_path / "test.csv", train=True).train == 1  # one picture


@pytest.mark.parametrize("written", ["a {c}", "a {}", "a {classname}"])
def test_place_of_the_name_in_a_template_may_be_written_in_three_ways(written: str, tars: Path, tmp_path: Path) -> None:
    shutil.copytree(tars, tmp_path / "set")
    (tmp_path / "set" / "zeroshot_classification_templates.txt").write_text(f"{written}\n")
    assert open_set(tmp_path / "set").templates == ("a {c}",)


# --- what is missing --------------------------------------------------------------------------------


def _spoil(root: Path, name: str, content: str | None) -> None:
    path = root / name
    if content is None:
        path.unlink()
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("test/nshards.txt", "many\n", "expected one number"),
        ("test/nshards.txt", None, "nshards.txt: cannot be read"),
        ("test/1.tar", None, "1.tar: missing"),
        ("test/1.tar", "no tar at all", "1.tar: cannot be read"),
        ("classnames.txt", None, "has a label, and the set no class names; write classnames.txt"),
        ("classnames.txt", "red circle\n", "not a class number below 1"),
        ("classnames.txt", "red circle\n\nblue circle\n", "line 2 is empty"),
        ("zeroshot_classification_templates.txt", "a photo\n", "no place for the class name; write {c}"),
        ("zeroshot_classification_templates.txt", "\n", "is empty"),
    ],
)
def test_what_is_missing_of_tars_is_one_line(
    name: str, content: str | None, told: str, tars: Path, tmp_path: Path
) -> None:
    shutil.copytree(tars, tmp_path / "set")
    _spoil(tmp_path / "set", name, content)
    _told(tmp_path / "set", told)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "no evaluation set here"),
        ({"set.csv": ""}, "is empty"),
        ({"set.csv": "picture,label\na.png,dog\n"}, "no column of pictures"),
        ({"set.csv": "image,colour\na.png,red\n"}, "neither labels"),
        ({"set.csv": "image,label\na.png,dog\n,cat\n"}, "line 3 names no picture"),
        ({"set.csv": "image,label\ngone.png,dog\n"}, "gone.png: cannot be read"),
        ({"set.csv": "image,label\na.png,1\n"}, "numbers without names; write classnames.txt"),
        ({"set.csv": "image,label\na.png,2\n", "classnames.txt": "a\nb\n"}, "not a class number below 2"),
        ({"set.csv": "image,label\na.png,dog\na.png,cat\n"}, "two labels"),
        ({"set.csv": "image,label\na.png,dog\n", "classnames.txt": "cat\ncow\n"}, "names 2 classes, and the set has 1"),
        ({"set.csv": "image,label\na.png,\n"}, "nothing to measure"),
        ({"set.csv": "image,label\nhttps://a.example/1.png,dog\n"}, "https://"),
        ({"set.jsonl": '{"image": "a.png", "label": "dog"}\n{\n'}, "line 2 is not JSON"),
        ({"set.jsonl": "[]\n"}, "no JSON object"),
        ({"set.parquet": "PAR0"}, "no Parquet file"),
        ({"n01440764/a.png": "", "n99999999/a.png": ""}, "n99999999 is none of ImageNet's"),
        ({"dog/a.png": "", "cat/readme.md": ""}, "cat: a class without pictures"),
        ({"val/dog/a.png": "", "train/cat/a.png": ""}, "a class that"),
        ({"state.json": "{}"}, "names no data files"),
        ({"state.json": "{"}, "is damaged"),
        ({"dataset_dict.json": '{"splits": ["train"]}'}, "none of test, val, validation"),
        (
            {"state.json": '{"_data_files": [{"filename": "x"}], "_indices_files": [{"filename": "y"}]}'},
            "flatten_indices",
        ),
        ({"state.json": '{"_data_files": [{"filename": "x.arrow"}]}', "x.arrow": "ARROW?"}, "x.arrow: is damaged"),
        ({"state.json": '{"_data_files": [{"filename": "x.arrow"}]}'}, "x.arrow: cannot be read"),
    ],
)
def test_what_is_missing_of_other_sets_is_one_line(files: dict[str, str], told: str, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    for name, content in files.items():
        _spoil(tmp_path, name, content)
    lists = [name for name in files if name.startswith("set.")]
    _told(tmp_path / lists[0] if lists else tmp_path, told)


def _told(path: Path, told: str) -> None:
    with pytest.raises(EvaluationError) as caught:
        look(path)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(path.parent) in str(caught.value) or "https" in told


# --- shares, buckets, conversion --------------------------------------------------------------------


@given(st.lists(st.integers(0, 9), max_size=9), st.integers(1, 7))
def test_ranks_read_every_example_once(sizes: list[int], ranks: int) -> None:
    read = [
        (part, number)
        for rank in range(ranks)
        for part, first, step in share_of_parts(len(sizes), World(rank=rank, size=ranks))
        for number in range(first, sizes[part], step)
    ]
    assert sorted(read) == [(part, number) for part, size in enumerate(sizes) for number in range(size)]


def test_ranks_read_different_tars_where_there_are_enough() -> None:
    read = [{part for part, _, _ in share_of_parts(8, World(rank=rank, size=4))} for rank in range(4)]
    assert [len(parts) for parts in read] == [2] * 4
    assert len(set.union(*read)) == 8


def test_sets_in_a_bucket_say_the_same(
    tars: Path, tmp_path: Path, ranks_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ranks_bucket.environment.items():
        monkeypatch.setenv(name, value)
    expected = look(tars)
    for make in (as_csv, as_parquet, as_arrow):
        made = make(tars, tmp_path / make.__name__)
        root = made if made.is_dir() else made.parent
        place = put_tree(root, f"{ranks_bucket.url}/sets/{make.__name__}")
        assert look(str(place if made.is_dir() else place / made.name)) == expected
    put_tree(folders(tmp_path / "folders"), f"{ranks_bucket.url}/sets/folders")
    assert look(f"{ranks_bucket.url}/sets/folders") == look(tmp_path / "folders")


def test_converted_set_says_the_same_and_has_the_same_bytes_again(tmp_path: Path) -> None:
    folders(tmp_path / "set" / "test")
    folders(tmp_path / "set" / "train", pictures=1)
    Image.new("RGB", (8, 8)).save(tmp_path / "set" / "test" / NAMES[0].replace(" ", "_") / "z.bmp")
    source = open_set(tmp_path / "set")
    for name in ("one", "two"):
        written = write_tars(source, tmp_path / name, examples_per_tar=4)
        assert (written.examples, written.train, written.recoded) == (9, 4, 1)
    assert (tmp_path / "one" / "test" / "nshards.txt").read_text() == "3\n"
    found = open_set(tmp_path / "one")
    assert (found.classes, found.templates) == (source.classes, source.templates)
    assert _pictures(found) == _pictures(source)
    for path in sorted((tmp_path / "one").rglob("*")):
        assert (
            path.is_dir() or path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()
        )


def _pictures(data: EvaluationSet) -> list[tuple[int | None, bytes]]:
    opened = [(example.label, Image.open(io.BytesIO(example.image))) for example in data.examples()]
    return [(label, np.array(image.convert("RGB")).tobytes()) for label, image in opened]


def test_command_converts_and_refuses_what_is_there(
    tars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = as_csv(tars, tmp_path / "list")
    assert main(["evaluation-set", str(made), "--to", str(tmp_path / "new")]) == 0
    assert "12 pictures, 4 classes" in capsys.readouterr().out
    assert look(tmp_path / "new") == look(tars)
    assert main(["evaluation-set", str(made), "--to", str(tmp_path / "new")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["evaluation-set", str(tmp_path / "nowhere"), "--to", str(tmp_path / "newer")]) == 2
    assert not (tmp_path / "newer").exists()


def test_retrieval_sets_are_marked_for_clip_benchmark(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "set.csv").write_text('image,caption\na.png,"two\nlines"\n')
    write_tars(open_set(tmp_path / "set.csv"), tmp_path / "new", examples_per_tar=10)
    assert (tmp_path / "new" / "dataset_type.txt").read_text() == "retrieval\n"
    assert [example.captions for example in open_set(tmp_path / "new").examples()] == [("two lines",)]


# --- real sets --------------------------------------------------------------------------------------


@pytest.mark.skipif(not (SHARED / "classify").is_dir(), reason="needs the project's shared ImageNet sample")
def test_real_photographs_by_folder_and_by_list(tmp_path: Path) -> None:
    listed = open_set(SHARED / "classify" / "labels.tsv")
    assert look(SHARED / "classify" / "labels.tsv").labelled == 118
    for example in listed.examples():
        name = Path(example.name).name
        folder = tmp_path / "val" / name.partition("_")[0]
        folder.mkdir(parents=True)
        (folder / name).write_bytes(example.image)
    found = open_set(tmp_path)
    assert len(found.templates) == 80
    # labels.tsv has ImageNet's own labels, open_clip the curated ones: most are the same.
    assert len(set(found.classes) & set(listed.classes)) > 60
    assert survey(found, train=False).labelled == 118


@pytest.mark.skipif(not (SHARED / "pictures").is_dir(), reason="needs the project's shared drawings")
def test_real_drawings_with_captions_in_many_languages(tmp_path: Path) -> None:
    import tarfile

    with tarfile.open(SHARED / "pictures" / "tuxpaint.tar") as tar:
        tar.extractall(tmp_path, filter="data")
    texts = pq.read_table(SHARED / "pictures" / "texts.parquet", filters=[("style", "=", "tuxpaint")])
    pq.write_table(texts.select(["path", "text"]), tmp_path / "set.parquet")
    found = look(tmp_path / "set.parquet")
    assert found.examples > 400
    assert found.captions == texts.num_rows
