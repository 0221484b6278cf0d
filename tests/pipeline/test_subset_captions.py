"""Of what the page said and what captioners wrote one text becomes `caption`; samples that none fits are counted."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.catalog.catalog import open_catalog
from pipeline.commands import main
from pipeline.errors import InputError
from pipeline.questions.verify import verify
from pipeline.records.schema import CAPTIONED, SAMPLES
from pipeline.sets.captions_config import CaptionsConfig
from pipeline.sets.read_shards import read_shards
from pipeline.sets.subset import subset
from pipeline.sets.subset_config import SubsetConfig
from tests.pipeline.small_set import make_set

Rows = list[dict[str, Any]]


def captions_of(number: int) -> tuple[list[str], list[float | None], float | None]:
    """What is written of the sample `number`, how well it fits, and how well the page's text does."""
    written = [f" written of {number} ", f"other of {number}"][: number % 3]
    scores = [round(0.01 * ((number * 7) % 60), 2), round(0.01 * ((number * 11) % 60), 2)][: number % 3]
    return written, list(scores), None if number % 13 == 0 else round(0.01 * (number % 60), 2)


def write_table(path: Path, samples: Rows, *, scores: bool = True, **about: str) -> Path:
    found = [captions_of(number) for number in range(len(samples))]
    columns: dict[str, Any] = {
        "uid": pa.array([row["uid"] for row in samples], pa.binary(16)),
        "captions": pa.array([written for written, _, _ in found], pa.list_(pa.string())),
    }
    if scores:
        columns["scores"] = pa.array([given for _, given, _ in found], pa.list_(pa.float32()))
        columns["alt_text_score"] = pa.array([own for _, _, own in found], pa.float32())
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata({"openwit.captions": json.dumps(about)}), path)
    return path


def expected(choose: str, least: float | None, number: int, own: str) -> tuple[str, str, float | None] | None:
    """The naive rule: (caption, source, score) of a sample, None where nothing fits."""
    written, scores, own_score = captions_of(number)
    texts = [(own, "web", own_score), *((text.strip(), "small", s) for text, s in zip(written, scores, strict=True))]
    if least is not None:
        texts = [text for text in texts if text[2] is not None and text[2] >= least]
    if choose != "best":
        preferred = [text for text in texts if (text[1] == "web") == (choose == "web")]
        texts = preferred or texts
    return max(texts, key=lambda text: -1.0 if text[2] is None else text[2], default=None)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Rows, Path]:
    root = tmp_path_factory.mktemp("captioned")
    samples = make_set(root / "set")
    return root / "set", samples, write_table(root / "captions.parquet", samples, source="small", judge="a")


@pytest.mark.parametrize(("choose", "least"), [("best", 0.25), ("web", 0.3), ("synthetic", 0.3), ("best", None)])
def test_the_text_that_fits_becomes_the_caption(
    choose: Any, least: float | None, made: tuple[Path, Rows, Path], tmp_path: Path
) -> None:
    source, samples, table = made
    config = SubsetConfig(captions=CaptionsConfig(files=(str(table),), choose=choose, min_score=least))
    result = subset(source, config, tmp_path / "out")
    wanted = {row["uid"]: expected(choose, least, n, row["caption"]) for n, row in enumerate(samples)}
    stays = {uid: text for uid, text in wanted.items() if text is not None}
    found = {row["uid"]: row for row in read_shards(tmp_path / "out")}
    assert found.keys() == stays.keys()
    before = {row["uid"]: row for row in read_shards(source)}
    for number, row in enumerate(samples):
        if row["uid"] not in stays:
            continue
        new, text = found[row["uid"]], stays[row["uid"]]
        assert (new["caption"], new["caption_source"]) == text[:2]
        assert new["caption_score"] == (None if text[2] is None else pytest.approx(text[2]))
        own = captions_of(number)[2]
        assert new["alt_text_score"] == (None if own is None else pytest.approx(own))
        for name in ("alt_text", "url", "sha256", "image", "query_ids"):
            assert new[name] == before[row["uid"]][name], name
    if least is not None:
        assert 0 < result.samples < len(samples)
        assert {row["caption_source"] for row in found.values()} == {"web", "small"}
        assert set(result.left_out.values()) == {len(samples) - result.samples}
    (line,) = json.loads((tmp_path / "out/ledger.json").read_text())["lines"]
    assert line["rows_in"] == len(samples) == line["kept"] + sum(line["rejected"].values())
    assert verify(tmp_path / "out").damages == []


