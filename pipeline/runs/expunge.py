"""expunge: pictures that a list of hashes names leave the store of facts, before a run goes on from there.

    lists changed? --> every file of facts that was not made under them --hits?--> written anew without them
                       work/fetch/hash_lists.json (which lists, which files were held against them since)

Here and not as a step: what it takes away is what other steps rely on. Their records name the files that are gone, so
they look again, and the next version has none of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pipeline.engine import Done, forget, record_of, records_in, run_task
from pipeline.runs.give_back import forget_tar
from pipeline.stages.privacy.config import PrivacyConfig
from pipeline.stages.privacy.hash_lists import HASH_LIST, HashLists, list_of_detail, read_hash_lists
from pipeline.steps.fetch.expunge import expunge, listed_in
from pipeline.steps.fetch.facts import IMPORTS, STORE, answers_of, read_facts
from pipeline.steps.fetch.pictures import Published
from pipeline.steps.step import Run
from pipeline.storage.atomic import read_sealed, write_sealed
from pipeline.storage.lease import hold_of
from pipeline.storage.place import Place

__all__ = ["expunge_listed"]

_STATE = "hash_lists.json"
_EVERY_ORDER = (0, (1 << 64) - 1)


def expunge_listed(run: Run, config: PrivacyConfig, say: Callable[[str], None]) -> None:
    """Take what the config's lists name out of the store; goes on where a killed run stopped. Raises ConfigError for a
    list that cannot be read, DamagedFileError for facts."""
    lists, store = read_hash_lists(config), run.directory(STORE)
    state = read_sealed(store / _STATE)
    if not lists and state is None:
        return
    judged = set(state["judged"]) if state is not None and state["key"] == lists.key else set()
    known = len(judged)
    before = Published(shards=str(run.output / "shards"), seed=run.seed)
    gone = 0
    for directory, record in _answers(store):
        if record.partition in judged or record.info.get("lists") == lists.key:
            continue
        gone += _take_out(run, directory, record, lists, before)
        judged.add(record.partition)
    if gone:
        say(f"lists of hashes: {gone:,} pictures that were stored are on them, and are gone from work/fetch")
    if state is None or state["key"] != lists.key or len(judged) > known:
        write_sealed(store / _STATE, {"key": lists.key, "judged": sorted(judged)})


def _answers(store: Place) -> Iterator[tuple[Place, Done]]:
    for directory in (store, store / IMPORTS):
        for partition in [record.partition for record in records_in(directory)]:
            record = record_of(directory, partition)  # as it is by now: what was written anew may be among them
            if record is not None and answers_of(record, directory) is not None:
                yield directory, record


def _take_out(run: Run, directory: Place, record: Done, lists: HashLists, before: Published) -> int:
    """How many pictures went."""
    store = run.directory(STORE)
    hits = listed_in(record, directory, store, lists, before)
    if directory != store:
        if hits or _released(record, directory, lists):
            # It is imported anew from its source, under the lists and the same name.
            forget_tar(run, f"{directory.name}/{record.partition}.tar")
            _remove(directory, record)
        return len(hits)
    if hits:
        run_task(str(store), expunge(store, record, hits, lists, before), hold=hold_of(store))
        forget(run.output / "work" / "requests", record.partition.partition("-")[0])  # what it asked for is there
        _remove(store, record)
    return len(hits)


def _released(record: Done, directory: Place, lists: HashLists) -> bool:
    """Whether it left out a picture for a list that is not among the config's any more."""
    answers = answers_of(record, directory)
    assert answers is not None
    rows = read_facts(answers.facts, _EVERY_ORDER, ["reason", "detail"]).to_pylist()
    return any(row["reason"] == HASH_LIST and list_of_detail(row["detail"]) not in lists.names for row in rows)


def _remove(directory: Place, record: Done) -> None:
    forget(directory, record.partition)
    for file in record.located(directory).values():
        file.place.unlink(missing_ok=True)
