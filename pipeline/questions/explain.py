"""The story of one link: where it was found, what every stage said, which queries chose it, where it lies.

    uid or URL -> places (source, record, link) -> rows of each step with that uid -> Story

Works on a run in any state: a stage that has not seen the link yet says so.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import duckdb
import numpy as np
import numpy.typing as npt

from pipeline.catalog.catalog import open_catalog
from pipeline.config import WitConfig
from pipeline.errors import PipelineError
from pipeline.pages import config_of, page_of, stages_of, views_of, whole_page
from pipeline.records.identity import canonical_url, first_64_bits, keyed_hash, text_hash, url_id_of
from pipeline.stages.balance import mode_of
from pipeline.steps.step import Page, Step
from pipeline.storage.checked import load_vector
from pipeline.storage.place import Place
from pipeline.web.urls import resolver, without_user_info

__all__ = ["ChosenBy", "Story", "UnknownLinkError", "Verdict", "explain", "lines_of"]

_OF_NO_LINK = ("robots_archives",)
"""Stages of which no link knows."""
_MAX_STORIES = 20
_ALL = 2**64 - 1


class UnknownLinkError(PipelineError):
    """No row of the data set has this uid or URL."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one stage made of the link."""

    stage: str
    verdict: Literal["kept", "rejected", "not reached", "off"]
    """off: the last run's config switches the stage off."""
    reason: str | None = None
    detail: str | None = None


@dataclass(frozen=True, kw_only=True)
class ChosenBy:
    """One query that the caption contains."""

    query_id: int
    query: str | None
    matched: int | None
    """Pairs of the whole set that contain it; None before they are counted."""
    threshold: int | None
    """The largest hash that the query selects in the plan; 2^64 - 1 where it selects every pair."""
    final_threshold: int | None
    """The same in the final balance, among its planned pairs that arrived; None before that."""
    hash: int | None
    """This pair's hash for the query; None where the config does not tell seed and mode."""
    planned: bool | None
    """Whether the plan selected the pair for it; None before balancing, or where dedup dropped the pair."""
    final: bool | None
    """Whether it still does after the final balance; None where the pair did not come so far."""


@dataclass(frozen=True, kw_only=True)
class Story:
    """One place where the link was found, and what became of it."""

    source: str
    record: int
    link: int
    uid: str | None
    """32 hex digits; None where the link was rejected before it got one."""
    row: dict[str, Any]
    """What the steps' rows say, later ones over earlier ones."""
    verdicts: Sequence[Verdict]
    queries: Sequence[ChosenBy]
    sample: dict[str, Any] | None
    """The published row."""


def explain(output: Place, *, uid: str | None = None, url: str | None = None) -> list[Story]:
    """Every place with this uid (32 hex digits) or URL, those that got furthest first; 20 at most.

    A URL may be in any of its spellings. Raises UnknownLinkError where there is none, or where `uid` is no
    uid; OutputError where `output` is not a data set.
    """
    with open_catalog(output) as database:
        told = _Told(database, output)
        wanted, extra = _uids(told, uid, url)
        stories = [story for one in wanted[:_MAX_STORIES] for story in _stories(told, one)]
    stories += extra
    if not stories:
        hint = ""
        if url is not None and "candidates" not in told.views:
            hint = (
                "; of links that a text stage turned away the uid alone is known, unless texts.keep_candidates is true"
            )
        raise UnknownLinkError(f"{output}: no link with {'uid' if url is None else 'URL'} {uid or url}{hint}")
    stories.sort(key=lambda story: (-_progress(story), story.source, story.record, story.link))
    return stories[:_MAX_STORIES]


def _progress(story: Story) -> int:
    return sum(verdict.verdict == "kept" for verdict in story.verdicts)


def _stages_of(page: Page) -> list[str]:
    """The stages that links and pairs pass, in order."""
    return [stage for stage in stages_of(page) if stage not in _OF_NO_LINK]


