"""Which failures are asked again, and what becomes of old and new answers."""

from __future__ import annotations

import itertools
from typing import Any

import pyarrow as pa
import pytest

from pipeline.consent.robots_answer import UNREACHABLE
from pipeline.records.schema import FACTS
from pipeline.stages.fetch.healing import CAN_HEAL, merge_facts, worth_retrying


def facts(*rows: tuple[int, str | None, str | None], tar: str = "a.tar") -> pa.Table:
    """FACTS rows from (URL number, stage, reason); no stage for a success; and the tar they point into."""
    plain: list[dict[str, Any]] = []
    for number, stage, reason in rows:
        status = {None: "success", "fetch": "failed_to_download", "check_image": "failed_to_resize"}[stage]
        fact: dict[str, Any] = dict.fromkeys(FACTS.names)
        plain.append(fact | {"url_id": number.to_bytes(16, "big"), "stage": stage, "reason": reason, "status": status})
    table = pa.Table.from_pylist(plain, schema=FACTS)
    return table.append_column("staging_tar", pa.array([tar] * len(rows), pa.string()))


@pytest.mark.parametrize("reason", [*CAN_HEAL, "http_500", "http_503", "http_599"])
def test_failures_that_time_may_heal_are_asked_again(reason: str) -> None:
    assert worth_retrying(facts((1, "fetch", reason))).to_pylist() == [True]


@pytest.mark.parametrize(
    "reason",
    ["http_404", "http_410", "http_403", "opt_out", "robots_txt", "block_list", "address_not_allowed", "too_large"],
)
def test_final_answers_are_not(reason: str) -> None:
    rows = facts((1, "fetch", reason), (2, "check_image", "broken_image"), (3, None, None))
    assert worth_retrying(rows).to_pylist() == [False, False, False]


@pytest.mark.parametrize(
    ("detail", "heals"),
    [
        *((f"{UNREACHABLE}: {reason}", True) for reason in ("http_503", "timeout", "dns")),
        *((f"{UNREACHABLE}: {reason}", False) for reason in ("block_list", "address_not_allowed", "bad_url")),
        *((detail, False) for detail in (None, "", UNREACHABLE)),
    ],
)
def test_a_robots_txt_that_could_not_be_had_is_asked_for_again(detail: str | None, heals: bool) -> None:
    rows = facts((1, "fetch", "robots_txt"))
    place = rows.schema.get_field_index("detail")
    rows = rows.set_column(place, "detail", pa.array([detail], pa.string()))
    assert worth_retrying(rows).to_pylist() == [heals]


def test_success_stays_and_else_the_latest_answer_counts() -> None:
    first = facts((1, "fetch", "timeout"), (2, "fetch", "dns"), (3, None, None), (4, "fetch", "http_404"), tar="a.tar")
    second = facts((1, None, None), (2, "fetch", "http_404"), (3, "fetch", "timeout"), tar="b.tar")
    third = facts((1, None, None), (2, "fetch", "connect"), tar="c.tar")
    merged = {row["url_id"][-1]: row for row in merge_facts([first, second, third]).to_pylist()}
    assert {k: (row["reason"], row["staging_tar"]) for k, row in merged.items()} == {
        1: (None, "b.tar"),
        2: ("connect", "c.tar"),
        3: (None, "a.tar"),
        4: ("http_404", "a.tar"),
    }


def test_merging_does_not_depend_on_the_order_of_rows_and_step_by_step_is_the_same() -> None:
    rows = [(1, "fetch", "timeout"), (2, None, None), (3, "fetch", "dns")]
    later = facts((3, None, None), (1, "fetch", "http_500"))
    expected = merge_facts([facts(*rows), later, facts()])
    for turned in itertools.permutations(rows):
        assert merge_facts([facts(*turned), later]).equals(expected)
    assert merge_facts([merge_facts([facts(*rows), later]), facts()]).equals(expected)
