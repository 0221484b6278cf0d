"""`index` and `search`: what is found, in which order, among whom, and what stops them."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from configs.load import ConfigError
from openwit.command import main as openwit_main
from pipeline.catalog.catalog import SqlError
from tests.conftest import REPOSITORY
from tests.training.conftest import put_tree
from tests.training.tiny_shards import make_shards
from training.commands import main
from training.embedding.config import EmbedConfig
from training.embedding.embed import embed
from training.embedding.feature_files import (
    FeatureFacts,
    feature_column,
    feature_schema,
    open_features,
    write_facts,
    write_part,
)
from training.errors import DataError, FeaturesError, ModelError, OutputError
from training.learning.features import text_features
from training.learning.model import preprocess_json
from training.learning.pretrained import load_model
from training.search import nearest
from training.search.build import build_index
from training.search.config import IndexConfig, SearchConfig
from training.search.index_files import open_index
from training.search.nearest import Vectors
from training.search.search import Answer, search
from training.search.show import as_json, as_page

WIDTH = 24


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve samples, marked as a data set of ours."""
    root = tmp_path_factory.mktemp("search") / "set"
    make_shards(root, counts=(7, 5), size=40, broken=(3,))
    (root / "openwit.json").write_text('{"layout_version": 1}')
    shards = [{"name": f"{n:05d}.tar", "parquet": f"{n:05d}.parquet", "samples": s} for n, s in ((0, 7), (1, 5))]
    (root / "shards" / "manifest.json").write_text(json.dumps({"shards": shards}))
    for number in (0, 1):  # columns that the view of samples needs
        path = root / "shards" / f"{number:05d}.parquet"
        rows = pq.read_table(path)
        rows = rows.append_column("lang", pa.array(["en", "de"] * 6)[: len(rows)])
        pq.write_table(rows.append_column("width", pa.array([40] * len(rows), pa.int32())), path)
    return root


@pytest.fixture(scope="module")
def indexed(data: Path, tiny_model: str) -> Path:
    """Its features, with an index."""
    options = {"device": "cpu", "precision": "fp32", "threads": 1, "name": "tiny"}
    features = embed(EmbedConfig(model=tiny_model, data=str(data), **options), quiet=True)
    build_index(IndexConfig(features=str(features.place)))
    return Path(str(features.place))


def looked_for(indexed: Path, **options: Any) -> Answer:
    options = {"text": "a red circle", **options}
    return search(SearchConfig(index=str(indexed), **options))


