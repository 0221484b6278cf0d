"""A small sample web with its query list, and one finished run over it, shared by the end-to-end tests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from configs.load import load
from pipeline.config import WitConfig
from pipeline.runs.run import run
from pipeline.sample_web import SampleWebConfig, build_sample_web
from tests.conftest import REPOSITORY
from tests.ports import free_port

LINKS = 700


@pytest.fixture(scope="session")
def sample_web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.getbasetemp() / "sample" / "web"
    if path.exists():  # made for a module that imports these fixtures: pytest takes them for others
        return path
    return build_sample_web(SampleWebConfig(path=str(path), links=LINKS, port=free_port()))


@pytest.fixture(scope="session")
def query_list(sample_web: Path) -> Path:
    from query_list.commands import main

    config = yaml.safe_load((REPOSITORY / "configs/queries/sample.yaml").read_text())
    text = yaml.safe_dump(config).replace("data/sample_web", str(sample_web))
    path = sample_web.parent / "queries.yaml"
    path.write_text(text)
    assert main(["build", str(path)]) == 0
    return sample_web / "queries.parquet"


@pytest.fixture(scope="session")
def make_config(sample_web: Path, query_list: Path) -> Callable[..., WitConfig]:
    """A config like configs/shards/sample.yaml over the small web: `make_config(output, "--a.b", "1")`."""
    port = yaml.safe_load((sample_web / "sample_web.json").read_text())["port"]
    text = (REPOSITORY / "configs/shards/sample.yaml").read_text()
    text = text.replace("data/sample_web", str(sample_web)).replace(":8766", f":{port}")
    path = sample_web.parent / "shards.yaml"
    path.write_text(text)
    small = ["--balance.max_pairs_per_query", "40", "--shards.samples_per_shard", "150"]

    def make(output: Path, *overrides: str) -> WitConfig:
        return load(WitConfig, path, ["--output", str(output), *small, *overrides])

    return make


@pytest.fixture(scope="session")
def finished(make_config: Callable[..., WitConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of one run on the inline engine."""
    output = tmp_path_factory.mktemp("finished") / "set"
    run(make_config(output, "--engine.kind", "inline"))
    return output


def published_hashes(output: Path) -> dict[str, str]:
    """sha256 of everything that must be byte-identical: tars, Parquet metadata, sizes.json."""
    files = sorted(
        p for p in (output / "shards").iterdir() if p.suffix in (".tar", ".parquet") or p.name == "sizes.json"
    )
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
