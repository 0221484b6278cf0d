"""robots.txt as RFC 9309 reads it: groups, longest match, `*` and `$`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

__all__ = ["MAX_ROBOTS_BYTES", "UNREACHABLE", "RobotsRules", "parse_robots"]

MAX_ROBOTS_BYTES = 500 * 1024
"""What is read of a robots.txt; RFC 9309, section 2.5, asks for at least this."""

UNREACHABLE = "robots.txt is unreachable"
"""How the detail of a rejection begins that no rule asked for: the file could not be had, and after `: ` the reason."""

_MAX_RULES = 10_000


@dataclass(frozen=True, kw_only=True)
class RobotsRules:
    """The rules of one host that are addressed to us: (allowed, pattern), patterns percent-encoded."""

    rules: tuple[tuple[bool, str], ...]
    crawl_delay_s: float | None = None
    """Between two requests; `Crawl-delay` is no part of RFC 9309, but widely written."""

    def allows(self, url: str) -> bool:
        """Whether `url` may be requested: the longest matching pattern decides, allow before disallow."""
        parts = urlsplit(url)
        path = _normal(parts.path or "/")
        if parts.query:
            path += "?" + _normal(parts.query)
        if path == "/robots.txt":
            return True
        best = (-1, True)
        for allowed, pattern in self.rules:
            if len(pattern) >= best[0] and _matches(pattern, path):
                best = max(best, (len(pattern), allowed))
        return best[1]


def parse_robots(body: bytes, product: str) -> RobotsRules:
    """Read the groups for `product` (lower case); those for `*` where it is not named. Never raises."""
    text = body[:MAX_ROBOTS_BYTES].decode("utf-8", "replace").removeprefix("\ufeff")
    ours: list[tuple[bool, str]] = []
    everyone: list[tuple[bool, str]] = []
    delays: dict[str, float | None] = {}
    named = False
    agents: set[str] = set()
    in_rules = True  # a user-agent line after a rule starts a new group
    for line in re.split(r"[\r\n]+", text):
        key, colon, value = line.partition("#")[0].partition(":")
        if not colon:
            continue
        key, value = key.strip().lower(), value.strip()
        if key == "user-agent":
            if in_rules:
                agents, in_rules = set(), False
            match = re.match(r"[A-Za-z_-]+|\*", value)
            agents.add(match.group().lower() if match else "")
            named = named or bool(match and match.group().lower() == _letters(product))
        elif key == "crawl-delay":
            in_rules = True
            for whom in (name for name in (_letters(product), "*") if name in agents):
                delays.setdefault(whom, _seconds(value))
        elif key in ("allow", "disallow"):
            in_rules = True
            if not value:
                continue  # "Disallow:" alone forbids nothing
            rule = (key == "allow", re.sub(r"\*+", "*", _normal(value)))
            if _letters(product) in agents and len(ours) < _MAX_RULES:
                ours.append(rule)
            if "*" in agents and len(everyone) < _MAX_RULES:
                everyone.append(rule)
    delay_s = delays.get(_letters(product) if named else "*")
    return RobotsRules(rules=tuple(ours if named else everyone), crawl_delay_s=delay_s)


def _seconds(value: str) -> float | None:
    """A delay as robots.txt has it; None for what is no number of seconds."""
    return float(value) if re.fullmatch(r"\d{1,9}(\.\d{0,9})?|\.\d{1,9}", value, re.ASCII) else None


def _letters(product: str) -> str:
    """A product token as robots.txt can spell it: RFC 9309 allows letters, "_" and "-" alone."""
    match = re.match(r"[A-Za-z_-]*", product)
    return match.group().lower() if match else ""


def _normal(text: str) -> str:
    """Percent-encode what is not ASCII and write escapes alike, so that spellings compare equal."""
    text = re.sub(r"%([0-9A-Fa-f]{2})", lambda m: _decoded(m.group(1)), text)
    return quote(text, safe="!#$%&'()*+,/:;=?@[]~")


def _decoded(digits: str) -> str:
    character = chr(int(digits, 16))
    return character if character.isascii() and (character.isalnum() or character in "-._~") else f"%{digits.upper()}"


def _matches(pattern: str, path: str) -> bool:
    """Greedy matching piece by piece: linear, unlike a regular expression with many stars."""
    anchored = pattern.endswith("$")
    pieces = pattern.removesuffix("$").split("*")
    if not path.startswith(pieces[0]):
        return False
    if len(pieces) == 1:
        return not anchored or path == pieces[0]
    position = len(pieces[0])
    for piece in pieces[1:-1]:
        found = path.find(piece, position)
        if found < 0:
            return False
        position = found + len(piece)
    last = pieces[-1]
    if anchored:
        return len(path) - len(last) >= position and path.endswith(last)
    return path.find(last, position) >= 0
