"""The ground truth, and the links as plain tables."""

from __future__ import annotations

import csv
import json
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.records.identity import canonical_url
from pipeline.sample_web.archives import Place
from pipeline.sample_web.pages import OPT_OUT_KINDS, Page, Shown
from pipeline.sample_web.vocabulary import CONCEPT_WORDS

__all__ = ["TRUTH", "write_tables", "write_truth"]

TRUTH = pa.schema(
    [
        pa.field("link_id", pa.string(), nullable=False),
        pa.field("view", pa.string(), nullable=False),  # both, wat or warc: which archives show this link
        pa.field("page_url", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),  # absolute
        pa.field("alt_text", pa.string()),  # entities decoded, white space as on the page; null: no attribute
        pa.field("text_kind", pa.string(), nullable=False),  # caption, wrong, general, unmatched, foreign, junk
        pa.field("class", pa.string()),  # what the picture shows; null where none arrives
        pa.field("evaluated", pa.bool_(), nullable=False),  # whether the class is in the evaluation set
        pa.field("verdict", pa.string(), nullable=False),  # kept or rejected, duplicates and balance apart
        pa.field("stage", pa.string()),  # of the rejection
        pa.field("reason", pa.string()),
        pa.field("text_fate", pa.string()),  # stage/reason before dedup; null: gets as far as dedup
        pa.field("matches", pa.bool_()),  # whether the caption has a query; null: turned away before match
        pa.field("duplicate_group", pa.string()),  # links of one (canonical URL, caption): one survives
        pa.field("duplicate_of", pa.string()),  # another link of the group: its first in this table
        pa.field("fetch_fate", pa.string()),  # stage/reason of fetch and check_image; null: arrives
        pa.field("same_picture_group", pa.string()),  # shown by several links, in equal or other bytes
        pa.field("wat_file", pa.string()),
        pa.field("wat_record", pa.int64()),  # byte offset of the metadata record's gzip member
        pa.field("wat_link", pa.int32()),  # ordinal among the record's IMG@/src links, from 0
        pa.field("warc_file", pa.string()),
        pa.field("warc_record", pa.int64()),  # byte offset of the response record's gzip member
        pa.field("warc_link", pa.int32()),  # ordinal among the page's img elements, from 0
        pa.field("table_row", pa.int64()),  # row of tables/links.*, from 0
    ]
)
"""One row per link that a reader of the archives meets."""


def write_truth(pages: Sequence[Page], places: Sequence[Place], classes: Sequence[str], path: Path) -> pa.Table:
    """Write the ground truth; its rows are in the order of archives, records and links.

    `classes` are the evaluated ones.
    """
    order = sorted(range(len(pages)), key=lambda i: (places[i].wat_file, places[i].wat_record))
    rows: list[dict[str, object]] = []
    groups: dict[tuple[str, str], list[dict[str, object]]] = {}
    num_table_rows = 0
    evaluated = frozenset(classes)
    arriving = Counter(
        shown.link.scene.key
        for page in pages
        for shown in page.shown
        if shown.text_fate is None and shown.link.fetch_fate is None and shown.link.scene
    )
    for i in order:
        for shown in pages[i].shown:
            row = _row(pages[i], places[i], shown, evaluated)
            # Tables have no robots metas, so pages that opt out are not in them.
            if shown.wat_link is not None and pages[i].kind not in OPT_OUT_KINDS:
                row["table_row"] = num_table_rows
                num_table_rows += 1
            if shown.text_fate is None:
                scene = shown.link.scene
                if row["class"] and scene and arriving[scene.key] > 1:
                    row["same_picture_group"] = f"picture-{scene.key}"
                key = (canonical_url(shown.url), _clean(shown.link.alt_text or ""))
                groups.setdefault(key, []).append(row)
            rows.append(row)
    for members in groups.values():
        for row in members if len(members) > 1 else ():
            row["duplicate_group"] = members[0]["link_id"]
            row["duplicate_of"] = members[0]["link_id"] if row is not members[0] else members[1]["link_id"]
    table = pa.Table.from_pylist(rows, schema=TRUTH)
    pq.write_table(table, path)
    return table


def write_tables(truth: pa.Table, directory: Path) -> None:
    """Write `links.parquet`, `links.csv` and `links.jsonl`: the same rows of url, alt_text, page_url."""
    directory.mkdir()
    chosen = truth.filter(pc.is_valid(truth["table_row"])).select(["url", "alt_text", "page_url"])
    pq.write_table(chosen, directory / "links.parquet")
    rows = chosen.to_pylist()
    with (directory / "links.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(chosen.column_names)
        writer.writerows([row["url"], row["alt_text"] or "", row["page_url"]] for row in rows)
    with (directory / "links.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _row(page: Page, place: Place, shown: Shown, evaluated: frozenset[str]) -> dict[str, object]:
    link = shown.link
    fate = shown.text_fate or link.fetch_fate
    stage, _, reason = (fate or "").partition("/")
    in_wat, in_warc = shown.wat_link is not None, shown.warc_link is not None
    placeholder = shown.url != link.url
    scene = None if placeholder or link.fetch_fate else link.scene
    gets_to_match = shown.text_fate is None or shown.text_fate.startswith("match/")
    matches = not CONCEPT_WORDS.isdisjoint(_words(link.alt_text or "")) if gets_to_match else None
    return {
        "link_id": shown.link_id,
        "view": "both" if in_wat and in_warc else ("wat" if in_wat else "warc"),
        "page_url": page.url,
        "url": shown.url,
        "alt_text": link.alt_text,
        "text_kind": link.text_kind,
        "class": scene.label if scene else None,
        "evaluated": bool(scene and scene.label in evaluated),
        "verdict": "rejected" if fate else "kept",
        "stage": stage or None,
        "reason": reason or None,
        "text_fate": shown.text_fate,
        "matches": matches,
        "duplicate_group": None,
        "duplicate_of": None,
        "fetch_fate": link.fetch_fate,
        "same_picture_group": None,
        "wat_file": place.wat_file if in_wat else None,
        "wat_record": place.wat_record if in_wat else None,
        "wat_link": shown.wat_link,
        "warc_file": place.warc_file if in_warc else None,
        "warc_record": place.warc_record if in_warc else None,
        "warc_link": shown.warc_link,
        "table_row": None,
    }


def _clean(text: str) -> str:
    """The caption of an alt text: white space runs to one space, unseen characters away."""
    text = text.replace("\u200b", " ")  # the zero-width space is a space
    kept = "".join(c for c in text if c.isspace() or unicodedata.category(c) not in ("Cc", "Cf"))
    return " ".join(kept.split())


def _words(text: str) -> set[str]:
    return set("".join(c if c.isalpha() else " " for c in text.lower()).split())
