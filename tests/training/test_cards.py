"""What a model cannot do, measured on drawn pictures; a run's card; the commands of docs/export.md."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from configs.load import from_mapping
from tests.conftest import REPOSITORY
from tests.training.conftest import tiny_run
from training.cards.card import card_of_run, card_of_source
from training.cards.curves import curves_svg
from training.cards.limits import measure_limits, wilson
from training.cards.probes import PROBES, WORDINGS
from training.commands import main
from training.config import TrainConfig
from training.learning.pretrained import load_model
from training.train import train

PAGE = (REPOSITORY / "docs" / "export.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path, tiny_vit: Path, tiny_evaluation: Path) -> Path:
    """A directory with runs/sample and its data, as the docs have it."""
    root = tmp_path_factory.mktemp("cards")
    run = tiny_run(root / "runs/sample", tiny_data, tiny_vit) | {"samples": 32}
    run["evaluation"] = {"path": str(tiny_evaluation)}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        train(from_mapping(TrainConfig, run))
    shutil.copytree(root / "runs/sample", root / "runs/vit")
    return root


# --- the drawn questions ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROBES)
def test_questions_are_drawn_from_the_seed_alone_and_every_choice_is_right_at_times(name: str) -> None:
    def ask(number: int) -> Any:
        return PROBES[name].ask(np.random.default_rng([7, number]))

    questions = [ask(number) for number in range(30)]
    again = ask(5)
    assert np.array_equal(again.picture, questions[5].picture)
    assert again.choices == questions[5].choices
    for question in questions:
        assert question.picture.shape == (256, 256, 3)
        assert question.picture.dtype == np.uint8
        assert len(set(question.choices)) == PROBES[name].choices
        assert (question.picture != question.picture[0, 0]).any(), "there is something in it"
    assert len({question.right for question in questions}) > min(PROBES[name].choices, 10) // 2


@pytest.mark.parametrize("name", ["position", "binding"])
def test_a_bag_of_words_cannot_tell_the_choices_apart(name: str) -> None:
    for number in range(20):
        question = PROBES[name].ask(np.random.default_rng(number))
        bags = {tuple(sorted(re.sub(r"left|right|above|below", "", text).split())) for text in question.choices}
        assert len(bags) == 1


def test_things_are_where_the_right_caption_says() -> None:
    from training.cards.drawing import COLOURS

    for number in range(20):
        question = PROBES["position"].ask(np.random.default_rng(number))
        said = question.choices[question.right]
        first, second = re.findall(r"red|green|blue|yellow|black|purple", said)
        places = [
            np.argwhere((question.picture == COLOURS[colour]).all(axis=2)).mean(axis=0) for colour in (first, second)
        ]
        down, right = places[1] - places[0]
        words = {"left of": right > 0, "right of": right < 0, "above": down > 0, "below": down < 0}
        assert [is_so for word, is_so in words.items() if word in said] == [True], said


def test_as_many_things_are_drawn_as_are_counted() -> None:
    for number in range(20):
        question = PROBES["counting"].ask(np.random.default_rng(number))
        small = question.picture[::4, ::4]
        filled = (small != small[0, 0]).any(axis=2)
        assert _islands(filled) == question.right + 1


def _islands(filled: np.ndarray[Any, np.dtype[np.bool_]]) -> int:
    """Connected parts, by flooding."""
    left = {(int(y), int(x)) for y, x in np.argwhere(filled)}
    count = 0
    while left:
        count += 1
        edge = [left.pop()]
        while edge:
            y, x = edge.pop()
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            edge += near
    return count


# --- limits -----------------------------------------------------------------------------------------


def test_who_knows_nothing_scores_what_guessing_does(monkeypatch: pytest.MonkeyPatch, work: Path) -> None:
    """All captions tie, and share the answer."""
    module = "training.cards.limits"
    monkeypatch.setattr(f"{module}.text_features", lambda model, texts: torch.ones(len(texts), 16))
    model = load_model(work / "runs/sample", device="cpu", precision="fp32")
    limits = measure_limits(model, questions=2, seed=0, batch_size=2)
    assert [share.right for share in limits.probes] == pytest.approx([share.chance for share in limits.probes])
    assert limits.spread == 0
    assert all(abs(answer["margin"]) < 1e-6 for answer in limits.answers)


@pytest.mark.parametrize(
    ("right", "questions", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_intervals_are_wilsons(right: int, questions: int, low: float, high: float) -> None:
    """Method 3 of Newcombe 1998, Statistics in Medicine 17, table I."""
    assert wilson(right / questions, questions) == pytest.approx((low, high), abs=5e-5)


def test_limits_are_the_same_again_and_at_any_batch_size(work: Path) -> None:
    model = load_model(work / "runs/sample", device="cpu", precision="fp32")
    once, again = (measure_limits(model, questions=5, seed=1, batch_size=size) for size in (2, 5))
    assert once.probes == again.probes
    assert [share.name for share in once.wordings] == list(WORDINGS)
    other = measure_limits(model, questions=5, seed=2, batch_size=5)
    assert other.answers != again.answers


# --- card -------------------------------------------------------------------------------------------


def test_card_holds_what_was_measured_and_says_what_was_not(work: Path, tmp_path: Path) -> None:
    files = card_of_run(work / "runs/sample")
    text = files["README.md"]
    header = yaml.safe_load(text.split("---\n")[1])
    assert header["pipeline_tag"] == "zero-shot-image-classification"
    assert "license" not in header
    assert "# license: yours to say" in text
    measured = json.loads((work / "runs/sample/metrics.json").read_text())["metrics"]
    entries = [metric for result in header["model-index"][0]["results"] for metric in result["metrics"]]
    assert {entry["type"]: entry["value"] for entry in entries} == {
        name: round(entry["value"], 6) for name, entry in measured.items()
    }
    assert f"| zeroshot top1 | {measured['zeroshot_top1']['value']:.1%} | 12.5% |" in text
    assert "Not measured. The set is not at hand here, or was not made by Openwit." in text
    assert "Not measured. `python -m training limits" in text
    ElementTree.fromstring(files["curves.svg"])
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.yaml").write_bytes((work / "runs/sample/config.yaml").read_bytes())
    (bare / "log.jsonl").write_text('{"samples_seen": 1')
    bare_files = card_of_run(bare)
    assert set(bare_files) == {"README.md"}
    assert "model-index" not in bare_files["README.md"]
    assert "Not measured. `python -m training evaluate" in bare_files["README.md"]


def test_card_has_the_facts_of_the_data_that_is_at_hand(work: Path, tmp_path: Path) -> None:
    run, data = tmp_path / "run", tmp_path / "data"
    shutil.copytree(work / "runs/sample", run)
    (data / "shards").mkdir(parents=True)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["path"] = str(data / "shards")
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    line = {"stage": "fetch", "unit": "pair", "rows_in": 5000, "kept": 4990, "rejected": {"http_404": 7, "too|slow": 3}}
    (data / "ledger.json").write_text(json.dumps({"lines": [line]}))
    (data / "shards/manifest.json").write_text(json.dumps({"samples": 4990, "fingerprint": "ab12"}))
    (data / "config.yaml").write_text(
        "balance: {mode: metaclip, max_pairs_per_query: 20}\ndecontaminate: {sets: [x]}\n"
    )
    text = card_of_run(run)["README.md"]
    assert "| fetch | pair | 5,000 | 4,990 | http_404 7, too\\|slow 3 |" in text
    assert "4,990 samples, fingerprint `ab12`" in text
    assert "`mode: metaclip`, `max_pairs_per_query: 20`" in text
    assert "Overlap" not in text


def test_card_of_a_model_that_is_no_run_says_how_little_is_known() -> None:
    text = card_of_source("ViT-B-32:openai", form="transformers")["README.md"]
    assert yaml.safe_load(text.split("---\n")[1])["library_name"] == "transformers"
    assert "Not measured. Neither are its data, training and limits known here." in text


def test_curves_of_nothing_are_none_and_of_one_line_are_points() -> None:
    assert curves_svg([]) is None
    assert curves_svg([{"samples_seen": 5, "steps_skipped": 0}]) is None
    one = curves_svg([{"samples_seen": 5, "loss": 2.0}])
    assert one is not None
    assert ElementTree.fromstring(one).find("{http://www.w3.org/2000/svg}circle") is not None


def test_no_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["card", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no run there" in line
    assert main(["limits", str(tmp_path), "--questions", "0"]) == 2
    assert "questions must be at least 1" in capsys.readouterr().err


# --- docs/export.md ---------------------------------------------------------------------------------


def test_commands_of_the_page_work(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(work)
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) == 6
    for command in commands:
        python, dash_m, room, *words = shlex.split(command)
        assert (python, dash_m, room) == ("python", "-m", "training")
        small = ["--questions", "3"] if words[0] == "limits" else []
        assert main([*words, *small]) == 0, command
    (program,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    capsys.readouterr()
    exec(compile(program, "export.md", "exec"), {})
    assert capsys.readouterr().out == "16 numbers, length 1.000\n"
    for place in ("export", "export-onnx/text.onnx", "README.md", "curves.svg", "limits/limits.json"):
        assert (work / "runs/sample" / place).exists()
    assert (work / "runs/vit/export-transformers/config.json").is_file()
    card = (work / "runs/sample/README.md").read_text()
    assert "| counting | how many, one to five |" in card
    answers = pq.read_table(work / "runs/sample/limits/limits.parquet")
    assert answers.num_rows == 3 * (len(PROBES) - 1 + len(WORDINGS))
    for probe, choices in re.findall(r"^\| `(\w+)` \| (\d+) \|", PAGE, re.MULTILINE):
        assert PROBES[probe].choices == int(choices)
