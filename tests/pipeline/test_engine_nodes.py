"""How many tasks are in flight, and what they ask for, as nodes come and go."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.engine import Needs, nodes
from pipeline.engine.nodes import Nodes
from pipeline.errors import EngineError
from pipeline.stages.fetch.config import FetchConfig
from pipeline.steps.exchange import Exchange
from pipeline.steps.fetch.fetch import Fetch
from pipeline.storage.location import Files, Location

ONE = Needs(cpus=1, memory_mb=1000)


class Session:
    """A Ray whose nodes are what the test says."""

    def __init__(self, *sizes: tuple[float, int], owned: bool = False) -> None:
        self.owned, self.sizes, self.dead = owned, list(sizes), 0
        self.ray = SimpleNamespace(nodes=self.nodes)
        self.asked = 0

    def nodes(self) -> list[dict[str, Any]]:
        self.asked += 1
        found = [{"Alive": True, "Resources": {"CPU": cpus, "memory": mb * 2.0**20}} for cpus, mb in self.sizes]
        return [*found, {"Alive": False, "Resources": {}}]

    def check(self) -> bool:
        return True


def nodes_of(session: Session, *, timeout_s: float = 600, said: list[str] | None = None) -> Nodes:
    say = (lambda line: None) if said is None else said.append
    return Nodes(session, timeout_s=timeout_s, say=say)  # type: ignore[arg-type]  # as much of a session as is asked


def test_window_follows_nodes_that_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(nodes.time, "monotonic", lambda: clock[0])
    session = Session(*[(16.0, 64_000)] * 4)
    seen = nodes_of(session)
    assert seen.window(ONE) == 2 * 4 * 16
    session.sizes.append((8.0, 64_000))
    seen.look()
    assert seen.window(ONE) == 2 * 4 * 16  # it was asked a moment ago
    clock[0] += nodes._LOOK_EVERY_S
    seen.look()
    assert seen.window(ONE) == 2 * (4 * 16 + 8)
    session.sizes[:] = session.sizes[-1:]
    clock[0] += nodes._LOOK_EVERY_S
    seen.look()
    assert seen.window(ONE) == 2 * 8
    assert session.asked == 3


def test_window_is_of_what_fits_on_each_node() -> None:
    seen = nodes_of(Session((16.0, 9_999), (4.0, 64_000), (0.0, 64_000)))
    assert seen.window(ONE) == 2 * (9 + 4)
    assert seen.window(Needs(cpus=0.25, memory_mb=1000)) == 2 * (9 + 16)
    assert seen.window(Needs(cpus=1, memory_mb=10_000)) == nodes._LEAST_OF_A_CLUSTER  # 4 fit, on the second


def test_a_cluster_without_nodes_has_something_to_grow_by() -> None:
    assert nodes_of(Session((0.0, 8_000))).window(ONE) == nodes._LEAST_OF_A_CLUSTER


def test_a_task_too_large_for_every_node_is_one_line_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(nodes.time, "monotonic", lambda: clock[0])
    said: list[str] = []
    session = Session((16.0, 900), (2.0, 4_000))
    seen = nodes_of(session, timeout_s=60, said=said)
    seen.check(ONE)
    assert not said
    large = Needs(cpus=4, memory_mb=2_000)
    seen.check(large)
    seen.check(large)
    assert said == [
        "no node of the cluster has 4 CPUs and 2,000 MB of memory for a task; waiting 60 s for one that has"
    ]
    session.sizes.append((4.0, 2_000))
    clock[0] += 59
    seen.look()
    seen.check(large)  # it came in time
    session.sizes.pop()
    clock[0] += 59
    seen.look()
    seen.check(large)
    clock[0] += 60
    with pytest.raises(EngineError, match=r"2,000 MB of memory for a task \(the largest of 2: 16 and 900 MB\); add"):
        seen.check(large)


def test_on_a_ray_of_ones_own_no_task_asks_for_more_than_there_is() -> None:
    laptop = nodes_of(Session((2.0, 2_600), owned=True), timeout_s=0)
    assert laptop.granted(Needs(cpus=4, memory_mb=8_000)) == Needs(cpus=2, memory_mb=2_600)
    assert laptop.granted(ONE) == ONE
    laptop.check(Needs(cpus=4, memory_mb=8_000))
    assert laptop.window(Needs(cpus=4, memory_mb=8_000)) == 2
    assert laptop.window(Needs(cpus=0.25, memory_mb=500)) == 2 * 5


# --- what tasks ask for ----------------------------------------------------------------------------


def fetch_with(**options: Any) -> Needs:
    nothing: Any = None
    config = FetchConfig(user_agent="test/1 (+http://localhost/)", **options)
    fields = {"signals": nothing, "image": nothing, "seed": 0, "first": 0, "last": 0, "retry": 0}
    return Fetch(partition="a", missing=Location("/a", "1"), settings="s", block_key="b", config=config, **fields).needs


def test_many_fetch_tasks_share_a_core_unless_hosts_have_a_rate() -> None:
    assert fetch_with().cpus == 0.25
    assert fetch_with(concurrency=512).cpus == 1.0
    assert fetch_with(per_host_rate=1.0).cpus == 1.0


def test_what_a_task_may_hold_is_what_it_asks_for() -> None:
    def exchange(rows: int) -> int:
        return Exchange(partition="a", matched=Files(), partitions=1, rows_per_flush=rows).needs.memory_mb

    assert exchange(4_000_000) > exchange(1_000_000) > 894  # MB that were measured
