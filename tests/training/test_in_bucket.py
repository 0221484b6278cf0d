"""Training from a bucket and into one: what is learnt is that of a disk, whatever the store does."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file

import openwit
import pipeline.storage.lease as lease_module
import pipeline.storage.store_client as store_client
from configs.load import ConfigError, from_mapping
from pipeline.storage.bucket import BucketPath
from pipeline.storage.place import place_of
from tests.conftest import REPOSITORY
from tests.object_store.fault_proxy import Faults
from tests.object_store.fixtures import Bucket
from tests.training.conftest import in_window, put_tree, tiny_run
from tests.training.test_data import LengthTokenizer, joined, load, same
from tests.training.test_train import CrashError, crash, interrupt_at, losses
from tests.training.tiny_shards import make_shards
from training.__main__ import main
from training.checkpoints.in_bucket import last_here
from training.checkpoints.layout import read_progress
from training.checkpoints.loading import read_weights
from training.config import AugmentConfig, DataConfig, EvaluationConfig, TrainConfig
from training.data.batches import Batch, BatchDataset, batches
from training.data.index import write_index
from training.data.lanes import lanes_of
from training.data.stream import Segment, Stream
from training.errors import CheckpointError, DataError, ModelError, OutputError
from training.learning.initial_weights import load_weights
from training.run.directory import locked_run
from training.train import train

FAULTS = Faults(
    shares={"500": 0.05, "slow": 0.05, "cut answer": 0.05, "cut request": 0.02, "lost answer": 0.02}, slow_s=0.05
)
WINDOW = 2


@pytest.fixture
def data_url(bucket: Bucket, tiny_data: Path) -> str:
    return str(put_tree(tiny_data, f"{bucket.url}/data"))


@pytest.fixture
def config(bucket: Bucket, data_url: str, tiny_vit: Path) -> TrainConfig:
    """A run over shards in a bucket, in it as well."""
    return from_mapping(
        TrainConfig, in_window(tiny_run(Path("run"), Path("data"), tiny_vit), f"{bucket.url}/run", data_url)
    )


@pytest.fixture(scope="module")
def on_disk(tiny_data: Path, tiny_vit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of the same run on a disk, to be read only."""
    output = tmp_path_factory.mktemp("on-disk") / "run"
    train(from_mapping(TrainConfig, in_window(tiny_run(output, tiny_data, tiny_vit), output, tiny_data)))
    return output


def dataset_of(data: str, root: Path, *, batch: int, window: int = WINDOW) -> BatchDataset:
    index = write_index(data, root=root / "index")
    (root / "copies").mkdir()
    lanes = (lanes_of(index.shard_sizes, index.sizes, window=window, seed=0),)
    return BatchDataset(
        index_dirs=(str(root / "index" / index.fingerprint),),
        stream=Stream(segments=(Segment(sizes=index.sizes),), seed=0, global_batch_size=batch, lanes=lanes),
        augment=AugmentConfig(),
        image_size=32,
        tokenizer=LengthTokenizer(),
        seed=0,
        copies=root / "copies",
    )


def bytes_in(directory: Path | None) -> int:
    assert directory is not None
    total = 0
    for path in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
            total += path.stat().st_size
    return total


def files_of(place: BucketPath) -> list[str]:
    return sorted(path.relative_to(place) for path, _ in place.walk())


def checkpoint_of(output: str | Path, scratch: Path) -> Path:
    last, problems = last_here(place_of(output) / "checkpoints", scratch / "copies")
    assert last is not None
    assert not problems
    return last


def assert_same_weights(output: str, expected: str | Path, scratch: Path) -> None:
    ours, theirs = checkpoint_of(output, scratch / "ours"), checkpoint_of(expected, scratch / "theirs")
    assert read_progress(ours).samples_seen == read_progress(theirs).samples_seen
    for name in ("model.safetensors", "optimiser.pt"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()


def losses_in(output: str) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (BucketPath.of(output) / "log.jsonl").read_text().splitlines()]
    return [(line["samples_seen"], line["loss"]) for line in lines]


# --- batches --------------------------------------------------------------------------------------


