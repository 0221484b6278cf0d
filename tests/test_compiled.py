"""Compiled kernels are never older than their sources.

numba compiles a kernel anew when the file that defines it changes, but not when a file changes whose functions it
calls. So each such kernel's file names the state of those files, and changes with them.
"""

from __future__ import annotations

import hashlib
import re

import pytest

from tests.conftest import REPOSITORY

EXTRACT = "pipeline/stages/extract"
VECTORS = "pipeline/matching/vectors.py"
CALLED = {
    "pipeline/matching/kernel.py": ["pipeline/matching/characters.py", VECTORS],
    "pipeline/stages/language_kernel.py": [VECTORS],
    f"{EXTRACT}/heads.py": [VECTORS, f"{EXTRACT}/json_scan.py"],
    f"{EXTRACT}/wat_scan.py": [
        VECTORS, f"{EXTRACT}/columns.py", f"{EXTRACT}/json_scan.py", f"{EXTRACT}/url_scan.py", f"{EXTRACT}/wat_walk.py"
    ],
}  # fmt: skip
"""The files with a kernel that is kept, and those whose functions and constants are compiled into it."""


def kept_kernels() -> set[str]:
    files = [path for path in (REPOSITORY / "pipeline").rglob("*.py") if "cache=True" in path.read_text()]
    return {str(path.relative_to(REPOSITORY)) for path in files}


@pytest.mark.parametrize("kernel", CALLED)
def test_kernel_names_the_state_of_what_it_calls(kernel: str) -> None:
    called = b"".join((REPOSITORY / path).read_bytes() for path in CALLED[kernel])
    line = f'CALLED = "{hashlib.sha256(called).hexdigest()[:16]}"'
    assert line in (REPOSITORY / kernel).read_text(), f"in {kernel}, put: {line}"


def test_every_kernel_that_calls_other_files_is_listed() -> None:
    for kernel in kept_kernels():
        imported = set(re.findall(r"^from (pipeline\.\S+) import", (REPOSITORY / kernel).read_text(), re.MULTILINE))
        sources = {name.replace(".", "/") + ".py" for name in imported}
        compiled = {source for source in sources if "numba" in (REPOSITORY / source).read_text()}
        assert compiled <= set(CALLED.get(kernel, ())), kernel
