"""The child of IsolatedChecker: reads bodies from standard input, writes results to standard output."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import BinaryIO

import msgspec

from configs.load import from_mapping
from pipeline.stages.check_image import area
from pipeline.stages.check_image.check import check_image
from pipeline.stages.check_image.config import ImageConfig, Picture

__all__ = ["main"]


def main() -> None:
    """Serve until standard input ends."""
    # Decoders print to standard output now and then; results go through a descriptor they do not know.
    output = os.fdopen(os.dup(1), "wb")
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    message = _read(sys.stdin.buffer)
    if message is None:
        return
    options, with_pdq = msgspec.json.decode(message)
    config = from_mapping(ImageConfig, options)
    area.prepare()
    _limit_memory(config.memory_limit_mib)
    _write(output, b"ready")
    while (body := _read(sys.stdin.buffer)) is not None:
        # SIGALRM's default action ends the process even inside a decoder: no orphan spins when the parent is gone.
        signal.setitimer(signal.ITIMER_REAL, config.time_limit_s + 1.0)
        result = check_image(body, config, with_pdq=with_pdq)
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        kind = b"P" if isinstance(result, Picture) else b"R"
        _write(output, kind + msgspec.msgpack.encode(result))


def _read(stream: BinaryIO) -> bytes | None:
    head = stream.read(8)
    if len(head) < 8:
        return None
    length = int.from_bytes(head, "big")
    body = stream.read(length)
    return body if len(body) == length else None


def _write(stream: BinaryIO, message: bytes) -> None:
    stream.write(len(message).to_bytes(8, "big") + message)
    stream.flush()


def _limit_memory(limit_mib: int) -> None:
    """Let allocations beyond the limit fail; where the system cannot, go without."""
    with contextlib.suppress(OSError, ValueError, ImportError):
        import resource

        with open("/proc/self/statm", encoding="ascii") as statm:
            present = int(statm.read().split()[0]) * resource.getpagesize()
        limit = present + limit_mib * 1024 * 1024
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main()
