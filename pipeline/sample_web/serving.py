"""Run the sample web's server beside the caller, and only as long as the caller."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import ServerError

__all__ = ["serving"]

_END_S = 5.0


@contextmanager
def serving(path: Path) -> Iterator[None]:
    """Serve the sample web at `path` while the block runs.

    The server is a process of its own, whose standard input is a pipe from here: it ends with the block,
    and with this process however that dies. Raises ServerError where it cannot start: no sample web at
    `path`, or its port in use (by whatever, a server of this very sample web included).
    """
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.sample_web", "serve", "--path", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        text=True,
    )
    assert process.stdin is not None  # all three were asked for as pipes
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        # The server prints after it listens, or ends: either way this line comes.
        if not process.stdout.readline():
            process.wait()
            problem = process.stderr.read().strip().splitlines()
            raise ServerError(
                problem[-1].removeprefix("error: ")
                if problem
                else f"{path}: the server ended with status {process.returncode}; run it by hand to see why"
            )
        yield
    finally:
        process.stdin.close()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        process.stderr.close()