def test_batches_are_those_of_a_disk_at_any_world_size_whatever_the_store_does(
    bucket: Bucket, data_url: str, tiny_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "bucket").mkdir()
    bucket.proxy.faults = FAULTS
    alone = load(dataset_of(str(tiny_data), tmp_path / "disk", batch=20), stop=120)
    dataset = dataset_of(data_url, tmp_path / "bucket", batch=20)
    for ranks in (1, 2, 4):
        parts = [load(dataset, stop=120, rank=rank, world_size=ranks) for rank in range(ranks)]
        for step, whole in enumerate(alone):
            assert same(whole, joined([part[step] for part in parts]))
    assert bucket.proxy.fault_counts()
    keys = joined(alone).keys[:103]
    assert len(keys.unique()) == 103


def test_a_rank_copies_the_shards_of_its_lanes_alone_and_each_once(bucket: Bucket, tmp_path: Path) -> None:
    make_shards(tmp_path / "data", counts=(30,) * 8, size=24)
    url = str(put_tree(tmp_path / "data", f"{bucket.url}/many"))
    dataset = dataset_of(url, tmp_path, batch=24, window=4)
    copied = []
    for rank in range(4):
        for path in dataset.copies.iterdir():
            path.unlink()
        bucket.proxy.forget()
        load(dataset, stop=240, rank=rank, world_size=4)
        copied.append([request.key for request, _ in bucket.proxy.log if request.range])
    assert all(len(keys) == len(set(keys)) == 2 for keys in copied)
    assert len({key for keys in copied for key in keys}) == 8


def test_copies_stay_within_their_bound(bucket: Bucket, tmp_path: Path) -> None:
    make_shards(tmp_path / "data", counts=(20,) * 12, size=64)
    url = str(put_tree(tmp_path / "data", f"{bucket.url}/many"))
    dataset = dataset_of(url, tmp_path, batch=10, window=2)
    size = max((tmp_path / "data" / "shards").glob("*.tar"), key=lambda path: path.stat().st_size).stat().st_size
    config = DataConfig(path=url, num_workers=0, window=2, scratch_gb=4.5 * size / 1e9)
    most = 0
    with closing(batches(dataset, start=0, stop=480, rank=0, world_size=1, config=config)) as found:
        for _ in found:
            most = max(most, bytes_in(dataset.copies))
    assert 2 * size < most <= 4.5 * size
    small = replace(config, scratch_gb=1.5 * size / 1e9)
    with (
        pytest.raises(DataError, match=r"scratch_gb allows .*--data\.window"),
        closing(batches(dataset, start=0, stop=480, rank=0, world_size=1, config=small)) as found,
    ):
        list(found)


def test_shards_of_other_tools_are_indexed_alike(bucket: Bucket, tmp_path: Path) -> None:
    make_shards(tmp_path / "data", counts=(9, 7), size=24, offsets=False)
    (tmp_path / "data" / "shards" / "sizes.json").unlink()
    here = write_index(tmp_path / "data", root=tmp_path / "here")
    there = write_index(str(put_tree(tmp_path / "data", f"{bucket.url}/foreign")), root=tmp_path / "there")
    assert there.fingerprint == here.fingerprint
    assert np.array_equal(there.offset, here.offset)
    assert all(sha256 is None and e_tag for sha256, e_tag in there.versions)


def few_at_a_time(url: str, root: Path) -> Generator[Batch, None, None]:
    """Two passes over a set, of which a shard or two are held."""
    dataset = dataset_of(url, root, batch=10, window=1)
    index = dataset._index(0)
    config = DataConfig(path=url, num_workers=0, window=1, scratch_gb=2.5 * max(index.tar_bytes) / 1e9)
    return batches(dataset, start=0, stop=2 * len(index), rank=0, world_size=1, config=config)


