"""IsolatedChecker: pictures are decoded in a child process, which may crash, hang or run out of memory.

    parent  --length, body-->  child: check_image  --length, result-->  parent
            no answer in time, or the pipe closes: that picture is rejected, a new child is started

A picture costs one copy through a pipe each way (0.1 ms for 200 KB). JPEGs of the ordinary kinds are decoded here
(`isolate: unsafe`): libjpeg-turbo is fuzzed without pause, and JPEGs are nearly all of the web's photographs.
Results travel as msgpack, never as pickles: a decoder that was taken over cannot make the parent run code.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Sequence
from types import TracebackType

import msgspec

from configs.load import to_mapping
from pipeline.errors import EngineError
from pipeline.pictures.identify import identify
from pipeline.pictures.jpeg import read_jpeg_header
from pipeline.pictures.rejected import Rejected
from pipeline.stages.check_image.config import ImageConfig, Picture

__all__ = ["IsolatedChecker"]

_KEYS = ("AWS_", "AZURE_", "GOOGLE_")
"""Of variables with a user's keys: what decodes strangers' bytes is not handed them."""
_START_LIMIT_S = 120.0
_SAFE_SCANS = 40
"""Progressive JPEGs of cameras and of the common encoders have about ten scans; a file of a few kilobytes can
have thousands, each a pass over all pixels."""
_SAFE_SCANNED_PIXELS = 400_000_000
_PICTURES = msgspec.msgpack.Decoder(Picture)
_REJECTIONS = msgspec.msgpack.Decoder(Rejected)


class IsolatedChecker:
    """check_image for many bodies, safe against decoders that kill or hang their process.

    A context manager; the child starts when it is first needed and ends with the context.
    """

    def __init__(self, config: ImageConfig, *, with_pdq: bool = False) -> None:
        from pipeline.stages.check_image.check import check_image

        self._check_here = check_image
        self._config, self._with_pdq = config, with_pdq
        self._child: subprocess.Popen[bytes] | None = None
        self.num_restarts = 0
        """How often the child had to be started again."""

    def __enter__(self) -> IsolatedChecker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the child, if there is one."""
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        child.wait()

    def check(self, bodies: Sequence[bytes]) -> list[Picture | Rejected]:
        """One result per body, in order. Raises EngineError if the child cannot be started at all."""
        return [self._check_one(body) for body in bodies]

    def _check_one(self, body: bytes) -> Picture | Rejected:
        isolate = self._config.isolate
        if isolate == "none" or (isolate == "unsafe" and _is_safe(body)):
            return self._check_here(body, self._config, with_pdq=self._with_pdq)
        if self._child is None:
            self._start()
        try:
            self._send(body)
            reply = self._receive(self._config.time_limit_s)
            return _PICTURES.decode(reply[1:]) if reply[:1] == b"P" else _REJECTIONS.decode(reply[1:])
        except TimeoutError:
            detail = f"not decoded after {self._config.time_limit_s:g} s"
        except (OSError, EOFError, msgspec.MsgspecError):
            detail = "the decoder's process died"
        self.close()
        self.num_restarts += 1
        return Rejected(reason="crashed_decoder", detail=detail)

    def _start(self) -> None:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(_KEYS)},
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "pipeline.stages.check_image.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
            self._send(msgspec.json.encode([to_mapping(self._config), self._with_pdq]))
            if self._receive(_START_LIMIT_S) != b"ready":
                raise EOFError
        except (OSError, EOFError) as error:  # TimeoutError is an OSError
            self.close()
            raise EngineError(
                "the image decoder's process does not start; try `python -m pipeline.stages.check_image.worker`"
                " or set isolate to none"
            ) from error

    def _send(self, message: bytes) -> None:
        assert self._child is not None
        assert self._child.stdin is not None
        # The child reads a whole message before it works on it, so writing does not wait on a decoder.
        self._child.stdin.write(len(message).to_bytes(8, "big"))
        self._child.stdin.write(message)
        self._child.stdin.flush()

    def _receive(self, limit_s: float) -> bytes:
        """Raises TimeoutError when the whole message is not there in time, EOFError when the child is gone."""
        deadline_s = time.monotonic() + limit_s
        length = int.from_bytes(self._read(8, deadline_s), "big")
        return self._read(length, deadline_s)

    def _read(self, num_bytes: int, deadline_s: float) -> bytes:
        assert self._child is not None
        assert self._child.stdout is not None
        fd = self._child.stdout.fileno()
        data = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(fd, selectors.EVENT_READ)
            while len(data) < num_bytes:
                left_s = deadline_s - time.monotonic()
                if left_s <= 0 or not selector.select(left_s):
                    raise TimeoutError
                chunk = os.read(fd, min(num_bytes - len(data), 1 << 20))
                if not chunk:
                    raise EOFError
                data += chunk
        return bytes(data)


def _is_safe(body: bytes) -> bool:
    """Whether `body` may be decoded in this process: JPEGs that cost what their size suggests, and non-pictures."""
    identity = identify(body)
    if not identity.decodable:
        return True  # rejected without a decoder
    if identity.format != "JPEG":
        return False
    header = read_jpeg_header(body)
    if header is None or not header.decodable:
        return True  # rejected without a decoder
    # Within compressed data FF is followed by 00, so that this finds scans, and at most those of a thumbnail.
    scans = body.count(b"\xff\xda")
    return scans <= _SAFE_SCANS and scans * header.width * header.height <= _SAFE_SCANNED_PIXELS
