"""requests: what a staging shard's plan needs, less what is known already -> the URLs to request.

    SELECTED + the store of facts + block list, consent --> known (url_id -> file of facts, or why it is refused),
                                                            missing (url_id, url)

The done-record freezes the split: a run that goes on after being killed asks for the same URLs as before. While a
retry is under way (`retries.py`), failures that can heal count as missing, each once a retry. The block list, the
set's removals, which are read as files of it, the lists of hashes and the consent are part of the key: a change of any
judges known answers again, and requests nothing that is known. What was refused for a signal that is honoured no longer
was never fetched: it counts as missing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from configs.load import fingerprint
from pipeline.consent.again import judge_again
from pipeline.consent.answers import Refusal
from pipeline.consent.config import ConsentConfig
from pipeline.consent.robots_rules import RobotsSignals
from pipeline.consent.signals import AnswerSignals
from pipeline.engine import Data, Info, Records, Task, apart, output
from pipeline.records.removals import lists_of
from pipeline.records.schema import FACTS
from pipeline.stages.check_image.config import ImageConfig
from pipeline.stages.fetch.block import BlockList, blocking_reason, read_block_list
from pipeline.stages.fetch.config import FetchConfig
from pipeline.stages.fetch.healing import merge_facts, worth_retrying
from pipeline.stages.privacy.config import PrivacyConfig
from pipeline.stages.privacy.hash_lists import HASH_LIST, list_of_detail, read_hash_lists
from pipeline.steps.fetch.facts import (
    STORE,
    FactFile,
    FactsByOrder,
    FactStore,
    earlier_settings,
    read_facts,
    settings_of,
)
from pipeline.steps.fetch.retries import retries_of
from pipeline.steps.schedule import Selected
from pipeline.steps.step import Run, step
from pipeline.storage.checked import read_table
from pipeline.storage.location import Location
from pipeline.storage.parquet import write_parquet
from pipeline.storage.place import Place

__all__ = ["KNOWN", "MISSING", "ListRequests", "Requests", "list_requests", "stop_key", "with_removals"]

KNOWN = pa.schema(
    [
        pa.field("url_id", pa.binary(16), nullable=False),
        pa.field("facts", pa.string()),  # the file that has the answer; null where the answer is a refusal
        pa.field("reason", pa.string()),  # of the refusal: block_list, or a reason of `consent/answers.py`
        pa.field("detail", pa.string()),  # of the refusal
    ]
)
"""URLs of the plan whose answer is there, and where."""
MISSING = pa.schema(
    [
        pa.field("url_id", pa.binary(16), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("retry", pa.int32(), nullable=False),  # the retry that asks again; 0 where nothing is known
    ]
)
"""URLs of the plan that must be requested, each once, in the plan's order."""

_ANSWER_COLUMNS = ("url_id", "status", "reason", "detail", "sha256", "redirects", "statements")
_ANSWER = pa.schema([FACTS.field(name) for name in _ANSWER_COLUMNS])
_FOUND = _ANSWER.append(pa.field("facts", pa.string())).append(pa.field("retry", pa.int32()))
"""An answer, the file that has it, and the number of the last retry at its time."""


@dataclass(frozen=True, kw_only=True)
class Requests:
    """The URLs of a staging shard. A part tells how many are `known`, `missing`, and `retried` of the missing, in the
    `retry` of its time; and `digests`, the files of facts that the known ones rely on."""

    known: Location = output("known.parquet", KNOWN)
    missing: Location = output("missing.parquet", MISSING)


