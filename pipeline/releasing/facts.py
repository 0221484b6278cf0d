"""What is known of a set that goes out: its card, its days, its counts, its config as others may see it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from pipeline.config import WitConfig
from pipeline.pages import config_of
from pipeline.questions.card.gather import Card, gather
from pipeline.releasing.config import ReleaseConfig
from pipeline.releasing.public_config import public_config, shown_config
from pipeline.storage.place import Place

__all__ = ["Facts", "facts_of"]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that README.md and croissant.json say."""

    title: str
    release: str
    """Its version, MAJOR.MINOR.PATCH."""
    published: str
    """The day, as 2026-11-29."""
    said: ReleaseConfig
    """What people said."""
    card: Card
    config: WitConfig | None
    """With its sources and its list by their last names; None where the set's is gone."""
    config_yaml: str | None
    """As it goes out."""
    days: Sequence[str]
    """Of the first and of the last run that came to its end; one if they are the same, none if nobody noted them."""
    samples: int
    with_pii: int | None
    """Samples whose caption has personal data of a kind that was looked for; None where nobody looked."""
    with_licence: int
    """Samples whose page states a licence."""
    removals: int
    """Deltas that come along."""

    @property
    def description(self) -> str:
        """What people said, else the facts in a sentence."""
        if self.said.description is not None:
            return " ".join(self.said.description.split())
        header = self.card.header
        languages = ", ".join(header.targets)
        what = "pictures with captions" if self.said.pictures else "links to pictures, with captions,"
        text = f"{self.samples:,} {what} from the web"
        text += (
            f", in languages {languages}" if len(header.targets) > 1 else f", in language {languages}" * bool(languages)
        )
        if header.t is not None:
            text += (
                f"; every caption contains a query of a list, and each query selects {header.limit} {header.t:,} pairs"
            )
        return f"{text}. Made with Openwit."


def facts_of(
    source: Place,
    database: duckdb.DuckDBPyConnection,
    said: ReleaseConfig,
    *,
    release: str,
    published: str,
    removals: int,
) -> Facts:
    """Of the data set in `source`, whose catalog is `database`. Raises as `gather` does."""
    config = config_of(source)
    shown = None if config is None else shown_config(config)
    text = None if config is None else public_config(config)[0]
    card = gather(source, database, config=shown, pictures=said.pictures)
    title = said.title or source.resolve().name or "data set"
    header = dataclasses.replace(card.header, name=title, config=text)
    columns = {row[0] for row in database.execute("DESCRIBE published").fetchall()}
    pii = "count(*) FILTER (coalesce(pii, '') <> '')" if "pii" in columns else "NULL"
    looked = "count(pii)" if "pii" in columns else "0"
    samples, with_pii, looked_at, with_licence = database.execute(
        f"SELECT count(*), {pii}, {looked}, count(license) FROM published"
    ).fetchall()[0]
    return Facts(
        title=title,
        release=release,
        published=published,
        said=said,
        card=dataclasses.replace(card, header=header),
        config=shown,
        config_yaml=text,
        days=_days(source),
        samples=int(samples),
        with_pii=int(with_pii) if looked_at else None,
        with_licence=int(with_licence),
        removals=removals,
    )


def _days(source: Place) -> list[str]:
    """Days, since the second of a run says nothing of a set."""
    try:
        lines = (source / "runs.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    days = set()
    for line in lines:
        try:
            run: Any = json.loads(line)
        except ValueError:
            continue  # a full disk or a kill left it unfinished
        if isinstance(run, dict) and run.get("status") == "finished" and "started" in run:
            days.add(str(run["started"])[:10])
    return [min(days), max(days)] if len(days) > 1 else sorted(days)
