"""The wheel: what it brings, and that it runs where there is nothing but it and its packages."""

from __future__ import annotations

import re
import shutil
import zipfile
from pathlib import Path

import pytest

from pipeline.compiled.processor import baseline
from tests.installed import Installed
from tests.pipeline.loopback_server import LoopbackServer, text
from tests.pipeline.small_run import SmallRun, picture

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PACKAGES = {"configs", "openwit", "pipeline", "query_list", "training"}


def test_wheel_brings_the_packages_and_nothing_else(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".so"))]


@pytest.mark.skipif(baseline() is None, reason="this processor is below the baseline")
def test_wheel_brings_every_kernel_compiled(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        shipped = [name for name in archive.namelist() if "/shipped/" in name]
        # Those of the trainer, which choose batches by queries, are compiled when they are first asked for.
        ours = [name for name in archive.namelist() if name.endswith(".py") and not name.startswith("training/")]
        sources = "".join(archive.read(name).decode() for name in ours)
    kernels = {Path(name).name.rsplit("-", 2)[0] for name in shipped}
    assert len(kernels) == len(shipped)  # each for one kind of arrays
    assert len(kernels) == len(re.findall(r"^@kernel\n", sources, re.MULTILINE)) + 1  # and the resize kernel


def test_packages_that_the_wheel_asks_for_are_locked(installed: Installed) -> None:
    checked = installed.run("python", "-m", "pip", "check")
    assert checked.returncode == 0, checked.stdout


def test_a_table_becomes_a_set_without_torch_and_without_compiling(installed: Installed) -> None:
    paths = [f"/{i}" for i in range(8)]
    with LoopbackServer({path: text(picture(i)) for i, path in enumerate(paths)}) as server:
        small = SmallRun.make(installed.root / "tiny", server, paths)
        assert small.run() == 0
        ours = small.published()
        shutil.rmtree(small.output)
        done = installed.run("python", "-m", "pipeline", "run", str(small.config))
    assert done.returncode == 0, done.stderr
    assert small.samples() == paths
    assert small.published() == ours
    assert not (installed.site_packages / "torch").exists()
    if baseline() is not None:
        for folder in (installed.site_packages / "pipeline", installed.root / "cache"):
            code = [path for kind in ("*.nbc", "*.o") for path in folder.rglob(kind) if path.parent.name != "shipped"]
            assert not code


def test_the_trainer_says_what_to_install(installed: Installed) -> None:
    config = installed.site_packages / "configs" / "train" / "sample.yaml"
    done = installed.run("python", "-m", "training", "run", str(config))
    assert done.returncode == 2
    assert re.fullmatch(r"error: the trainer is not installed here .+ pip install 'openwit\[train\]'\n", done.stderr)
