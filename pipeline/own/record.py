"""Which stages of one's own a data set was made with: OUT/work/own_stages.json, where there were any.

They are no part of a config, so the commands cannot make them again: they show them, by name, reasons and key, and
leave going on with the data set to the program that brings them along.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from pipeline.errors import OutputError
from pipeline.own.held_stage import About, RecordedStage
from pipeline.own.stages import NO_STAGES, OwnStage, OwnStages
from pipeline.storage.atomic import read_sealed, write_sealed
from pipeline.storage.place import Place

__all__ = ["record", "recorded", "refuse_own_stages"]


def _path(output: Place) -> Place:
    return output / "work" / "own_stages.json"


def record(output: Place, own: OwnStages) -> None:
    """Write down the stages of a run that is about to make something. Where there are none, there is no file."""
    path = _path(output)
    content = {"links": _written(own.links), "pairs": _written(own.pairs)}
    if not own.names:
        path.unlink(missing_ok=True)
    elif read_sealed(path) != content:
        write_sealed(path, content)


def _written(own: Sequence[OwnStage]) -> list[dict[str, Any]]:
    about = [dataclasses.asdict(each.stage.about) | {"after": each.after} for each in own]
    return [each | {"reads": list(each["reads"]), "adds": list(each["adds"])} for each in about]


def recorded(output: Place) -> OwnStages:
    """The stages that were written down, without their classes: for those who look."""
    content = read_sealed(_path(output)) or {}
    try:
        return OwnStages(links=_read(content["links"]), pairs=_read(content["pairs"]))
    except (KeyError, TypeError):
        return NO_STAGES  # there are none, or nobody can tell which


def _read(written: Sequence[dict[str, Any]]) -> tuple[OwnStage, ...]:
    own = []
    for each in written:
        about = {**each, "reads": tuple(each["reads"]), "adds": tuple(each["adds"])}
        after = about.pop("after")
        own.append(OwnStage(stage=RecordedStage(about=About(**about)), after=after))
    return tuple(own)


def refuse_own_stages(output: Place) -> None:
    """Raise OutputError where the data set was made with stages that only the user's program has."""
    if _path(output).exists():
        names = ", ".join(recorded(output).names) or f"{_path(output).name} is damaged"
        raise OutputError(
            f"{output}: made with stages of one's own ({names}); go on with the program that made it, or choose "
            "another --output"
        )
