"""`--launcher ray`: the same run on Ray's workers, through their deaths."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from configs.load import ConfigError, dump, from_mapping
from tests.training.conftest import tiny_run
from tests.training.test_sharding import assert_close, last_of
from tests.training.test_train import losses
from training.checkpoint import listed_checkpoints
from training.config import TrainConfig
from training.loading import read_weights
from training.ray_config import RayConfig
from training.train import train

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def config(tiny_data: Path, tiny_vit: Path, tmp_path: Path) -> TrainConfig:
    pytest.importorskip("pandas", reason="Ray Train wants pandas: pip install 'openwit[ray]'")
    made = from_mapping(TrainConfig, tiny_run(tmp_path / "run", tiny_data, tiny_vit))
    return replace(made, launcher="ray", ray=RayConfig(num_workers=2))


def start(config: TrainConfig, folder: Path) -> subprocess.Popen[str]:
    """The command, as its user starts it."""
    path = folder / "config.yaml"
    path.write_text(dump(config))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.Popen(
        [sys.executable, "-m", "training", "run", str(path)],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


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
def test_ray_workers_learn_what_one_process_learns_even_when_one_is_killed(config: TrainConfig, tmp_path: Path) -> None:
    others = set(trainers())
    whole = replace(config, launcher="torchrun", output=str(tmp_path / "whole"), samples=640)
    train(whole)
    process = start(replace(config, samples=640), tmp_path)
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
    assert "640 samples" in output
    one, two = losses(whole.output), losses(config.output)
    assert [seen for seen, _ in one] == [seen for seen, _ in two]
    assert [value for _, value in one] == pytest.approx([value for _, value in two], rel=2e-2)
    assert_close(read_weights(last_of(config.output)), read_weights(last_of(whole.output)), atol=2e-2)
    assert not list(tmp_path.glob("run.ray-*"))


@pytest.mark.slow
def test_a_mistake_on_ray_is_one_line_and_not_tried_again(config: TrainConfig, tmp_path: Path) -> None:
    data = replace(config.data, path=str(tmp_path / "nowhere"))
    process = start(replace(config, data=data, ray=RayConfig(num_workers=1)), tmp_path)
    output = process.communicate(timeout=280)[0]
    assert process.returncode == 2
    assert output == f"error: {tmp_path}/nowhere: no such directory; make the shards first, or set --data.path\n"


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
