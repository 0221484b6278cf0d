"""Small data sets and models for the trainer's tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.storage.bucket import BucketPath
from tests.object_store.fault_proxy import FaultProxy
from tests.object_store.fixtures import Bucket, new_bucket
from tests.ports import free_port
from tests.ray_nodes import kill
from tests.training.families import families
from tests.training.tiny_shards import CLASSES, make_evaluation, make_shards
from training.data.index import SampleIndex, write_index

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


TINY_DROPOUT = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 32,
        "timm_model_name": "test_vit",
        "timm_pool": "",
        "timm_proj": "linear",
        "timm_proj_bias": False,
        "timm_drop": 0.3,
        "timm_drop_path": 0.3,
    },
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


@pytest.fixture(scope="session")
def tiny_dropout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whose image tower draws from torch's generator in every step."""
    path = tmp_path_factory.mktemp("models") / "openwit-test-dropout.json"
    path.write_text(json.dumps(TINY_DROPOUT))
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, tiny_vit: Path) -> str:
    """The word of a model with random weights, for `load_model`."""
    return _random_weights(tmp_path_factory.mktemp("weights"), tiny_vit, seed=0)


@pytest.fixture(scope="session")
def other_tiny_model(tmp_path_factory: pytest.TempPathFactory, tiny_vit: Path) -> str:
    """Another one of the same architecture."""
    return _random_weights(tmp_path_factory.mktemp("weights"), tiny_vit, seed=1)


def _random_weights(folder: Path, model: Path, *, seed: int) -> str:
    import math

    import torch
    from safetensors.torch import save_file

    from training.config import ModelConfig
    from training.learning.model import create_model

    made = create_model(
        ModelConfig(name=str(model)),
        device=torch.device("cpu"),
        precision="fp32",
        init_logit_scale=math.log(1 / 0.07),
        init_logit_bias=None,
        seed=seed,
    )
    save_file(dict(made.clip.state_dict()), folder / "model.safetensors")
    return f"{model}:{folder / 'model.safetensors'}"


def index_of(*directories: Path) -> SampleIndex:
    """The index of `directories`, written beside the first."""
    return write_index(*directories, root=directories[0].parent / f"index-of-{directories[0].name}")


def tiny_run(output: Path, data: Path, model: Path) -> dict[str, Any]:
    """The options of a run of ten steps over 103 samples, which crosses an epoch."""
    return {
        "output": str(output),
        "data": {"path": str(data), "num_workers": 0},
        "model": {"name": str(model), "patch_dropout": 0.25},
        "samples": 160,
        "global_batch_size": 16,
        "precision": "fp32",
        "device": "cpu",
        "threads": 1,
        "optimiser": {"learning_rate": 1e-2, "warmup_samples": 32, "max_gradient_norm": 1.0},
        "checkpoint": {"every_samples": 48, "keep": 2},
        "log": {"every_steps": 1, "tensorboard": False},
    }


def growing_run(output: Path, data: Path, model: Path) -> dict[str, Any]:
    """The same with larger pictures in the last three steps."""
    phases = [{"begins_at": 0.65, "image_size": 48, "micro_batches": 2}]
    return tiny_run(output, data, model) | {"phases": phases}


def averaged_run(output: Path, data: Path, model: Path) -> dict[str, Any]:
    """LAMB, rates of its own for each tower and layer, and averaged weights, with larger pictures at the end."""
    run = growing_run(output, data, model)
    own = {"name": "lamb", "image_learning_rate": 4e-3, "image_layer_decay": 0.7, "text_layer_decay": 0.8}
    return run | {"optimiser": {**run["optimiser"], **own, "ema_decay": 0.9}}


def stop_run(run: dict[str, Any], *, step: int) -> None:
    """Begin `run` in this process and crash in `step`."""
    import training.train as train_module
    from configs.load import from_mapping
    from training.config import TrainConfig

    real, calls = train_module.accumulate_gradient, iter(range(1000))

    def crashing(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == step:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module, "accumulate_gradient", crashing)
        with pytest.raises(KeyboardInterrupt):
            train_module.train(from_mapping(TrainConfig, run))


def put_tree(directory: Path, url: str) -> BucketPath:
    """The files below `directory` as objects."""
    place = BucketPath.of(url)
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            (place / str(path.relative_to(directory))).put(path.read_bytes())
    return place