@dataclass(frozen=True, kw_only=True)
class ListRequests(Task[Requests]):
    """Split the URLs of a staging shard. The facts that there are stand apart from its key: a split is made once."""

    selected: Location
    settings: str
    """Of `settings_of`."""
    lost: tuple[str, ...]
    """Files that the last split relied on and that somebody has removed since: then it must be made again."""
    block_key: str
    """Of `stop_key`."""
    retry: int
    """The number of the last retry that was begun."""
    signals: AnswerSignals
    """What of an answer is honoured."""
    robots: RobotsSignals
    """What of a robots.txt is honoured."""
    files: tuple[FactFile, ...] = apart()
    """Those that may know a URL of the shard."""
    orders: tuple[int, int] = apart()
    """The shard's first and last `order`."""
    block: tuple[str, ...] = apart()
    block_files: tuple[str, ...] = apart()
    privacy: PrivacyConfig = apart()
    under_way: bool = apart()
    """Whether the retry is still to be carried out."""
    product: str = apart()
    """Our name in X-Robots-Tag; the settings hold it too."""

    version = 5

    def work(self, out: Requests) -> Info:
        urls = self._urls()
        block = read_block_list(self.block, self.block_files)
        found = self._found(urls, block)
        judged = judge_again(found, self.signals, product=self.product)
        refused = dict(judged.refused)
        for url_id, entry in self._blocked(block, urls, found).items():
            refused[url_id] = Refusal(reason=blocking_reason(entry), detail=entry)
        again = set(self._asked_again(found)["url_id"].to_pylist()) - refused.keys()
        released = judged.released.union(
            found.filter(pc.or_(self._released(block, found), _allowed_now(self.robots, found)))["url_id"].to_pylist()
        )
        answered = dict(zip(found["url_id"].to_pylist(), found["facts"].to_pylist(), strict=True))
        for url_id in (*refused, *again, *released):
            answered.pop(url_id, None)
        known: list[tuple[bytes, str | None, str | None, str | None]] = []
        missing: list[tuple[bytes, str, int]] = []
        for url_id, url in urls.items():
            refusal = refused.get(url_id)
            if refusal is not None:
                known.append((url_id, None, refusal.reason, refusal.detail))
            elif url_id in answered:
                known.append((url_id, answered[url_id], None, None))
            else:
                missing.append((url_id, url, self.retry if url_id in again else 0))
        _write(out.known.local, known, KNOWN)
        _write(out.missing.local, missing, MISSING)
        used = set(answered.values())
        return {
            "rows": len(urls),
            "known": len(known),
            "missing": len(missing),
            "retried": len(again),
            "retry": self.retry,
            "digests": {each.name: each.file.digest for each in self.files if each.name in used},
        }

    def can_heal(self) -> bool:
        """Whether a retry would ask for any URL of the staging shard. Reads only."""
        urls = self._urls()
        block = read_block_list(self.block, self.block_files)
        found = self._found(urls, block)
        healing = set(found.filter(worth_retrying(found))["url_id"].to_pylist())
        return bool(healing - self._blocked(block, urls, found).keys())

    def _blocked(self, block: BlockList, urls: Mapping[bytes, str], found: pa.Table) -> dict[bytes, str]:
        """url_id -> the entry of the block list that names the URL, a pair of it, or the answer that is known."""
        blocked = _blocked(block, urls, found)
        if block.names_pairs:
            for row in read_table(self.selected, ["uid", "url_id"]).to_pylist():
                if (entry := block.match_uid(row["uid"])) is not None:
                    blocked.setdefault(row["url_id"], entry)
        return blocked

    def _urls(self) -> dict[bytes, str]:
        """url_id -> URL, in the plan's order; of several spellings that of the first row."""
        selected = read_table(self.selected, ["url_id", "url"])
        urls: dict[bytes, str] = {}
        for url_id, url in zip(selected["url_id"].to_pylist(), selected["url"].to_pylist(), strict=True):
            urls.setdefault(url_id, url)
        return urls

    def _found(self, urls: Mapping[bytes, str], block: BlockList) -> pa.Table:
        """The best answer (_FOUND) to each of `urls` that has one: a picture, else what was said last."""
        wanted = pa.array(urls, pa.binary(16))
        generations = [_FOUND.empty_table()]
        for each in sorted(self.files, key=lambda each: (each.retry, each.name)):
            rows = read_facts(each.file, self.orders, _ANSWER.names)
            rows = rows.filter(pc.is_in(rows["url_id"], wanted))
            rows = rows.append_column("facts", pa.array([each.name] * rows.num_rows, pa.string()))
            rows = rows.append_column("retry", pa.array([each.retry] * rows.num_rows, pa.int32()))
            released = pc.or_(
                self._released(block, rows), judge_again(rows, self.signals, product=self.product).is_released(rows)
            )
            released = pc.or_(released, _allowed_now(self.robots, rows))
            generations.insert(0, rows.filter(released))  # gives way to whatever else was said
            generations.append(rows.filter(pc.invert(released)))
        return merge_facts(generations)

    def _released(self, block: BlockList, answers: pa.Table) -> pa.ChunkedArray:
        """bool[N]: the word of a block list that says something else by now, or of a list of hashes that is not among
        the config's any more; neither is an answer."""
        names = read_hash_lists(self.privacy).names
        stands: Mapping[str, Callable[[str], bool]] = {
            "block_list": block.holds,
            HASH_LIST: lambda detail: list_of_detail(detail) in names,
        }
        released = pa.chunked_array([pa.repeat(False, answers.num_rows)])
        for reason, still in stands.items():
            by_list = pc.fill_null(pc.equal(answers["reason"], reason), False)
            gone = [detail for detail in answers.filter(by_list)["detail"].to_pylist() if not still(detail or "")]
            said = pc.and_(by_list, pc.is_in(answers["detail"], pa.array(gone, pa.string())))
            released = pc.or_(released, said)
        return released

    def _asked_again(self, found: pa.Table) -> pa.Table:
        """The answers that the retry under way asks again; none that it gave itself."""
        if not self.under_way:
            return found.slice(0, 0)
        return found.filter(pc.and_(worth_retrying(found), pc.less(found["retry"], self.retry)))


