"""Pages for those who only look: that of a data set, and that with every step there is."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.load import ConfigError, load
from pipeline.config import WitConfig
from pipeline.consent.config import ConsentConfig
from pipeline.engine import Data, Output, outputs_of
from pipeline.own.record import recorded
from pipeline.records import schema
from pipeline.stages.check_image.config import ImageConfig
from pipeline.stages.decontaminate_config import DecontaminateConfig
from pipeline.stages.fetch.config import FetchConfig
from pipeline.stages.image_filters_config import FiltersConfig, ScoreFilter
from pipeline.steps.dedup_config import DedupConfig
from pipeline.steps.judges.image_dedup_config import ImageDedupConfig
from pipeline.steps.step import Page, Step
from pipeline.steps.texts_config import TextsConfig
from pipeline.storage.place import Place
from pipeline.terminal.printable import say
from pipeline.wit import build

__all__ = [
    "View",
    "as_markdown",
    "config_of",
    "is_reason",
    "page_of",
    "reads_of",
    "reasons_of",
    "schemas_of",
    "stages_of",
    "views_of",
    "whole_page",
    "writes_of",
]

_NOWHERE = Path()


def config_of(output: Place) -> WitConfig | None:
    """The config of the data set in `output`, of its last run or of what is published; None where neither is there, or
    can be read."""
    for path in (output / "config.yaml", output / "shards" / "config.yaml"):
        try:
            return load(WitConfig, path, [f"--output={output}"])
        except ConfigError:
            continue
    return None


def page_of(output: Place) -> Page:
    """The page of the data set in `output`; where its config is gone, that with every step."""
    config = config_of(output)
    return whole_page(output) if config is None else build(config, recorded(output))


def whole_page(output: Place = _NOWHERE, *, keep_candidates: bool = True) -> Page:
    """The page of a config that asks for everything. Nobody could run it: its files are not there.

    With candidates that are kept two steps stand for the one that reads the sources otherwise.
    """
    config = WitConfig(
        sources=("-",),
        source_format="img2dataset",
        queries="-",
        output=str(output),
        consent=ConsentConfig(robots_archives=("-",), tdmrep_json=True),
        dedup=DedupConfig(max_urls_per_caption=1, max_captions_per_url=1, frequent_tokens=1),
        fetch=FetchConfig(user_agent="- (+http://localhost)"),
        image=ImageConfig(),
        filters=FiltersConfig(scores=(ScoreFilter(files=("-",), column="-", min=0.0),)),
        decontaminate=DecontaminateConfig(hashes=("-",)),
        image_dedup=ImageDedupConfig(mode="near"),
        texts=TextsConfig(keep_candidates=keep_candidates),
    )
    return build(config)


@dataclass(frozen=True, kw_only=True)
class View:
    """Files that the catalog shows as one table."""

    name: str
    step: Step[Any]
    field: str
    """Of the step's outputs."""
    rows: Any
    """Their schema."""

    @property
    def data(self) -> Data[Any]:
        return self.step.data


def views_of(page: Page) -> dict[str, View]:
    """The views of a page's outputs, in its order."""
    found = {}
    for step, field, about in _outputs(page):
        if about.view is not None:
            found[about.view] = View(name=about.view, step=step, field=field, rows=about.rows)
    return found


def _outputs(page: Page) -> Iterator[tuple[Step[Any], str, Output]]:
    for step in page.steps:
        for field, about in outputs_of(step.data.out).items():
            yield step, field, about


def reads_of(step: Step[Any]) -> list[str]:
    """For people: the steps whose data it reads."""
    return [data.name for data in step.reads]


def writes_of(step: Step[Any]) -> list[str]:
    """For people: what its tasks write, rows by the name of their schema; rejections go without saying."""
    named = _names_of_schemas()
    outputs = {field: about for field, about in outputs_of(step.data.out).items() if field != "rejections"}
    return [named.get(id(about.rows), field) for field, about in outputs.items()]


def schemas_of(page: Page) -> dict[str, Any]:
    """Name -> schema, of the rows that a page's steps write, those that have a name in the glossary, in its order."""
    named = _names_of_schemas()
    return {named[id(about.rows)]: about.rows for _, _, about in _outputs(page) if id(about.rows) in named}


def _names_of_schemas() -> dict[int, str]:
    return {id(getattr(schema, name)): name for name in schema.__all__}


def stages_of(page: Page) -> Mapping[str, Step[Any]]:
    """Stage -> the step that enters it into the ledger, in the order in which rows pass them."""
    found: dict[str, Step[Any]] = {}
    for step in page.steps:
        for stage in step.stages:
            found.setdefault(stage, step)
    return found


def reasons_of(page: Page) -> Mapping[str, Mapping[str, str]]:
    """Stage -> reason -> what it means, for all stages of a page."""
    return {stage: step.stages[stage] for stage, step in stages_of(page).items()}


def is_reason(stage: str, reason: str) -> bool:
    """Whether `reason` is one that `stage` may give; `http_NNN` stands for any three digits."""
    if stage == "fetch" and reason.startswith("http_"):
        return len(reason) == 8 and reason[5:].isdigit()
    return reason in _all_reasons().get(stage, {})


@functools.cache
def _all_reasons() -> Mapping[str, Mapping[str, str]]:
    return reasons_of(whole_page())


def as_markdown() -> str:
    """docs/steps.md: every step in order."""
    rows, rows_kept = _rows(whole_page(keep_candidates=False)), _rows(whole_page())
    lines = [
        "# Steps",
        "",
        "Every step that a config may ask for, in order, as `pipeline/wit.py` puts them together. Written by",
        "`python -m pipeline.pages`; a test holds it equal to the page.",
        "",
        *_HEAD,
        *rows,
        "",
        "With `texts.keep_candidates: true` two steps stand for `texts`:",
        "",
        *_HEAD,
        *(row for row in rows_kept if row not in rows),
    ]
    return "\n".join(lines) + "\n"


_HEAD = (
    "| step | what it does | a task per | reads | writes | view | enters into the ledger |",
    "|---|---|---|---|---|---|---|",
)


def _rows(page: Page) -> list[str]:
    views = {(view.step.name, view.field): name for name, view in views_of(page).items()}
    rows = []
    for step in page.steps:
        shown = ", ".join(f"`{name}`" for (owner, _), name in views.items() if owner == step.name)
        cells = [
            *(f"`{step.name}`", step.title, step.per, ", ".join(reads_of(step)) or "-", ", ".join(writes_of(step))),
            *(shown, ", ".join(step.stages)),
        ]
        rows.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    return rows


if __name__ == "__main__":
    for line in as_markdown().splitlines():
        say(line)
