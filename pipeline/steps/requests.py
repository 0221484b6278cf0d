"""requests: what a staging shard's plan needs, less what is known already -> the URLs to request.

    SELECTED + the store of facts + block list --> known (url_id -> file of facts, or entry of the block list),
                                                   missing (url_id, url)

The done-record freezes the split: a run that goes on after being killed asks for the same URLs as before. While a
retry is under way (`retries.py`), failures that can heal count as missing, each once a retry. The block list is
part of the key: a change of it judges known answers again, and requests nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.checked import Vouched, read_table
from pipeline.engine import Done, Task, read_record
from pipeline.schema import FACTS
from pipeline.stages.fetch.block import BlockList
from pipeline.stages.fetch.config import FetchConfig
from pipeline.stages.fetch.retry import merge_facts, worth_retrying
from pipeline.steps.facts import FactFile, facts_for, read_facts
from pipeline.steps.retries import Retries
from pipeline.steps.step import Step, key_of
from pipeline.storage import write_parquet

__all__ = ["KNOWN", "MISSING", "NAME", "VERSION", "can_heal", "plan"]

NAME = "requests"
VERSION = "requests-3"
KNOWN = pa.schema(
    [
        pa.field("url_id", pa.binary(16), nullable=False),
        pa.field("facts", pa.string()),  # the file that has the answer; null where the block list is the answer
        pa.field("blocked", pa.string()),  # the block list's entry
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

_ANSWER = pa.schema([FACTS.field(name) for name in ("url_id", "status", "reason", "detail", "sha256", "redirects")])
_FOUND = _ANSWER.append(pa.field("facts", pa.string())).append(pa.field("retry", pa.int32()))
"""An answer, the file that has it, and the number of the last retry at its time."""


def plan(
    scheduled: Sequence[Done],
    directory: Path,
    own: Path,
    store: tuple[Sequence[FactFile], Path],
    *,
    settings: str,
    seed: int,
    fetch: FetchConfig,
    block: BlockList,
    retries: Retries,
) -> Step:
    """One task per staging shard; `own` is this step's directory, `store` the facts that there are and where.

    `block` is the block list of `fetch`.
    """
    files, store_directory = store
    names = {file.name for file in files}
    tasks = []
    for record in scheduled:
        name, (first, last) = record.partition, (record.info["first"], record.info["last"])
        found = facts_for(files, settings=settings, seed=seed, first=first, last=last)
        arguments = {
            "selected": record.file(directory, "selected"),
            "store": str(store_directory),
            "files": [(file.name, file.digest, file.retry) for file in found],
            "orders": [first, last],
            "block": list(fetch.block),
            "block_files": list(fetch.block_files),
            "retry": retries.number,
            "under_way": retries.under_way,
        }
        outputs = (f"{name}.known.parquet", f"{name}.missing.parquet")
        key = key_of(VERSION, [record], settings, _lost(own, name, names), block.key, retries.number)
        tasks.append(Task(partition=name, work=_work, arguments=arguments, outputs=outputs, key=key))
    return Step(name=NAME, title="look up what is known", tasks=tasks)


def can_heal(arguments: Mapping[str, Any]) -> bool:
    """Whether a retry would ask for any URL of the staging shard that a task's `arguments` name. Reads only."""
    urls = _urls(arguments)
    block = BlockList(arguments["block"], arguments["block_files"])
    found = _found(arguments, urls, block)
    healing = set(found.filter(worth_retrying(found))["url_id"].to_pylist())
    return bool(healing - _blocked(block, urls, found).keys())


def _lost(own: Path, partition: str, names: set[str]) -> list[str]:
    """Files that the last split relied on and that somebody has removed since: then it must be made again."""
    record = read_record(own / "done" / f"{partition}.json")
    return [] if record is None else sorted(set(record["info"].get("digests", ())) - names)


def _work(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    known_path, missing_path = outputs.values()
    urls = _urls(arguments)
    block = BlockList(arguments["block"], arguments["block_files"])
    found = _found(arguments, urls, block)
    blocked = _blocked(block, urls, found)
    again = set(_asked_again(arguments, found)["url_id"].to_pylist()) - blocked.keys()
    released = found.filter(_released(block, found))["url_id"].to_pylist()
    answered = dict(zip(found["url_id"].to_pylist(), found["facts"].to_pylist(), strict=True))
    for url_id in (*blocked, *again, *released):
        answered.pop(url_id, None)
    known, missing = [], []
    for url_id, url in urls.items():
        if url_id in answered or url_id in blocked:
            known.append((url_id, answered.get(url_id), blocked.get(url_id)))
        else:
            missing.append((url_id, url, arguments["retry"] if url_id in again else 0))
    _write(known_path, known, KNOWN)
    _write(missing_path, missing, MISSING)
    used = set(answered.values())
    return {
        "rows": len(urls),
        "known": len(known),
        "missing": len(missing),
        "retried": len(again),
        "retry": arguments["retry"],
        "digests": {name: digest for name, digest, _ in arguments["files"] if name in used},
    }


def _urls(arguments: Mapping[str, Any]) -> dict[bytes, str]:
    """url_id -> URL, in the plan's order; of several spellings that of the first row."""
    selected = read_table(arguments["selected"], ["url_id", "url"])
    urls: dict[bytes, str] = {}
    for url_id, url in zip(selected["url_id"].to_pylist(), selected["url"].to_pylist(), strict=True):
        urls.setdefault(url_id, url)
    return urls


def _found(arguments: Mapping[str, Any], urls: Mapping[bytes, str], block: BlockList) -> pa.Table:
    """The best answer (_FOUND) to each of `urls` that has one: a picture, else what was said last."""
    wanted = pa.array(urls, pa.binary(16))
    generations = [_FOUND.empty_table()]
    for name, digest, retry in sorted(arguments["files"], key=lambda file: (file[2], file[0])):
        file = Vouched(str(Path(arguments["store"]) / name), digest)
        rows = read_facts(file, arguments["orders"], _ANSWER.names)
        rows = rows.filter(pc.is_in(rows["url_id"], wanted))
        rows = rows.append_column("facts", pa.array([name] * rows.num_rows, pa.string()))
        rows = rows.append_column("retry", pa.array([retry] * rows.num_rows, pa.int32()))
        released = _released(block, rows)
        generations.insert(0, rows.filter(released))  # gives way to whatever else was said
        generations.append(rows.filter(pc.invert(released)))
    return merge_facts(generations)


def _released(block: BlockList, answers: pa.Table) -> pa.ChunkedArray:
    """bool[N]: the word of a block list that says something else by now, which is no answer."""
    by_list = pc.fill_null(pc.equal(answers["reason"], "block_list"), False)
    gone = [entry for entry in answers.filter(by_list)["detail"].to_pylist() if not block.holds(entry or "")]
    return pc.and_(by_list, pc.is_in(answers["detail"], pa.array(gone, pa.string())))


def _asked_again(arguments: Mapping[str, Any], found: pa.Table) -> pa.Table:
    """The answers that the retry under way asks again; none that it gave itself."""
    if not arguments["under_way"]:
        return found.slice(0, 0)
    return found.filter(pc.and_(worth_retrying(found), pc.less(found["retry"], arguments["retry"])))


def _blocked(block: BlockList, urls: Mapping[bytes, str], found: pa.Table) -> dict[bytes, str]:
    """url_id -> the entry of the block list that names the URL itself, or the answer that is known."""
    if not block:
        return {}
    blocked: dict[bytes, str] = {}
    for url_id, url in urls.items():
        try:
            entry = block.match_url(url)
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
