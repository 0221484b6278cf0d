"""A run from Python, with stages of one's own among ours; docs/python.md shows it.

pipeline = Pipeline("config.yaml").judge_links(after="clean", stage=NoAdverts(words=("buy", "sale")))
result = pipeline.run()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.load import ConfigError, from_mapping, load
from pipeline.config import WitConfig
from pipeline.own.held_stage import hold
from pipeline.own.stages import NO_STAGES, OwnStage, OwnStages
from pipeline.pages import stages_of, whole_page
from pipeline.runs.run import RunResult, StepState, inspect, run
from pipeline.storage.place import Place, place_of
from pipeline.terminal.progress import Progress
from pipeline.wit import build

if TYPE_CHECKING:
    from pipeline.stages.stage import Stage
    from pipeline.steps.step import Page

__all__ = ["Pipeline"]


class Pipeline:
    """What `config` describes, with stages of one's own. Never changes: each `judge_` gives a new one.

    Mistakes are ConfigErrors, told where they are made, before anything runs.
    """

    def __init__(self, config: WitConfig | str | Path | Mapping[str, Any]) -> None:
        """Of a config, of the path of a YAML file, or of what would stand in one."""
        if isinstance(config, Mapping):
            config = from_mapping(WitConfig, config)
        elif isinstance(config, (str, Path)):
            config = load(WitConfig, config)
        elif not isinstance(config, WitConfig):
            raise ConfigError(f"expected a WitConfig, a path or a mapping, got {type(config).__name__}")
        self._config, self._own = config, NO_STAGES

    @property
    def config(self) -> WitConfig:
        return self._config

    @property
    def output(self) -> Place:
        """The directory of the data set."""
        return place_of(self._config.output)

    @property
    def page(self) -> Page:
        """The steps, in order."""
        return build(self._config, self._own)

    def judge_links(self, stage: Stage, *, after: str | None = "clean") -> Pipeline:
        """With a stage that judges links, before anything is counted or fetched; in its place behind the stage `after`,
        or with None behind all. It sees the columns that it `reads`."""
        own = OwnStage(stage=hold(stage), after=after)
        return self._with(OwnStages(links=(*self._own.links, own), pairs=self._own.pairs))

    def judge_pairs(self, stage: Stage, *, after: str | None = None) -> Pipeline:
        """With a stage that judges pairs whose picture has arrived. It sees every column of FETCHED."""
        own = OwnStage(stage=hold(stage), after=after)
        return self._with(OwnStages(links=self._own.links, pairs=(*self._own.pairs, own)))

    def _with(self, own: OwnStages) -> Pipeline:
        taken = set(stages_of(whole_page()))  # those that the config switches off, too
        for name in own.names:
            if name in taken:
                raise ConfigError(f"stage {name!r} is there already; give yours another name")
            taken.add(name)
        made = Pipeline(self._config)
        made._own = own
        build(made._config, own)  # looks at no file, and finds what is wrong with a place or a column
        return made

    def run(self, *, extend: bool = False, retry_failed: bool = False, show_progress: bool = False) -> RunResult:
        """Bring the data set to done, from wherever it is; what was done before is not done again.

        `extend` and `retry_failed` are those of `python -m pipeline run`. Raises ConfigError and PipelineError, one
        line each; nothing that was finished is lost.
        """
        if extend and retry_failed:
            raise ConfigError("extend and retry_failed: one at a time; extend first, then retry")
        progress = Progress(quiet=not show_progress)
        if retry_failed:
            from pipeline.runs.retry import begin_retry

            begin_retry(self._config, self._own, progress=progress)
        return run(self._config, own=self._own, progress=progress, extend=extend)

    def status(self) -> Sequence[StepState]:
        """How far each step is, up to the first that has something to run. Reads only."""
        return inspect(self._config, self._own)[0]

    def __str__(self) -> str:
        """The page: a line a step, with the stages that it enters into the ledger."""
        steps = self.page.steps
        wide = max(len(step.name) for step in steps)
        return "\n".join(
            f"{step.name:<{wide}}  {step.title}" + (f": {', '.join(step.stages)}" if step.stages else "")
            for step in steps
        )
