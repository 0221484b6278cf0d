"""Presets name the files of the package, in it and in a wheel."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.load import load
from configs.presets import KINDS, first_sentence, no_preset, preset, presets, shipped
from pipeline.config import WitConfig
from query_list.config import BuildConfig
from tests.conftest import REPOSITORY
from training.config import TrainConfig
from training.experiment.config import ExperimentConfig

CLASSES = {"shards": WitConfig, "queries": BuildConfig, "train": TrainConfig, "experiment": ExperimentConfig}


def test_every_config_of_the_repository_is_a_preset_that_can_be_read() -> None:
    for kind in KINDS:
        known = presets(kind)
        assert set(known.values()) == set((REPOSITORY / "configs" / kind).glob("*.yaml"))
        for name, file in known.items():
            assert preset(kind, name) == preset(kind, file.stem) == file
            load(CLASSES[kind], file)
            assert 10 < len(first_sentence(file)) < 260
            assert first_sentence(file).endswith(".")
    assert {"sample", "commoncrawl", "laion", "datacomp", "img2dataset"} <= set(presets("shards"))


def test_other_words_are_no_presets() -> None:
    for word in ("", ".", "sample.yaml", "Sample", "../shards/sample", "data/sample"):
        assert preset("shards", word) is None
    assert no_preset("train", "clip-vit-b32") == "did you mean the preset 'clip-vit-b-32'?"
    assert no_preset("queries", "x") == "name a .yaml file, or a preset: biomedical, german, sample, wikipedia"


def test_file_of_the_package_stands_in_for_one_that_is_not_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "configs/train/models/openwit-sample.json"
    assert shipped(name) == REPOSITORY / name
    assert shipped("configs/../secret.json") == Path("configs/../secret.json")
    assert shipped("models/mine.json") == Path("models/mine.json")
    here = tmp_path / name
    here.parent.mkdir(parents=True)
    here.write_text("{}")
    assert shipped(name) == Path(name)