def test_what_fits_nowhere_is_a_rejection_with_its_scores(made: tuple[Path, Rows, Path], tmp_path: Path) -> None:
    source, samples, table = made
    captions = CaptionsConfig(files=(str(table),), min_score=0.3)
    subset(source, SubsetConfig(where="width > 90", captions=captions, limit_per_query=3), tmp_path / "out")
    with open_catalog(tmp_path / "out") as database:
        rows = database.sql("SELECT uid, reason, detail FROM rejections").fetchall()
        meanings = dict(database.sql("SELECT reason, count FROM reasons").fetchall())
        kinds = dict(database.sql("SELECT caption_source, count(*) FROM samples GROUP BY ALL").fetchall())
    assert set(kinds) == {"web", "small"}
    numbers = {row["uid"]: number for number, row in enumerate(samples)}
    reasons = Counter(reason for _, reason, _ in rows)
    assert meanings == dict(reasons)
    assert reasons["condition"] == sum(row["width"] <= 90 for row in samples)
    assert reasons["query_limit"] > 0
    nothing = [n for n, row in enumerate(samples) if row["width"] > 90 and expected("best", 0.3, n, "") is None]
    assert sorted(numbers[uid] for uid, reason, _ in rows if reason == "no_caption") == nothing
    detail = next(detail for uid, reason, detail in rows if reason == "no_caption" and numbers[uid] % 3 == 1)
    assert detail.startswith("its own text 0.")
    assert detail.endswith(", below 0.3")


def test_a_set_of_chosen_captions_is_chosen_from_again(made: tuple[Path, Rows, Path], tmp_path: Path) -> None:
    source, samples, table = made
    captions = CaptionsConfig(files=(str(table),), choose="synthetic")
    subset(source, SubsetConfig(captions=captions), tmp_path / "first")
    first = {row["uid"]: row for row in read_shards(tmp_path / "first")}
    subset(tmp_path / "first", SubsetConfig(where="caption_source = 'small'"), tmp_path / "second")
    second = {row["uid"]: row for row in read_shards(tmp_path / "second")}
    assert second
    for uid, row in second.items():
        assert {name: row[name] for name in ("caption", "caption_source", "caption_score")} == {
            name: first[uid][name] for name in ("caption", "caption_source", "caption_score")
        }
    # The text that a sample has is its captioner's by now.
    other = write_table(tmp_path / "other.parquet", samples, source="other")
    web = CaptionsConfig(files=(str(other),), choose="web")
    subset(tmp_path / "first", SubsetConfig(captions=web), tmp_path / "third")
    third = {row["uid"]: row for row in read_shards(tmp_path / "third")}
    assert Counter(row["caption_source"] for row in third.values()) == Counter(
        row["caption_source"] for row in first.values()
    )
    assert set(pq.read_schema(tmp_path / "third/shards/00000.parquet").names) == set(CAPTIONED.names)
    assert set(pq.read_schema(source / "shards/00000.parquet").names) == set(SAMPLES.names), "old sets stay"


def test_the_command_takes_a_directory_of_parts(
    made: tuple[Path, Rows, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, _, table = made
    parts = tmp_path / "captions"
    parts.mkdir()
    whole = pq.read_table(table)
    pq.write_table(whole.slice(0, 40), parts / "00000.parquet")
    pq.write_table(whole.slice(40), parts / "00001.parquet")
    words = ["--captions", str(parts), "--choose", "web", "--min_caption_score", "0.3"]
    assert main(["subset", str(source), "--out", str(tmp_path / "out"), *words]) == 0
    assert "left out" in capsys.readouterr().out
    told = json.loads((tmp_path / "out/subset.json").read_text())["captions"]
    assert told == {"files": [str(parts)], "choose": "web", "min_score": 0.3}


def test_what_is_no_table_of_these_captions_is_one_line(made: tuple[Path, Rows, Path], tmp_path: Path) -> None:
    source, samples, table = made

    def refused(**options: Any) -> str:
        with pytest.raises(InputError) as caught:
            subset(source, SubsetConfig(captions=CaptionsConfig(**options)), tmp_path / "out")
        assert not (tmp_path / "out").exists()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    lacking = write_table(tmp_path / "lacking.parquet", samples[:-2])
    assert "2 samples have no row in it, for example" in refused(files=(str(lacking),))
    others = [{"uid": bytes(reversed(row["uid"]))} for row in samples]
    foreign = write_table(tmp_path / "foreign.parquet", others)
    assert "is a sample of this set; give what" in refused(files=(str(foreign),))
    twice = write_table(tmp_path / "twice.parquet", [*samples, samples[0]])
    assert "1 rows repeat a uid" in refused(files=(str(twice),))
    unscored = write_table(tmp_path / "unscored.parquet", samples, scores=False)
    assert "has no scores, which --choose best goes by" in refused(files=(str(unscored),))
    assert "--min_caption_score" in refused(files=(str(unscored),), choose="web", min_score=0.1)
    assert "no such file" in refused(files=(str(tmp_path / "none.parquet"),))
    other = write_table(tmp_path / "other.parquet", samples, judge="b")
    assert "scored by different models" in refused(files=(str(table), str(other)))
    pq.write_table(pa.table({"uid": [row["uid"] for row in samples], "caption": ["a"] * len(samples)}), other)
    assert "has no column captions" in refused(files=(str(other),))
