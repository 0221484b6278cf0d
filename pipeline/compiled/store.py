"""Files of compiled code, each named for all that made it: what is there is right, and is never changed.

    <kernel>-<what is compiled>-<for whom>.<kind>: SHA-256 of the rest, the code

    SHIPPED, for the baseline: from the wheel, or `make`'s set-up ---.
    a folder of this machine, for its own processor ------------------`--> loaded, else compiled and kept there

Several processes may compile one kernel at once: each writes a file of its own and puts it in place whole, and they
agree byte for byte on what it means. Code that older sources left goes when newer is kept.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from pipeline.compiled.processor import Processor, baseline, here

__all__ = ["SHIPPED", "CodeFile", "code_files", "key_of", "read_code", "toolchain", "write_code"]

SHIPPED = Path(__file__).with_name("shipped")
"""Code for the baseline: comes in a wheel, and is made in a checkout by `python -m pipeline.kernels`."""

_CHECKSUM_BYTES = 32
_KEY_DIGITS = 16


def key_of(*parts: object) -> str:
    """Name of what these parts, told by their `repr`, have made."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:_KEY_DIGITS]


@functools.cache
def toolchain() -> tuple[str, ...]:
    """What compiles: the same source may come out as other code with other versions."""
    return (str(sys.implementation.cache_tag), *(version(name) for name in ("numba", "llvmlite", "numpy")))


@dataclass(frozen=True, kw_only=True)
class CodeFile:
    """Where the code of a kernel is, or would be."""

    folder: Path
    kernel: str
    source_key: str
    """Of what is compiled."""
    machine_key: str
    """Of what it is compiled for, and by."""
    kind: str

    @property
    def path(self) -> Path:
        return self.folder / f"{self.kernel}-{self.source_key}-{self.machine_key}.{self.kind}"

    def read(self) -> bytes | None:
        """The code; None where there is none or it is damaged, which would crash the process."""
        try:
            kept = self.path.read_bytes()
        except OSError:
            return None
        code = kept[_CHECKSUM_BYTES:]
        return code if hashlib.sha256(code).digest() == kept[:_CHECKSUM_BYTES] else None

    def write(self, code: bytes) -> None:
        """Keep the code, unless there is no room or the folder is not ours to write: then it is compiled again."""
        unfinished = self.path.with_name(f"{self.path.name}.tmp-{secrets.token_hex(6)}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            unfinished.write_bytes(hashlib.sha256(code).digest() + code)
            unfinished.replace(self.path)
        except OSError:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            return
        for other in self.folder.glob(f"{self.kernel}-*.{self.kind}"):
            if not other.name.startswith(f"{self.kernel}-{self.source_key}-"):
                with contextlib.suppress(OSError):
                    other.unlink()


def code_files(
    *, kernel: str, source_key: str, types: str, kind: str, own_folder: Path | None
) -> Mapping[Processor, CodeFile]:
    """Where code that this processor can run may be, by what it is compiled for; `own_folder` is null where none can
    be written. `types` are those of the arguments."""
    folders = {}
    if (shared := baseline()) is not None:
        folders[shared] = SHIPPED
    if own_folder is not None:
        folders.setdefault(here(), own_folder)  # who compiles for the baseline fills SHIPPED
    return {
        processor: CodeFile(
            folder=folder,
            kernel=kernel,
            source_key=source_key,
            machine_key=key_of(types, processor, toolchain()),
            kind=kind,
        )
        for processor, folder in folders.items()
    }


def read_code(files: Mapping[Processor, CodeFile]) -> bytes | None:
    """The first code there is."""
    return next((code for file in files.values() if (code := file.read()) is not None), None)


def write_code(files: Mapping[Processor, CodeFile], code: bytes) -> None:
    """Keep what this process compiled."""
    if (file := files.get(here())) is not None:
        file.write(code)