def in_window(run: dict[str, Any], output: str | Path, data: str | Path) -> dict[str, Any]:
    """`run` with whole shards read, two at a time."""
    return run | {
        "output": str(output),
        "data": {**run["data"], "path": str(data), "order": "window", "window": 2},
    }


@pytest.fixture(scope="session")
def ranks_bucket(object_store: str) -> Iterator[Bucket]:
    """The bucket of `two_ranks`, in which the environment points while it is used."""
    with FaultProxy(object_store) as proxy:
        yield new_bucket(proxy, object_store)


@pytest.fixture(scope="session")
def two_ranks(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_data: Path,
    tiny_vit: Path,
    tiny_evaluation: Path,
    ranks_bucket: Bucket,
) -> Path:
    """What two processes wrote (see ranks_worker): started once for all tests, since that takes longest."""
    folder = tmp_path_factory.mktemp("two-ranks")
    plain = tiny_run(folder / "plain", tiny_data, tiny_vit) | {"micro_batches": 2}
    followed = tiny_run(folder / "followed", tiny_data, tiny_vit)
    followed["data"] = {**followed["data"], "follow": True}
    sharded = tiny_run(folder / "sharded", tiny_data, tiny_vit) | {"distributed": "fsdp", "micro_batches": 2}
    taken_over = growing_run(folder / "taken-over", tiny_data, tiny_vit)
    stop_run(taken_over, step=6)
    # Seven pictures, three at a time: one rank has a batch more than the other.
    make_evaluation(folder / "odd", per_class=1, size=40, classes=CLASSES[:7])
    taken_over["evaluation"] = {"path": str(folder / "odd"), "batch_size": 3}
    averaged = averaged_run(folder / "averaged", tiny_data, tiny_vit) | {"distributed": "fsdp"}
    averaged["evaluation"] = {**taken_over["evaluation"], "every_samples": 48}
    runs = [plain, followed, sharded, taken_over | {"distributed": "fsdp"}, averaged]
    # The second of these is taken over in its middle, by ranks that share no disk.
    in_bucket = in_window(plain, f"{ranks_bucket.url}/run", f"{ranks_bucket.url}/data")
    apart = in_bucket | {"output": f"{ranks_bucket.url}/apart"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ranks_bucket.environment.items():
            patch.setenv(name, value)
        put_tree(tiny_data, f"{ranks_bucket.url}/data")
        stop_run(apart, step=6)
    runs += [in_bucket, apart | {"distributed": "fsdp"}]
    spec = {"folder": str(folder), "model": str(tiny_vit), "runs": runs, "apart": [apart["output"]]}
    asleep = {}
    for name in ("step", "evaluation", "checkpoint", "index"):
        asleep[name] = tiny_run(folder / f"asleep-{name}", tiny_data, tiny_vit) | {"collective_timeout_s": 8}
    asleep["evaluation"]["evaluation"] = {"path": str(tiny_evaluation), "every_samples": 48}
    run_ranks(spec | {"asleep": asleep}, 2, environment=ranks_bucket.environment)
    return folder


@pytest.fixture(scope="session")
def two_ranks_of_others(tmp_path_factory: pytest.TempPathFactory, tiny_vit: Path, tiny_resnet: Path) -> Path:
    """Likewise, of methods with models of their own and of a tower with batch normalisation; for slow tests."""
    folder = tmp_path_factory.mktemp("two-ranks-of-others")
    spec = {"folder": str(folder), "model": str(tiny_vit), "resnet": str(tiny_resnet)}
    run_ranks(spec | {"families": families(folder)}, 2)
    return folder


def run_ranks(
    spec: dict[str, Any], ranks: int, timeout_s: float = 240, environment: Mapping[str, str] | None = None
) -> None:
    """Run ranks_worker in `ranks` processes that meet on loopback; fail with their output if one fails."""
    ports = [free_port() for _ in range(1 + len(spec.get("runs", ())) + len(spec.get("asleep", ())))]
    path = Path(spec["folder"]) / "spec.json"
    path.write_text(json.dumps({**spec, "ranks": ranks, "ports": ports}))
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.training.ranks_worker", str(path)],
        cwd=Path(__file__).resolve().parents[2],
        env={
            **os.environ,
            **(environment or {}),
            "MASTER_ADDR": "127.0.0.1",
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output = process.communicate(timeout=timeout_s)[0]
    finally:
        kill(process)
    assert process.returncode == 0, output
