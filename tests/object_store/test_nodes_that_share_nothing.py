"""Two nodes of a cluster, each with a /tmp of its own, over a bucket: the same bytes as one process with a disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.storage.bucket import BucketPath
from tests.object_store.fixtures import Bucket
from tests.object_store.test_run_in_bucket import published_in, published_on
from tests.pipeline.loopback_server import LoopbackServer, answer
from tests.pipeline.small_run import SmallRun, picture
from tests.ray_nodes import ALONE, ENVIRONMENT, cluster

_PATHS = [f"/{number}" for number in range(12)]


@pytest.mark.slow
def test_nodes_that_share_nothing_write_the_bytes_of_one_process(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if subprocess.run([*ALONE, "true"], capture_output=True).returncode:
        pytest.skip("this user may not give a process a /tmp of its own")
    with LoopbackServer({path: answer(200, picture(int(path[1:]))) for path in _PATHS}) as server:
        small = SmallRun.make(tmp_path / "one process", server, _PATHS)
        there = BucketPath.of(bucket.url)
        for name in ("links.parquet", "queries.txt"):
            (there / name).put((small.root / name).read_bytes())
        assert small.run("--shards.samples_per_shard=3", f"--sources=['{there}/links.parquet']") == 0
        config = yaml.safe_load(small.config.read_text())
        config |= {"sources": [f"{there}/links.parquet"], "queries": f"{there}/queries.txt", "output": f"{there}/set"}
        config |= {"engine": {"kind": "ray"}, "shards": {"samples_per_shard": 3}}
        own = tmp_path / "the driver's own"
        own.mkdir()
        (own / "config.yaml").write_text(yaml.safe_dump(config))
        for name, value in bucket.environment.items():
            monkeypatch.setitem(ENVIRONMENT, name, value)  # of the nodes, when they start
        with cluster() as nodes, nodes.node(alone=True):
            command = [sys.executable, "-m", "pipeline", "run", "config.yaml"]
            path = str(Path(__file__).resolve().parents[2])
            environment = {**ENVIRONMENT, "RAY_ADDRESS": nodes.address, "PYTHONPATH": path}
            run = subprocess.run(command, cwd=own, env=environment, capture_output=True, text=True, timeout=200)
            assert run.returncode == 0, run.stderr + run.stdout
    assert published_in(there / "set") == published_on(small.output)
    assert [path.name for path in own.iterdir()] == ["config.yaml"]
