"""What a run says at its end of a stage that turned away more than is usual."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.pages import stages_of, whole_page
from pipeline.records.ledger import Line
from pipeline.runs.hints import USUAL, hints_of
from tests.conftest import REPOSITORY
from tests.pipeline.loopback_server import LoopbackServer, answer
from tests.pipeline.small_run import SmallRun, picture

SAMPLE = [
    Line(stage="extract", unit="record", rows_in=1662, kept=552, rejected={"not_a_page": 1107, "other_record": 3}),
    Line(
        stage="extract", unit="link", rows_in=5945, kept=5633, rejected={"no_text": 200, "not_http": 78, "opt_out": 34}
    ),
    Line(
        stage="clean", unit="link", rows_in=5633, kept=5216, rejected={"file_name": 140, "x": 277}
    ),
    Line(stage="language", unit="link", rows_in=5216, kept=4736, rejected={"other_language": 480}),
    Line(stage="match", unit="link", rows_in=4736, kept=4691, rejected={"no_query": 45}),
    Line(stage="dedup", unit="pair", rows_in=4691, kept=4571, rejected={"duplicate": 120}),
    Line(stage="balance", unit="pair", rows_in=4571, kept=3408, rejected={"not_selected": 1163}),
    Line(stage="fetch", unit="pair", rows_in=3408, kept=3335, rejected={"http_404": 73}),
    Line(stage="check_image", unit="pair", rows_in=3335, kept=3284, rejected={"too_small": 51}),
]  # fmt: skip
"""The ledger of the README."""


def test_sample_is_as_usual() -> None:
    assert not hints_of(SAMPLE, Path("data/sample"))


def test_a_third_lost_to_the_language_rule_is_a_hint() -> None:
    line = Line(stage="language", unit="link", rows_in=3000, kept=2000, rejected={"other_language": 1000})
    (hint,) = hints_of([line], Path("my set"))
    assert hint.text == (
        "language turned away 33 % of 3,000 links (other_language 1,000); usual is 3 to 20 % of pages in the target "
        "language, half and more of a whole crawl"
    )
    assert shlex.split(hint.command)[:5] == ["python", "-m", "pipeline", "sql", "my set"]


@pytest.mark.parametrize("usual", USUAL, ids=lambda usual: f"{usual.stage}-{usual.unit}")
def test_each_is_told_above_its_bound_and_not_at_it(usual: object) -> None:
    from pipeline.runs.hints import Usual

    assert isinstance(usual, Usual)
    at = int(1000 * usual.most)
    reason = usual.reasons[0] if usual.reasons else "any"
    for lost, told in ((at, 0), (at + 1, 1)):
        line = Line(stage=usual.stage, unit=usual.unit, rows_in=1000, kept=1000 - lost, rejected={reason: lost})
        assert len(hints_of([line], Path("set"))) == told
    few = Line(stage=usual.stage, unit=usual.unit, rows_in=99, kept=0, rejected={reason: 99})
    assert not hints_of([few], Path("set"))


def test_stages_and_reasons_are_those_of_the_page() -> None:
    steps = stages_of(whole_page())
    for usual in USUAL:
        assert set(usual.reasons) <= set(steps[usual.stage].stages[usual.stage])


def test_run_ends_with_a_command_that_shows_the_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    german = "ein altes Haus am Fluss, in dem niemand mehr wohnt, Nummer"
    with LoopbackServer({"/a": answer(200, picture(1))}) as server:
        small = SmallRun.make(tmp_path / "a set's place", server, ["/a"])
        rows = [{"url": server.url("/a"), "alt": "a red house beside the river in the morning"}] * 100
        rows += [{"url": server.url(f"/{n}"), "alt": f"{german} {n}"} for n in range(60)]
        pq.write_table(pa.Table.from_pylist(rows), small.root / "links.parquet")
        assert small.run() == 0
    said = capsys.readouterr().err
    assert re.search(r"^language turned away \d\d % of 160 links \(other_language 60", said, re.MULTILINE)
    (command,) = re.findall(
        r"^  (python -m pipeline sql .* WHERE stage = 'language' .*|python .*language.*)$", said, re.M
    )
    words = shlex.split(command)
    done = subprocess.run(
        [sys.executable, *words[1:], "--format", "json"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert len(shown) == 20
    assert {row["reason"] for row in shown} == {"other_language"}
    events = [json.loads(line) for path in (small.output / "log").iterdir() for line in path.read_text().splitlines()]
    assert "language" in [event["stage"] for event in events if event["event"] == "hint"]
