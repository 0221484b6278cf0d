"""Every error that the pipeline raises on purpose.

    PipelineError
    |- InputError        a source file is missing, unreadable or not what it claims to be
    |- OutputError       the output directory is not ours, of a newer format, unwritable or full
    |- EmptyError        a run came to its end, and no sample is left to publish
    |- DamagedFileError  a file that the pipeline wrote is no longer what it was
    |- LockedError       another live run holds the output directory
    |- QueryListError    the query list is missing, damaged or of another version
    |- NetworkError      this machine reaches nothing: addresses not allowed, no route, no resolver, the proxy
    |- ServerError       the sample web's server cannot start (a port in use)
    |- StoreError        a bucket's store refuses, or does not answer (an OSError as well: storage/store_client.py)
    |- StageError        a stage of one's own fails, or breaks its word
    `- EngineError       Ray cannot start or be reached, or a task died again and again

Each message is one line that says what, where and what to do next; the commands print it and exit
with status 2. Bad data is never an error: it is a counted rejection (`records/outcome.py`). A mistake in a
config is a `configs.load.ConfigError`.
"""

from __future__ import annotations

__all__ = [
    "DamagedFileError",
    "EmptyError",
    "EngineError",
    "InputError",
    "LockedError",
    "NetworkError",
    "OutputError",
    "PipelineError",
    "QueryListError",
    "ServerError",
    "StageError",
    "one_line",
]


class PipelineError(Exception):
    """A run cannot go on, for a reason that the user can act on."""


class InputError(PipelineError):
    """A source file is missing, unreadable, or not of the format that it claims."""


class OutputError(PipelineError):
    """The output directory is not ours, of a newer format, unwritable, or its disk is full."""


class EmptyError(PipelineError):
    """A run came to its end, and no sample is left: nothing is published, and what was published stays."""


class DamagedFileError(PipelineError):
    """A file that the pipeline wrote is no longer what it was, or is gone. `run` makes it again and goes on."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(f"{path}: damaged: {what}; `python -m pipeline verify DIR --repair` makes it again")
        self.path = path
        self.what = what

    def __reduce__(self) -> tuple[type[DamagedFileError], tuple[str, str]]:
        return type(self), (self.path, self.what)  # it comes from other processes


class LockedError(OutputError):
    """Another live run holds the output directory."""


class QueryListError(PipelineError):
    """The query list is missing, damaged, or not the one that the matched files were made with."""


class NetworkError(PipelineError):
    """This machine reaches nothing of what it is to fetch, for a cause of its own."""


class ServerError(PipelineError):
    """The sample web's server cannot start."""


class StageError(PipelineError):
    """A stage of one's own fails, or does not do what it says of itself."""


class EngineError(PipelineError):
    """Ray cannot start or be reached, or a task died again and again."""


def one_line(error: BaseException, max_chars: int = 200) -> str:
    """What somebody else's error says, as a part of a line of ours."""
    return " ".join(str(error).split())[:max_chars]
