from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.pages import is_reason, reasons_of, whole_page
from pipeline.records.ledger import Ledger, LedgerError, totals
from pipeline.records.ledger_config import LedgerConfig
from pipeline.records.outcome import Outcome, empty_rejections, reject, rejections_from_rows


def _batch(count: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(
        {
            "source": pa.array(["s"] * count),
            "record": pa.array(range(count), pa.int64()),
            "link": pa.array([0] * count, pa.int32()),
            "uid": pa.array([bytes([i]) * 16 for i in range(count)], pa.binary(16)),
        }
    )


def test_counts_add_up_over_batches_and_tasks(tmp_path: Path) -> None:
    reasons = pa.array([None, "too_short", "empty", None, "empty"], pa.string())
    infos = []
    for task in range(2):
        ledger = Ledger(tmp_path / f"{task}.parquet", LedgerConfig())
        kept = ledger.add("clean", "link", reject(_batch(5), stage="clean", reasons=reasons))
        assert kept["record"].to_pylist() == [0, 3]
        infos.append({"lines": ledger.close()})
        assert pq.read_table(tmp_path / f"{task}.parquet")["reason"].to_pylist() == ["too_short", "empty", "empty"]
    (line,) = totals(infos)
    assert (line.rows_in, line.kept, line.rejected) == (10, 4, {"empty": 4, "too_short": 2})


def test_rejected_records_are_counted_in_their_own_unit(tmp_path: Path) -> None:
    rows = [{"source": "s", "record": 9, "stage": "extract", "reason": "bad_record"}]
    outcome = Outcome(kept=_batch(3), rejected=rejections_from_rows(rows), num_in=3, num_records=2)
    ledger = Ledger(tmp_path / "r.parquet", LedgerConfig())
    ledger.add("extract", "link", outcome)
    records, links = totals([{"lines": ledger.close()}])
    assert (records.unit, records.rows_in, records.kept, records.rejected) == ("record", 2, 1, {"bad_record": 1})
    assert (links.unit, links.rows_in, links.kept, links.rejected) == ("link", 3, 3, {})


def test_records_that_are_passed_over_are_counted_without_rows(tmp_path: Path) -> None:
    rows = [{"source": "s", "record": 9, "stage": "extract", "reason": "bad_record"}]
    outcome = Outcome(
        kept=_batch(3), rejected=rejections_from_rows(rows), num_in=3, num_records=9, num_read=1,
        passed_over={"other_record": 5, "not_a_page": 2},
    )  # fmt: skip
    ledger = Ledger(tmp_path / "r.parquet", LedgerConfig())
    ledger.add("extract", "link", outcome)
    ledger.add("extract", "link", outcome)
    records, _ = totals([{"lines": ledger.close()}])
    assert (records.rows_in, records.kept) == (18, 2)
    assert records.rejected == {"bad_record": 2, "not_a_page": 4, "other_record": 10}
    assert pq.read_table(tmp_path / "r.parquet").num_rows == 2


@pytest.mark.parametrize(("num_read", "passed_over"), [(0, {"not_a_page": 1}), (3, {}), (1, {"not_a_page": 2})])
def test_record_that_ends_nowhere_or_twice_is_an_error(
    tmp_path: Path, num_read: int, passed_over: dict[str, int]
) -> None:
    outcome = Outcome(
        kept=_batch(1), rejected=empty_rejections(), num_in=1, num_records=2, num_read=num_read, passed_over=passed_over
    )
    ledger = Ledger(tmp_path / "r.parquet", LedgerConfig())
    with pytest.raises(LedgerError, match="2 records in"):
        ledger.add("extract", "link", outcome)
    ledger.close()


def test_lost_row_is_an_error(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "r.parquet", LedgerConfig())
    with pytest.raises(LedgerError, match="4 links in, but 3 kept and 0 rejected"):
        ledger.add("clean", "link", Outcome(kept=_batch(3), rejected=empty_rejections(), num_in=4))
    ledger.close()


def test_detail_is_limited_per_reason_and_counts_are_not(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "r.parquet", LedgerConfig(max_rows_per_task=3))
    for _ in range(2):
        reasons = pa.array(["empty", "empty", "date", None, "empty"], pa.string())
        ledger.add("clean", "link", reject(_batch(5), stage="clean", reasons=reasons))
    (line,) = totals([{"lines": ledger.close()}])
    assert line.rejected == {"date": 2, "empty": 6}
    assert sorted(pq.read_table(tmp_path / "r.parquet")["reason"].to_pylist()) == ["date"] * 2 + ["empty"] * 3


def test_detail_for_people_is_cut(tmp_path: Path) -> None:
    details = pa.array(["x" * 500] * 2)
    outcome = reject(_batch(2), stage="clean", reasons=pa.array(["too_long", None], pa.string()), details=details)
    assert outcome.rejected["detail"].to_pylist() == ["x" * 200]


def test_http_reasons_are_three_digits() -> None:
    assert is_reason("fetch", "http_404")
    assert not is_reason("fetch", "http_4040")
    assert not is_reason("clean", "http_404")
    reasons = reasons_of(whole_page())
    assert all(is_reason(stage, reason) for stage in reasons for reason in reasons[stage] if reason != "http_NNN")
