"""repair: damaged parts of a published set, and of work/, made again from what is left. Nothing is requested.

    verify, verify_work --damages--> done-records of damaged files go --page--> shards from the staging tars --publish

A published shard is a hard link of the file in work/shards: damage in one is damage in both, and the shard is written
anew. A bucket's tar lies under shards/ alone: it is written anew in work/shards, and copied. What is damaged in the
published version stays there until its like is ready. Pictures that are lost in a staging tar are named; a run requests
them again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from configs.load import load
from pipeline.config import WitConfig
from pipeline.engine import record_of
from pipeline.errors import DamagedFileError, OutputError
from pipeline.own.record import refuse_own_stages
from pipeline.questions.verify import Damage
from pipeline.runs.damage import withdraw
from pipeline.runs.run import opened, run
from pipeline.steps.fetch.facts import STORE
from pipeline.steps.step import Run
from pipeline.storage.checked import check_in_passing
from pipeline.storage.place import Place
from pipeline.terminal.progress import Progress
from pipeline.wit import build

__all__ = ["repair"]


def repair(output: Place, damages: Sequence[Damage], progress: Progress) -> None:
    """Make again what `verify` and `verify_work` say is damaged, and publish it under the same version.

    Raises OutputError where that cannot be done from what is left, and says why.
    """
    if (output / "subset.json").exists():
        raise OutputError(f"{output}: a subset has nothing to repair it from; take it again from its source")
    refuse_own_stages(output)
    config = dataclasses.replace(load(WitConfig, output / "shards" / "config.yaml"), output=str(output))
    of_run = build(config).run
    with opened(output, config, progress):
        for file, what in {damage.file: damage.what for damage in damages}.items():
            said = _withdraw_published(of_run, file.rpartition("/")[2]) if file.startswith("shards/") else None
            if file.startswith("work/"):
                said = withdraw(of_run, DamagedFileError(str(output / file), what))
            elif file.startswith(str(of_run.directory(STORE))):
                said = withdraw(of_run, DamagedFileError(file, what))
            if said is not None:
                progress.say(said)
    run(config, progress=progress, offline=True)


def _withdraw_published(of_run: Run, name: str) -> str | None:
    """Take back a damaged file of the published version; what there is to say about it."""
    published, source = of_run.output / "shards" / name, of_run.directory("shards")
    if name in ("manifest.json", "sizes.json"):
        published.unlink(missing_ok=True)  # written anew in any case
    record = record_of(source, name.partition(".")[0].removesuffix("_stats"))
    if record is None or name not in record.outputs:
        return None  # a shard whose task is not done is made in any case; a stranger stays
    made = record.located(source)[name]
    try:
        check_in_passing(made)
    except DamagedFileError as error:
        return withdraw(of_run, error)
    if not _is_link(published, made.place):
        published.unlink(missing_ok=True)  # what is put there again is whole
    return None


def _is_link(published: Place, source: Place) -> bool:
    return (
        isinstance(published, Path) and isinstance(source, Path) and published.exists() and published.samefile(source)
    )
