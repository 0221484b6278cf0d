"""damage: what becomes of a file in work/ that is no longer what it was.

    DamagedFileError --withdraw--> the done-record that vouched for it is gone, so the task runs again
    a tar of pictures that were fetched --salvage--> its whole pictures under a new name; the others are asked again

Everything in work/ can be made again to the byte but the answers of the web: of those only what is lost is requested
again. A disk that damages what was just made again would go on for ever: `Patience` ends that.
"""

from __future__ import annotations

import collections
from pathlib import Path

from pipeline.engine import Done, forget, record_of, records_in, run_task
from pipeline.errors import DamagedFileError, OutputError
from pipeline.steps.fetch.facts import STORE
from pipeline.steps.fetch.pictures import Published
from pipeline.steps.fetch.salvage import salvage
from pipeline.steps.step import Run
from pipeline.storage.bucket import BucketPath
from pipeline.storage.checked import check_in_passing
from pipeline.storage.lease import hold_of
from pipeline.storage.place import Place, place_of

__all__ = ["Patience", "withdraw"]

_MOST_TIMES = 2
_MOST_FILES = 1_000


class Patience:
    """How often a run makes damaged files again before it says that the machine is at fault."""

    def __init__(self) -> None:
        self._times: collections.Counter[str] = collections.Counter()

    def check(self, error: DamagedFileError) -> None:
        """Count a damaged file, whichever attempt wrote it. Raises OutputError when that is too often."""
        path = place_of(error.path)
        name = str(_step_of(path) / path.name)
        self._times[name] += 1
        if self._times[name] > _MOST_TIMES or self._times.total() > _MOST_FILES:
            raise OutputError(
                f"{error.path}: damaged again ({error.what}) after it was made again; look at the disk and the memory "
                "of the machine, then run the same command again"
            ) from error


def withdraw(run: Run, error: DamagedFileError) -> str:
    """Take back what vouches for a damaged file of work/, or of the store of facts; says in a line what is damaged and
    what is done about it.

    Raises OutputError for a file that no task can make again.
    """
    path, output, store = place_of(error.path), run.output, run.directory(STORE)
    try:
        shown = _inside(path, output)
    except ValueError:
        if _step_of(path) != store:
            raise error from None  # not of this data set
        shown = str(path)
    record = _record_of(path)
    if record is None:
        if path.parent == output / "work" / "before":
            raise OutputError(
                f"{path}: damaged ({error.what}); it is what --extend compares the new plan with: delete "
                f"{path.parent} and run again without that comparison"
            ) from error
        # Nothing vouches for it any more: whoever needs it finds its task undone. Of records that were put together one
        # is damaged, and the others stand.
        if path.suffix != ".jsonl":
            path.unlink(missing_ok=True)
        return f"damaged: {shown}: {error.what}; made again"
    directory = _step_of(path)
    if isinstance(path, BucketPath) and _is_whole(path, record, directory):
        return f"damaged: {shown}: {error.what}; whole in the bucket, so it is read again"
    if directory == store:
        return f"damaged: {shown}: {error.what}; {_withdraw_answers(run, path, record)}"
    _remove(directory, record)
    return f"damaged: {shown}: {error.what}; made again"


def _inside(path: Place, output: Place) -> str:
    """Raises ValueError."""
    if isinstance(path, BucketPath) and isinstance(output, BucketPath):
        return path.relative_to(output)
    if isinstance(path, Path) and isinstance(output, Path):
        return str(path.resolve().relative_to(output.resolve()))
    raise ValueError(f"{path} is not inside of {output}")


def _step_of(path: Place) -> Place:
    """The directory of the step that wrote a file: of a bucket it is in a place of its attempt."""
    return path.parent.parent.parent if path.parent.parent.name == "at" else path.parent


def _record_of(path: Place) -> Done | None:
    """The done-record that has the file among its outputs."""
    directory = _step_of(path)
    likely = record_of(directory, path.name.partition(".")[0])
    for record in (likely, *records_in(directory)):
        if record is not None and str(path) in (file.path for file in record.located(directory).values()):
            return record
    return None


def _is_whole(path: BucketPath, record: Done, directory: Place) -> bool:
    """Whether the object is what its record says: then a copy of it on some machine was damaged."""
    try:
        check_in_passing(record.located(directory)[path.name])
    except DamagedFileError:
        return False
    return True


def _remove(directory: Place, record: Done) -> None:
    forget(directory, record.partition)
    for file in record.located(directory).values():
        file.place.unlink(missing_ok=True)


def _withdraw_answers(run: Run, path: Place, record: Done) -> str:
    """Keep the answers and pictures that are whole as a file of facts of their own, and drop the rest."""
    store = _step_of(path)
    said = "what was in it is requested again"
    if path.suffix == ".tar":
        try:
            before = Published(shards=str(run.output / "shards"), seed=run.seed)
            kept = run_task(str(store), salvage(store, record, before), hold=hold_of(store)).info
            said = f"{kept['lost']:,} of its {kept['success'] + kept['lost']:,} pictures are lost and requested again"
        except DamagedFileError:
            pass  # the facts beside it are damaged too: nothing says what is whole
    _remove(store, record)
    # The split that asked for them is made anew, and finds what was kept. A split that only used them sees them gone.
    forget(run.output / "work" / "requests", record.partition.rpartition("-")[0])
    return said
