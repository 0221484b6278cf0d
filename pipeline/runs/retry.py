"""retry: ask the failed URLs of a data set again, those that time can heal, and nothing else.

    run --retry-failed:  any such failure? --begin (work/retries.json)--> a plain run, which carries the retry out

What is asked again is decided in `steps/fetch/requests.py`: URLs of the present plan whose last answer is a failure
that can heal (`stages/fetch/healing.py`). A picture that arrives goes the way of all others, into a new version.
Sources that could not be read are asked again too: their records are forgotten, so that the next run reads them.
"""

from __future__ import annotations

from collections.abc import Sequence

from configs.load import ConfigError
from pipeline.config import WitConfig
from pipeline.engine import forget
from pipeline.own.stages import NO_STAGES, OwnStages
from pipeline.runs.run import refuse_subset, walk
from pipeline.steps.fetch import retries
from pipeline.steps.fetch.requests import ListRequests
from pipeline.steps.step import Page
from pipeline.steps.unreadable import is_unreadable
from pipeline.storage.output import check_output, open_output
from pipeline.storage.place import Place, place_of
from pipeline.terminal.progress import Progress
from pipeline.wit import build

__all__ = ["begin_retry"]


def begin_retry(config: WitConfig, own: OwnStages = NO_STAGES, *, progress: Progress | None = None) -> bool:
    """Begin a retry, unless one is under way; False, with nothing changed, where no failure can heal and every source
    was read.

    The next run carries it out. Raises ConfigError where `config` has not planned this data set, and OutputError
    or LockedError as a run does.
    """
    output = place_of(config.output)
    check_output(output)
    refuse_subset(output)
    say = (progress or Progress()).say
    with open_output(output, single_driver=config.engine.single_driver, say=say):
        if retries.retries_of(output).under_way:
            return True
        page = build(config, own)
        can_heal, unreadable = _failures(page)
        if can_heal:
            retries.begin(output)
        for directory, partition in unreadable:
            forget(directory, partition)
    return can_heal or bool(unreadable)


def _failures(page: Page) -> tuple[bool, Sequence[tuple[Place, str]]]:
    """Whether a failed URL can heal, and the sources that could not be read: directory and partition of each record."""
    unreadable: Sequence[tuple[Place, str]] = ()
    for step, tasks, done in walk(page):
        if "extract" in step.stages:
            unreadable = [(step.data.directory, record.partition) for record in done if is_unreadable(record.info)]
        if step.name == "requests":
            return any(task.can_heal() for task in tasks if isinstance(task, ListRequests)), unreadable
    raise ConfigError(
        f"--retry-failed: {page.run.output} is not planned with this config (next: {step.title}); "
        "run without --retry-failed first"
    )
