"""Lays out what the site is built from (`make docs`): docs/, and the pages that lie elsewhere in the repository.

    docs/*.md, README.md, CONTRIBUTING.md, CHANGELOG.md, LICENSE, tutorial.ipynb --> build/docs --zensical--> build/site

Links between them are turned from places in the repository to places in the site.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path, PurePosixPath

__all__ = ["lay_out"]

ROOT = Path(__file__).resolve().parent.parent
_ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "LICENSE": "licence.md",
    "docs/tutorial.ipynb": "tutorial.md",
}
"""In the repository -> in the site, where it is not docs/NAME at NAME."""
_FENCED = re.compile(r"^(```.*?^```|~~~.*?^~~~)$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")


def lay_out(to: Path = ROOT / "build" / "docs") -> None:
    """Write all pages and pictures into `to`, which is emptied before."""
    shutil.rmtree(to, ignore_errors=True)
    found = (path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*")) if path.is_file())
    for source in [*(name for name in found if name.endswith((".md", ".png"))), *_ELSEWHERE]:
        place = _place(source)
        (to / place).parent.mkdir(parents=True, exist_ok=True)
        if source.endswith(".png"):
            shutil.copyfile(ROOT / source, to / place)
            continue
        text = (ROOT / source).read_text(encoding="utf-8")
        if source.endswith(".ipynb"):
            text = _of_notebook(text)
        if source == "LICENSE":
            text = f"# Licence\n\n~~~text\n{text}~~~\n"
        parts = _FENCED.split(text)  # prose, fenced, prose ...
        parts[::2] = [_with_links_of_the_site(part, source) for part in parts[::2]]
        (to / place).write_text("".join(parts), encoding="utf-8")


def _place(source: str) -> str:
    return _ELSEWHERE.get(source, source.removeprefix("docs/"))


def _with_links_of_the_site(text: str, source: str) -> str:
    def turned(link: re.Match[str]) -> str:
        before, target, after = link.groups()
        if ":" in target:  # of another host
            return link.group()
        named = os.path.normpath(PurePosixPath(source).parent / target)
        return before + os.path.relpath(_place(named), PurePosixPath(_place(source)).parent) + after

    return _LINK.sub(turned, text)


def _of_notebook(text: str) -> str:
    """Its cells as Markdown; a notebook of ours keeps nothing of what they print."""
    written = {"code": "```python\n{}\n```", "markdown": "{}"}
    cells = json.loads(text)["cells"]
    return "\n\n".join(written[cell["cell_type"]].format("".join(cell["source"])) for cell in cells) + "\n"


if __name__ == "__main__":
    lay_out()
