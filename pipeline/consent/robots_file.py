"""robots.txt, read once: of its groups those that may concern us, in the fewest lines.

    body of 500 KiB at most --read_groups--> agent -> lines --kept_text--> the text that is kept of the file

Which group is whose is decided here, as RFC 9309 has it (section 2.2.1); what patterns match is Protego's affair
(`robots_rules.py`). What is kept is a robots.txt again, with its lines in order of the alphabet, so that files that say
the same are the same bytes.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.consent.robots_agents import AI_TRAINING_AGENTS

__all__ = ["EVERYONE", "KEPT_VERSION", "MAX_ROBOTS_BYTES", "RobotsFile", "kept_text", "read_groups"]

MAX_ROBOTS_BYTES = 500 * 1024
"""What is read of a robots.txt; RFC 9309, section 2.5, asks for at least this."""
KEPT_VERSION = 1
"""Rises when other lines are kept of a file, or of other robots' groups."""
EVERYONE = "*"
_BREAK = re.compile(r"[\r\n]+")
_AGENT = re.compile(r"[A-Za-z0-9_-]+|\*(?![A-Za-z0-9_-])")
_LETTERS = re.compile(r"[A-Za-z_-]*")
"""All that a name may have in robots.txt (RFC 9309, section 2.2.1)."""
_FIELDS = {
    **dict.fromkeys(("user-agent", "useragent", "user agent"), "user-agent"),
    **dict.fromkeys(("disallow", "dissallow", "dissalow", "disalow", "diasllow", "disallaw"), "disallow"),
    **{name: name for name in ("allow", "content-usage", "content-signal", "crawl-delay", "license")},
}
"""As lines spell them -> what they are. The misspellings are those that Google's parser and Protego forgive."""
_WITHOUT_COLON = re.compile(r"(user[- ]?agent|disallow|allow)[ \t]+(.*)", re.IGNORECASE)
_RULES = frozenset({"allow", "disallow", "content-usage", "content-signal"})
"""Lines that end a list of agents. Others may stand in the middle of one (RFC 9309, section 2.2.4)."""


@dataclass(frozen=True, kw_only=True)
class RobotsFile:
    """Of one robots.txt, what may concern us."""

    groups: Mapping[str, Sequence[tuple[str, str]]]
    """Agent, in small letters -> its lines as (field, value), of all of its groups together. An agent that is named and
    told nothing is there, too."""
    delays: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Agent -> its first Crawl-delay, as it is written."""
    licenses: Sequence[str] = ()
    """The URLs of `License:` lines (RSL 1.0), which stand for the whole site."""


def read_groups(body: bytes, product: str) -> RobotsFile:
    """The groups of `product` (lower case), everyone's, and those of the robots of AI_TRAINING_AGENTS. Never raises.

    Content-Usage and Content-Signal lines before any agent are taken as said to everyone.
    """
    text = body[:MAX_ROBOTS_BYTES].decode("utf-8", "replace").removeprefix("\ufeff")
    named: dict[str, list[list[tuple[str, str]]]] = {}
    licenses: dict[str, None] = {}
    delays: dict[str, str] = {}
    undelayed: list[str] = []  # agents of the list under way that no Crawl-delay has followed yet
    current: list[tuple[str, str]] = []
    in_rules, has_agent, wanted = True, False, False
    for line in _BREAK.split(text):
        field, value = _directive(line)
        if field == "user-agent":
            if in_rules:
                current, undelayed, in_rules, wanted = [], [], False, False
            has_agent = True
            for agent in _agents_of(value, product):
                groups = named.setdefault(agent, [])
                if not any(group is current for group in groups):
                    groups.append(current)
                undelayed.append(agent)
                wanted = True
        elif field == "license":
            if value:
                licenses[value] = None
        elif field == "crawl-delay":
            for agent in undelayed if value else ():
                delays.setdefault(agent, value)
            undelayed = []
        elif field:
            if not has_agent and field in ("content-usage", "content-signal"):
                named.setdefault(EVERYONE, []).append([(field, value)])
                continue
            in_rules = True
            if wanted and value:
                current.append((field, value))
    lines = {agent: [line for group in groups for line in group] for agent, groups in named.items()}
    return RobotsFile(groups=lines, delays=delays, licenses=tuple(licenses))


def kept_text(file: RobotsFile) -> str:
    """What is kept of a file: a robots.txt that `read_groups` reads as the same; "" where nothing forbids anything."""
    blocks: dict[tuple[str, ...], list[str]] = {}
    for agent, lines in file.groups.items():
        written_lines = {f"{field}: {value}" for field, value in lines}
        written_lines |= {f"crawl-delay: {file.delays[agent]}"} if agent in file.delays else set()
        blocks.setdefault(tuple(sorted(written_lines)), []).append(agent)
    written = [f"license: {url}" for url in file.licenses]
    if not any(_may_forbid(lines) for lines in blocks):
        return "".join(f"{line}\n" for line in written)
    for block, agents in sorted(blocks.items(), key=lambda block: min(block[1])):
        written += [f"user-agent: {agent}" for agent in sorted(agents)]
        has_rules = any(line.partition(":")[0] in _RULES for line in block)
        written += block if has_rules else [*block, "disallow:"]  # or the next agents would be taken for its own
    return "".join(f"{line}\n" for line in written)


def _may_forbid(lines: Iterable[str]) -> bool:
    return any(not line.startswith("allow:") for line in lines)


def _directive(line: str) -> tuple[str, str]:
    """(field, value) of a line; ("", "") where it is none that counts."""
    line = line.partition("#")[0]
    name, colon, value = line.partition(":")
    field = _FIELDS.get(name.strip().lower()) if colon else None
    if field is not None:
        return field, value.strip()
    spaced = _WITHOUT_COLON.match(line.strip())
    return (_FIELDS[spaced[1].lower().replace(" ", "-")], spaced[2].strip()) if spaced is not None else ("", "")


def _agents_of(value: str, product: str) -> list[str]:
    """Whose group a user-agent line begins, of those that may concern us: several where our product has the name of a
    robot of the list."""
    found = _AGENT.match(value)
    if found is None:
        return []
    name = found[0].lower()
    agents = [name] if name == EVERYONE or name in AI_TRAINING_AGENTS else []
    is_ours = name == product or (_letters(product) and _letters(name) == _letters(product))
    return [*agents, product] if is_ours and product not in agents else agents


def _letters(product: str) -> str:
    match = _LETTERS.match(product)
    return match[0].lower() if match is not None else ""
