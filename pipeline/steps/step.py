"""What a step is, and the page that steps stand on.

    @step("gather", GatherTask, title="gather edges of head queries", per="hash partition")
    def gather(run: Run, unique: Data[Unique], limit: Data[Limit], mode: str) -> Iterator[GatherTask]:
        for part in unique.parts: yield GatherTask(...)

    edges = page.add(gather(unique, limit, config.balance.mode))        # Data[Edges]

Which steps there are hangs on the config alone, so a page is built without looking at any file. How a step is cut into
tasks is asked when its inputs are done: the function under `@step` is called then, with what all steps share (`Run`)
before its own arguments.
"""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Concatenate, Generic, ParamSpec, TypeVar

from pipeline.engine import Accept, AnyTask, Data
from pipeline.records.ledger_config import LedgerConfig
from pipeline.records.reasons import REASONS
from pipeline.stages.stage import Stage
from pipeline.storage.place import Place

__all__ = ["Accept", "Page", "Run", "StageToBe", "Stages", "Step", "StepOf", "ready", "step"]

P = ParamSpec("P")
Out = TypeVar("Out")


class StageToBe(ABC):
    """A stage that goes by what another step writes. A dataclass, whose fields name the `Data`."""

    stage: ClassVar[type[Stage]]
    """What it will be."""

    @property
    def name(self) -> str:
        """Of the stage."""
        return self.stage.name

    @property
    def reasons(self) -> Mapping[str, str]:
        """Of the stage."""
        return self.stage.reasons

    def check(self) -> None:  # noqa: B027 - the steps that it waits for look at what they need
        """As `Stage.check`."""

    @abstractmethod
    def ready(self) -> Stage:
        """The stage, once the data is there."""


@dataclass(frozen=True)
class Stages:
    """Stages that judge one after the other, as a task goes by them."""

    each: tuple[Stage, ...]

    def key_parts(self) -> list[Any]:
        """Of those that have any."""
        return [parts for stage in self.each if (parts := stage.key_parts()) is not None]


def ready(stages: Sequence[Stage | StageToBe]) -> Stages:
    """The stages themselves, once all data is there that they go by."""
    return Stages(tuple(stage.ready() if isinstance(stage, StageToBe) else stage for stage in stages))


@dataclass(frozen=True, kw_only=True)
class Run:
    """What all steps of a page share."""

    output: Place
    seed: int
    ledger: LedgerConfig
    elsewhere: Mapping[str, Place] = dataclasses.field(default_factory=dict)
    """Step -> its directory, of those that are not in the output."""

    def directory(self, step: str) -> Place:
        """Where a step keeps its files."""
        return self.elsewhere.get(step, self.output / "work" / step)


@dataclass(frozen=True, kw_only=True)
class Step(Generic[Out]):
    """Tasks that may run in any order; every one must be done before a step that reads them."""

    name: str
    """Its directory under OUT/work."""
    title: str
    per: str
    """What one task is for."""
    stages: Mapping[str, Mapping[str, str]]
    """The stages whose outcome its tasks enter into the ledger, in order, and what each reason of theirs means."""
    judges: Sequence[Stage | StageToBe]
    """Those of these stages that are `Stage`s."""
    keep: bool
    """Whether what earlier plans left in the directory stays: true for facts that cannot be made again."""
    reads: Sequence[Data[Any]]
    data: Data[Out]
    """What it writes."""
    cut: Callable[[Run], Iterable[AnyTask[Out]]]
    """The tasks, once all that it reads is done. Raises PipelineError where they cannot be made."""
    check: Callable[[Run], None] | None
    """Looks, before any step begins, whether what the config names is there. Raises ConfigError or PipelineError."""
    accept: Callable[[Run], Accept] | None


def step(
    name: str,
    task: type[AnyTask[Out]],
    *,
    title: str = "",
    per: str,
    stages: Sequence[str] = (),
    keep: bool = False,
) -> Callable[[Callable[Concatenate[Run, P], Iterable[AnyTask[Out]]]], StepOf[P, Out]]:
    """Make a step of a function that cuts it into tasks; `stages` are those whose outcome these enter into the ledger,
    beside the `Stage`s among the step's arguments; they all are its title where none is given."""

    def made(cut: Callable[Concatenate[Run, P], Iterable[AnyTask[Out]]]) -> StepOf[P, Out]:
        return StepOf(cut, name=name, task=task, title=title, per=per, stages=stages, keep=keep)

    return made


