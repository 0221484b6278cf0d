"""retry: ask the failed URLs of a data set again, those that time can heal, and nothing else.

    run --retry-failed:  any such failure? --begin (work/retries.json)--> a plain run, which carries the retry out

What is asked again is decided in `steps/requests.py`: URLs of the present plan whose last answer is a failure
that can heal (`stages/fetch/retry.py`). A picture that arrives goes the way of all others, into a new version.
"""

from __future__ import annotations

from pathlib import Path

from configs.load import ConfigError
from pipeline.run import refuse_subset, walk
from pipeline.steps import requests, retries
from pipeline.storage import check_output, open_output
from pipeline.wit import WitConfig

__all__ = ["begin_retry"]


def begin_retry(config: WitConfig) -> bool:
    """Begin a retry, unless one is under way; False, with nothing changed, where no failure can heal.

    The next run carries it out. Raises ConfigError where `config` has not planned this data set, and OutputError
    or LockedError as a run does.
    """
    output = Path(config.output)
    check_output(output)
    refuse_subset(output)
    with open_output(output):
        if not retries.retries_of(output).under_way:
            if not _can_heal(config):
                return False
            retries.begin(output)
    return True


def _can_heal(config: WitConfig) -> bool:
    for step, _ in walk(config):
        if step.name == requests.NAME:
            return any(requests.can_heal(task.arguments) for task in step.tasks)
    raise ConfigError(
        f"--retry-failed: {config.output} is not planned with this config (next: {step.title}); "
        "run without --retry-failed first"
    )
