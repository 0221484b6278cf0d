"""A wheel carries its kernels compiled, so that no run waits for that. All else about the project is in pyproject.toml.

The code is for the baseline of this kind of processor, and each file is named for all that made it. So the wheel is for
every platform: where Python, numba or the processor is another, a run compiles what it needs, as from a checkout.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithKernels(build_py):
    """Copies the packages, then has the copy compile its kernels into itself."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:  # a checkout: `make` has them compiled
            return
        copy = Path(self.build_lib).resolve()
        shipped = copy / "pipeline" / "compiled" / "shipped"
        shutil.rmtree(shipped, ignore_errors=True)  # of an earlier build
        with tempfile.TemporaryDirectory() as scratch:
            environment = {
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, (str(copy), os.environ.get("PYTHONPATH")))),
                "PYTHONDONTWRITEBYTECODE": "1",
                "NUMBA_CACHE_DIR": scratch,
            }
            # Without what the kernels import there is a wheel all the same.
            subprocess.run([sys.executable, "-m", "pipeline.kernels"], cwd=copy, env=environment, check=False)
        if not shipped.is_dir():
            self.announce("No kernel is compiled in this wheel: runs will compile them once.", level=3)


setup(cmdclass={"build_py": BuildWithKernels})
