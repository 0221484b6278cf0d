"""Which paths the rules of one group forbid. Protego says so; most URLs need not ask it.

    URL --has none of the strings without which no Disallow can match?--> allowed
        --else-----------------------------------------------> Protego, compiled when it is first asked

A pattern matches a path only where each run of plain characters in it stands in the path, the first at its start. The
runs are looked for in the path as it is spelt, which takes well under a microsecond a pattern; Protego takes 5 to 30 of
a URL, and more to compile than most hosts have URLs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote

from protego import Protego

__all__ = ["PathRules", "path_of"]

_AGENT = "*"
_PLAIN = re.compile(r"[A-Za-z0-9_.~/=?&+,:;@!'()-]+")
"""Characters that Protego compares as they are, or escapes alike in rules and paths."""
_ESCAPE = re.compile("%[0-9A-Fa-f]{2}")
"""Its digits are no characters of the path, which is looked at unescaped."""
_PATH = re.compile(r"https?://[^/?#]*([^#]*)", re.IGNORECASE)


def path_of(url: str) -> str:
    """Path and query of an absolute http(s) URL, unescaped: what `forbids` looks for plain runs in."""
    found = _PATH.match(url)
    path = "" if found is None else found[1]
    if not path.startswith("/"):
        path = f"/{path}"
    return unquote(path) if "%" in path else path


class PathRules:
    """The Allow and Disallow rules of a group."""

    def __init__(self, lines: Sequence[str]) -> None:
        """`lines`: those of a robots.txt, `allow: PATTERN` or `disallow: PATTERN`."""
        self._lines = lines
        self._rules: Protego | None = None
        starts: set[str] = set()
        runs: set[str] = set()
        for line in lines:
            field, _, pattern = line.partition(": ")
            if field != "disallow":
                continue
            first = _PLAIN.match(pattern)
            start = first[0] if first is not None and pattern.startswith("/") else ""
            if len(start) > 1 or "*" not in pattern:
                (starts if start else runs).add(start)
            else:
                runs.add(max(_PLAIN.findall(_ESCAPE.sub("%", pattern)), key=len, default=""))
        self._starts = tuple(starts)
        self._runs = tuple(runs)

    def forbids(self, url: str, path: str) -> bool:
        """Whether `url` is forbidden; `path` is its `path_of`."""
        if not path.startswith(self._starts):
            for run in self._runs:
                if run in path:
                    break
            else:
                return False
        if self._rules is None:
            self._rules = Protego.parse("\n".join([f"user-agent: {_AGENT}", *self._lines]))
        try:
            return not self._rules.can_fetch(url, _AGENT)
        except ValueError:
            return False  # no URL: whoever is to request it says so
