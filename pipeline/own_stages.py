"""Stages that a user brings along: where on the page they stand (`pipeline.api` takes them)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from configs.load import ConfigError
from pipeline.stages.stage import Stage
from pipeline.steps.step import StageToBe

__all__ = ["NO_STAGES", "OwnStage", "OwnStages", "with_own"]


@dataclass(frozen=True, kw_only=True)
class OwnStage:
    """A stage and its place."""

    stage: Stage
    after: str | None
    """The name of the stage that it follows; None for the end."""


@dataclass(frozen=True, kw_only=True)
class OwnStages:
    """All that a user brings along."""

    links: tuple[OwnStage, ...] = ()
    """They judge links, before anything is counted or fetched."""
    pairs: tuple[OwnStage, ...] = ()
    """They judge pairs whose picture has arrived."""


NO_STAGES = OwnStages()


def with_own(stages: Sequence[Stage | StageToBe], own: Sequence[OwnStage]) -> list[Stage | StageToBe]:
    """`stages` and those of the user, each in its place. Raises ConfigError where that is not there."""
    found = list(stages)
    for each in own:
        names = [stage.name for stage in found]
        if each.stage.name in names:
            raise ConfigError(f"stage {each.stage.name!r} is there already; give yours another name")
        if each.after is not None and each.after not in names:
            raise ConfigError(f"stage {each.stage.name!r} cannot follow {each.after!r}; there are {', '.join(names)}")
        found.insert(len(found) if each.after is None else names.index(each.after) + 1, each.stage)
    return found
