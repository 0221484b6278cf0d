"""Mistakes that would change what is learnt, or that no rank could go on from: one line each, before any step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch.distributed import HashStore, PrefixStore

from configs.load import ConfigError, from_mapping, load
from tests.conftest import REPOSITORY
from tests.training.conftest import TINY_VIT, tiny_run
from tests.training.test_sharding import last_of
from training.__main__ import main
from training.checkpoints.loading import load_checkpoint
from training.config import ModelConfig, Phase, TrainConfig
from training.distributed import World, distributed
from training.errors import CheckpointError, DataError, DistributedError, ModelError, TrainingError, is_told_by_another
from training.learning.checks import check_sizes
from training.learning.model import Model, create_model
from training.learning.tokenizer import make_tokenizer
from training.train import train


@pytest.fixture
def config(tiny_data: Path, tiny_vit: Path, tmp_path: Path) -> TrainConfig:
    return from_mapping(TrainConfig, tiny_run(tmp_path / "run", tiny_data, tiny_vit))


def make(path: Path) -> Model:
    return create_model(
        ModelConfig(name=str(path)),
        device=torch.device("cpu"), precision="fp32", init_logit_scale=2.0, init_logit_bias=None, seed=7,
    )  # fmt: skip


def test_a_batch_is_shared_by_any_number_of_ranks_that_it_can_feed(config: TrainConfig) -> None:
    for size in range(1, 17):
        check_sizes(config, World(size=size))
        shares = [World(rank=rank, size=size).share(16) for rank in range(size)]
        assert [start for start, _ in shares[1:]] == [stop for _, stop in shares[:-1]]
        assert max(stop - start for start, stop in shares) - min(stop - start for start, stop in shares) <= 1
    with pytest.raises(ConfigError, match="global_batch_size 16 cannot be shared by 17 ranks; use at least 17"):
        check_sizes(config, World(size=17))


def test_more_micro_batches_than_a_rank_has_samples_are_refused(config: TrainConfig) -> None:
    for changed in (
        replace(config, micro_batches=6),
        replace(config, phases=(Phase(begins_at=0.5, micro_batches=6),)),
    ):
        check_sizes(changed, World(size=2))
        with pytest.raises(ConfigError, match="micro_batches 6 exceeds the 5 samples of a rank; lower it"):
            check_sizes(changed, World(size=3))


def test_a_checkpoint_of_another_model_is_one_clear_line(config: TrainConfig, tiny_resnet: Path) -> None:
    train(replace(config, samples=16))
    with pytest.raises(CheckpointError, match="holds a openwit-test-vit, which does not fit") as caught:
        load_checkpoint(last_of(config.output), make(tiny_resnet).clip)
    assert "\n" not in str(caught.value)


class Pair(World):
    """Two ranks in one process: the other one says what `other` holds."""

    other: object = None

    def gather_objects(self, value: object) -> list[object]:
        return [value, self.other]


def test_an_error_of_one_rank_is_raised_on_all() -> None:
    pair = Pair(size=2)
    assert pair.together(lambda: 7) == 7
    object.__setattr__(pair, "other", CheckpointError("rank 1 cannot read it"))
    with pytest.raises(CheckpointError, match="rank 1 cannot read it"):
        pair.together(lambda: 7)


@pytest.mark.parametrize("errors", [("alike", "alike", "alike"), ("alike", "alike", "another"), (None, "a", "a")])
def test_what_all_ranks_end_with_is_told_once(errors: tuple[str | None, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """By rank 0; what it does not end with is told by those that do. Ranks are threads here."""
    monkeypatch.setattr("training.distributed._SIGNING_S", 0.5)
    monkeypatch.setattr("training.distributed._BEAT_S", 0.0)
    monkeypatch.setenv("RANK", "0")
    store, found = HashStore(), [None if told is None else ModelError(told) for told in errors]
    worlds = [World(rank=rank, size=3, store=PrefixStore("here", store)) for rank in range(3)]
    with ThreadPoolExecutor(3) as threads:
        for world, error in zip(worlds, found, strict=True):
            if error is not None:
                threads.submit(world.tell_once, error)
    told = [error is not None and not is_told_by_another(error) for error in found]
    assert told == [errors[0] is not None, errors[1] != errors[0], errors[2] != errors[0]]


def test_what_one_rank_alone_lacks_is_told_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(DistributedError, match="rank 1 wants GPU 1, but there are 1") as caught, distributed():
        raise NotImplementedError
    assert not is_told_by_another(caught.value)


def test_a_mistake_in_a_config_is_told_once_on_a_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "configs/train/sample.yaml", "--loss.chunk_rows", "0"]
    for rank, local in ((None, None), (0, 0), (1, 1), (8, 0), (9, 1)):
        for name, value in (("RANK", rank), ("LOCAL_RANK", local)):
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, str(value))
        assert main(words) == 2
        said = capsys.readouterr().err
        assert ("chunk_rows must be at least 1" in said) == (local in (None, 0)), (rank, local)


@pytest.mark.slow
def test_torchrun_shows_one_line(tmp_path: Path) -> None:
    words = ["run", "configs/train/sample.yaml", "--device", "cpu", "--output", f"{tmp_path}/run"]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "3", "-m", "training", *words,
         "--model.name", "ViT-B-33"],
        cwd=REPOSITORY, env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode != 0
    assert done.stderr.count("error: model.name: open_clip has no model 'ViT-B-33'") == 1


def test_only_errors_of_collectives_are_called_so() -> None:
    with pytest.raises(RuntimeError, match="shapes"), World(size=2).during("step 4"):
        raise RuntimeError("shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="timed out"), World().during("step 4"):
        raise RuntimeError("something timed out")
    silent = "rank 1, step 4: another rank stopped answering \\(Timed out"
    with pytest.raises(DistributedError, match=silent), World(rank=1, size=2).during("step 4"):
        raise RuntimeError("[/some/where/gloo/buffer.cc:129] Timed out waiting 3000ms")
    memory = "rank 0, step 4: out of GPU memory; raise micro_batches"
    with pytest.raises(TrainingError, match=memory), World().during("step 4"):
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.slow
def test_every_model_of_open_clip_has_a_tokenizer_here_or_one_line_that_says_why_not() -> None:
    refused: dict[str, str] = {}
    for name in open_clip.list_models():
        try:
            make_tokenizer(name)
        except ModelError as error:
            refused[name] = str(error)
    assert all("\n" not in line and len(line) < 600 for line in refused.values())
    assert not {"ViT-B-32", "ViT-L-14-quickgelu", "RN50", "MobileCLIP-S1", "coca_ViT-B-32"} & refused.keys()


def test_tokenizer_that_is_not_here_is_told_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError("No module named 'transformers'")

    monkeypatch.setattr(open_clip, "get_tokenizer", missing)
    remedy = r"timm/ViT-B-16-SigLIP is not at hand .*bring SigLIP's sentencepiece model .*and set --model\.tokenizer"
    with pytest.raises(ModelError, match=remedy):
        make(Path("ViT-B-16-SigLIP"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": {"name": "ViT-B-33"}}, "open_clip has no model 'ViT-B-33'; did you mean ViT-B-32"),
        ({"model": {"name": "no-such.json"}}, "no-such.json: cannot read the model's JSON"),
        ({"model": {"tokenizer": "no-such"}}, "model.tokenizer: no-such does not exist"),
        ({"model": {"name": "ViT-B-16-SigLIP"}}, "its tokenizer .* is not at hand"),
        ({"model": {"vocabulary": 100}}, "its tokenizer knows 49,408 tokens and its text tower 100"),
        ({"model": {"init_from": "no-such"}}, "model.init_from: no-such does not exist"),
        ({"model": {"init_image_from": "no-such.npz"}}, "model.init_image_from: no-such.npz does not exist"),
        ({"method": {"name": "coca"}}, "has no decoder that could write captions"),
        ({"method": {"name": "qformer"}}, "set --model.lock_image true"),
        ({"method": {"name": "distillation"}}, "name a teacher by --method.options.teacher|reinforce"),
        ({"phases": [{"begins_at": 0.5, "context_length": 25}]}, "context_length 25 exceeds the 24"),
        ({"optimiser": {"schedule": "constant", "warmup_samples": 96, "cooldown_samples": 96}}, "lower them"),
        ({"evaluation": {"path": "no-such"}}, "no evaluation set|no such|missing"),
        ({"micro_batches": 17}, "micro_batches 17 exceeds"),
    ],
)
def test_what_is_known_without_the_data_is_told_before_it_is_looked_at_and_leaves_no_file(
    changes: dict[str, Any], says: str, tiny_vit: Path, tmp_path: Path
) -> None:
    """There is no data here at all: to look at it would be another mistake."""
    run = tiny_run(tmp_path / "run", tmp_path / "no-data", tiny_vit)
    model = dict(changes.get("model", {}))
    if "vocabulary" in model:
        text = {**TINY_VIT["text_cfg"], "vocab_size": model.pop("vocabulary")}  # type: ignore[dict-item]
        model["name"] = str(tmp_path / "openwit-test-few.json")
        Path(model["name"]).write_text(json.dumps({**TINY_VIT, "text_cfg": text}))
    config = from_mapping(TrainConfig, {**run, **changes, "model": {**run["model"], **model}})
    with pytest.raises((TrainingError, ConfigError), match=says) as caught:
        train(config)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_other_settings_in_an_output_are_told_before_the_data_is_looked_at(config: TrainConfig, tmp_path: Path) -> None:
    train(replace(config, samples=16))
    other = replace(config, samples=16, seed=1, data=replace(config.data, path=str(tmp_path / "no-data")))
    with pytest.raises(CheckpointError, match="holds a run with other settings"):
        train(other)


def test_what_a_set_lacks_is_told_before_an_index_is_begun(config: TrainConfig) -> None:
    data = replace(config.data, sampling="concept")
    with pytest.raises(DataError, match="no Parquet with query_ids beside it"):
        train(replace(config, data=data))
    assert [path.name for path in Path(config.output).iterdir()] == [".lock"]


def test_vocabulary_that_does_not_fit_is_told_before_the_model_is_made(tmp_path: Path) -> None:
    path = tmp_path / "openwit-test-few-words.json"
    path.write_text(json.dumps({**TINY_VIT, "text_cfg": {**TINY_VIT["text_cfg"], "vocab_size": 1000}}))
    with pytest.raises(ModelError, match=r"knows 49,408 tokens and its text tower 1,000; set text_cfg\.vocab_size"):
        make(path)


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs/train").glob("*.yaml")), ids=lambda path: path.stem)
def test_following_with_a_shipped_config_is_refused_with_what_to_write(path: Path) -> None:
    config = load(TrainConfig, path)
    if config.data.reinforced:
        with pytest.raises(ConfigError, match="nothing reinforces them; leave it out"):
            load(TrainConfig, path, ["--data.follow", "true", "--samples", "9", "--epochs", "null"])
        return
    if config.samples is None:
        with pytest.raises(ConfigError, match="set --samples N --epochs null"):
            load(TrainConfig, path, ["--data.follow", "true"])
    assert load(TrainConfig, path, ["--data.follow", "true", "--samples", "9", "--epochs", "null"]).data.follow
