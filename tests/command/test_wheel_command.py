"""A wheel in an environment of its own: what is in it, and that the command works from an empty directory.

The environment has the wheel, and stands before the tests' own one, which lends the packages that the wheel depends on.
"""

from __future__ import annotations

import os
import site
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.ports import free_port

PACKAGES = ("configs", "openwit", "pipeline", "query_list", "training")


@pytest.fixture(scope="module")
def program(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`openwit`, as pip installs it."""
    root = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root)], check=True, timeout=120)
    python = root / "bin" / "python"
    _pip("--python", str(python), "install", "--no-deps", "--no-index", str(wheel))
    (own,) = (root / "lib").glob("python*/site-packages")
    # A path in a .pth file has no .pth files of its own: not the checkout, which the tests' environment has installed.
    (own / "lent.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return root / "bin" / "openwit"


def _pip(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *words],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _run(program: Path, directory: Path, *words: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(program), *words], cwd=directory, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_wheel_has_the_packages_and_their_configs_and_no_more(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (script,) = (name for name in names if name.endswith(".dist-info/entry_points.txt"))
        assert archive.read(script).decode().split() == ["[console_scripts]", "openwit", "=", "openwit.command:main"]
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == set(PACKAGES)
    shipped = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "configs").rglob("*.yaml")}
    shipped |= {"configs/train/models/openwit-sample.json", "pipeline/catalog/sql/funnel.sql"}
    assert shipped <= set(names)


@pytest.mark.slow
@pytest.mark.timeout(1500)  # a build, an environment, a run that compiles its kernels, and a training
def test_sample_is_made_and_trained_on_from_an_empty_directory(program: Path, tmp_path: Path) -> None:
    python = program.with_name("python")
    code = f"import {', '.join(PACKAGES)}; print({', '.join(f'{name}.__file__' for name in PACKAGES)}, sep='\\n')"
    for file in _run(python, tmp_path, "-c", code).splitlines():
        assert Path(file).is_relative_to(program.parent.parent)
    assert "openwit shards sample" in _run(program, tmp_path, "--help")
    assert "laion" in _run(program, tmp_path, "presets")
    assert not list(tmp_path.iterdir())
    port = free_port()
    _run(program, tmp_path, "sample-web", "build", "--links", "400", "--port", str(port))
    here = f"127.0.0.0/8:{port}"
    words = ("--fetch.allow_addresses", here, "--fetch.retries", "0", "--shards.samples_per_shard", "50")
    assert "samples, " in _run(program, tmp_path, "shards", "sample", *words)
    assert "nothing to do" in _run(program, tmp_path, "shards", "sample", *words)
    assert "all whole" in _run(program, tmp_path, "verify", "sample")
    assert "final_balance" in _run(program, tmp_path, "sql", "sample", "funnel")
    assert {path.name for path in tmp_path.iterdir()} == {"data"}
    if find_spec("torch") is not None:
        assert "zeroshot mean per class" in _run(program, tmp_path, "train", "sample", "--epochs", "1")
        assert "local-dir:" in _run(program, tmp_path, "export", "sample")