class StepOf(Generic[P, Out]):
    """A step without its arguments yet; called with them, it is a `Step`."""

    def __init__(
        self,
        cut: Callable[Concatenate[Run, P], Iterable[AnyTask[Out]]],
        *,
        name: str,
        task: type[AnyTask[Out]],
        title: str,
        per: str,
        stages: Sequence[str],
        keep: bool,
    ) -> None:
        functools.update_wrapper(self, cut)
        self.name = name
        self.out: type[Out] = task.out
        self._cut = cut
        self._stages = tuple(stages)
        self.title = title
        self._per, self._keep = per, keep
        self._check: Callable[Concatenate[Run, P], None] | None = None
        self._accept: Callable[Concatenate[Run, P], Accept] | None = None

    def checked_by(self, check: Callable[Concatenate[Run, P], None]) -> Callable[Concatenate[Run, P], None]:
        """A function of the same arguments that looks, before any step begins, whether the step can be done."""
        self._check = check
        return check

    def accepted_by(self, accept: Callable[Concatenate[Run, P], Accept]) -> Callable[Concatenate[Run, P], Accept]:
        """A function of the same arguments that gives what looks at each record of the step."""
        self._accept = accept
        return accept

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Step[Out]:
        check, accept = self._check, self._accept
        given = list(_parts_of((args, tuple(kwargs.values()))))
        judges = [each for each in given if isinstance(each, (Stage, StageToBe))]
        return Step(
            name=self.name,
            title=self.title or ", ".join([*self._stages, *(judge.name for judge in judges)]),
            stages={stage: REASONS[stage] for stage in self._stages} | {judge.name: judge.reasons for judge in judges},
            reads=tuple(dict.fromkeys(each for each in given if isinstance(each, Data))),
            data=Data(self.name, self.out),
            cut=lambda run: self._cut(run, *args, **kwargs),
            check=None if check is None else lambda run: check(run, *args, **kwargs),
            accept=None if accept is None else lambda run: accept(run, *args, **kwargs),
            judges=judges,
            per=self._per,
            keep=self._keep,
        )


def _parts_of(value: Any) -> Iterator[Any]:
    """What a step is given, also within lists and dataclasses."""
    yield value
    if isinstance(value, Stage):
        return  # what it goes by is its own affair, should it be a stage within a stage
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _parts_of(each)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _parts_of(getattr(value, field.name))


class Page:
    """The steps of a run in order, each with the data that it writes."""

    def __init__(
        self, output: Place, *, seed: int, ledger: LedgerConfig, elsewhere: Mapping[str, Place] | None = None
    ) -> None:
        self.run = Run(output=output, seed=seed, ledger=ledger, elsewhere=elsewhere or {})
        self.steps: list[Step[Any]] = []

    def add(self, step: Step[Out]) -> Data[Out]:
        """Put a step at the end. What it reads must stand before it, or be done: RuntimeError."""
        for data in step.reads:
            if not data.is_done and all(data is not other.data for other in self.steps):
                raise RuntimeError(f"step {step.name} reads {data.name}, which no step before it writes")
        step.data.directory = self.run.directory(step.name)
        self.steps.append(step)
        return step.data

    def __getitem__(self, name: str) -> Step[Any]:
        """The step of this name. Raises KeyError."""
        for each in self.steps:
            if each.name == name:
                return each
        raise KeyError(name)

    def __contains__(self, name: str) -> bool:
        return any(each.name == name for each in self.steps)

    def check(self) -> None:
        """Look whether what the config names is there, before anything is made. Raises ConfigError or PipelineError.

        What the stages go by comes first: to look at sources takes longer.
        """
        for each in self.steps:
            for judge in each.judges:
                judge.check()
        for each in self.steps:
            if each.check is not None:
                each.check(self.run)
