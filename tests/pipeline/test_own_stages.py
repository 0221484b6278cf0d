"""Stages of one's own: where they stand, what they are held to, when work is done again, and what the commands say."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml

from configs.load import ConfigError
from pipeline.api import Pipeline
from pipeline.catalog.catalog import open_catalog
from pipeline.commands import main
from pipeline.errors import StageError
from pipeline.own.record import recorded
from pipeline.questions.explain import explain
from pipeline.questions.report import write_report
from pipeline.records.outcome import Outcome, empty_rejections, reject
from pipeline.runs.run import RunResult
from pipeline.stages.stage import Stage
from tests.pipeline.loopback_server import LoopbackServer, text
from tests.pipeline.small_run import SmallRun, picture

PATHS = {f"/{i}": text(picture(i)) for i in range(8)}
DOG = "an old dog that sleeps on the kitchen floor"


@dataclass(frozen=True, kw_only=True)
class NoWords(Stage):
    """Turns captions with one of some words away."""

    words: tuple[str, ...]

    name: ClassVar[str] = "no_words"
    reasons: ClassVar[dict[str, str]] = {"word": "the caption has a word that is not wanted"}
    reads: ClassVar[tuple[str, ...]] = ("caption",)

    @functools.cached_property
    def pattern(self) -> str:
        return rf"\b({'|'.join(map(re.escape, self.words))})\b"

    def judge(self, batch: pa.RecordBatch) -> Outcome:
        bad = pc.match_substring_regex(batch["caption"], self.pattern)
        reasons = pc.if_else(bad, "word", pa.scalar(None, pa.string()))
        return reject(batch, stage=self.name, reasons=reasons, details=batch["caption"])


class Later(NoWords):
    """The same class but for its version."""

    version = 2


class Length(Stage):
    name = "length"
    reasons: ClassVar[dict[str, str]] = {"odd": "of an odd length"}
    reads = ("caption",)
    adds = ("length",)

    def judge(self, batch: pa.RecordBatch) -> Outcome:
        length = pc.utf8_length(batch["caption"])
        return reject(
            batch.append_column("length", length), stage=self.name, reasons=pa.nulls(batch.num_rows, pa.string())
        )


class LongOnly(Stage):
    name = "long_only"
    reasons: ClassVar[dict[str, str]] = {"short": "shorter than 44 characters"}
    reads = ("length",)

    def judge(self, batch: pa.RecordBatch) -> Outcome:
        bad = pc.less(batch["length"], 44)
        return reject(batch, stage=self.name, reasons=pc.if_else(bad, "short", pa.scalar(None, pa.string())))


class NoDogPictures(NoWords):
    """As a judge of pairs."""

    name = "no_dog_pictures"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallRun]:
    with LoopbackServer(PATHS) as server:
        yield SmallRun.make(tmp_path, server, PATHS)


def _lines(result: RunResult) -> dict[str, tuple[int, int, dict[str, int]]]:
    return {line.stage: (line.rows_in, line.kept, line.rejected) for line in result.lines}


def test_link_stage_is_counted_in_its_place_with_its_reasons(small: SmallRun) -> None:
    pipeline = Pipeline(small.config).judge_links(after="clean", stage=NoWords(words=("dog", "snow")))
    result = pipeline.run()
    lines = _lines(result)
    assert list(lines)[:5] == ["extract", "clean", "no_words", "language", "match"]
    assert lines["no_words"] == (8, 6, {"word": 2})
    assert result.samples == 6
    files = (small.output / "work" / "texts").glob("*.rejections.parquet")
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    assert {(row["stage"], row["reason"]) for row in rows} == {("no_words", "word")}
    assert DOG in {row["detail"] for row in rows}
    assert "no_words" in str(pipeline)
    assert pipeline.output == small.output
    assert pipeline.run().ran_tasks == 0


def test_pair_stage_is_counted_behind_those_that_are_there(small: SmallRun) -> None:
    plain = Pipeline(small.config)
    result = plain.judge_pairs(NoDogPictures(words=("dog",))).run()
    assert _lines(result)["no_dog_pictures"] == (8, 7, {"word": 1})
    assert result.samples == 7
    (filtered,) = [
        line for line in str(plain.judge_pairs(NoDogPictures(words=()))).splitlines() if "judge_pairs" in line
    ]
    assert filtered.endswith("no_dog_pictures")
    assert "judge_pairs" not in plain.page, "a Pipeline never changes"


def test_stages_after_the_same_one_stand_in_the_order_of_their_calls_and_pass_columns_on(small: SmallRun) -> None:
    pipeline = Pipeline(small.config).judge_links(Length()).judge_links(LongOnly())
    assert list(pipeline.page["texts"].stages) == [
        "extract",
        "clean",
        "length",
        "long_only",
        "language",
        "match",
        "privacy",
    ]
    result = pipeline.run()
    rows_in, kept, rejected = _lines(result)["long_only"]
    assert (rows_in, kept) == (8, 8 - rejected["short"])
    assert 0 < rejected["short"] < 8
    (matched,) = (small.output / "work" / "texts").glob("*.matched.parquet")
    assert "length" not in pq.read_schema(matched).names


def test_work_is_done_again_for_another_field_version_or_source_and_for_nothing_else(
    small: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Pipeline(small.config)
    stage = NoWords(words=("dog",))
    assert plain.judge_links(stage).run().ran_tasks > 0
    assert "pattern" in vars(stage), "what it works out is kept, and no part of the key"
    assert plain.judge_links(stage).run().ran_tasks == 0
    assert plain.judge_links(NoWords(words=("dog",))).run().ran_tasks == 0
    assert plain.judge_links(NoWords(words=("snow",))).run().ran_tasks > 0
    assert plain.judge_links(Later(words=("snow",))).run().ran_tasks > 0

    source = (
        "from openwit import Outcome, Stage, reject\nimport pyarrow as pa\n\n\nclass Mine(Stage):\n    name = 'mine'\n"
        "    reasons = {'bad': 'bad'}\n\n    def judge(self, batch):\n        reasons = pa.nulls(batch.num_rows, "
        "pa.string())\n        return reject(batch, stage='mine', reasons=reasons)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    ran = []
    for number, content in enumerate((source, "# another head\n" + source, source.replace("# ", "") + "    two = 2\n")):
        (tmp_path / f"mine_{number}.py").write_text(content)
        mine = __import__(f"mine_{number}").Mine
        ran.append(plain.judge_links(mine()).run().ran_tasks > 0)
    assert ran == [True, False, True], "the class counts, its module does not"
    assert plain.run().samples == 8, "a run without it is the user's to decide"
    assert not (small.output / "work" / "own_stages.json").exists()


def _longer_than(limit: int) -> Stage:
    class Longer(Stage):
        name = "longer"
        reasons: ClassVar[dict[str, str]] = {"long": "longer than the limit"}
        reads = ("caption",)

        def judge(self, batch: pa.RecordBatch) -> Outcome:
            bad = pc.greater(pc.utf8_length(batch["caption"]), limit)
            return reject(batch, stage=self.name, reasons=pc.if_else(bad, "long", pa.scalar(None, pa.string())))

    return Longer()


def test_value_from_the_function_around_a_class_counts(small: SmallRun) -> None:
    plain = Pipeline(small.config)
    assert plain.judge_links(_longer_than(99)).run().samples == 8
    assert plain.judge_links(_longer_than(99)).run().ran_tasks == 0
    assert plain.judge_links(_longer_than(45)).run().samples < 8


class _Limit(Length):
    def __init__(self, limit: int) -> None:
        self.limit = limit

    @functools.cached_property
    def pattern(self) -> re.Pattern[str]:
        return re.compile(str(self.limit))

    def judge(self, batch: pa.RecordBatch) -> Outcome:
        assert self.pattern
        return super().judge(batch)


def test_stage_that_was_changed_after_it_was_put_in_is_refused(small: SmallRun) -> None:
    stage = _Limit(3)
    pipeline = Pipeline(small.config).judge_links(stage)
    pipeline.run()
    assert "pattern" in vars(stage), "what it works out may be anything"
    assert pipeline.run().ran_tasks == 0
    stage.limit = 4
    with pytest.raises(ConfigError, match="stage length: was changed after it was put into the pipeline"):
        pipeline.run()


def test_set_without_own_stages_has_no_trace_of_them(small: SmallRun) -> None:
    assert small.run() == 0
    before = small.state()
    assert not list(small.output.rglob("own_stages*"))
    assert Pipeline(small.config).run().ran_tasks == 0
    assert small.state() == before


def test_commands_know_the_stages_and_run_nothing_without_them(
    small: SmallRun, capsys: pytest.CaptureFixture[str]
) -> None:
    config = yaml.safe_load(small.config.read_text()) | {"texts": {"keep_candidates": True}}
    small.config.write_text(yaml.safe_dump(config))
    pipeline = Pipeline(small.config).judge_links(NoWords(words=("dog",))).judge_pairs(NoDogPictures(words=("snow",)))
    pipeline.run()
    published, before = small.published(), small.state()
    assert recorded(small.output).names == ["no_words", "no_dog_pictures"]
    for words in ((), ("--extend",), ("--retry-failed",)):
        assert small.run(*words) == 2
        said = capsys.readouterr().err
        assert "made with stages of one's own (no_words, no_dog_pictures); go on with the program" in said
        assert len(said.strip().splitlines()) == 1
    assert small.state() == before
    for target in (small.config, small.output):
        assert main(["status", str(target)]) == 0
        assert "-" not in {line.split()[1] for line in capsys.readouterr().out.splitlines()[4:] if line.strip()}
    assert main(["plan", str(small.config)]) == 0
    assert "nothing, all done" in capsys.readouterr().out
    assert main(["verify", str(small.output), "--work"]) == 0
    assert main(["subset", str(small.output), "--out", str(small.root / "less"), "--limit_per_query", "1"]) == 0
    assert main(["sql", str(small.root / "less"), "SELECT count(*) FROM samples"]) == 0
    assert main(["sql", str(small.output), "funnel"]) == 0
    assert "no_dog_pictures" in capsys.readouterr().out

    with open_catalog(small.output) as database:
        (url,) = database.execute("SELECT url FROM candidates WHERE alt_text = ?", [DOG]).fetchall()[0]
        (other,) = database.execute("SELECT url FROM candidates WHERE alt_text LIKE '%snow%'").fetchall()[0]
    (story,) = explain(small.output, url=url)
    said_of = [(verdict.stage, verdict.verdict, verdict.reason) for verdict in story.verdicts]
    assert said_of[:4] == [
        *(("extract", "kept", None), ("clean", "kept", None), ("no_words", "rejected", "word")),
        ("language", "not reached", None),
    ]
    (story,) = explain(small.output, url=other)
    verdicts = {verdict.stage: verdict.reason or verdict.verdict for verdict in story.verdicts}
    assert (verdicts["no_words"], verdicts["no_dog_pictures"], verdicts["check_image"]) == ("kept", "word", "kept")
    write_report(small.output, small.root / "report.html")
    assert "<code>no_words</code>" in (small.root / "report.html").read_text()

    tar = next((small.output / "shards").glob("*.tar"))
    data = tar.read_bytes()
    tar.unlink()
    tar.write_bytes(data[:-1] + b"x")
    assert main(["verify", str(small.output), "--repair"]) == 2
    assert "made with stages of one's own" in capsys.readouterr().err
    tar.unlink()
    pipeline.run()
    assert small.published() == published


@pytest.mark.slow
def test_extension_and_retry_keep_the_stages(small: SmallRun) -> None:
    pipeline = Pipeline(small.config).judge_links(NoWords(words=("dog",)))
    assert pipeline.run().samples == 7
    more = small.root / "more.parquet"
    rows = pq.read_table(small.root / "links.parquet").slice(0, 2).to_pylist()
    pq.write_table(pa.Table.from_pylist([row | {"alt": row["alt"] + " again"} for row in rows]), more)
    both = dataclasses.replace(pipeline.config, sources=(str(more),))
    extended = Pipeline(both).judge_links(NoWords(words=("dog",))).run(extend=True)
    assert _lines(extended)["no_words"] == (10, 8, {"word": 2})
    whole = dataclasses.replace(both, sources=(*pipeline.config.sources, str(more)))
    assert Pipeline(whole).judge_links(NoWords(words=("dog",))).run(retry_failed=True).ran_tasks == 0
    with pytest.raises(ConfigError, match="one at a time"):
        pipeline.run(extend=True, retry_failed=True)


def test_damaged_record_of_the_stages_is_no_leave_to_drop_them(small: SmallRun) -> None:
    pipeline = Pipeline(small.config).judge_links(NoWords(words=("dog",)))
    pipeline.run()
    record = small.output / "work" / "own_stages.json"
    whole = record.read_bytes()
    record.write_text(json.dumps(json.loads(whole) | {"links": []}))
    assert small.run() == 2
    assert main(["status", str(small.output)]) == 0
    assert pipeline.run().ran_tasks == 0
    assert record.read_bytes() == whole


# --- mistakes, told before anything runs ----------------------------------------------------------


class _Named(Length):
    adds = ()


def _made(**about: Any) -> Stage:
    kind = type("Made", (_Named,), about)
    kind.__module__ = __name__
    return kind()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.judge_links(Length(), after="clear"), "'length' cannot follow 'clear'; there are clean, language"),
        (lambda p: p.judge_pairs(NoDogPictures(words=()), after="clean"), "cannot follow 'clean'; there are none"),
        (lambda p: p.judge_links(Length()).judge_links(Length()), "'length' is there already"),
        (lambda p: p.judge_links(LongOnly()), "reads 'length'; where it stands there are uid, url_id"),
        (lambda p: p.judge_links(Length).run(), "expected a Stage, got Length; make one"),
        (lambda p: p.judge_links("length"), "expected a Stage, got str"),
    ],
)
def test_mistake_is_told_at_once(tmp_path: Path, change: Callable[[Pipeline], object], message: str) -> None:
    config = {
        "sources": ["nowhere.parquet"],
        "queries": "none.txt",
        "output": str(tmp_path / "set"),
        "fetch": {"user_agent": "openwit-test/0.1 (+https://example.org/contact)"},
    }
    with pytest.raises(ConfigError, match=re.escape(message)):
        change(Pipeline(config))
    assert not (tmp_path / "set").exists()


class _Unnamed(Length):
    name = "Not a name"


class _OfOurs(Length):
    name = "image_dedup"


class _WithoutReasons(Length):
    reasons: ClassVar[dict[str, str]] = {}


class _TextReads(Length):
    reads = "caption"  # type: ignore[assignment]  # the mistake


class _AddsOurs(Length):
    adds = ("lang",)


class _HasASet(Length):
    def __init__(self) -> None:
        self.words = {"dog"}


class _TwoLineReason(Length):
    reasons: ClassVar[dict[str, str]] = {"odd\nlength": "of an odd length"}


class _EmptyReason(Length):
    reasons: ClassVar[dict[str, str]] = {"": "of an odd length"}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (_Unnamed, r"_Unnamed.name: expected a name for the ledger \(a-z, 0-9, _\), got 'Not a name'"),
        (_OfOurs, "'image_dedup' is there already"),
        (_WithoutReasons, "_WithoutReasons.reasons: expected every reason"),
        (_TwoLineReason, r"_TwoLineReason.reasons: expected .* of one printable line each, got 'odd\\nlength'"),
        (_EmptyReason, "_EmptyReason.reasons: expected .* of one printable line each, got ''"),
        (_TextReads, "_TextReads.reads: expected a tuple of columns, got 'caption'"),
        (_AddsOurs, "adds 'lang', a column of others"),
        (_HasASet, "_HasASet.words: a set does not tell when work is done again"),
    ],
)
def test_stage_that_says_too_little_is_refused(small: SmallRun, kind: type[Stage], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Pipeline(small.config).judge_links(kind())


def test_class_without_source_is_refused(small: SmallRun) -> None:
    typed: dict[str, Any] = {"Length": Length, "__name__": "typed"}
    exec("class Typed(Length):\n    name = 'typed'\n", typed)
    with pytest.raises(ConfigError, match=r"Typed: its source cannot be found.*put the class into a file"):
        Pipeline(small.config).judge_links(typed["Typed"]())


def test_config_that_is_none_is_refused(small: SmallRun) -> None:
    with pytest.raises(ConfigError, match="expected a WitConfig, a path or a mapping, got int"):
        Pipeline(7)  # type: ignore[arg-type]  # the mistake


# --- its word, while it runs ----------------------------------------------------------------------


class _Held(Stage):
    name = "held"
    reasons: ClassVar[dict[str, str]] = {"bad": "bad"}
    reads = ("caption",)

    def all(self, batch: pa.RecordBatch, reason: str | None = None, stage: str = "held") -> Outcome:
        reasons = [reason, *[None] * (batch.num_rows - 1)]
        return reject(batch, stage=stage, reasons=pa.array(reasons, pa.string()))


class _Undeclared(_Held):
    def judge(self, batch: pa.RecordBatch) -> Outcome:
        return self.all(batch, "worse")


class _OtherName(_Held):
    def judge(self, batch: pa.RecordBatch) -> Outcome:
        return self.all(batch, "bad", "clean")


class _Loses(_Held):
    def judge(self, batch: pa.RecordBatch) -> Outcome:
        return self.all(batch.slice(1))


class _LosesQuietly(_Held):
    def judge(self, batch: pa.RecordBatch) -> Outcome:
        return dataclasses.replace(self.all(batch.slice(1)), num_in=batch.num_rows)


class _Doubles(_Held):
    def judge(self, batch: pa.RecordBatch) -> Outcome:
        return self.all(batch.take(pa.array([0, *range(batch.num_rows - 1)])))


class _Reorders(_Held):
    def judge(self, batch: pa.RecordBatch) -> Outcome:
        return self.all(batch.take(pa.array(range(batch.num_rows - 1, -1, -1))))


class _Changes(_Held):
    def judge(self, batch: pa.RecordBatch) -> Outcome:
        index = batch.schema.get_field_index("record")
        return self.all(batch.set_column(index, batch.schema.field(index), pc.add(batch["record"], 1)))


class _Drops(_Held):
    def judge(self, batch: pa.RecordBatch) -> Outcome:
        return self.all(batch.drop_columns(["caption"]))


class _Adds(_Held):
    def judge(self, batch: pa.RecordBatch) -> Outcome:
        return self.all(batch.append_column("more", batch["caption"]))


class _RejectsOthers(_Held):
    def judge(self, batch: pa.RecordBatch) -> Outcome:
        first, last = self.all(batch, "bad"), self.all(batch.slice(1), "bad")
        return dataclasses.replace(first, rejected=last.rejected)


class _Fails(_Held):
    def judge(self, batch: pa.RecordBatch) -> Outcome:
        return {}["score"]  # type: ignore[no-any-return]  # the mistake


class _ReturnsABatch(_Held):
    def judge(self, batch: pa.RecordBatch) -> Outcome:
        return batch  # type: ignore[no-any-return]  # the mistake


class _KeepsATable(_Held):
    def judge(self, batch: pa.RecordBatch) -> Outcome:
        kept = pa.Table.from_batches([batch])
        return Outcome(kept=kept, rejected=empty_rejections(), num_in=batch.num_rows)


class _RejectsNone(_Held):
    def judge(self, batch: pa.RecordBatch) -> Outcome:
        return Outcome(kept=batch, rejected=None, num_in=batch.num_rows)


class _FailsToLook(Length):
    def check(self) -> None:
        raise RuntimeError("no\nmodel")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (_Undeclared, r"rejected for 'worse', which its `reasons` do not list \(bad\)"),
        (_OtherName, "rejected rows in another stage's name; pass stage='held'"),
        (_Loses, "was given 8 rows, and returned 7 kept and 0 rejected of 7"),
        (_LosesQuietly, "was given 8 rows, and returned 7 kept and 0 rejected of 8"),
        (_Doubles, "lost, doubled or reordered rows"),
        (_Reorders, "lost, doubled or reordered rows"),
        (_Changes, "changed column record"),
        (_Drops, "returned column caption 0 times"),
        (_Adds, "added column more, which its `adds` does not list"),
        (_RejectsOthers, "rejected other rows than those that it did not keep"),
        (_Fails, "KeyError: 'score'"),
        (_ReturnsABatch, "returned a RecordBatch; return an Outcome"),
        (_KeepsATable, "returned a Table as `kept` of its Outcome; a RecordBatch belongs there"),
        (_RejectsNone, "returned a NoneType as `rejected` of its Outcome"),
    ],
)
def test_stage_that_breaks_its_word_stops_the_run(small: SmallRun, kind: type[Stage], message: str) -> None:
    _check_stopped(small, Pipeline(small.config).judge_links(kind()), message)


@pytest.mark.parametrize(
    ("kind", "message"), [(_Undeclared, "rejected for 'worse'"), (_Drops, "returned column caption 0 times")]
)
def test_pair_stage_that_breaks_its_word_stops_the_run(small: SmallRun, kind: type[Stage], message: str) -> None:
    _check_stopped(small, Pipeline(small.config).judge_pairs(kind()), message)


def test_what_its_check_raises_is_a_line_too(small: SmallRun) -> None:
    with pytest.raises(StageError, match=r"^stage length: RuntimeError: no model$"):
        Pipeline(small.config).judge_links(_FailsToLook()).run()
    assert not (small.output / "work").exists()


def test_what_a_stage_raised_is_chained(small: SmallRun) -> None:
    with pytest.raises(StageError) as caught:
        Pipeline(small.config).judge_links(_Fails()).run()
    assert isinstance(caught.value.__cause__, KeyError)


def _check_stopped(small: SmallRun, pipeline: Pipeline, message: str) -> None:
    with pytest.raises(StageError, match=f"^stage held: {message}") as caught:
        pipeline.run()
    assert "\n" not in str(caught.value)
    assert not (small.output / "shards").exists()
    assert small.run() == 2, "what is half made with the stage is not gone on with without it"