def drawn(count: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make_features(place: Path, vectors: np.ndarray, part_rows: int = 300) -> None:
    parts = []
    for number, first in enumerate(range(0, len(vectors), part_rows)):
        block = vectors[first : first + part_rows]
        there = np.ones(len(block), np.bool_)
        columns = [
            pa.array([(2**60 - first - i).to_bytes(16, "big") for i in range(len(block))], pa.binary(16)),
            pa.array([f"{first + i}" for i in range(len(block))]),
            feature_column(block, there),
            feature_column(block[:0], ~there),
        ]
        table = pa.Table.from_arrays(columns, schema=feature_schema(WIDTH))
        parts.append(write_part(place, f"{number:05d}", table, key="0" * 32))
    facts: dict[str, Any] = dict.fromkeys(("model", "model_fingerprint", "model_name", "source"), "drawn")
    facts |= {"logit_scale": 1.0, "logit_bias": None, "image_size": 1, "precision": "fp32", "what": "image"}
    write_facts(place, FeatureFacts(**facts, width=WIDTH, kind="list", rows=len(vectors), parts=tuple(parts)))


@pytest.fixture
def with_graph(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Graphs over more than fifty vectors."""
    monkeypatch.setattr(nearest, "EXACT_ROWS", 50)
    return


def by_brute_force(vectors: np.ndarray, query: np.ndarray, k: int) -> list[int]:
    scores = np.round(vectors.astype(np.float16).astype(np.float32) @ query, 6)
    return np.lexsort((-np.arange(len(vectors)), -scores))[:k].tolist()  # uids fall as numbers rise


def test_a_graph_finds_nearly_all_that_is_nearest(tmp_path: Path, with_graph: None) -> None:
    vectors, queries = drawn(1500, 0), drawn(30, 1)
    make_features(tmp_path, vectors)
    index = build_index(IndexConfig(features=str(tmp_path), threads=1))
    assert "graph" in index.about.files
    found = Vectors(open_index(tmp_path))
    near = [set(found.nearest(query, 10).rows.tolist()) for query in queries]
    true = [set(by_brute_force(vectors, query, 10)) for query in queries]
    assert np.mean([len(a & b) / 10 for a, b in zip(near, true, strict=True)]) > 0.95
    for query in queries[:5]:
        exact = found.nearest(query, 10, exact=True)
        assert exact.rows.tolist() == by_brute_force(vectors, query, 10)
        assert exact.scores.tolist() == sorted(exact.scores.tolist(), reverse=True)


def test_an_index_is_the_same_bytes_by_one_thread(tmp_path: Path, with_graph: None) -> None:
    make_features(tmp_path / "features", drawn(400, 0))
    for name in ("a", "b"):
        build_index(IndexConfig(features=str(tmp_path / "features"), to=str(tmp_path / name), threads=1))
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert len(names) == 4
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("count", [3, 40, 700, 1400])
def test_what_is_chosen_is_searched_whole(tmp_path: Path, with_graph: None, count: int) -> None:
    vectors, queries = drawn(1500, 0), drawn(5, 1)
    make_features(tmp_path, vectors)
    found = Vectors(build_index(IndexConfig(features=str(tmp_path), threads=1)))
    among = np.sort(np.random.default_rng(2).permutation(1500)[:count])
    for query in queries:
        rows = found.nearest(query, 10, among=among).rows.tolist()
        assert len(rows) == min(10, count)
        assert set(rows) <= set(among.tolist())
        true = [int(among[i]) for i in by_brute_force(vectors[among], query, 10)]
        assert len(set(rows) & set(true)) >= (len(true) if count <= 50 else len(true) - 1)


def test_a_choice_that_the_graph_seldom_meets_is_still_found(
    tmp_path: Path, with_graph: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = drawn(1500, 0)
    make_features(tmp_path, vectors)
    found = Vectors(build_index(IndexConfig(features=str(tmp_path), threads=1)))
    monkeypatch.setattr(nearest, "_MOST_NEAR", 200)
    query = drawn(1, 1)[0]
    among = np.sort(np.argsort(vectors @ query)[:60])  # the farthest
    rows = found.nearest(query, 10, among=among).rows.tolist()
    assert rows == [int(among[i]) for i in by_brute_force(vectors[among], query, 10)]


def test_equals_come_in_the_order_of_their_uids(tmp_path: Path) -> None:
    vectors = np.repeat(drawn(5, 0), 4, axis=0)
    make_features(tmp_path, vectors, part_rows=6)
    found = Vectors(build_index(IndexConfig(features=str(tmp_path))))
    rows = found.nearest(vectors[9], 6).rows.tolist()
    assert rows[:4] == [11, 10, 9, 8]
    assert rows[4] > rows[5]


def test_words_find_what_the_model_thinks_is_nearest(indexed: Path, tiny_model: str) -> None:
    answer = looked_for(indexed, k=4)
    model = load_model(tiny_model, device="cpu", precision="fp32")
    query = text_features(model, ["a red circle"])[0].numpy()
    scores = {}
    for table in open_features(indexed).parts():
        for row in table.to_pylist():
            if row["image"] is not None:
                scores[row["uid"]] = float(np.asarray(row["image"], np.float32) @ query)
    best = sorted(scores, key=lambda uid: (-round(scores[uid], 6), uid))[:4]
    assert [hit.uid for hit in answer.hits] == best
    assert [hit.score for hit in answer.hits] == pytest.approx([scores[uid] for uid in best], abs=1e-5)
    assert answer.searched == 11
    assert answer.problem is None
    assert all(hit.original.text and hit.name for hit in answer.hits)


def test_a_picture_finds_itself(indexed: Path, data: Path, tmp_path: Path) -> None:
    sample = pq.read_table(data / "shards" / "00001.parquet").to_pylist()[2]
    tar = (data / "shards" / "00001.tar").read_bytes()
    (tmp_path / "x.jpg").write_bytes(tar[sample["tar_offset"] : sample["tar_offset"] + sample["num_bytes"]])
    answer = search(SearchConfig(index=str(indexed), image=str(tmp_path / "x.jpg"), k=3))
    assert answer.hits[0].uid == sample["uid"]
    assert answer.hits[0].score == pytest.approx(1, abs=2e-3)


def test_sql_says_who_may_be_found(indexed: Path, data: Path) -> None:
    answer = looked_for(indexed, k=20, where="lang = 'de' -- only these")
    rows = pa.concat_tables([pq.read_table(path) for path in sorted((data / "shards").glob("*.parquet"))])
    german = {row["uid"] for row in rows.to_pylist() if row["lang"] == "de"}
    assert {hit.uid for hit in answer.hits} <= german
    assert answer.searched == len(answer.hits) == len(german) - 1  # one picture is broken
    assert not looked_for(indexed, where="lang = 'fr'").hits
    for wrong, told in {
        "nothing = 1": "nothing",
        "true; DROP TABLE x": "one condition",
        "true) OR (true": "one condition|syntax|--where",
        "uid IN (SELECT content FROM read_blob('/etc/passwd'))": "SQL sees the data set alone",
    }.items():
        with pytest.raises(SqlError, match=told):
            looked_for(indexed, where=wrong)


def test_answers_are_shown_three_ways(
    indexed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["search", str(indexed), "a red circle", "--k", "3"]
    assert main(words) == 0
    table = capsys.readouterr().out
    assert main([*words, "--format", "json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [hit["rank"] for hit in content["hits"]] == [1, 2, 3]
    assert content["asked"] == {"text": "a red circle"}
    assert content["searched"] == 11
    for hit in content["hits"]:
        assert hit["uid"] in table
        assert hit["text"] in table
    assert main([*words, "--to", str(tmp_path / "a.html")]) == 0
    page = (tmp_path / "a.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 3
    assert "<script" not in page
    assert "http" not in page.replace("https://x", "")
    assert content["hits"][0]["text"] in page


def test_other_peoples_words_do_nothing_to_the_page(indexed: Path) -> None:
    answer = looked_for(indexed, k=2)
    nasty = "<script>alert(1)</script>\u202e"
    hits = [hit.__class__(**{**hit.__dict__, "name": nasty}) for hit in answer.hits]
    answer = Answer(**{**answer.__dict__, "hits": hits})
    assert "<script" not in as_page(answer)
    assert "\u202e" not in as_page(answer)
    assert json.loads(as_json(answer))["hits"][0]["name"] == nasty


def test_pictures_that_are_gone_leave_the_rest(indexed: Path, data: Path, tmp_path: Path) -> None:
    answer = looked_for(indexed, k=2, source=str(tmp_path / "gone"), to="x.html")
    assert [hit.uid for hit in answer.hits] == [hit.uid for hit in looked_for(indexed, k=2).hits]
    assert answer.problem is not None
    assert "no such data set" in answer.problem
    assert "no picture" in as_page(answer)
    make_shards(tmp_path / "other", counts=(7, 5), size=40, seed=9)
    answer = looked_for(indexed, k=2, source=str(tmp_path / "other"))
    assert answer.problem is not None
    assert "has changed" in answer.problem
    assert answer.hits[0].original.text is None


def test_an_index_that_is_fresh_stays_and_a_damaged_one_is_made_again(tmp_path: Path, with_graph: None) -> None:
    make_features(tmp_path, drawn(100, 0))
    index = build_index(IndexConfig(features=str(tmp_path), threads=1))
    vectors = tmp_path / "index" / index.about.files["vectors"]
    before = vectors.stat().st_mtime_ns
    assert build_index(IndexConfig(features=str(tmp_path), threads=1)) == index
    assert vectors.stat().st_mtime_ns == before
    vectors.write_bytes(vectors.read_bytes()[:-2])
    with pytest.raises(FeaturesError, match="damaged, its size is not what was written; make it again"):
        Vectors(open_index(tmp_path))
    build_index(IndexConfig(features=str(tmp_path), threads=1))
    assert len(Vectors(open_index(tmp_path)).nearest(drawn(1, 1)[0], 3).rows) == 3


def test_an_index_of_other_features_is_refused(tmp_path: Path) -> None:
    make_features(tmp_path, drawn(30, 0))
    build_index(IndexConfig(features=str(tmp_path)))
    make_features(tmp_path, drawn(40, 1))
    with pytest.raises(FeaturesError, match="the features have changed since; run `python -m training index"):
        open_index(tmp_path)
    build_index(IndexConfig(features=str(tmp_path)))
    assert open_index(tmp_path).about.rows == 40
    assert len(list((tmp_path / "index").iterdir())) == 3  # nothing of the old one
    shutil.move(tmp_path / "index", tmp_path / "carried")
    assert open_index(tmp_path / "carried").about.rows == 40


def test_another_model_is_refused(indexed: Path, other_tiny_model: str, tmp_path: Path) -> None:
    with pytest.raises(FeaturesError, match="made with another model"):
        looked_for(indexed, model=other_tiny_model)
    shutil.copytree(indexed / "index", tmp_path / "index")
    facts = tmp_path / "index" / "index.json"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"model": str(tmp_path / "gone")}))
    with pytest.raises(ModelError, match="say where by --model"):
        looked_for(tmp_path / "index")


def test_what_is_no_index_is_one_line(data: Path, tiny_model: str, indexed: Path, tmp_path: Path) -> None:
    with pytest.raises(FeaturesError, match="no index here"):
        open_index(tmp_path)
    make_features(tmp_path / "features", drawn(5, 0))
    with pytest.raises(FeaturesError, match="has no index yet; run"):
        open_index(tmp_path / "features")
    with pytest.raises(FeaturesError, match="has no features of texts"):
        build_index(IndexConfig(features=str(tmp_path / "features"), of="text"))
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(FeaturesError, match=r"index\.json: damaged"):
        open_index(tmp_path)
    with pytest.raises(OutputError, match="holds no index"):
        build_index(IndexConfig(features=str(tmp_path / "features"), to=str(data)))
    with pytest.raises(FeaturesError, match="--where needs a data set"):
        looked_for(indexed, where="true", source=str(tmp_path))
    (tmp_path / "x.jpg").write_text("no picture")
    with pytest.raises(DataError, match="not a whole picture"):
        search(SearchConfig(index=str(indexed), image=str(tmp_path / "x.jpg")))
    with pytest.raises(DataError, match="cannot be read"):
        search(SearchConfig(index=str(indexed), image=str(tmp_path / "y.jpg")))
    for wrong in (
        {},
        {"text": "a", "image": "b"},
        {"text": " "},
        {"text": "a", "format": "html"},
        {"text": "a", "k": 0},
    ):
        with pytest.raises(ConfigError):
            SearchConfig(index="x", **wrong)


def test_texts_can_be_found_as_well(indexed: Path, tmp_path: Path) -> None:
    build_index(IndexConfig(features=str(indexed), to=str(tmp_path / "texts"), of="text"))
    answer = looked_for(tmp_path / "texts", text="a red circle", k=3)
    assert answer.searched == 12
    first = answer.hits[0].original.text
    assert first is not None
    found = looked_for(tmp_path / "texts", text=first, k=1)
    assert found.hits[0].original.text == first
    assert found.hits[0].score == pytest.approx(1, abs=2e-3)


def test_an_index_in_a_bucket_answers_the_same(indexed: Path, data: Path, bucket: Any) -> None:
    put_tree(indexed, f"{bucket.url}/search-features")
    build_index(IndexConfig(features=f"{bucket.url}/search-features", to=f"{bucket.url}/search-index"))
    there = search(SearchConfig(index=f"{bucket.url}/search-index", text="a red circle", k=3))
    here = looked_for(indexed, k=3)
    assert [(hit.uid, hit.score) for hit in there.hits] == [(hit.uid, hit.score) for hit in here.hits]


def test_what_is_found_of_a_folder_is_shown(tiny_model: str, tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (40, 40), (80 * number, 0, 0)).save(tmp_path / f"{number}.png")
    options = {"device": "cpu", "precision": "fp32", "threads": 1}
    features = embed(EmbedConfig(model=tiny_model, data=str(tmp_path), **options), quiet=True)
    build_index(IndexConfig(features=str(features.place)))
    answer = search(SearchConfig(index=str(features.place), image=str(tmp_path / "1.png"), to="x.html"))
    assert answer.hits[0].name == "1.png"
    assert answer.hits[0].original.picture == (tmp_path / "1.png").read_bytes()


# --- docs/search.md -------------------------------------------------------------------------------


def blocks_of_docs(language: str) -> list[str]:
    page = (REPOSITORY / "docs" / "search.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def test_the_commands_of_the_docs_work(
    data: Path, tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for directory in ("runs/sample", "data", "my-pictures"):
        Path(directory).mkdir(parents=True)
    name, _, weights = tiny_model.partition(":")
    shutil.copy(weights, "runs/sample/open_clip_model.safetensors")
    export = {"model_cfg": json.loads(Path(name).read_text()), "preprocess_cfg": preprocess_json(32)}
    Path("runs/sample/open_clip_config.json").write_text(json.dumps(export))
    shutil.copytree(data, "data/sample", ignore=shutil.ignore_patterns("features"))
    for path in ("circle.jpg", "my-pictures/a.png"):
        Image.new("RGB", (40, 40), (200, 20, 20)).save(path)
    Path("my-list.csv").write_text("file,says\nmy-pictures/a.png,red\n")
    told = ""
    for line in "".join(blocks_of_docs("sh")).splitlines():
        words = shlex.split(line, comments=True)
        assert words[0] == "openwit"
        capsys.readouterr()
        assert openwit_main(words[1:]) == 0, capsys.readouterr().err
        told = capsys.readouterr().out if "json" in words else told
    assert json.loads(told)["searched"] == 7
    assert "data:image/jpeg" in Path("like-this.html").read_text()
    assert open_features("my-features").about.columns == {"image_column": "file", "text_column": "says"}
    (program,) = blocks_of_docs("python")
    found: dict[str, Any] = {}
    exec(program, found)
    assert found["vectors"].shape == (5, 16)
