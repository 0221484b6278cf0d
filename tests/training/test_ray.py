"""`--launcher ray`: the same run on Ray's workers, through their deaths."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from configs.load import ConfigError, dump, from_mapping
from pipeline.storage.bucket import BucketPath
from tests.object_store.fixtures import Bucket
from tests.ports import free_port
from tests.ray_nodes import ENVIRONMENT, cluster, kill
from tests.training.conftest import put_tree, tiny_run
from tests.training.test_sharding import assert_close, last_of
from tests.training.test_train import losses
from training.__main__ import main
from training.checkpoints.layout import listed_checkpoints, read_progress
from training.checkpoints.loading import read_weights
from training.config import CheckpointConfig, EvaluationConfig, RayConfig, TrainConfig
from training.errors import DistributedError
from training.launch_ray import train_on_ray
from training.train import train

ROOT = Path(__file__).resolve().parents[2]
Start = Callable[[TrainConfig], subprocess.Popen[str]]


@pytest.fixture
def config(tiny_data: Path, tiny_vit: Path, tmp_path: Path) -> TrainConfig:
    made = from_mapping(TrainConfig, tiny_run(tmp_path / "run", tiny_data, tiny_vit))
    return replace(made, launcher="ray", ray=RayConfig(num_workers=2))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the command, as its user does."""
    started: list[subprocess.Popen[str]] = []

    def begin(config: TrainConfig) -> subprocess.Popen[str]:
        path = tmp_path / "config.yaml"
        path.write_text(dump(config))
        store = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        process = subprocess.Popen(
            [sys.executable, "-m", "training", "run", str(path)],
            cwd=ROOT, env=ENVIRONMENT | store, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield begin
    for process in started:
        assert process.stdout is not None
        kill(process)
        process.stdout.close()


def lines_until(process: subprocess.Popen[str], words: str) -> Iterator[str]:
    """The lines that it prints, up to the first one that holds `words`."""
    assert process.stdout is not None
    for line in process.stdout:
        yield line
        if words in line:
            return


def trainers() -> list[int]:
    """Process ids of Ray's training workers."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::RayTrainWorker"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_ctrl_c_on_ray_ends_with_a_checkpoint(config: TrainConfig, start: Start, tmp_path: Path) -> None:
    endless = replace(config, samples=10**9, checkpoint=CheckpointConfig(), ray=RayConfig(num_workers=1))
    process = start(endless)
    head = "".join(lines_until(process, "samples/s"))
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: Ray's processes get it as well
    output = head + process.communicate(timeout=120)[0]
    assert process.returncode == 128 + signal.SIGINT, output
    assert "stopping after a checkpoint" in output
    last = read_progress(last_of(config.output))
    assert f"stopped after {last.samples_seen:,} of 1,000,000,000 samples" in output
    assert not list(tmp_path.glob("run.ray-*"))


@pytest.mark.slow
def test_workers_and_driver_of_a_run_in_a_bucket_meet_there(
    config: TrainConfig, start: Start, bucket: Bucket, tiny_data: Path
) -> None:
    data = str(put_tree(tiny_data, f"{bucket.url}/data"))
    endless = replace(config, output=f"{bucket.url}/runs/one", samples=10**9, checkpoint=CheckpointConfig())
    process = start(replace(endless, data=replace(config.data, path=data)))
    head = "".join(lines_until(process, "samples/s"))
    os.killpg(process.pid, signal.SIGINT)
    output = head + process.communicate(timeout=120)[0]
    assert process.returncode == 128 + signal.SIGINT, output
    runs = BucketPath.of(f"{bucket.url}/runs")
    (last,) = (runs / "one" / "checkpoints").iterdir()
    assert f"stopped after {int(last.name):,} of 1,000,000,000 samples" in output
    assert [path.name for path in runs.iterdir()] == ["one"]


@pytest.mark.slow
def test_ray_workers_learn_what_one_process_learns_even_when_one_is_killed(
    config: TrainConfig, start: Start, tmp_path: Path
) -> None:
    others = set(trainers())
    whole = replace(config, launcher="torchrun", output=str(tmp_path / "whole"), samples=640)
    train(whole)
    process = start(replace(config, samples=640))
    killed = []

    def kill_one() -> None:
        while process.poll() is None:
            mine = set(trainers()) - others
            if len(mine) == 2 and listed_checkpoints(Path(config.output) / "checkpoints"):
                killed.append(min(mine))
                os.kill(killed[0], signal.SIGKILL)
                return
            time.sleep(0.02)

    thread = threading.Thread(target=kill_one)
    thread.start()
    output = process.communicate(timeout=280)[0]
    thread.join()
    assert process.returncode == 0, output
    assert killed
    assert "training  640/640" in output
    one, two = losses(whole.output), losses(config.output)
    assert [seen for seen, _ in one] == [seen for seen, _ in two]
    assert [value for _, value in one] == pytest.approx([value for _, value in two], rel=2e-2)
    assert_close(read_weights(last_of(config.output)), read_weights(last_of(whole.output)), atol=2e-2)
    assert not list(tmp_path.glob("run.ray-*"))


@pytest.mark.slow
@pytest.mark.timeout(900)  # Ray looks for new nodes once a minute, and takes another to miss a dead one
def test_an_elastic_run_sees_the_same_batches_while_a_node_comes_and_goes(
    config: TrainConfig, start: Start, tiny_evaluation: Path, tmp_path: Path
) -> None:
    # So small a learning rate that the loss of a step tells which samples were in its batch, and nothing else.
    optimiser = replace(config.optimiser, learning_rate=1e-12)
    endless = replace(config, samples=10**9, optimiser=optimiser)
    # Measured after every step, so that there are few of them to do again below.
    slowly = EvaluationConfig(path=str(tiny_evaluation), every_samples=16)
    with cluster() as head:
        elastic = RayConfig(num_workers=2, min_workers=1, address=head.address)
        process = start(replace(endless, evaluation=slowly, ray=elastic))
        output = [*lines_until(process, "training on 1 workers"), *lines_until(process, " 160 samples")]
        with head.node() as second:
            output += lines_until(process, "training on 2 workers")
            output += lines_until(process, "samples/s")
            kill(second)
        output += [*lines_until(process, "training on 1 workers"), *lines_until(process, "samples/s")]
        process.terminate()
        output.append(process.communicate(timeout=120)[0])
    assert process.returncode == 128 + signal.SIGTERM, "".join(output)
    seen = read_progress(last_of(config.output)).samples_seen
    train(replace(endless, launcher="torchrun", output=str(tmp_path / "whole"), samples=seen))
    one, two = losses(tmp_path / "whole"), losses(config.output)
    assert [position for position, _ in one] == [position for position, _ in two]
    assert [value for _, value in one] == pytest.approx([value for _, value in two], rel=1e-4)


@pytest.mark.slow
def test_a_mistake_on_ray_is_one_line_and_not_tried_again(config: TrainConfig, start: Start, tmp_path: Path) -> None:
    data = replace(config.data, path=str(tmp_path / "nowhere"))
    process = start(replace(config, data=data, ray=RayConfig(num_workers=1)))
    output = process.communicate(timeout=280)[0]
    assert process.returncode == 2
    assert output == f"error: {tmp_path}/nowhere: no such directory; make the shards first, or set --data.path\n"


def test_a_cluster_that_nobody_serves_is_one_line(config: TrainConfig, tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(
        DistributedError, match=r"nobody answers there .*check ray.address and RAY_ADDRESS, or use torch"
    ):
        train_on_ray(replace(config, ray=RayConfig(address=address)))
    assert not list(tmp_path.glob("run.ray-*"))


@pytest.mark.slow
def test_what_a_killed_run_left_is_swept_by_the_next(config: TrainConfig, start: Start, tmp_path: Path) -> None:
    process = start(replace(config, samples=10**9, ray=RayConfig(num_workers=1)))
    list(lines_until(process, "samples/s"))
    kill(process)
    (left,) = tmp_path.glob("run.ray-*")
    assert stat.S_IMODE(left.stat().st_mode) == 0o700
    output = start(replace(config, samples=64, ray=RayConfig(num_workers=1))).communicate(timeout=280)[0]
    assert not list(tmp_path.glob("run.ray-*")), output


@pytest.mark.parametrize(
    ("ray", "message"),
    [
        ({"num_workers": 0}, "num_workers must be at least 1"),
        ({"num_workers": 2, "min_workers": 3}, r"min_workers must lie in \[1, num_workers 2\], got 3"),
        ({"cpus_per_worker": 0}, "cpus_per_worker must be positive"),
        ({"max_failures": -1}, "max_failures must not be negative"),
    ],
)
def test_mistakes_in_rays_options_are_named(ray: dict[str, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(TrainConfig, {**tiny_run(tmp_path, tmp_path, tmp_path), "ray": ray})


@pytest.mark.slow
def test_features_and_figures_made_on_ray_are_those_of_one_process(
    tiny_data: Path, tiny_vit: Path, tiny_evaluation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(from_mapping(TrainConfig, tiny_run(tmp_path / "run", tiny_data, tiny_vit)))
    on_ray = ["--launcher", "ray", "--ray.num_workers", "2"]
    for name, more in (("one", []), ("ray", on_ray)):
        words = [*more, "--threads", "1", "--device", "cpu", "--precision", "fp32", "--to"]
        run = str(tmp_path / "run")
        assert main(["embed", run, str(tiny_data), *words, str(tmp_path / name / "features")]) == 0
        assert main(["evaluate", run, "--sets", str(tiny_evaluation), *words, str(tmp_path / name / "figures")]) == 0
    assert "working on" not in capsys.readouterr().out
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one" / "features").iterdir())
    assert len(files) > 1
    for path in files:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "ray" / path).read_bytes(), path
    one, two = (json.loads((tmp_path / name / "figures/results.json").read_text()) for name in ("one", "ray"))
    assert [pair["set"] for pair in one["pairs"]] == [pair["set"] for pair in two["pairs"]]
    figures = [{name: found["value"] for name, found in each["pairs"][0]["metrics"].items()} for each in (one, two)]
    assert figures[0] == pytest.approx(figures[1], abs=1e-6)  # other batches round otherwise
    assert not list(tmp_path.rglob("*.ray-*"))


@pytest.mark.slow
def test_a_mistake_in_other_work_on_ray_is_one_line(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--launcher", "ray", "--device", "cpu", "--to", str(tmp_path / "features")]
    assert main(["embed", "nowhere", str(tiny_data), *words]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: nowhere: does not exist, and is no NAME:TAG")