@step("requests", ListRequests, title="look up what is known", per="staging shard")
def list_requests(
    run: Run,
    planned: Data[Selected],
    stored: Data[FactsByOrder] | None,
    config: FetchConfig,
    consent: ConsentConfig,
    image: ImageConfig,
    privacy: PrivacyConfig,
) -> Iterator[ListRequests]:
    """One task per staging shard; `stored` are the facts of the pictures that were imported, if any are."""
    settings, seed = settings_of(config, image), run.seed
    known_settings, signals = earlier_settings(config, image, consent), AnswerSignals.of(consent)
    robots = RobotsSignals.of(consent, config.product)
    config = with_removals(config, run.output)
    key = stop_key(config, privacy)
    retries = retries_of(run.output)
    store = FactStore.of(run.directory(STORE))
    splits = Records.of(run.directory("requests"))
    if stored is not None:
        store = store.with_imported(stored, settings=settings, seed=seed)
    for part in planned.parts:
        first, last = part.info["first"], part.info["last"]
        before = splits.get(part.name)
        yield ListRequests(
            partition=part.name,
            selected=part.files.selected,
            settings=settings,
            lost=() if before is None else store.lacks(before.info.get("digests", {})),
            block_key=key,
            retry=retries.number,
            signals=signals,
            robots=robots,
            product=config.product,
            files=store.may_know(settings=known_settings, seed=seed, first=first, last=last),
            orders=(first, last),
            block=config.block,
            block_files=config.block_files,
            privacy=privacy,
            under_way=retries.under_way,
        )


@list_requests.checked_by
def _check(
    run: Run,
    planned: Data[Selected],
    stored: Data[FactsByOrder] | None,
    config: FetchConfig,
    consent: ConsentConfig,
    image: ImageConfig,
    privacy: PrivacyConfig,
) -> None:
    stop_key(with_removals(config, run.output), privacy)


def with_removals(config: FetchConfig, output: Place) -> FetchConfig:
    """The config, with what was removed from the set in `output` on its block list."""
    return dataclasses.replace(config, block_files=(*config.block_files, *lists_of(output)))


def stop_key(config: FetchConfig, privacy: PrivacyConfig) -> str:
    """Of all lists that forbid pictures; that of the block list where there are no others. Raises ConfigError for one
    that cannot be read."""
    block, lists = read_block_list(config.block, config.block_files), read_hash_lists(privacy)
    return fingerprint(block.key, lists.key) if lists else block.key


def _allowed_now(robots: RobotsSignals, answers: pa.Table) -> pa.ChunkedArray:
    """bool[N]: the word of a robots.txt that is not listened to any more. Those of Content-Usage and Content-Signal are
    told from headers' by nobody: `judge_again` has them."""
    of_paths = [reason for reason in ("robots_txt", "robots_txt_ccbot", "robots_txt_ai") if not robots.honours(reason)]
    return pc.fill_null(pc.is_in(answers["reason"], pa.array(of_paths, pa.string())), False)


def _blocked(block: BlockList, urls: Mapping[bytes, str], found: pa.Table) -> dict[bytes, str]:
    """url_id -> the entry of the block list that names the URL itself, or the answer that is known."""
    if not block:
        return {}
    blocked: dict[bytes, str] = {}
    for url_id, url in urls.items():
        try:
            entry = block.match_url_id(url_id) or block.match_url(url)
        except ValueError:
            continue  # the fetch stage says what is wrong with it
        if entry is not None:
            blocked[url_id] = entry
    for row in found.to_pylist():
        entry = block.match_answer(row["sha256"], row["redirects"] or ())
        if entry is not None:
            blocked.setdefault(row["url_id"], entry)
    return blocked


def _write(path: Path, rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> None:
    columns = [pa.array([row[i] for row in rows], field.type) for i, field in enumerate(schema)]
    write_parquet(path, pa.Table.from_arrays(columns, schema=schema), schema)
