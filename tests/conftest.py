"""Fixtures that every test may use."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from pipeline.engine import Engine, EngineConfig, open_engine

pytest_plugins = ["tests.installed", "tests.object_store.fixtures"]
REPOSITORY = Path(__file__).resolve().parent.parent

_FOREIGN = (
    *("RAY_", "AWS_", "HF_", "HUGGINGFACE_", "TRANSFORMERS_"),
    *("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_"),
    *("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR"),
)
"""How variables begin that change what the product does, and that a developer's machine may have set."""


def pytest_configure(config: pytest.Config) -> None:
    """The tests' own environment: what stands in the developer's, or lies in their home, changes no result."""
    for name in list(os.environ):
        if name.upper().startswith(_FOREIGN):
            del os.environ[name]
    home = tempfile.mkdtemp(prefix="openwit-home-")
    os.environ["HOME"] = home
    config.add_cleanup(lambda: shutil.rmtree(home, ignore_errors=True))


_WITH_END_TO_END = tuple(f"tests/pipeline/test_{name}.py" for name in ("balance_report", "engine", "engine_parcel"))


def _shared_by(nodeid: str) -> str:
    """What shares dear fixtures, and so goes to one of pytest-xdist's workers: a file, or a directory with a
    conftest.py of its own. Some modules of other directories want what the end-to-end tests have."""
    path = nodeid.partition("::")[0]
    directory = path.rpartition("/")[0]
    if path in _WITH_END_TO_END:
        directory = "tests/end_to_end"
    shared = directory != "tests" and (REPOSITORY / directory / "conftest.py").exists()
    return directory if shared else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Whatever `--dist` says: no fixture is made twice."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _shared_by(nodeid)

    config.option.loadscopereorder = False
    return Scheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The workers begin with what takes longest: the directories, then the files of `tests` itself (the benchmarks)."""
    if hasattr(config, "workerinput"):
        items.sort(
            key=lambda item: (_shared_by(item.nodeid).endswith(".py"), item.nodeid.partition("::")[0].count("/"))
        )


# A busy machine is no failure, and the first example waits for the compiler.
hypothesis.settings.register_profile("openwit", deadline=None)
hypothesis.settings.load_profile("openwit")


@pytest.fixture(scope="session", autouse=True)
def disk_is_not_waited_for() -> Iterator[None]:
    """No test takes the power away, and one small run of the pipeline would wait for some 400 files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


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
    with open_engine(EngineConfig(num_cpus=2, max_retries=1)) as engine:
        yield engine
