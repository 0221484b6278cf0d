"""What hosts have shown so far, and which of them are not asked any more for the rest of the shard."""

from __future__ import annotations

import time
from collections.abc import Callable

from pipeline.stages.fetch.config import FetchConfig
from pipeline.stages.fetch.outage import LocalCause
from pipeline.stages.fetch.transfer import Answer
from pipeline.web.answers import seconds_of_retry_after

__all__ = ["NO_ANSWER", "Hosts"]

_SILENCE = frozenset({"connect", "timeout", "too_slow"})
"""Reasons that cost much time and say that the host is at fault."""

NO_ANSWER = _SILENCE | {"dns", "tls", "address_not_allowed"}
"""Reasons after which it is not known how the host answers."""


class Hosts:
    """Names that do not resolve, URLs in a row without an answer, waits that were asked for."""

    def __init__(self, config: FetchConfig, hold: Callable[[str, float], None]) -> None:
        """`hold(host, until_s)` is to start nothing on the host before a time of the monotonic clock."""
        self._config, self._hold = config, hold
        self._unresolved: dict[str, LocalCause | None] = {}
        self._waits: dict[str, tuple[int, float]] = {}  # waits asked for in a row, end of the last
        self._silent: dict[str, int] = {}  # URLs in a row that were not answered in time
        self._left_alone: dict[str, Answer] = {}  # what is said to every URL of a host that is not asked any more

    def verdict(self, host: str) -> Answer | None:
        """What to say to a URL of a host that is not asked any more; None for any other."""
        unresolved = Answer(reason="dns", local=self._unresolved[host]) if host in self._unresolved else None
        return self._left_alone.get(host, unresolved)

    def remember(self, host: str, answer: Answer) -> None:
        """What `answer` says about the host that was asked."""
        if answer.reason == "dns":
            self._unresolved[host] = answer.local
        if answer.http_status is not None and not answer.heals:
            self._waits.pop(host, None)
        if answer.reason not in _SILENCE:
            self._silent.pop(host, None)
            return
        self._silent[host] = self._silent.get(host, 0) + 1
        if self._silent[host] == self._config.per_host_failures:
            detail = "not asked: too many URLs of the host in a row found no connection or no end"
            self._left_alone[host] = Answer(reason=answer.reason, detail=detail, local=answer.local)

    def granted_wait_s(self, host: str, answer: Answer) -> float | None:
        """The wait that `answer` asks for, 0 for none; None if it is not granted.

        A busy host (429, 503) is held back as a whole for as long. Not granted is a wait over max_retry_after_s, nor
        one more than `retries` + 1 in a row: such a host is left alone for the rest of the shard, which it would hold
        up.
        """
        asked_s = seconds_of_retry_after(answer.retry_after) if answer.retry_after else 0.0
        if not asked_s:
            return 0.0
        too_long = asked_s > self._config.max_retry_after_s
        if answer.http_status not in (429, 503):
            return None if too_long else asked_s
        now = time.monotonic()
        count, until_s = self._waits.get(host, (0, 0.0))
        count += now >= until_s  # else an answer to what was under way when the wait began
        if too_long or count > self._config.retries + 1:
            detail = "not asked: the host wants to wait for longer than it is granted"
            self._left_alone[host] = Answer(reason=answer.reason, detail=detail, http_status=answer.http_status)
            return None
        self._waits[host] = count, max(until_s, now + asked_s)
        self._hold(host, now + asked_s)
        return asked_s
