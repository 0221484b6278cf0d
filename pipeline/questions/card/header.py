"""What a set is and what made it: the first lines of its card."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np

from pipeline.config import WitConfig
from pipeline.pages import page_of
from pipeline.stages.balance import mode_of
from pipeline.steps.step import Page
from pipeline.storage.atomic import read_json
from pipeline.storage.place import Place

__all__ = ["Header", "header_of"]

_NOT_RECORDED = "not recorded"
_SOURCES_SHOWN = 4
_HASH_DIGITS = 16


@dataclass(frozen=True, kw_only=True)
class Header:
    """How a set was made."""

    name: str
    version: str | None
    """The fingerprint of what is published; None before there is any."""
    is_subset: bool
    mode: str | None
    t: int | None
    """Pairs that one query selects; None where no query has a limit of its own."""
    limit: Literal["at most", "about"]
    """What t is: a limit, or what is expected of independent draws."""
    seed: int | None
    targets: Sequence[str]
    """Languages."""
    facts: Sequence[tuple[str, str]]
    """(term, what is known of it), in order."""
    config: str | None
    """config.yaml as it is."""


def header_of(output: Place, config: WitConfig | None, sources_read: int | None) -> Header:
    """Of the data set in `output`; what an earlier version did not record, or a subset does not have, says so."""
    page = page_of(output)
    manifest = read_json(output / "shards" / "manifest.json") or {}
    subset = read_json(output / "subset.json")
    t = _t_of(page, config, subset)
    runs = list(_runs(output))
    facts = [
        ("t, pairs a query", _told_t(config, t, subset)),
        ("balancing", f"{config.balance.mode}: {mode_of(config.balance.mode).says}" if config else _NOT_RECORDED),
        ("seed", str(config.seed) if config else _NOT_RECORDED),
        ("query list", _list_of(page, config)),
        ("sources", _sources_of(config, sources_read)),
        ("languages", ", ".join(config.language.targets) if config else _NOT_RECORDED),
        ("one pair per", _PAIRS.get(config.dedup.by, config.dedup.by) if config else _NOT_RECORDED),
        ("pictures", _pictures_of(config)),
        ("made", _dates_of(runs)),
        ("version", str(manifest.get("fingerprint") or "nothing published yet")),
        ("with", _versions_of(runs)),
    ]
    if subset is not None:
        facts.insert(0, ("subset of", _taken(subset)))
    return Header(
        name=output.name,
        version=manifest.get("fingerprint"),
        is_subset=subset is not None,
        mode=config.balance.mode if config else None,
        t=t,
        limit="about" if config and not subset and _draws(config) else "at most",
        seed=config.seed if config else None,
        targets=config.language.targets if config else (),
        facts=facts,
        config=_config_text(output),
    )


_PAIRS = {"url": "picture URL", "pair": "picture URL and caption"}


def _t_of(page: Page, config: WitConfig | None, subset: Mapping[str, Any] | None) -> int | None:
    if config is None or mode_of(config.balance.mode).whole_set:
        return None
    limits = [int(subset["limit_per_query"])] if subset and subset.get("limit_per_query") else []
    derived = [int(said["t"]) for said in page["limit"].data.said() if "t" in said]
    if not derived and config.balance.tail_share is None:
        derived = [config.balance.max_pairs_per_query]
    return min(limits + derived, default=None)


def _draws(config: WitConfig) -> bool:
    """Whether a query selects each of its pairs by itself, so that t is a mean."""
    return mode_of(config.balance.mode).share(np.array([2, 4]), 1) is not None


def _told_t(config: WitConfig | None, t: int | None, subset: Mapping[str, Any] | None) -> str:
    if config is None:
        return _NOT_RECORDED
    balance = config.balance
    if mode_of(balance.mode).whole_set:
        return "none" if balance.baseline_pairs is None else f"none; {balance.baseline_pairs:,} pairs drawn uniformly"
    parts = [_NOT_RECORDED if t is None else f"{t:,}"]
    if subset and subset.get("limit_per_query"):
        parts.append("the subset's limit")
    elif balance.tail_share is not None:
        parts.append(f"derived: queries at or below it hold {balance.tail_share:.1%} of all matches")
    if balance.expected_yield < 1:
        parts.append(f"planned with a reserve for a yield of {balance.expected_yield:.0%}")
    return "; ".join(parts)


def _list_of(page: Page, config: WitConfig | None) -> str:
    if config is None:
        return _NOT_RECORDED
    name = PurePosixPath(config.queries).name
    said = next(iter(page["queries"].data.said()), {})
    if "fingerprint" not in said:
        return f"{name}, fingerprint {_NOT_RECORDED}"
    return f"{name}, {int(said['num_queries']):,} queries, fingerprint {said['fingerprint'][:_HASH_DIGITS]}"


def _sources_of(config: WitConfig | None, read: int | None) -> str:
    if config is None:
        return _NOT_RECORDED
    more = len(config.sources) - _SOURCES_SHOWN
    shown = ", ".join(config.sources[:_SOURCES_SHOWN]) + (f" and {more:,} more" if more > 0 else "")
    parts = [shown] + ([] if read is None else [f"{read:,} {'file' if read == 1 else 'files'} read"])
    if config.max_sources is not None:
        parts.append(f"at most {config.max_sources:,} of each")
    if config.max_rows is not None:
        parts.append(f"the first {config.max_rows:,} rows of each file")
    return "; ".join(parts)


def _pictures_of(config: WitConfig | None) -> str:
    if config is None:
        return _NOT_RECORDED
    image = config.image
    if image.store_original:
        return "as served"
    if image.resize_mode == "no":
        return f"not resized, {image.encode_format}"
    bigger = "larger ones " if image.resize_only_if_bigger else ""
    return f"{bigger}resized to {image.image_size} pixels ({image.resize_mode}), {image.encode_format}"


def _taken(subset: Mapping[str, Any]) -> str:
    parts = [f"version {str(subset.get('taken_from', _NOT_RECORDED))[:12]}"]
    if subset.get("where"):
        parts.append(f"where {' '.join(str(subset['where']).split())}")
    if subset.get("uids"):
        parts.append("of a list of uids")
    if subset.get("limit_per_query"):
        parts.append(f"at most {subset['limit_per_query']:,} a query")
    return "; ".join(parts)


def _runs(output: Place) -> Iterator[Mapping[str, Any]]:
    """The runs that came to their end; a line that a full disk or a kill left unfinished is passed over."""
    try:
        lines = (output / "runs.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and row.get("status") == "finished":
            yield row


def _dates_of(runs: Sequence[Mapping[str, Any]]) -> str:
    """Days, since the second of a run says nothing of a set."""
    days = sorted({str(run["started"])[:10] for run in runs if "started" in run})
    if not days:
        return _NOT_RECORDED
    last = days[-1] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return last + (f", in {len(runs):,} runs" if len(runs) > 1 else "")


def _versions_of(runs: Sequence[Mapping[str, Any]]) -> str:
    last = runs[-1] if runs else {}
    versions = {"Python": last["python"]} if "python" in last else {}
    versions |= dict(sorted((last.get("versions") or {}).items()))
    return ", ".join(f"{name} {version}" for name, version in versions.items()) or _NOT_RECORDED


def _config_text(output: Place) -> str | None:
    for path in (output / "config.yaml", output / "shards" / "config.yaml"):
        try:
            return path.read_text(encoding="utf-8")
        except OSError:
            continue
    return None
