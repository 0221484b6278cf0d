"""import: pictures that img2dataset stored beside the rows of a source -> our tar and facts, without a request.

    00000.parquet + 00000.tar of a source, MATCHED of its rows --check_image--> NAME.facts.parquet, NAME.tar

Only pictures whose caption came through the text stages are looked at. They are copied, so that no other step reads
the source. The files lie in work/fetch/imported; `imported.py` puts their facts into the plan's order, for `requests`
to find the URLs known, so that nothing is asked for.

A row's sizes and SHA-256 are those of the picture as it was served, if img2dataset noted them; format, bytes and EXIF
are those of the stored file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.consent.body import statements_in
from pipeline.consent.signals import AnswerSignals
from pipeline.engine import Data, Info, Task, apart
from pipeline.errors import InputError, one_line
from pipeline.records.schema import FACTS
from pipeline.stages.check_image.config import ImageConfig
from pipeline.stages.check_image.isolate import IsolatedChecker
from pipeline.stages.extract.config import ExtractConfig, MissingPictures
from pipeline.stages.extract.files import open_binary
from pipeline.stages.fetch.config import FetchConfig
from pipeline.stages.privacy.config import PrivacyConfig
from pipeline.stages.privacy.hash_lists import HASH_LIST, read_hash_lists
from pipeline.steps.fetch.facts import IMPORTS, STORE, Answers, FactsByOrder, named_by_key
from pipeline.steps.fetch.fetch import keep_picture
from pipeline.steps.fetch.imported import exchange_facts, sort_facts
from pipeline.steps.judge_links import Matched
from pipeline.steps.source_parts import Sources
from pipeline.steps.sources import Stamp, stamp_of
from pipeline.steps.step import Page, Run, step
from pipeline.steps.texts_config import TextsConfig
from pipeline.storage.checked import read_table
from pipeline.storage.img2dataset import pictures, tar_beside
from pipeline.storage.location import Location
from pipeline.storage.parquet import write_parquet
from pipeline.storage.tar import TarWriter

__all__ = ["ImportStored", "import_pictures", "import_stored"]

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_NOTED = AnswerSignals()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """A picture to look for."""

    url_id: bytes
    as_served: Mapping[str, Any]
    """FACTS columns that img2dataset noted before it resized the picture."""


@dataclass(frozen=True, kw_only=True)
class ImportStored(Task[Answers]):
    """Take over the pictures of a source's rows. Its key holds the stamps of both files, not their content."""

    matched: Location
    stamp: Stamp
    """Of the source."""
    tar_stamp: Stamp
    image: ImageConfig
    max_bytes: int
    missing: MissingPictures
    source: str = apart()
    tar: str = apart()
    privacy: PrivacyConfig = apart(default=PrivacyConfig())
    """What lists forbid of pictures that are there is taken out by `runs/expunge.py`."""

    version = 3

    def work(self, out: Answers) -> Info:
        rows = _rows(self.source, self.matched)
        lists = read_hash_lists(self.privacy)
        facts: dict[bytes, dict[str, Any]] = {}
        with (
            open_binary(self.tar) as stored,
            TarWriter(out.tar.local) as tar,
            IsolatedChecker(self.image, with_pdq=lists.wants_pdq) as checker,
        ):
            for key, body in pictures(stored, max_bytes=self.max_bytes):
                row = rows.get(key)
                if row is None or facts.get(row.url_id, {}).get("status") == "success":
                    continue
                if body is None:
                    facts[row.url_id] = _failed("too_large", f"more than {self.max_bytes} bytes as stored")
                elif (listed := lists.match_digests(_digests_of(row.as_served))) is not None:
                    facts[row.url_id] = lists.facts_of_hit(listed)
                else:
                    facts[row.url_id] = keep_picture(row.url_id, body, checker, tar, lists)
                    if facts[row.url_id]["reason"] != HASH_LIST:
                        facts[row.url_id]["statements"] = statements_in(body, _NOTED)  # `requests` judges them
                    if facts[row.url_id]["status"] == "success":
                        facts[row.url_id] |= row.as_served
        if self.missing == "reject":
            name = self.tar.rpartition("/")[2]
            for key, row in rows.items():
                facts.setdefault(row.url_id, _failed("not_stored", f"no whole {key}.* in {name}"))
        plain = [{"url_id": url_id, **found} for url_id, found in facts.items()]
        write_parquet(out.facts.local, pa.Table.from_pylist(plain, schema=FACTS), FACTS)
        success = sum(1 for row in plain if row["status"] == "success")
        return {"rows": len(plain), "success": success, **({"lists": lists.key} if lists else {})}


