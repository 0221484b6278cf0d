"""Stages that a user brings along: where on the page they stand (`pipeline.api` takes them)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from configs.load import ConfigError
from pipeline.own.held_stage import RecordedStage
from pipeline.stages.stage import Stage
from pipeline.steps.step import StageToBe

__all__ = ["NO_STAGES", "OwnStage", "OwnStages", "with_own"]


@dataclass(frozen=True, kw_only=True)
class OwnStage:
    """A stage and its place."""

    stage: RecordedStage
    after: str | None
    """The name of the stage that it follows, behind those that were put there before it; None for the end."""


@dataclass(frozen=True, kw_only=True)
class OwnStages:
    """All that a user brings along."""

    links: tuple[OwnStage, ...] = ()
    """They judge links, before anything is counted or fetched."""
    pairs: tuple[OwnStage, ...] = ()
    """They judge pairs whose picture has arrived."""

    @property
    def names(self) -> list[str]:
        """Of all of them."""
        return [each.stage.name for each in (*self.links, *self.pairs)]


NO_STAGES = OwnStages()


def with_own(stages: Sequence[Stage | StageToBe], own: Sequence[OwnStage], rows: pa.Schema) -> list[Stage | StageToBe]:
    """`stages` and those of the user, each in its place; `rows` are what the first of them is given.

    Raises ConfigError where that place is not there, a name is taken, or a column is not there, or there already.
    """
    found = list(stages)
    last: dict[str, str] = {}
    """A stage -> the one that was last put after it."""
    for each in own:
        name, names = each.stage.name, [stage.name for stage in found]
        if name in names:
            raise ConfigError(f"stage {name!r} is there already; give yours another name")
        if each.after is not None and each.after not in names:
            there = ", ".join(names) or "none: leave `after` out"
            raise ConfigError(f"stage {name!r} cannot follow {each.after!r}; there are {there}")
        behind = len(found) - 1 if each.after is None else names.index(last.get(each.after, each.after))
        found.insert(behind + 1, each.stage)
        if each.after is not None:
            last[each.after] = name
    if own:
        _check_columns(found, rows.names)
    return found


def _check_columns(stages: Sequence[Stage | StageToBe], columns: Sequence[str]) -> None:
    there = list(columns)
    added = [name for stage in stages for name in _kind(stage).adds]
    for stage in stages:
        kind = _kind(stage)
        if isinstance(kind, RecordedStage):
            missing = [name for name in kind.reads if name not in there]
            if missing:
                raise ConfigError(
                    f"stage {stage.name!r} reads {missing[0]!r}; where it stands there are {', '.join(there)}"
                )
            taken = [name for name in kind.adds if name in columns or added.count(name) > 1]
            if taken:
                raise ConfigError(f"stage {stage.name!r} adds {taken[0]!r}, a column of others; give it another name")
        there += kind.adds


def _kind(stage: Stage | StageToBe) -> Stage | type[Stage]:
    return stage.stage if isinstance(stage, StageToBe) else stage
