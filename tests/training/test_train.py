"""Whole runs: resume, checkpoints, errors, the commands."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file
from torch._C._distributed_c10d import HashStore, PrefixStore

import training.train as train_module
from configs.load import from_mapping
from tests.training.conftest import tiny_run
from training.__main__ import main
from training.checkpoints.layout import find_last, read_progress
from training.config import (
    CheckpointConfig,
    EvaluationConfig,
    LossConfig,
    ModelConfig,
    OptimiserConfig,
    TrainConfig,
)
from training.data.index import write_index
from training.distributed import World
from training.errors import CheckpointError, DataError, DistributedError, NonFiniteError, OutputError
from training.learning.model import create_model
from training.learning.rates import learning_rate
from training.learning.seeding import seed_step
from training.run.stopping import stop_file
from training.train import train


@pytest.fixture
def config(tiny_data: Path, tiny_vit: Path, tmp_path: Path) -> TrainConfig:
    return from_mapping(TrainConfig, tiny_run(tmp_path / "run", tiny_data, tiny_vit))


class CrashError(Exception):
    """Stands for a crash."""


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int, action: Any) -> None:
    """Call `action` before the gradient of `step`."""
    real = train_module.accumulate_gradient
    calls = iter(range(1000))

    def wrapped(*args: Any, **kwargs: Any) -> torch.Tensor:
        if next(calls) == step:
            action()
        return real(*args, **kwargs)

    monkeypatch.setattr(train_module, "accumulate_gradient", wrapped)


def weights_of(output: str | Path) -> dict[str, torch.Tensor]:
    last, problems = find_last(Path(output) / "checkpoints")
    assert last is not None
    assert not problems
    return load_file(last / "model.safetensors")


def assert_same_run(left: str | Path, right: str | Path) -> None:
    a, b = weights_of(left), weights_of(right)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    extra = [torch.load(find_last(Path(o) / "checkpoints")[0] / "optimiser.pt") for o in (left, right)]
    assert extra[0]["names"] == extra[1]["names"]
    moments = [entry["optimiser"]["state"] for entry in extra]
    for key, state in moments[0].items():
        assert all(torch.equal(value, moments[1][key][name]) for name, value in state.items())


def losses(output: str | Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (Path(output) / "log.jsonl").read_text().splitlines()]
    return [(line["samples_seen"], line["loss"]) for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def uninterrupted(tiny_data: Path, tiny_vit: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The output of a whole run of `config`, to be read only."""
    output = tmp_path_factory.mktemp("uninterrupted") / "run"
    whole = from_mapping(TrainConfig, tiny_run(output, tiny_data, tiny_vit))
    result = train(whole)
    assert result.progress.samples_seen == 160
    assert result.stopped_by is None
    return whole.output


def no_worker_is_left(output: str) -> bool:
    """Whether, within seconds, nobody maps the run's index any more."""
    for _ in range(100):
        maps = []
        for process in Path("/proc").glob("[0-9]*/maps"):
            with contextlib.suppress(OSError):
                maps.append(process.read_text())
        if not any(f"{output}/index" in text for text in maps):
            return True
        time.sleep(0.1)
    return False


def crash() -> None:
    raise CrashError