def _digests_of(as_served: Mapping[str, Any]) -> dict[str, bytes]:
    return {"sha256": bytes.fromhex(as_served["sha256"])} if "sha256" in as_served else {}


def _failed(reason: str, detail: str) -> dict[str, Any]:
    return {"status": "failed_to_download", "stage": "fetch", "reason": reason, "detail": detail}


def _rows(source: str, matched: Location) -> dict[str, _Row]:
    """Key -> what to look for, of the source's rows that are in `matched`, in the source's order."""
    wanted = read_table(matched, ["url_id", "record"]).sort_by("record")
    with open_binary(source) as file:
        table = pq.ParquetFile(file)
        names = table.schema_arrow.names
        if "key" not in names:
            raise InputError(f"{source}: no column named key; is it of an img2dataset directory?")
        columns = [name for name in ("key", "original_width", "original_height", "sha256") if name in names]
        try:
            rows = table.read(columns=columns).take(wanted["record"]).to_pylist()
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the storage failed, not the data
            reason = one_line(error)
            raise InputError(f"{source}: its keys cannot be read ({reason}); fetch it again") from error
    return {
        row["key"]: _Row(url_id=url_id, as_served=_as_served(row))
        for url_id, row in zip(wanted["url_id"].to_pylist(), rows, strict=True)
    }


def _as_served(row: Mapping[str, Any]) -> dict[str, Any]:
    known: dict[str, Any] = {}
    width, height = row.get("original_width"), row.get("original_height")
    if width and height:
        known |= {"original_width": int(width), "original_height": int(height)}
    if _SHA256.match(cast(str, row.get("sha256") or "")):
        known["sha256"] = row["sha256"]
    return known


@step(f"{STORE}/{IMPORTS}", ImportStored, title="import stored pictures", per="source file", keep=True)
def import_stored(
    run: Run,
    sources: Sources,
    matched: Data[Matched],
    image: ImageConfig,
    privacy: PrivacyConfig,
    *,
    max_bytes: int,
    missing: MissingPictures,
) -> Iterator[ImportStored]:
    """One task per source file of which something matched.

    Its files are named after what they hold, as those of the fetch step are: offsets into an older copy must never
    meet a newer one.
    """
    for (source, stamp), part in zip(sources.found(run).items(), matched.parts, strict=True):
        if not part.info["kept"]:
            continue  # nothing is wanted of it, or it could not be read at all
        tar = tar_beside(source)
        yield named_by_key(
            ImportStored(
                partition=part.name,
                matched=part.files.matched,
                stamp=stamp,
                tar_stamp=_stamp_of_tar(tar),
                image=image,
                max_bytes=max_bytes,
                missing=missing,
                source=source,
                tar=tar,
                privacy=privacy,
            )
        )


@import_stored.checked_by
def _check(
    run: Run,
    sources: Sources,
    matched: Data[Matched],
    image: ImageConfig,
    privacy: PrivacyConfig,
    *,
    max_bytes: int,
    missing: MissingPictures,
) -> None:
    """Raises InputError where a tar is not beside its Parquet file on this machine; others are looked for when it is
    their turn, and none where the Parquet file is missing too."""
    for source, stamp in sources.found(run).items():
        if stamp and "://" not in source:
            _stamp_of_tar(tar_beside(source))


def _stamp_of_tar(tar: str) -> Stamp:
    try:
        return stamp_of(tar)
    except FileNotFoundError as error:
        raise InputError(
            f"{tar}: no such file beside its .parquet; source_format img2dataset reads directories that img2dataset "
            "wrote with output_format webdataset (leave source_format out to request the URLs anew)"
        ) from error


def import_pictures(
    page: Page,
    sources: Sources,
    matched: Data[Matched],
    image: ImageConfig,
    fetch: FetchConfig,
    extract: ExtractConfig,
    texts: TextsConfig,
    privacy: PrivacyConfig,
) -> Data[FactsByOrder]:
    """The steps that take pictures from beside their rows, and put their facts into the plan's order."""
    most, missing = fetch.max_bytes, extract.missing_pictures
    imported = page.add(import_stored(sources, matched, image, privacy, max_bytes=most, missing=missing))
    cut = page.add(exchange_facts(imported, texts.rows_per_flush))
    return page.add(sort_facts(cut))
