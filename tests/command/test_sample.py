"""What the presets called `sample` need is made first, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

import openwit.command
import query_list.commands
from configs.load import load
from configs.presets import presets
from openwit.command import sample
from pipeline.config import WitConfig
from pipeline.sample_web import SampleWebConfig, build_sample_web
from pipeline.sample_web import __main__ as sample_web
from query_list.config import BuildConfig
from training.config import TrainConfig


@pytest.fixture
def done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that were run, in an empty directory, none of which does anything."""
    monkeypatch.chdir(tmp_path)
    commands: list[list[str]] = []

    def noting(name: str) -> object:
        def main(words: list[str]) -> int:
            commands.append([name, *words])
            return 0

        return main

    monkeypatch.setattr(sample_web, "main", noting("sample_web"))
    monkeypatch.setattr(query_list.commands, "main", noting("query_list"))
    monkeypatch.setattr(openwit.command, "main", noting("openwit"))
    return commands


def test_places_are_those_of_the_samples_configs() -> None:
    shards = load(WitConfig, presets("shards")["sample"])
    queries = load(BuildConfig, presets("queries")["sample"])
    train = load(TrainConfig, presets("train")["sample"])
    assert shards.sample_web == SampleWebConfig().path == sample._WEB
    assert shards.queries == queries.output
    assert all(file.startswith(f"{sample._WEB}/") for file in (*shards.sources, *queries.dump.files, shards.queries))
    assert shards.output == train.data.path == sample._SET


def test_shards_come_after_the_web_and_the_list(done: list[list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert sample.before_shards(["sample", "--engine.kind", "inline"]) == 0
    assert done == [["sample_web", "build"], ["query_list", "build", "sample"]]
    assert "a miniature web in data/sample_web, its query list" in capsys.readouterr().err


def test_sample_web_of_another_size_stays(done: list[list[str]], tmp_path: Path) -> None:
    build_sample_web(SampleWebConfig(path="data/sample_web", links=200, port=8799))
    assert sample.before_shards(["sample"]) == 0
    assert done == [["query_list", "build", "sample"]]
    assert sample.before_plan(["sample"]) == 0
    (tmp_path / "data/sample_web/sample_web.json").write_text('{"links": 200}')
    assert sample.before_queries(["sample"]) == 0
    assert done[1:] == [["sample_web", "build"]]


def test_training_comes_after_the_shards(
    done: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # no torch: nothing is made for nothing
    assert sample.before_training(["sample"]) == 0
    assert not done
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert sample.before_training(["sample"]) == 0
    assert done == [["openwit", "shards", "sample"]]
    (tmp_path / "data/sample/shards").mkdir(parents=True)
    (tmp_path / "data/sample/shards/manifest.json").write_text("{}")
    assert sample.before_training(["sample"]) == 0
    assert len(done) == 1


@pytest.mark.parametrize("words", [[], ["laion"], ["sample.yaml"], ["sample", "--help"], ["sample", "-h", "fetch"]])
def test_other_words_make_nothing(words: list[str], done: list[list[str]]) -> None:
    for before in (sample.before_plan, sample.before_queries, sample.before_shards, sample.before_training):
        assert before(words) == 0
    assert not done


def test_what_fails_ends_it(done: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_web, "main", lambda words: 2)
    assert sample.before_shards(["sample"]) == 2
    assert not done
