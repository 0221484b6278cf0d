"""Small data sets and models for the trainer's tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.training.tiny_shards import CLASSES, make_evaluation, make_shards

TINY_VIT = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
TINY_RESNET = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None, "head_width": 32},
    "text_cfg": TINY_VIT["text_cfg"],
}


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """103 samples in three shards of unequal size, one of which holds three samples."""
    root = tmp_path_factory.mktemp("tiny-data")
    make_shards(root, counts=(60, 40, 3), size=40)
    return root


@pytest.fixture(scope="session")
def tiny_evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures of each of eight classes."""
    root = tmp_path_factory.mktemp("tiny-evaluation")
    make_evaluation(root, per_class=2, size=40, classes=CLASSES[:8])
    return root


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The JSON of a model that steps in milliseconds."""
    path = tmp_path_factory.mktemp("models") / "openwit-test-vit.json"
    path.write_text(json.dumps(TINY_VIT))
    return path


@pytest.fixture(scope="session")
def tiny_resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with batch normalisation."""
    path = tmp_path_factory.mktemp("models") / "openwit-test-resnet.json"
    path.write_text(json.dumps(TINY_RESNET))
    return path
