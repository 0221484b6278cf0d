"""Fixtures: the wheel, and an environment that has it and its locked packages but nothing of this checkout. For slow
tests: a minute, 1.1 GB on the disk while they run, and the network where uv or pip has no copies.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

__all__ = ["Installed", "installed", "wheel"]

_SOURCES = (
    "configs",
    "openwit",
    "pipeline",
    "query_list",
    "training",
    "LICENSE",
    "README.md",
    "pyproject.toml",
    "setup.py",
)


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel."""

    root: Path
    """An empty folder beside it to run in."""
    bin: Path
    site_packages: Path

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment, by its name in `bin`, where nothing of the checkout can be seen."""
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        environment["XDG_CACHE_HOME"] = str(self.root / "cache")
        return subprocess.run(
            [str(self.bin / words[0]), *words[1:]],
            cwd=self.root,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built by the tools that are installed here."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"
    sources.mkdir()
    for name in _SOURCES:
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, sources / name, ignore=shutil.ignore_patterns("__pycache__", "shipped"))
        else:
            shutil.copy2(REPOSITORY / name, sources / name)
    words = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(sources)]
    # Of the checkout, which may be on the path, nothing belongs into the wheel.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-m", "pip", *words], cwd=folder, env=environment, check=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Iterator[Installed]:
    """An environment with the base lock's packages, each by its hash, and the wheel."""
    folder = tmp_path_factory.mktemp("installed")
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = str(environment / "bin" / "python")
    uv = Path(sys.prefix) / "bin" / "uv"
    tool = [str(uv), "pip", "install", "--python", python] if uv.exists() else [python, "-m", "pip", "install"]
    locked = subprocess.run(
        [*tool, "--quiet", "--require-hashes", "--no-deps", "-r", str(REPOSITORY / "requirements.lock")],
        capture_output=True,
        text=True,
        check=False,
    )
    if locked.returncode:
        pytest.skip(f"the packages cannot be had here: {locked.stderr.strip().splitlines()[-1]}")
    subprocess.run([*tool, "--quiet", "--no-deps", str(wheel)], check=True)
    root = folder / "root"
    root.mkdir()
    (site_packages,) = environment.glob("lib/python*/site-packages")
    yield Installed(root=root, bin=environment / "bin", site_packages=site_packages)
    shutil.rmtree(folder)