class _Told:
    """What is asked, and what the page says of it."""

    def __init__(self, database: duckdb.DuckDBPyConnection, output: Place) -> None:
        self.database = database
        self.config = config_of(output)
        self.page = page_of(output)
        self.stages = _stages_of(whole_page())
        """In the order of the run, those of one's own and those that are switched off too."""
        for before, stage in itertools.pairwise(_stages_of(self.page)):
            if stage not in self.stages:
                self.stages.insert(self.stages.index(before) + 1, stage)
        self.off = frozenset(self.stages) - stages_of(self.page).keys()
        self.steps = stages_of(self.page)
        if (output / "subset.json").exists():
            self.stages.append("subset")
        views = views_of(self.page)
        self.views = [*(name for name, view in views.items() if "uid" in view.rows.names), "published"]
        """In the order of the run."""
        self.passed = {name: self._last_stage(view.step) for name, view in views.items()}
        """View -> the last stage that its rows have passed."""
        self.passed["published"] = self.stages[-1]

    def _last_stage(self, step: Step[Any]) -> str:
        """The last stage up to and with the step; of those that are off, too, none has turned its rows away."""
        last = self.stages[0]
        for each in self.page.steps:
            last = next((stage for stage in reversed(list(each.stages)) if stage in self.stages), last)
            if each is step:
                break
        return last

    def is_done(self, stage: str) -> bool:
        """Whether the step that enters the stage has run to its end."""
        return stage in self.steps and self.steps[stage].data.is_whole

    def all_stages(self, said: Sequence[Verdict]) -> list[Verdict]:
        """A verdict for every stage, in the order of the run, from those of the stages that saw the link."""
        known = {verdict.stage: verdict for verdict in said}
        rest = {s: Verdict(stage=s, verdict="off" if s in self.off else "not reached") for s in self.stages}
        return [known.get(stage, rest[stage]) for stage in self.stages]


def _uids(told: _Told, uid: str | None, url: str | None) -> tuple[list[bytes], list[Story]]:
    """The uids in question, and the stories of links of this URL that never got one."""
    if uid is not None:
        if not re.fullmatch(r"[0-9a-fA-F]{32}", uid):
            raise UnknownLinkError(f"{uid!r} is no uid: 32 hex digits are needed")
        return [bytes.fromhex(uid)], []
    if url is None:
        raise UnknownLinkError("name a link: --uid HEX or --url URL")
    found: list[bytes] = []
    try:
        url_id = url_id_of(canonical_url(resolver("")(url)))
    except ValueError:
        url_id = None
    if url_id is not None:
        for view in told.views:
            rows = told.database.execute(
                f"SELECT DISTINCT uid FROM {view} WHERE url_id = ? ORDER BY uid LIMIT {_MAX_STORIES}", [url_id]
            ).fetchall()
            found += [row[0] for row in rows if row[0] not in found]
    early = told.database.execute(
        "SELECT source, record, link, reason, detail FROM rejections "
        f"WHERE stage = 'extract' AND link IS NOT NULL AND detail IN (?, ?) ORDER BY ALL LIMIT {_MAX_STORIES}",
        [url, without_user_info(url)],
    ).fetchall()
    return found, [_early(told, *row) for row in early]


def _early(told: _Told, source: str, record: int, link: int, reason: str, detail: str) -> Story:
    """A link that the extract stage turned away: its URL is in the detail, and it has no uid."""
    return Story(
        source=source,
        record=record,
        link=link,
        uid=None,
        row={"url": detail},
        verdicts=told.all_stages([Verdict(stage="extract", verdict="rejected", reason=reason)]),
        queries=[],
        sample=None,
    )


def _stories(told: _Told, uid: bytes) -> Iterator[Story]:
    """One story per place; rows of one uid are few, so each step is asked once."""
    places: dict[tuple[str, int, int], dict[str, dict[str, Any]]] = {}
    for view in told.views:
        for found in _rows(told.database, f"SELECT * FROM {view} WHERE uid = ?", uid):
            places.setdefault((found["source"], found["record"], found["link"]), {})[view] = found
    rejected: dict[tuple[str, int, int], dict[str, Any]] = {}
    for found in _rows(told.database, "SELECT * FROM rejections WHERE uid = ?", uid):
        rejected[(found["source"], found["record"], found["link"])] = found
    for place in sorted(places.keys() | rejected.keys()):
        rows = places.get(place, {})
        row: dict[str, Any] = {}
        for view in told.views:
            row |= rows.get(view, {})
        rejection = rejected.get(place)
        if rejection is not None and rejection["stage"] in ("dedup", "captions"):
            rejection["detail"] = rejection["detail"] or _kept_copy(told.database, row)
        yield Story(
            source=place[0],
            record=place[1],
            link=place[2],
            uid=uid.hex(),
            row=row,
            verdicts=_verdicts(told, rows, rejection),
            queries=_queries(told, uid, rows, rejection),
            sample=rows.get("published"),
        )


