"""The nodes of a Ray as they come and go: how many tasks may be in flight, and what to ask for each.

    ray.nodes(), every few seconds --> places for a task --> window: those that run, and as many that wait

What waits is what a cluster that grows by itself goes by. Ray's `memory` is a count of what tasks asked for, of the
memory that a node had free at its start, less its object store (`ray._private.resource_and_label_spec`, 2.60): nothing
holds a task to it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from pipeline.engine.start_ray import RaySession
from pipeline.engine.task import Needs
from pipeline.errors import EngineError

__all__ = ["TASKS_PER_PLACE", "Nodes"]

_LOOK_EVERY_S = 5.0
TASKS_PER_PLACE = 2
"""In flight: one runs, one waits; more would only hold memory."""
_LEAST_OF_A_CLUSTER = 16
"""In flight on a cluster that has no node yet: it grows by what waits."""


class Nodes:
    """What there is of a Ray."""

    def __init__(self, session: RaySession, *, timeout_s: float, say: Callable[[str], None]) -> None:
        self._session = session
        self._timeout_s = timeout_s
        self._say = say
        self._sizes: Counter[tuple[float, int]] = Counter()
        self._places: dict[Needs, int] = {}
        self._lacking_since: float | None = None
        self._look()

    def look(self) -> None:
        """See which nodes have come and gone; cheap, so call it as often as you like. Raises EngineError as
        `RaySession.check` does."""
        if self._session.check() and time.monotonic() - self._looked >= _LOOK_EVERY_S:
            self._look()

    def _look(self) -> None:
        self._looked = time.monotonic()
        found = [node["Resources"] for node in self._session.ray.nodes() if node["Alive"]]
        self._sizes = Counter((each.get("CPU", 0.0), int(each.get("memory", 0)) >> 20) for each in found)
        self._places.clear()

    def granted(self, needs: Needs) -> Needs:
        """What to ask Ray for. On a Ray of one's own, which no node will join, no task asks for more than there is: it
        has the machine to itself then, as it always could."""
        if not self._session.owned or not self._sizes:
            return needs
        cpus, memory_mb = max(self._sizes)
        return Needs(cpus=min(needs.cpus, cpus), memory_mb=min(needs.memory_mb, memory_mb))

    def window(self, needs: Needs) -> int:
        """How many tasks with these needs to have in flight."""
        least = TASKS_PER_PLACE if self._session.owned else _LEAST_OF_A_CLUSTER
        return max(least, TASKS_PER_PLACE * self._places_for(needs))

    def check(self, needs: Needs) -> None:
        """Raise EngineError where no node has been large enough for `timeout_s`, which Ray would wait for for ever."""
        if self._places_for(needs):
            self._lacking_since = None
            return
        asked = f"no node of the cluster has {needs.cpus:g} CPUs and {needs.memory_mb:,} MB of memory for a task"
        if self._lacking_since is None:
            self._lacking_since = time.monotonic()
            self._say(f"{asked}; waiting {self._timeout_s:,.0f} s for one that has")
        if time.monotonic() - self._lacking_since >= self._timeout_s:
            cpus, memory_mb = max(self._sizes, default=(0.0, 0))
            raise EngineError(
                f"{asked} (the largest of {sum(self._sizes.values())}: {cpus:g} and {memory_mb:,} MB); add such a "
                "node, lower what the step may use (memory_mb in its options), or raise engine.nodes_timeout_s, "
                "then run again"
            )

    def _places_for(self, needs: Needs) -> int:
        """How many tasks with these needs run at once."""
        places = self._places.get(needs)
        if places is None:
            asked = self.granted(needs)
            places = self._places[needs] = sum(
                count * int(min(cpus / asked.cpus, memory_mb / max(asked.memory_mb, 1)))
                for (cpus, memory_mb), count in self._sizes.items()
            )
        return places
