"""`python -m training score`: one table by uid, the same bytes whatever is in between, and one line for a mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from configs.load import from_mapping
from tests.training.feature_sets import directions, make_features, uid
from training.commands import main
from training.learning.features import text_features
from training.learning.pretrained import fingerprint_of, load_model
from training.scores import clusters
from training.scores.config import ScoreConfig
from training.scores.score import score

ROWS = 150


def _like(count: int = ROWS, width: int = 12) -> np.ndarray:
    rows = directions(9, width, 7)[np.arange(count) % 9] + 0.25 * directions(count, width, 8)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """150 rows in four parts; row 3 has no picture, row 5 no text."""
    image, text = _like(), directions(ROWS, 12, 9)
    image[3], text[5] = np.nan, np.nan
    return make_features(tmp_path / "features", image, text)


def _table(path: Path) -> dict[bytes, dict[str, Any]]:
    rows = pq.read_table(path).to_pylist()
    assert [row["uid"] for row in rows] == sorted(row["uid"] for row in rows)
    return {row["uid"]: row for row in rows}


def _score(features: Path, *words: str) -> int:
    return main(["score", str(features), *words])


def test_clip_score_by_uid_beside_the_features(features: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _score(features) == 0
    rows = _table(features.with_name("features.scores.parquet"))
    told = capsys.readouterr().out
    assert f"clip_score: {ROWS - 2} of {ROWS} rows" in told
    image, text = _like(), directions(ROWS, 12, 9)
    for number in range(ROWS):
        value = rows[uid(number)]["clip_score"]
        if number in (3, 5):
            assert value is None
        else:
            assert value == pytest.approx(image[number] @ text[number], abs=1e-3)
    assert _score(features) == 0
    assert "is there already" in capsys.readouterr().out
    assert sorted(path.name for path in features.parent.iterdir()) == ["features", "features.scores.parquet"]
    assert _score(features, "--name", "dfn") == 2
    assert "give another --to, or delete it" in capsys.readouterr().err


def test_the_file_says_what_made_it(features: Path) -> None:
    assert _score(features, "--name", "dfn") == 0
    schema = pq.read_schema(features.with_name("features.scores.parquet"))
    made_by = json.loads(schema.metadata[b"openwit.scores"])
    assert made_by["config"]["name"] == "dfn"
    assert schema.names == ["uid", "dfn_score"]


def test_one_cluster_finds_what_all_pairs_find(features: Path, tmp_path: Path) -> None:
    words = ["--scores", "[duplicates]", "--duplicates.clusters", "1", "--duplicates.rows_per_cluster", "150"]
    assert _score(features, *words, "--to", str(tmp_path / "one.parquet")) == 0
    rows = _table(tmp_path / "one.parquet")
    assert rows[uid(3)] == {"uid": uid(3), "cluster": None, "similarity": None, "duplicate_of": None}
    numbers = [number for number in range(ROWS) if number != 3]
    image = _like()[numbers].astype(np.float64)
    image /= np.linalg.norm(image, axis=1, keepdims=True)
    centre = image.mean(axis=0)
    order = sorted(range(len(numbers)), key=lambda row: image[row] @ centre)
    gone = 0
    for place, row in enumerate(order):
        found = rows[uid(numbers[row])]
        before = image[order[:place]] @ image[row]
        if place:
            assert found["similarity"] == pytest.approx(before.max(), abs=1e-5)
        else:
            assert found["similarity"] is None
        goes = bool(place) and before.max() > 0.95
        assert (found["duplicate_of"] is not None) == goes
        gone += goes
        assert not goes or rows[found["duplicate_of"]]["duplicate_of"] is None
    assert 20 < gone < ROWS - 9


def test_more_clusters_find_a_part_of_it_and_stay_whole(features: Path, tmp_path: Path) -> None:
    for clusters_ in (1, 5, 12):
        words = ["--scores", "[duplicates]", "--duplicates.clusters", str(clusters_)]
        assert _score(features, *words, "--to", str(tmp_path / f"{clusters_}.parquet")) == 0
    tables = {number: _table(tmp_path / f"{number}.parquet") for number in (1, 5, 12)}
    image = {uid(number): row / np.linalg.norm(row) for number, row in enumerate(_like())}
    for rows in tables.values():
        assert sum(row["cluster"] is not None for row in rows.values()) == ROWS - 1
        gone = [row for row in rows.values() if row["duplicate_of"] is not None]
        assert all(rows[row["duplicate_of"]]["cluster"] == row["cluster"] for row in gone)
        assert all(row["similarity"] > 0.95 for row in gone)
        for first in range(5):  # no two that stay in a cluster are alike
            stay = [u for u, row in rows.items() if row["cluster"] == first and row["duplicate_of"] is None]
            cosines = np.array([image[u] for u in stay]) @ np.array([image[u] for u in stay]).T
            assert (cosines - 2 * np.eye(len(stay))).max(initial=-1) <= 0.9501
    counts = {number: sum(row["duplicate_of"] is not None for row in rows.values()) for number, rows in tables.items()}
    assert 0 < counts[12] <= counts[1]


def test_parts_and_ranges_of_clusters_change_nothing(features: Path, tmp_path: Path) -> None:
    """The rows in parts of another size, and clusters compared one at a time."""
    image, text = _like(), directions(ROWS, 12, 9)
    image[3], text[5] = np.nan, np.nan
    order = np.random.default_rng(0).permutation(ROWS)
    uids = [uid(number) for number in order]
    other = make_features(tmp_path / "other", image[order], text[order], uids=uids, rows_per_part=17)
    options = {"scores": ["clip", "duplicates"], "duplicates": {"clusters": 6, "memory_mb": 1}}
    score(from_mapping(ScoreConfig, {**options, "features": [str(features)], "to": str(tmp_path / "a.parquet")}))
    options["duplicates"] = {"clusters": 6, "memory_mb": 1000}
    score(from_mapping(ScoreConfig, {**options, "features": [str(other)], "to": str(tmp_path / "b.parquet")}))
    first, second = _table(tmp_path / "a.parquet"), _table(tmp_path / "b.parquet")
    for number in range(ROWS):
        one, two = first[uid(number)], second[uid(number)]
        assert one["clip_score"] == two["clip_score"]
        assert (one["cluster"], one["duplicate_of"]) == (two["cluster"], two["duplicate_of"])
        assert one["similarity"] == pytest.approx(two["similarity"], abs=1e-6)


def test_killed_run_goes_on_to_the_same_bytes(features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--scores", "[clip, duplicates]", "--duplicates.clusters", "6"]
    assert _score(features, *words, "--to", str(tmp_path / "whole.parquet")) == 0
    real, calls = clusters.AssignPart.work, iter(range(100))

    def dying(task: Any, out: Any) -> Any:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return real(task, out)

    with monkeypatch.context() as patch:
        patch.setattr(clusters.AssignPart, "work", dying)
        assert _score(features, *words, "--to", str(tmp_path / "cut.parquet")) == 130
    assert not (tmp_path / "cut.parquet").exists()
    done: list[str] = []

    def counted(task: Any, out: Any) -> Any:
        done.append(task.partition)
        return real(task, out)

    with monkeypatch.context() as patch:
        patch.setattr(clusters.AssignPart, "work", counted)
        assert _score(features, *words, "--to", str(tmp_path / "cut.parquet")) == 0
    assert done == ["00002", "00003"]
    assert _columns(tmp_path / "cut.parquet") == _columns(tmp_path / "whole.parquet")
    assert not (tmp_path / "cut.parquet.work").exists()


def _columns(path: Path) -> pa.Table:
    """Without what made it, which names the file."""
    return pq.read_table(path).replace_schema_metadata(None)


def test_same_options_give_the_same_bytes(features: Path, tmp_path: Path) -> None:
    made = []
    for _ in range(2):
        assert _score(features, "--scores", "[clip, duplicates]", "--to", str(tmp_path / "s.parquet")) == 0
        made.append((tmp_path / "s.parquet").read_bytes())
        (tmp_path / "s.parquet").unlink()
    assert made[0] == made[1]


def test_other_features_are_joined_by_uid(features: Path, tmp_path: Path) -> None:
    order = np.arange(ROWS)[::-1][: ROWS - 20]
    image, text = directions(ROWS, 6, 1), directions(ROWS, 6, 2)
    uids = [uid(number) for number in order]
    make_features(tmp_path / "dfn", image[order], text[order], uids=uids, rows_per_part=11)
    assert main(["score", str(features), f"dfn={tmp_path / 'dfn'}", "--to", str(tmp_path / "s.parquet")]) == 0
    rows = _table(tmp_path / "s.parquet")
    assert len(rows) == ROWS
    for number in range(ROWS):
        value = rows[uid(number)]["dfn_score"]
        assert value == (None if number < 20 else pytest.approx(image[number] @ text[number], abs=1e-3))


def test_policy_by_the_model_that_made_the_features(
    tmp_path: Path, tiny_vit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "weights.pt"
    import open_clip

    from training.learning.model import register_model

    torch.manual_seed(0)
    torch.save(open_clip.create_model(register_model(str(tiny_vit))).state_dict(), weights)
    source = f"{tiny_vit}:{weights}"
    model = load_model(source, device="cpu", precision="fp32")
    about = {"model": source, "model_fingerprint": fingerprint_of(model)}
    image, text = directions(30, 16, 1), directions(30, 16, 2)
    features = make_features(tmp_path / "features", image, text, **about)
    (tmp_path / "policy.yaml").write_text(
        "rules:\n  dogs: {prompts: [a dog, two dogs], contrast: [a cat], threshold: 0.5}\n"
        "  words: {prompts: [a dog], threshold: 0.3, looks_at: text}\n"
    )
    words = ["--scores", "[policy]", "--policy.file", str(tmp_path / "policy.yaml")]
    assert _score(features, *words) == 0
    rows = _table(features.with_name("features.scores.parquet"))
    prompts = text_features(model, ["a dog", "two dogs", "a cat"]).float().numpy()
    share = torch.softmax(20 * torch.from_numpy(image @ prompts.T), dim=1)[:, :2].sum(dim=1)
    for number in range(30):
        row = rows[uid(number)]
        assert row["policy_dogs"] == pytest.approx(share[number].item(), abs=1e-2)
        assert row["policy_words"] == pytest.approx(text[number] @ prompts[0], abs=1e-3)
        expected = [name for name, limit in (("dogs", 0.5), ("words", 0.3)) if row[f"policy_{name}"] >= limit]
        assert row["policy_flags"] == expected
    assert {len(row["policy_flags"]) for row in rows.values()} >= {0, 1}
    strangers = make_features(tmp_path / "strangers", image, text, **about | {"model_fingerprint": "0" * 32})
    assert _score(strangers, *words) == 2
    assert "is not the model that made the features" in capsys.readouterr().err


# --- bad input ------------------------------------------------------------------------------------


def test_a_mistake_is_one_line_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = make_features(tmp_path / "both", _like(20), directions(20, 12))
    pictures = make_features(tmp_path / "pictures", _like(20), None)
    texts = make_features(tmp_path / "texts", None, _like(20))
    torch.save(nn.Linear(768, 1).state_dict(), tmp_path / "l14.pth")
    (tmp_path / "empty.yaml").write_text("rules: {a: {prompts: [], threshold: 0.2}}\n")
    (tmp_path / "none").mkdir()
    for words, told in (
        ([pictures], "has features of no texts, which clip_score is made of; embed them too"),
        ([texts, "--scores", "[duplicates]"], "has features of no images, which duplicates is made of"),
        ([both, "--scores", "[aesthetic]"], "give its file with --aesthetic.head"),
        ([both, "--scores", "[aesthetic]", "--aesthetic.head", tmp_path / "l14.pth"], "takes features of 768 numbers"),
        ([both, "--scores", "[policy]"], "give their file with --policy.file"),
        ([both, "--scores", "[policy]", "--policy.file", tmp_path / "empty.yaml"], "give at least one text"),
        ([both, "--scores", "[clap]"], "did you mean 'clip'"),
        ([both, texts], "needs a name for its column"),
        ([both, f"clip={pictures}"], "give a column twice"),
        ([both, f"dfn={pictures}"], "has features of no texts, which dfn_score is made of"),
        ([both, "--name", "no-name"], "cannot name a column"),
        ([both, "--to", "scores.csv"], "scores are a .parquet file"),
        ([tmp_path / "none"], "no features here"),
        ([], "'features' is required"),
    ):
        assert main(["score", *map(str, words)]) == 2, words
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1
    assert not list(tmp_path.glob("*.work"))


def test_features_of_other_samples_or_repeated_ones_are_told(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = [uid(number) for number in range(1000, 1020)]
    other = make_features(tmp_path / "other", _like(20), _like(20), uids=others)
    assert _score(features, f"dfn={other}") == 2
    assert "the features share no uid" in capsys.readouterr().err
    again = make_features(tmp_path / "again", _like(20), _like(20), uids=[*others[:19], others[0]])
    assert _score(again) == 2
    assert "1 rows of the features repeat a uid" in capsys.readouterr().err