def _kept_copy(database: duckdb.DuckDBPyConnection, row: dict[str, Any]) -> str | None:
    """Which link of the same picture stayed instead, the same caption first."""
    kept = database.execute(
        "SELECT lower(hex(uid)), source, record, link FROM deduplicated WHERE url_id = ? "
        "ORDER BY caption <> ?, uid LIMIT 1",
        [row.get("url_id"), row.get("caption")],
    ).fetchall()
    return "kept instead: uid {}, {} record {} link {}".format(*kept[0]) if kept else None


def _rows(database: duckdb.DuckDBPyConnection, query: str, *parameters: Any) -> list[dict[str, Any]]:
    cursor = database.execute(query, list(parameters))
    names = [column[0] for column in cursor.description or []]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _verdicts(told: _Told, rows: dict[str, dict[str, Any]], rejection: dict[str, Any] | None) -> list[Verdict]:
    stages, off = told.stages, told.off
    if rejection is not None:
        off -= {rejection["stage"]}  # of a run before the config's
        passed = stages.index(rejection["stage"])
    else:
        passed = max((_stages_passed(told, view, row) for view, row in rows.items()), default=0)
    verdicts = [Verdict(stage=stage, verdict="kept") for stage in stages[:passed] if stage not in off]
    stage = next((stage for stage in stages[passed:] if stage not in off), None)
    if stage is None:
        return told.all_stages(verdicts)
    if rejection is not None:
        verdicts.append(
            Verdict(stage=stage, verdict="rejected", reason=rejection["reason"], detail=rejection["detail"])
        )
    elif told.is_done(stage):
        # The step is done and neither kept nor rejected it in writing.
        detail = f"by {stage} or a stage of the same step; the ledger keeps only ledger.max_rows_per_task rows"
        verdicts.append(Verdict(stage=stage, verdict="rejected", detail=detail))
    return told.all_stages(verdicts)


def _stages_passed(told: _Told, view: str, row: dict[str, Any]) -> int:
    if view == "fetched":
        return told.stages.index("fetch") + {"failed_to_download": 0, "failed_to_resize": 1}.get(row["status"], 2)
    return told.stages.index(told.passed[view]) + 1


def _queries(
    told: _Told, uid: bytes, rows: dict[str, dict[str, Any]], rejection: dict[str, Any] | None
) -> list[ChosenBy]:
    """The caption's queries with their counts, those that chose the pair first, then the rarest."""
    database, config = told.database, told.config
    row = next((rows[view] for view in reversed(told.views) if "query_ids" in rows.get(view, {})), None)
    if row is None or not row["query_ids"]:
        return []
    ids = row["query_ids"]
    listed = ", ".join(str(int(query)) for query in ids)
    texts = dict(database.execute(f"SELECT query_id, query FROM queries WHERE query_id IN ({listed})").fetchall())
    select = f"FROM query_counts WHERE query_id IN (0, {listed})"
    matched = dict(database.execute(f"SELECT query_id, matched {select}").fetchall())
    thresholds = dict(database.execute(f"SELECT query_id, threshold {select}").fetchall())
    final_thresholds = _final_thresholds(told.page)
    hashes = _hashes(config, uid, [texts.get(query) for query in ids])
    if rejection is not None and rejection["stage"] == "balance":
        planned: list[int] | None = []
    else:
        planned = next((rows[view]["selected_by"] for view in ("selected", "published") if view in rows), None)
    if rejection is not None and rejection["stage"] == "final_balance":
        final: list[int] | None = []
    else:
        final = rows["published"]["selected_by"] if "published" in rows else None
    result = []
    for query, own in zip(ids, hashes, strict=True):
        # A nameless query that stands for the whole set is number 0, and so is its threshold.
        drawn_for = 0 if config is not None and mode_of(config.balance.mode).whole_set else query
        result.append(
            ChosenBy(
                query_id=query,
                query=texts.get(query),
                matched=matched.get(query),
                threshold=thresholds.get(drawn_for),
                final_threshold=None if final_thresholds is None else int(final_thresholds[drawn_for]),
                hash=own,
                planned=None if planned is None else query in planned,
                final=None if final is None else query in final,
            )
        )
    return sorted(result, key=lambda item: (not item.planned, item.matched or 0, item.query_id))


