"""What the robots.txt of one host says of URLs: whether they may be requested, and used to train models.

    kept text (`robots_file.py`) --> a check a group and signal (`robots_paths.py`) --> verdict on a URL

Read: the group of our own name, else everyone's (RFC 9309); for URLs that come from Common Crawl CCBot's as well; the
Content-Usage rules (IETF AIPREF) and Content-Signal lines of those groups; and, if that is asked for, the groups of all
robots that are known to gather training data. docs/robots.md has the rules in full.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.consent.config import ConsentConfig
from pipeline.consent.robots_agents import AI_TRAINING_AGENTS, COMMON_CRAWL
from pipeline.consent.robots_file import EVERYONE, read_groups
from pipeline.consent.robots_paths import PathRules, path_of
from pipeline.consent.usage import content_signal_forbids, content_usage_forbids

__all__ = ["ROBOTS_REASONS", "HostRules", "RobotsSignals", "Verdict"]

ROBOTS_REASONS = {
    "robots_txt": "the host's robots.txt forbids the path to our user agent, or could not be had",
    "robots_txt_ccbot": "the URL comes from Common Crawl, and robots.txt forbids the path to its robot, CCBot",
    "content_usage": "Content-Usage in robots.txt says train-ai=n of the path",
    "content_signal": "Content-Signal in robots.txt says ai-train=no",
    "robots_txt_ai": "robots.txt forbids the path to a robot that is known to gather training data",
}
"""Reasons for which a URL is turned away by a robots.txt, in the order in which they are looked at."""
_SECONDS = re.compile(r"[0-9]{1,6}(?:\.[0-9]{0,6})?|\.[0-9]{1,6}")


class Verdict(NamedTuple):
    """Why a URL may not be requested."""

    reason: str
    """Of ROBOTS_REASONS."""
    detail: str
    """Whose group, and what it says where that is not a path; for people."""


@dataclass(frozen=True, kw_only=True)
class RobotsSignals:
    """What of robots.txt files is honoured, and as whom."""

    product: str
    """Our name in lower case, as `FetchConfig.product` has it."""
    robots_txt: bool = True
    content_usage: bool = True
    content_signal: bool = True
    ai_groups: bool = False

    @classmethod
    def of(cls, config: ConsentConfig, product: str) -> RobotsSignals:
        """As a config has them."""
        return cls(
            product=product,
            robots_txt=config.honours("robots_txt"),
            content_usage=config.honours("content_usage"),
            content_signal=config.honours("content_signal"),
            ai_groups=config.honours("robots_txt_ai_groups"),
        )

    @property
    def any(self) -> bool:
        """Whether anything is honoured: else no robots.txt is read."""
        return self.robots_txt or self.content_usage or self.content_signal or self.ai_groups

    def honours(self, reason: str) -> bool:
        """Whether a URL may be turned away for `reason`, of ROBOTS_REASONS."""
        if reason == "content_usage":
            return self.content_usage
        if reason == "content_signal":
            return self.content_signal
        return self.ai_groups if reason == "robots_txt_ai" else self.robots_txt


class _Check(NamedTuple):
    verdict: Verdict
    rules: PathRules | None
    """None forbids every path."""


class HostRules:
    """The rules of one host, compiled."""

    def __init__(self, text: str, signals: RobotsSignals) -> None:
        """`text`: a robots.txt, or what is kept of it."""
        file = read_groups(text.encode("utf-8", "surrogatepass"), signals.product)
        self.licenses = file.licenses
        """The URLs of RSL terms that the file names."""
        groups = file.groups
        own = signals.product if signals.product in groups else EVERYONE
        self.crawl_delay_s = _seconds_of(file.delays.get(own, ""))
        """The wait between requests that the group asks of us; None where it asks for none."""
        self._checks = tuple(_checks_of("robots_txt", own, groups.get(own, ()), signals))
        self._common_crawl = self._checks
        if COMMON_CRAWL in groups and own != COMMON_CRAWL:
            crawl = tuple(_checks_of("robots_txt_ccbot", COMMON_CRAWL, groups[COMMON_CRAWL], signals))
            self._common_crawl = _in_order((*self._checks, *crawl))
        if signals.ai_groups and own == EVERYONE:  # who speaks to us by name has said what is meant for us
            others = tuple(
                check
                for agent in sorted(AI_TRAINING_AGENTS & groups.keys())
                for check in _checks_of("robots_txt_ai", agent, groups[agent], signals)
            )
            self._checks = _in_order((*self._checks, *others))
            self._common_crawl = _in_order((*self._common_crawl, *others))

    def verdict(self, url: str, *, from_common_crawl: bool = False) -> Verdict | None:
        """Why `url`, an absolute one of this host, may not be requested; None where nothing forbids it."""
        checks = self._common_crawl if from_common_crawl else self._checks
        if not checks:
            return None
        path = path_of(url)
        for verdict, rules in checks:
            if rules is None or rules.forbids(url, path):
                return verdict
        return None


def _checks_of(reason: str, agent: str, lines: Sequence[tuple[str, str]], signals: RobotsSignals) -> Iterator[_Check]:
    """The checks of one group; of those that speak to other robots the paths alone."""
    if signals.honours(reason) and any(field == "disallow" for field, _ in lines):
        paths = [f"{field}: {value}" for field, value in lines if field in ("allow", "disallow")]
        yield _Check(Verdict(reason, f"group {agent}"), _compiled(paths))
    if reason == "robots_txt_ai":
        return
    if signals.content_usage:
        yield from _check_usage(agent, [value for field, value in lines if field == "content-usage"])
    if signals.content_signal:
        for field, value in lines:
            pattern, preference = _parts_of(value)
            if field == "content-signal" and (found := content_signal_forbids(preference)) is not None:
                yield _Check(
                    Verdict("content_signal", f"group {agent}: Content-Signal: {found}"),
                    _compiled([f"disallow: {pattern}"]),
                )


def _check_usage(agent: str, values: Sequence[str]) -> Iterator[_Check]:
    """Of Content-Usage rules the one with the longest pattern decides, of several with the same the strictest
    (draft-ietf-aipref-attach as of 2026-08-19, section "Content-Usage Rule Semantics"). A rule that says nothing of
    training decides nothing."""
    forbidden: dict[str, bool] = {}
    said = ""
    for value in values:
        pattern, preference = _parts_of(value)
        found = content_usage_forbids(preference)
        if found is None and "train-ai" not in preference:
            continue
        said = said or found or ""
        forbidden[pattern] = forbidden.get(pattern, False) or found is not None
    if said:
        lines = [f"{'disallow' if no else 'allow'}: {pattern}" for pattern, no in forbidden.items()]
        verdict = Verdict("content_usage", f"group {agent}: Content-Usage: {said}")
        yield _Check(verdict, _compiled(lines))


def _parts_of(value: str) -> tuple[str, str]:
    """The pattern of paths that a preference in robots.txt is said of, and the preference."""
    pattern, *rest = value.split(None, 1)
    return (pattern, "".join(rest)) if value.startswith("/") else ("/", value)


def _in_order(checks: Sequence[_Check]) -> tuple[_Check, ...]:
    order = list(ROBOTS_REASONS)
    return tuple(sorted(checks, key=lambda check: order.index(check.verdict.reason)))


def _compiled(lines: Sequence[str]) -> PathRules | None:
    return None if list(lines) == ["disallow: /"] else PathRules(lines)  # the most common of all rules


def _seconds_of(delay: str) -> float | None:
    return float(delay) if _SECONDS.fullmatch(delay) else None
