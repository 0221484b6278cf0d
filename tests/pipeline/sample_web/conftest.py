"""One small sample web and its server for all tests here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.sample_web import SampleWebConfig, build_sample_web, serving
from tests import ports

NUM_LINKS = 400


@pytest.fixture(scope="session")
def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    return ports.free_port()


@pytest.fixture(scope="session")
def sample_web(tmp_path_factory: pytest.TempPathFactory, free_port: int) -> Path:
    """A built sample web of a few hundred links."""
    path = tmp_path_factory.mktemp("web") / "sample_web"
    return build_sample_web(SampleWebConfig(path=str(path), links=NUM_LINKS, port=free_port))


@pytest.fixture(scope="session")
def truth(sample_web: Path) -> list[dict[str, Any]]:
    """The rows of the ground truth."""
    return list(pq.read_table(sample_web / "truth.parquet").to_pylist())


@pytest.fixture(scope="session")
def served(sample_web: Path, free_port: int) -> Iterator[int]:
    """The sample web's server; its port."""
    with serving(sample_web):
        yield free_port
