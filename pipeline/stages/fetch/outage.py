"""When it is this machine that reaches nothing: a shard whose first requests all fail for one of its own causes stops.

    asked --> the first ENOUGH requests --ended--> one was answered, or failed for the host's sake: nothing to say
                                                   none was, all failed for a local cause: NetworkError

Otherwise a run of millions of URLs would fill its ledger with them, and take that for the answer of the web.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Enum

from pipeline.errors import NetworkError

__all__ = ["ENOUGH", "LEAST_HOSTS", "LocalCause", "Outage"]

ENOUGH = 200
"""Requests that must have failed. Hosts take turns, so they are of as many hosts as there are, up to this number."""
LEAST_HOSTS = 5
"""A list may hold nothing but one site that is not public: its failures are rejections like others."""
_PROBES = 8
"""Names that are looked up once more before the resolver is blamed."""


class LocalCause(Enum):
    """What keeps a request from leaving, whatever host it is for; the value says it, and what to do."""

    ADDRESS = (
        "would connect to an address that is not public",
        "to reach servers of your own, name their ranges in fetch.allow_addresses",
    )
    NETWORK = (
        "found no route",
        "check this machine's network, or name a proxy in fetch.proxy",
    )
    RESOLVER = (
        "got no answer from the resolver",
        "check this machine's DNS, or name servers in fetch.resolvers, or addresses in fetch.resolve",
    )
    PROXY = (
        "did not get through the proxy",
        "check the proxy and its password in fetch.proxy",
    )


class Outage:
    """Watches the first requests of a shard, in the order in which they were asked."""

    def __init__(self, resolver_answers: Callable[[], bool] | None = None) -> None:
        """`resolver_answers` tells whether the resolver has given any answer; None where the system's is to be asked
        for that."""
        self._resolver_answers = resolver_answers
        self._asked = 0
        self._hosts: set[str] = set()
        self._causes: Counter[LocalCause] = Counter()
        self._last: dict[LocalCause, str] = {}  # host and detail, for the message
        self._unresolved: dict[str, None] = {}  # in order
        self._over = False

    def asked(self, host: str) -> bool:
        """Whether a request to `host` that is about to be made is one of those that are watched."""
        if self._over or self._asked == ENOUGH:
            return False
        self._asked += 1
        self._hosts.add(host)
        return True

    def ended(self, host: str, cause: LocalCause | None, detail: str) -> None:
        """What a watched request to `host` came to in the end; `cause` None where it says nothing against this machine.

        Raises NetworkError once there is nothing else to think.
        """
        if cause is None or self._over:
            self._over = True
            return
        self._causes[cause] += 1
        self._last[cause] = f"{host}, {detail}"
        if cause is LocalCause.RESOLVER:
            self._unresolved[host] = None
        if self._causes.total() < ENOUGH:
            return
        self._over = True  # whatever is found, it is not looked for again
        if self._unresolved and not self._resolver_is_down():
            del self._causes[LocalCause.RESOLVER]  # there are no such names, which says nothing of this machine
        if len(self._hosts) < LEAST_HOSTS or 2 * self._causes.total() < ENOUGH:
            return
        (commonest, _), *_ = self._causes.most_common(1)
        what, remedy = commonest.value
        raise NetworkError(
            f"fetch: none of the first {ENOUGH} requests was answered, and most {what} "
            f"(the last: {self._last[commonest]}); {remedy}, and run again: these URLs count as not asked"
        )

    def _resolver_is_down(self) -> bool:
        if self._resolver_answers is not None:
            return not self._resolver_answers()
        return _system_is_down(list(self._unresolved))


def _system_is_down(hosts: Sequence[str]) -> bool:
    """Whether none of some `hosts` gets an answer of the system's resolver, be it that there is no such name."""
    asked = hosts[:_PROBES]
    with ThreadPoolExecutor(len(asked)) as pool:
        return all(pool.map(_gets_no_answer, asked))


def _gets_no_answer(host: str) -> bool:
    try:
        socket.getaddrinfo(host, 80)
    except socket.gaierror as error:
        return error.errno in (socket.EAI_AGAIN, socket.EAI_FAIL)
    except UnicodeError:  # a label that is too long: no such name
        return False
    return False
