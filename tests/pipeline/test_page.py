"""The page: what it is made of, and what is made of it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest

import pipeline.steps
import pipeline.wit
from pipeline.config import WitConfig
from pipeline.engine import Info, Task, output, outputs_of
from pipeline.pages import as_markdown, stages_of, views_of, whole_page
from pipeline.records.ledger_config import LedgerConfig
from pipeline.records.outcome import Outcome
from pipeline.stages.clean.clean import Clean
from pipeline.stages.clean.config import CleanConfig
from pipeline.stages.fetch.config import FetchConfig
from pipeline.stages.stage import Stage
from pipeline.steps.judge_links import judge_links
from pipeline.steps.step import Page, Run, StepOf, step
from pipeline.steps.texts_config import TextsConfig
from pipeline.storage.location import Location
from pipeline.wit import build
from tests.conftest import REPOSITORY


def _steps_in_the_code() -> Iterator[StepOf[Any, Any]]:
    for module in pkgutil.walk_packages(pipeline.steps.__path__, "pipeline.steps."):
        named = vars(importlib.import_module(module.name)).values()
        yield from (value for value in named if isinstance(value, StepOf) and value.__module__ == module.name)


def test_every_step_in_the_code_is_on_the_whole_page() -> None:
    assert {each.name for each in _steps_in_the_code()} == {each.name for each in whole_page().steps}


def test_list_of_steps_in_the_docs_is_that_of_the_page() -> None:
    told = (REPOSITORY / "docs" / "steps.md").read_text(encoding="utf-8")
    assert told == as_markdown(), "run `python -m pipeline.pages > docs/steps.md`"


def test_names_of_outputs_and_views_are_each_of_one() -> None:
    page = whole_page()
    assert len({each.name for each in page.steps}) == len(page.steps)
    shown = [about.view for each in page.steps for about in outputs_of(each.data.out).values() if about.view]
    assert len(shown) == len(set(shown)) == len(views_of(page))


def test_steps_that_reject_rows_name_their_stages_and_no_others_do() -> None:
    reject = {each.name for each in whole_page().steps if "rejections" in outputs_of(each.data.out)}
    assert {each.name for each in stages_of(whole_page()).values()} == reject


@dataclass(frozen=True, kw_only=True)
class Text:
    text: Location = output("txt")


@dataclass(frozen=True, kw_only=True)
class Copy(Task[Text]):
    text: Location

    def work(self, out: Text) -> Info:
        return {}


@step("copy", Copy, title="copy", per="set")
def copy(run: Run, given: Any) -> Iterator[Copy]:
    yield Copy(partition="all", text=given.only.files.text)


def test_step_cannot_read_what_no_step_before_it_writes(tmp_path: Path) -> None:
    page, other = (Page(tmp_path, seed=0, ledger=LedgerConfig()) for _ in range(2))
    elsewhere = copy(whole_page()["queries"].data)
    with pytest.raises(RuntimeError, match="no step before it writes"):
        page.add(elsewhere)
    assert page.steps == other.steps == []


@dataclass(frozen=True, kw_only=True)
class _Picky(Stage):
    """Judges by a stage of its own."""

    within: Stage

    name: ClassVar[str] = "picky"
    reasons: ClassVar[Mapping[str, str]] = {"plain": "the stage within took it"}

    def judge(self, batch: pa.RecordBatch) -> Outcome:
        return self.within.judge(batch)


def test_stage_within_a_stage_is_none_of_the_page(tmp_path: Path) -> None:
    links = whole_page(tmp_path)["extract"].data
    judged = judge_links(links, [_Picky(within=Clean(config=CleanConfig()))], TextsConfig())
    assert judged.title == "picky"
    assert list(judged.stages) == ["picky"]


def test_pictures_of_the_flow_show_the_stages_of_the_page_in_its_order() -> None:
    config = WitConfig(sources=("-",), queries="-", output="-", fetch=FetchConfig(user_agent="- (+http://localhost)"))
    stages = [name.replace("_", " ") for name in stages_of(build(config)) if name != "final_balance"]
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8").partition("## Two commands")[0]
    for text in (readme, pipeline.wit.__doc__ or ""):
        picture = text[text.index("extract") :]
        places = [picture.find(stage) for stage in stages]
        assert places == sorted(places), stages
        assert places[0] == 0