@pytest.mark.parametrize("named", ["manifest", "nothing"])
def test_a_set_that_is_published_anew_in_the_middle_of_a_run_is_one_clear_line(
    bucket: Bucket, tmp_path: Path, named: str
) -> None:
    for seed in (0, 1):
        make_shards(tmp_path / str(seed), counts=(20,) * 6, size=24, seed=seed)
    if named == "manifest":
        shards = tmp_path / "0" / "shards"
        entries = [
            {
                "name": path.name,
                "samples": 20,
                "bytes": path.stat().st_size,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            for path in sorted(shards.glob("*.tar"))
        ]
        (shards / "manifest.json").write_text(json.dumps({"shards": entries}))
    url = str(put_tree(tmp_path / "0", f"{bucket.url}/data"))
    with closing(few_at_a_time(url, tmp_path)) as found:
        next(found)
        put_tree(tmp_path / "1", f"{bucket.url}/data")
        with pytest.raises(DataError, match="published anew"):
            list(found)


def test_a_set_that_is_being_published_is_not_read(bucket: Bucket, data_url: str, tmp_path: Path) -> None:
    place = BucketPath.of(data_url)
    (place / "openwit.json").put(b"{}")
    with pytest.raises(DataError, match="is being published"):
        write_index(data_url, root=tmp_path)


@pytest.fixture
def impatient(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(store_client._RETRIES, "max_retries", 1)
    monkeypatch.setattr(store_client, "TRIES", 1)
    store_client.store_of.cache_clear()


@pytest.mark.usefixtures("impatient")
def test_a_store_that_is_gone_ends_the_reading_with_one_line(bucket: Bucket, tmp_path: Path) -> None:
    make_shards(tmp_path / "data", counts=(20,) * 6, size=24)
    url = str(put_tree(tmp_path / "data", f"{bucket.url}/data"))
    with closing(few_at_a_time(url, tmp_path)) as found:
        next(found)
        bucket.proxy.faults = Faults(shares={"500": 1.0})
        with pytest.raises(DataError, match=rf"{url}/shards/.*tar: cannot be read .*; run again") as caught:
            list(found)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("impatient")
def test_a_store_that_is_gone_ends_the_run_with_one_line(
    bucket: Bucket, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def goes() -> None:
        bucket.proxy.faults = Faults(shares={"500": 1.0})

    interrupt_at(monkeypatch, 2, goes)
    with pytest.raises(OutputError, match=r"cannot write the checkpoint .*; run again") as caught:
        train(config)
    assert "\n" not in str(caught.value)
    bucket.proxy.faults = Faults()
    assert "run.json" in files_of(BucketPath.of(config.output))


def test_random_access_to_a_bucket_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--data\.order window"):
        DataConfig(path="s3://somewhere/data", order="samples")
    with pytest.raises(ConfigError, match="not the URL of a bucket"):
        DataConfig(path="ftp://somewhere/data")
    assert DataConfig(path="s3://somewhere/data").lanes == 64
    assert DataConfig(path="data").lanes is None
    assert DataConfig(path="data", order="window", window=8).lanes == 8


@pytest.mark.skipif(shutil.which("curl") is None, reason="webdataset reads http by curl")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_the_set_by_signed_urls(data_url: str) -> None:
    page = (REPOSITORY / "docs/training.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    told: dict[str, Any] = {}
    exec(program.replace("s3://my-bucket/wit", data_url).replace("range(7)", "range(3)"), told)
    assert "X-Amz-Signature" in told["urls"][0]
    pairs = list(told["pairs"])
    assert len(pairs) == 103
    assert pairs[0][0].size == (40, 40)


# --- runs -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_in_a_bucket_crashes_and_goes_on_to_the_weights_of_a_disk(
    bucket: Bucket, config: TrainConfig, on_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.proxy.faults = FAULTS
    config = replace(config, log=replace(config.log, tensorboard=True), data=replace(config.data, num_workers=1))
    with monkeypatch.context() as patch:
        interrupt_at(patch, 7, crash)
        with pytest.raises(CrashError):
            train(config)
    root = BucketPath.of(config.output)
    assert [path.name for path in (root / "checkpoints").iterdir()] == ["000000000048", "000000000096"]
    (root / "checkpoints" / "000000000112" / "model.safetensors").put(b"cut")  # as a kill leaves it
    train(config)
    bucket.proxy.faults = Faults()
    assert_same_weights(config.output, on_disk, tmp_path)
    assert losses_in(config.output) == losses(on_disk)
    names = files_of(root)
    assert [name for name in names if name.startswith("checkpoints/")] == [
        f"checkpoints/{seen:012d}/{name}"
        for seen in (144, 160)
        for name in ("model.safetensors", "optimiser.pt", "state.json")
    ]
    assert sum(name.startswith("tensorboard/") for name in names) == 2
    assert json.loads((root / "run.json").read_text())["window"] == WINDOW


def test_a_killed_run_in_a_bucket_resumes_to_the_same_weights(
    bucket: Bucket, config: TrainConfig, on_disk: Path, tmp_path: Path
) -> None:
    code = (
        "import sys, pipeline.storage.lease as lease, training.train as train\n"
        "from training.__main__ import main\n"
        "lease.LEASE_S = 2.0\n"
        "real = train.accumulate_gradient\n"
        "def slow(*args, **kwargs):\n"
        "    import time; time.sleep(0.1); return real(*args, **kwargs)\n"
        "train.accumulate_gradient = slow\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    words = [
        "run", "--output", config.output, "--data.path", config.data.path or "", "--data.num_workers", "0",
        "--data.window", str(WINDOW), "--model.name", config.model.name, "--model.patch_dropout", "0.25",
        "--samples", "160", "--global_batch_size", "16", "--precision", "fp32", "--device", "cpu", "--threads", "1",
        "--optimiser.learning_rate", "1e-2", "--optimiser.warmup_samples", "32",
        "--optimiser.max_gradient_norm", "1.0", "--checkpoint.every_samples", "48", "--log.tensorboard", "false",
        "--log.every_steps", "1",
    ]  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", code, *words], cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    first = BucketPath.of(config.output) / "checkpoints" / "000000000048" / "state.json"
    try:
        while process.poll() is None and not first.is_file():
            time.sleep(0.03)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
    train(config)
    assert_same_weights(config.output, on_disk, tmp_path)
    assert losses_in(config.output) == losses(on_disk)


def test_a_live_run_in_a_bucket_is_not_taken_over(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(lease_module, "LEASE_S", 2.0)
    with locked_run(config.output), pytest.raises(OutputError, match="another live run writes there"):
        train(config)
    (BucketPath.of(config.output).parent / "other" / "file").put(b"something")
    with pytest.raises(OutputError, match="not the output of a training run"):
        train(replace(config, output=config.output.replace("/run", "/other")))


def test_a_store_that_does_not_compare_wants_the_users_word(bucket: Bucket, config: TrainConfig) -> None:
    bucket.proxy.conditional_puts = False
    short = replace(config, samples=16)
    with pytest.raises(OutputError, match="--single_driver true"):
        train(short)
    assert "run.json" not in files_of(BucketPath.of(config.output))
    train(replace(short, single_driver=True))
    assert "checkpoints/000000000016/state.json" in files_of(BucketPath.of(config.output))


def test_a_run_that_lost_its_lock_commits_no_checkpoint(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    root = BucketPath.of(config.output)

    def taken() -> None:
        lock = json.loads((root / "lock").read_text())
        (root / "lock").put(json.dumps(lock | {"token": lock["token"] + 1}).encode())

    interrupt_at(monkeypatch, 1, taken)
    with pytest.raises(OutputError, match="another"):
        train(config)
    assert not [name for name in files_of(root) if name.endswith("state.json")]


def test_another_order_in_the_same_output_is_refused(config: TrainConfig, tiny_data: Path, tmp_path: Path) -> None:
    train(replace(config, samples=16))
    at = replace(config, samples=16)
    with pytest.raises(CheckpointError, match=r"--data\.order window --data\.window 2"):
        train(replace(at, data=replace(at.data, window=4)))
    with pytest.raises(CheckpointError, match=r"--data\.order window --data\.window 2"):
        train(replace(at, data=replace(at.data, path=str(tiny_data), order="auto")))
    # The same order from a disk goes on.
    train(replace(at, data=replace(at.data, path=str(tiny_data))))
    local = replace(at, output=str(tmp_path / "run"), data=replace(at.data, path=str(tiny_data), order="auto"))
    train(local)
    with pytest.raises(CheckpointError, match=r"--data\.order samples"):
        train(replace(local, data=at.data))


def test_a_damaged_checkpoint_in_a_bucket_is_skipped_with_a_warning(
    config: TrainConfig, on_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(config)
    (BucketPath.of(config.output) / "checkpoints" / "000000000160" / "optimiser.pt").put(b"other bytes")
    train(config)
    told = " ".join(capsys.readouterr().err.split())
    assert "000000000160: damaged checkpoint skipped (optimiser.pt is not what was written)" in told
    assert_same_weights(config.output, on_disk, tmp_path)


@pytest.mark.slow
def test_evaluate_export_and_init_from_take_urls(
    bucket: Bucket, config: TrainConfig, tiny_evaluation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket.proxy.faults = FAULTS
    evaluation = str(put_tree(tiny_evaluation, f"{bucket.url}/evaluation"))
    config = replace(config, samples=16, evaluation=EvaluationConfig(path=evaluation))
    result = train(config)
    root = BucketPath.of(config.output)
    measured = json.loads((root / "metrics.json").read_text())
    assert measured["metrics"].keys() == {metric.name for metric in result.metrics}
    here = replace(config, output=str(tmp_path / "run"), evaluation=EvaluationConfig(path=str(tiny_evaluation)))
    assert [m.value for m in train(here).metrics] == [m.value for m in result.metrics]

    words = ["--output", config.output, "--model.name", config.model.name, "--samples", "16", "--device", "cpu"]
    words += ["--data.path", config.data.path or "", "--evaluation.path", evaluation, "--precision", "fp32"]
    assert main(["export", *words]) == 0
    assert f"{config.output}/export" in capsys.readouterr().out
    assert {"export/open_clip_config.json", "export/open_clip_model.safetensors"} <= set(files_of(root))
    assert main(["export", config.output, "--to", "transformers"]) == 0
    assert main(["limits", config.output, "--questions", "1", "--device", "cpu"]) == 0
    assert main(["card", config.output]) == 0
    card = (root / "README.md").read_text(encoding="utf-8")
    assert "| counting | how many, one to five |" in card
    made = {"export-transformers/openwit_export.json", "limits/limits.json", "limits/limits.parquet", "curves.svg"}
    assert made <= set(files_of(root))
    (root / "metrics.json").unlink()
    assert main(["evaluate", *words]) == 0
    assert json.loads((root / "metrics.json").read_text()) == measured

    weights = load_file(checkpoint_of(config.output, tmp_path) / "model.safetensors")
    for source in (config.output, f"{config.output}/export/open_clip_model.safetensors", f"{config.output}/export"):
        model = open_clip.create_model(Path(config.model.name).stem)
        load_weights(model, source, towers="both", name=config.model.name)
        assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    for source in (config.output, f"{config.output}/export"):
        state = openwit.load(source, device="cpu").module.state_dict()
        assert all(torch.equal(value, weights[name]) for name, value in state.items())
    with pytest.raises(ModelError, match="holds no weights"):
        load_weights(model, evaluation, towers="both", name=config.model.name)


def test_a_growing_set_in_a_bucket_is_followed_and_a_resumed_run_reads_the_same(
    bucket: Bucket, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_shards(tmp_path / "small", counts=(30, 20), size=24)
    make_shards(tmp_path / "large", counts=(30, 20, 40), size=24)

    def grow() -> None:
        put_tree(tmp_path / "large", f"{bucket.url}/growing")

    def started(output: str) -> TrainConfig:
        for path, _ in list(BucketPath.of(f"{bucket.url}/growing").walk()):
            path.unlink()
        url = str(put_tree(tmp_path / "small", f"{bucket.url}/growing"))
        data = replace(config.data, path=url, follow=True)
        return replace(config, output=f"{bucket.url}/{output}", samples=112, data=data)

    whole = started("whole")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1, grow)
        train(whole)
    crashed = started("crashed")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1, grow)
        interrupt_at(patch, 5, crash)
        with pytest.raises(CrashError):
            train(crashed)
    train(crashed)
    assert_same_weights(crashed.output, whole.output, tmp_path)


@pytest.mark.parametrize("name", ["run", "apart"])
def test_two_ranks_learn_from_a_bucket_what_one_learns_from_a_disk(
    name: str, two_ranks: Path, ranks_bucket: Bucket, on_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in ranks_bucket.environment.items():
        monkeypatch.setenv(variable, value)
    output = f"{ranks_bucket.url}/{name}"
    found = read_weights(checkpoint_of(output, tmp_path))
    expected = load_file(checkpoint_of(on_disk, tmp_path) / "model.safetensors")
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=2e-3, atol=2e-4)
    first = [(seen, round(loss, 3)) for seen, loss in losses_in(output)]
    assert first == [(seen, round(loss, 3)) for seen, loss in losses(on_disk)]
