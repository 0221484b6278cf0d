"""Fixtures that every test may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from pipeline.engine import Engine, EngineConfig, open_engine

REPOSITORY = Path(__file__).resolve().parent.parent

# A busy machine is no failure, and the first example waits for the compiler.
hypothesis.settings.register_profile("openwit", deadline=None)
hypothesis.settings.load_profile("openwit")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The directory of real pages, images, archives and captions; tests that need it skip without it."""
    path = Path(os.environ.get("OPENWIT_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"real data not found at {path}; set OPENWIT_SHARED_DATA to its directory")
    return path


@pytest.fixture(scope="session")
def ray_engine() -> Iterator[Engine]:
    """One local Ray for all tests that need the real thing."""
    with open_engine(EngineConfig(num_cpus=2)) as engine:
        yield engine