def test_crashed_and_resumed_run_equals_uninterrupted_run(
    config: TrainConfig, uninterrupted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(patch, 7, crash)
        with pytest.raises(CrashError):
            train(config)
    last, _ = find_last(Path(config.output) / "checkpoints")
    assert last is not None
    assert read_progress(last).samples_seen == 96  # in the middle of the first epoch
    train(config)
    assert_same_run(config.output, uninterrupted)
    assert losses(config.output) == losses(uninterrupted)
    assert len(losses(config.output)) == 10


def test_resumed_run_with_dropout_equals_uninterrupted_run(
    config: TrainConfig, tiny_dropout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = replace(config.model, name=str(tiny_dropout), patch_dropout=0.0)
    config = replace(config, model=model, data=replace(config.data, num_workers=1), micro_batches=2)
    whole = replace(config, output=str(tmp_path / "whole"))
    train(whole)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 7, crash)
        with pytest.raises(CrashError):
            train(config)
    torch.rand(3)  # what others draw does not matter
    train(config)
    assert_same_run(config.output, whole.output)
    assert losses(config.output) == losses(whole.output)


def test_random_numbers_of_a_step_are_a_function_of_seed_position_and_rank() -> None:
    def drawn(*place: int) -> float:
        seed_step(*place)
        return float(torch.rand(()))

    places = [(0, 0, 0), (0, 0, 1), (0, 256, 0), (1, 0, 0), (0, 1 << 40, 7)]
    assert len({drawn(*place) for place in places}) == len(places)
    assert [drawn(*place) for place in places] == [drawn(*place) for place in places]


def test_terminated_run_saves_and_the_resumed_one_equals_uninterrupted_run(
    config: TrainConfig, uninterrupted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
        result = train(config)
    assert result.stopped_by == signal.SIGTERM
    assert result.progress.samples_seen == 80
    train(config)
    assert_same_run(config.output, uninterrupted)


def test_a_stop_file_ends_the_run_with_a_checkpoint(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "stop").write_text(str(int(signal.SIGINT)))
    result = train(config, listen=partial(stop_file, tmp_path / "stop"))
    assert result.stopped_by == signal.SIGINT
    last, _ = find_last(Path(config.output) / "checkpoints")
    assert last is not None
    assert read_progress(last).samples_seen == result.progress.samples_seen < 160


def test_killed_run_resumes_to_the_same_weights(config: TrainConfig, tmp_path: Path) -> None:
    long = replace(config, samples=640, checkpoint=CheckpointConfig(every_samples=160))
    whole = replace(long, output=str(tmp_path / "whole"))
    train(whole)
    arguments = [
        sys.executable, "-m", "training", "run", "--output", long.output, "--data.path", long.data.path,
        "--data.num_workers", "1", "--model.name", long.model.name, "--model.patch_dropout", "0.25",
        "--samples", "640", "--global_batch_size", "16", "--precision", "fp32", "--device", "cpu", "--threads", "1",
        "--optimiser.learning_rate", "1e-2", "--optimiser.warmup_samples", "32",
        "--optimiser.max_gradient_norm", "1.0", "--checkpoint.every_samples", "160", "--log.tensorboard", "false",
    ]  # fmt: skip
    process = subprocess.Popen(arguments, cwd=Path(__file__).resolve().parents[2], stderr=subprocess.DEVNULL)
    checkpoints = Path(long.output) / "checkpoints"
    try:
        while process.poll() is None and not list(checkpoints.glob("*/state.json")):
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert no_worker_is_left(long.output)
    # Done before the kill on a fast machine: then there is nothing to resume, and the weights must agree all the same.
    train(long)
    assert_same_run(long.output, whole.output)


def test_run_goes_on_with_other_micro_batches_and_workers(
    config: TrainConfig, uninterrupted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(patch, 7, crash)
        with pytest.raises(CrashError):
            train(config)
    train(replace(config, micro_batches=4))
    a, b = weights_of(config.output), weights_of(uninterrupted)
    assert all(torch.allclose(a[name], b[name], atol=2e-3) for name in a)


def test_a_finished_run_started_again_changes_nothing(config: TrainConfig) -> None:
    train(config)
    before = weights_of(config.output)
    result = train(config)
    assert result.progress.samples_seen == 160
    assert all(torch.equal(before[name], tensor) for name, tensor in weights_of(config.output).items())


@pytest.mark.parametrize("name", ["plain", "followed", "sharded"])
def test_two_ranks_learn_what_one_learns(name: str, uninterrupted: str, two_ranks: Path) -> None:
    one, two = losses(uninterrupted), losses(two_ranks / name)
    assert [seen for seen, _ in one] == [seen for seen, _ in two]
    for (_, a), (_, b) in zip(one, two, strict=True):
        assert a == pytest.approx(b, rel=2e-3)


@pytest.mark.parametrize(
    ("where", "named"),
    [
        ("step", "step 3"),
        ("evaluation", "the evaluation after step 2"),
        ("checkpoint", "the checkpoint after step 2"),
    ],
)
def test_a_rank_that_stops_answering_is_named_with_the_step(where: str, named: str, two_ranks: Path) -> None:
    raised = (two_ranks / f"raised-{where}-0.txt").read_text()
    assert raised.startswith(f"DistributedError: rank 0, {named}: rank 1 stopped answering")
    assert "run again to go on from the last checkpoint" in raised
    assert "\n" not in raised


def test_an_index_may_take_longer_than_a_rank_waits_for_another(two_ranks: Path) -> None:
    for rank in (0, 1):
        assert (two_ranks / f"raised-index-{rank}.txt").read_text() == "nothing"


def test_a_first_rank_that_is_not_heard_of_during_long_work_is_told() -> None:
    store = PrefixStore("test", HashStore())
    world = World(rank=1, size=2, store=store, timeout_s=0.2)
    with pytest.raises(DistributedError, match="rank 0 stopped answering"):
        world._wait_for(store, "long/0")
    store.set("long/0/done", "")
    world._wait_for(store, "long/0")


def test_damaged_checkpoint_is_skipped_with_a_warning(
    config: TrainConfig, uninterrupted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    train(config)
    last, _ = find_last(Path(config.output) / "checkpoints")
    assert last is not None
    weights = last / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10] + bytes(10))
    capsys.readouterr()
    train(config)
    assert "damaged checkpoint skipped" in capsys.readouterr().err.replace("\n", " ")
    assert_same_run(config.output, uninterrupted)


def test_a_kill_while_writing_leaves_whole_checkpoints_only(
    config: TrainConfig, uninterrupted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = torch.save

    def full_disk(value: Any, path: Path) -> None:
        if "000000000096" in str(path):
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        real(value, path)

    with monkeypatch.context() as patch:
        patch.setattr("training.checkpoints.saving.torch.save", full_disk)
        with pytest.raises(OutputError, match="No space left on device"):
            train(config)
    names = sorted(path.name for path in (Path(config.output) / "checkpoints").iterdir() if path.name.isdigit())
    assert names == ["000000000048"]
    train(config)
    assert_same_run(config.output, uninterrupted)
    assert not list((Path(config.output) / "checkpoints").glob("*.tmp*"))


def test_only_the_newest_checkpoints_are_kept(uninterrupted: str) -> None:
    names = sorted(path.name for path in (Path(uninterrupted) / "checkpoints").iterdir())
    assert names == ["000000000144", "000000000160"]


def test_checkpoint_and_export_load_in_open_clip(config: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    train(config)
    expected = weights_of(config.output)
    last, _ = find_last(Path(config.output) / "checkpoints")
    path = str(last / "model.safetensors")
    loaded, _, _ = open_clip.create_model_and_transforms("openwit-test-vit", pretrained=path)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    status = main(["export", "--output", config.output, "--data.path", "x", "--model.name", config.model.name,
                   "--samples", "1"])  # fmt: skip
    assert status == 0
    exported, _, _ = open_clip.create_model_and_transforms(f"local-dir:{config.output}/export")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in exported.state_dict().items())


def test_sigmoid_run_exports_with_its_bias(config: TrainConfig) -> None:
    sigmoid = replace(config, loss=LossConfig(name="sigmoid"), samples=32)
    train(sigmoid)
    assert "logit_bias" in weights_of(config.output)
    main(["export", "--output", config.output, "--data.path", "x", "--model.name", config.model.name, "--samples", "1"])
    exported, _, _ = open_clip.create_model_and_transforms(f"local-dir:{config.output}/export")
    assert torch.equal(exported.state_dict()["logit_bias"], weights_of(config.output)["logit_bias"])


def test_learning_rate_counts_samples_not_steps() -> None:
    schedule = OptimiserConfig(learning_rate=1.0, final_learning_rate=0.1, warmup_samples=100)
    at = [learning_rate(schedule, samples=s, total_samples=1100) for s in (0, 50, 100, 600, 1100, 2000)]
    assert at == pytest.approx([0.0, 0.5, 1.0, 0.55, 0.1, 0.1])


def test_gains_biases_and_scale_are_not_decayed(tiny_vit: Path) -> None:
    from training.learning.optimiser import split_by_decay

    name = create_model(
        ModelConfig(name=str(tiny_vit)), device=torch.device("cpu"), precision="fp32",
        init_logit_scale=1.0, init_logit_bias=None, seed=0,
    )  # fmt: skip
    decayed, plain = split_by_decay(name.clip)
    names = {id(parameter): n for n, parameter in name.clip.named_parameters()}
    assert {names[id(p)] for p in plain} >= {"logit_scale", "ln_final.weight", "ln_final.bias"}
    assert all(not names[id(p)].endswith((".bias", "logit_scale")) for p in decayed)
    assert len(decayed) + len(plain) == len(names)


def test_non_finite_step_is_skipped_and_counted(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    real = train_module.accumulate_gradient
    calls = iter(range(1000))

    def poisoned(model: Any, method: Any, batch: Any, gradients: Any, world: Any, **kwargs: Any) -> Any:
        terms = real(model, method, batch, gradients, world, **kwargs)
        if next(calls) in (2, 3):
            gradients.buffer[5] = float("nan")
        return terms

    monkeypatch.setattr(train_module, "accumulate_gradient", poisoned)
    result = train(config)
    assert result.progress.steps_skipped == 2
    assert all(torch.isfinite(tensor).all() for tensor in weights_of(config.output).values())


def test_non_finite_step_can_stop_the_run(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        train_module, "accumulate_gradient", lambda *a, **k: {"contrastive": torch.tensor(float("nan"))}
    )
    with pytest.raises(NonFiniteError, match=r"step 0 .*lower optimiser\.learning_rate"):
        train(replace(config, on_non_finite="stop"))


def test_endless_skipping_stops_the_run(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        train_module, "accumulate_gradient", lambda *a, **k: {"contrastive": torch.tensor(float("inf"))}
    )
    with pytest.raises(NonFiniteError, match="step 3"):
        train(replace(config, max_skipped_in_a_row=3))


def test_other_settings_or_shards_in_the_same_output_are_refused(config: TrainConfig, tmp_path: Path) -> None:
    from tests.training.tiny_shards import make_shards

    train(replace(config, samples=160))
    with pytest.raises(CheckpointError, match="other settings"):
        train(replace(config, seed=1))
    make_shards(tmp_path / "other", counts=(30,), size=24)
    with pytest.raises(CheckpointError, match="other shards"):
        train(replace(config, data=replace(config.data, path=str(tmp_path / "other"))))


def test_a_directory_that_is_not_ours_is_refused(config: TrainConfig) -> None:
    Path(config.output).mkdir()
    (Path(config.output) / "thesis.txt").write_text("do not touch")
    with pytest.raises(OutputError, match="not the output of a training run"):
        train(config)
    assert [path.name for path in Path(config.output).iterdir()] == ["thesis.txt"]


def test_a_directory_of_a_live_run_is_refused(config: TrainConfig) -> None:
    from training.run.directory import locked_run

    with locked_run(config.output), pytest.raises(OutputError, match="another live run"):
        train(config)


def test_a_run_of_a_newer_format_is_refused(config: TrainConfig) -> None:
    Path(config.output).mkdir()
    (Path(config.output) / "run.json").write_text('{"format": 99}')
    with pytest.raises(OutputError, match="newer version"):
        train(config)


def test_evaluation_is_logged_and_written(config: TrainConfig, tiny_evaluation: Path) -> None:
    evaluated = replace(config, evaluation=EvaluationConfig(path=str(tiny_evaluation), every_samples=64))
    result = train(evaluated)
    written = json.loads((Path(config.output) / "metrics.json").read_text())
    assert written["samples_seen"] == 160
    assert written["metrics"]["zeroshot_top1"] == {"value": result.metrics[0].value, "chance": 0.125}
    lines = [json.loads(line) for line in (Path(config.output) / "log.jsonl").read_text().splitlines()]
    assert [line["samples_seen"] for line in lines if "zeroshot_top1" in line] == [64, 128, 160]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.nam", "x"], "unknown key 'model.nam'; did you mean 'model.name'?"),
        (["--model.name", "ViT-B-33"], "open_clip has no model 'ViT-B-33'; did you mean ViT-B-32"),
        (["--model.name", "missing.json"], "missing.json: cannot read the model's JSON"),
        (["--data.path", "nowhere"], "nowhere: no such directory"),
        (["--epochs", "1"], "give either epochs or samples"),
        (["--micro_batches", "17"], "micro_batches 17 exceeds the 16 samples of a rank"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    words: list[str], message: str, config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {
        "--output": config.output, "--data.path": config.data.path, "--model.name": config.model.name,
        "--samples": "16", "--global_batch_size": "16", "--device": "cpu",
    }  # fmt: skip
    options.update(dict(zip(words[::2], words[1::2], strict=True)))
    status = main(["run", *(word for pair in options.items() for word in pair)])
    error = capsys.readouterr().err
    assert status == 2
    assert error.count("\n") == 1
    assert message in error


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help", "all"]) == 0
    shown = capsys.readouterr().out
    for option in ("--output", "--data.augment.min_crop_area", "--optimiser.beta2", "--on_non_finite"):
        assert option in shown


def test_shards_that_vanish_during_a_run_are_one_clear_error(config: TrainConfig, tmp_path: Path) -> None:
    import shutil

    from training.data.batches import BatchDataset
    from training.data.decode import AugmentConfig
    from training.data.stream import Segment, Stream

    shutil.copytree(config.data.path, tmp_path / "copy")
    index = write_index(tmp_path / "copy", root=tmp_path)
    shutil.rmtree(tmp_path / "copy")
    dataset = BatchDataset(
        index_dirs=(str(tmp_path / index.fingerprint),),
        stream=Stream(segments=(Segment(sizes=(103,)),), seed=0, global_batch_size=4),
        augment=AugmentConfig(), image_size=32, tokenizer=lambda texts: torch.zeros(len(texts), 4), seed=0,
    )  # fmt: skip
    with pytest.raises(DataError, match="it was there when the run began"):
        dataset[0]


def test_evaluate_command_measures_the_last_checkpoint(
    config: TrainConfig, tiny_evaluation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = train(replace(config, evaluation=EvaluationConfig(path=str(tiny_evaluation))))
    (Path(config.output) / "metrics.json").unlink()
    status = main(
        ["evaluate", "--output", config.output, "--data.path", "x", "--model.name", config.model.name,
         "--samples", "1", "--precision", "fp32", "--evaluation.path", str(tiny_evaluation)]
    )  # fmt: skip
    assert status == 0
    assert "chance" in capsys.readouterr().out
    written = json.loads((Path(config.output) / "metrics.json").read_text())
    assert [m["value"] for m in written["metrics"].values()] == [m.value for m in result.metrics]


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_evaluate_command_obeys_the_device(
    config: TrainConfig, tiny_evaluation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(replace(config, samples=16))
    words = ["--output", config.output, "--data.path", "x", "--model.name", config.model.name, "--samples", "16"]
    assert main(["evaluate", *words, "--evaluation.path", str(tiny_evaluation), "--device", "cuda"]) == 2
    assert "device is cuda, but there is no usable CUDA device here" in capsys.readouterr().err
