"""open_set: what lies at a path, of the forms that are known."""

from __future__ import annotations

from pipeline.errors import PipelineError
from pipeline.storage.place import Place, files_in, place_of
from training.errors import EvaluationError
from training.evaluation.sets.arrow import STATE_FILES, open_arrow
from training.evaluation.sets.folders import open_folders
from training.evaluation.sets.form import EvaluationSet, reading
from training.evaluation.sets.lists import SUFFIXES, open_list
from training.evaluation.sets.tars import COUNT_FILE, open_tars

__all__ = ["open_set"]


def open_set(path: str | Place) -> EvaluationSet:
    """The evaluation set at `path`, a directory or a list, on a disk or in a bucket. Raises EvaluationError."""
    try:
        root = place_of(path)
    except PipelineError as error:
        raise EvaluationError(str(error)) from error
    with reading(root):
        if root.suffix.lower() in SUFFIXES and (root.is_file() or not root.is_dir()):
            return open_list(root)
        test = root / "test"
        if (test / COUNT_FILE).is_file() or files_in(test, "*.tar"):
            return open_tars(root)
        if any((root / name).is_file() for name in STATE_FILES):
            return open_arrow(root)
        if root.is_dir() and any(each.is_dir() for each in root.iterdir()):
            return open_folders(root)
    raise EvaluationError(
        f"{root}: no evaluation set here; give a directory of CLIP_benchmark's form (test/{COUNT_FILE}), of a "
        f"directory for each class, or saved by `datasets`; or a list ({' '.join(SUFFIXES)})"
    )