def _final_thresholds(page: Page) -> npt.NDArray[np.uint64] | None:
    """uint64[Q]: the final balance's thresholds; None before there are any, and in a subset."""
    hashes = page["final_threshold"].data.present("hashes")
    return load_vector(hashes[0]) if hashes else None


def _hashes(config: WitConfig | None, uid: bytes, texts: Sequence[str | None]) -> list[int | None]:
    """The pair's hash for each query, as balance draws it (stages/balance)."""
    if config is None:
        return [None] * len(texts)
    ids = first_64_bits(uid)
    if mode_of(config.balance.mode).one_hash_a_pair:
        return [int(keyed_hash(config.seed, ids)[0])] * len(texts)
    return [
        None if text is None else int(keyed_hash(config.seed, ids, np.array([text_hash(text)], np.uint64))[0])
        for text in texts
    ]


# --- for people --------------------------------------------------------------------------------


def lines_of(story: Story) -> list[str]:
    """The story as lines of text."""
    row = story.row
    lines = [
        f"link     {story.link} of record {story.record} in {story.source}",
        f"uid      {story.uid or 'none: it was rejected before it had one'}",
    ]
    names = {"url": "url", "page_url": "page", "license": "license", "alt_text": "alt text", "caption": "caption"}
    lines += [f"{shown:<8} {row[name]}" for name, shown in names.items() if row.get(name) is not None]
    if row.get("lang") is not None:
        by = f", by the {row['lang_by']}" if row.get("lang_by") is not None else ""
        lines.append(f"language {row['lang']}{by}, p_en {row['p_en']:.3f}")
    lines.append("stages")
    for verdict in story.verdicts:
        said = ": ".join(text for text in (verdict.reason, verdict.detail) if text)
        lines.append(f"  {verdict.stage:<13} {verdict.verdict}" + (f" ({said})" if said else ""))
    if story.queries:
        lines.append(
            "queries, with the pairs that contain each; one selects the pair whose hash is at most its threshold, in "
            "the plan and again in the final balance"
        )
        lines += [f"  {_query_line(query)}" for query in story.queries]
    if row.get("status") is not None:
        lines.append(f"fetched  {_fetch_line(row)}")
    if story.sample is not None:
        lines.append(
            f"sample   shard {story.sample['shard']:05d}, key {story.sample['key']}, "
            f"{story.sample['num_bytes']:,} bytes at {story.sample['tar_offset']:,} of the tar"
        )
    return lines


def _query_line(query: ChosenBy) -> str:
    name = f'"{query.query}"' if query.query is not None else "?"
    parts = [f"{name} (id {query.query_id})"]
    parts.append("not counted yet" if query.matched is None else f"{query.matched:,} pairs")
    if query.hash is not None:
        parts.append(f"hash {query.hash:016x}")
    if query.threshold is not None:
        parts.append(f"threshold {_threshold_text(query.threshold)}")
    if query.final_threshold is not None:
        parts.append(f"final threshold {_threshold_text(query.final_threshold)}")
    if query.planned is not None:
        parts.append("selects it" if query.planned else "does not select it")
        if query.planned and query.final is False:
            parts.append("but no longer in the final balance")
    return ", ".join(parts)


def _threshold_text(threshold: int) -> str:
    return "none" if threshold == _ALL else f"{threshold:016x}"


def _fetch_line(row: dict[str, Any]) -> str:
    parts = [str(row["status"])]
    if row.get("http_status") is not None:
        parts.append(f"HTTP {row['http_status']}")
    if row.get("original_width") is not None:
        parts.append(
            f"{row['original_format']} of {row['original_width']} x {row['original_height']} pixels, "
            f"{row['original_bytes']:,} bytes, stored as {row['width']} x {row['height']}"
        )
        parts.append(f"sha256 {row['sha256']}, phash {row['phash']:016x}")
    return ", ".join(parts)
