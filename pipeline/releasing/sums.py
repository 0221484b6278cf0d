"""SHA256SUMS: what `sha256sum -c SHA256SUMS` takes.

SHA256SUMS       one line a file: 64 hex digits, two spaces, the name
SHA256SUMS.sig   64 bytes, Ed25519 over the bytes of SHA256SUMS; `openssl pkeyutl -verify -rawin` takes it
"""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["SIGNATURE", "SUMS", "read_sums", "sums_of"]

SUMS, SIGNATURE = "SHA256SUMS", "SHA256SUMS.sig"
_LINE = re.compile(r"([0-9a-f]{64})  ([^\\\n]+)")


def sums_of(digests: Mapping[str, str]) -> bytes:
    """The file, by name. Names hold neither a line break nor a backslash: they are ours."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items())).encode()


def read_sums(data: bytes) -> dict[str, str] | None:
    """Name -> SHA-256; None where it is no such file, or names one twice or outside of the release."""
    found: dict[str, str] = {}
    try:
        lines = data.decode().splitlines()
    except UnicodeDecodeError:
        return None
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None or match[2] in found or match[2].startswith("/") or ".." in match[2].split("/"):
            return None
        found[match[2]] = match[1]
    return found or None
