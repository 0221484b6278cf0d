"""Commands that bring a data set about: plan, run, status."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.load import ConfigError
from pipeline.commands.words import Words
from pipeline.storage.place import place_of
from pipeline.terminal.progress import Progress

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.runs.run import StepState
    from pipeline.steps.fetch.retries import Retried
    from pipeline.steps.step import Step

__all__ = ["plan_command", "run_command", "status_command"]


def plan_command(words: Words) -> int:
    """plan CONFIG.yaml [--section.key value ...]

    Print the steps, what would run, and the columns of the rows. Nothing is
    written.
    """
    from rich.table import Table
    from rich.text import Text

    from pipeline.own.record import recorded
    from pipeline.pages import whole_page
    from pipeline.runs.run import inspect
    from pipeline.terminal.console import PrintableConsole
    from pipeline.wit import build

    (target,) = words.positional(1, "CONFIG.yaml or a preset's name")
    config = words.config(target)
    own = recorded(place_of(config.output))
    states, first = inspect(config, own)
    known = {state.step: state for state in states}
    page = build(config, own)
    columns = ("step", "reads", "writes", "a task per", "to run")
    table = Table(*columns, box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in table.columns:
        column.no_wrap = True
    for step in page.steps:
        table.add_row(*_about(step), _todo(known.get(step.name)))
    for step in whole_page().steps:
        if step.name not in page:
            table.add_row(*_about(step), "off")
    console = PrintableConsole()
    console.print(table)
    console.print()
    for name, fields in _rows():
        console.print(Text.assemble((name, "bold"), f"  {fields}"))
    console.print(f"\noutput: {config.output}   next: {first.title if first else 'nothing, all done'}")
    return 0


def _about(step: Step[Any]) -> tuple[str, str, str, str]:
    """Name, reads, writes, a task per; of several data sets the first and how many more, to fit a narrow screen."""
    from pipeline.pages import reads_of, writes_of

    return step.name, _first_of(reads_of(step)), _first_of(writes_of(step)), step.per


def _first_of(names: Sequence[str]) -> str:
    more = f" +{len(names) - 1}" if len(names) > 1 else ""
    return f"{names[0]}{more}" if names else "-"


def _todo(state: StepState | None) -> str:
    if state is None:
        return "later"
    return f"{state.tasks - state.done} of {state.tasks}" if state.done < state.tasks else "done"


def _rows() -> Iterator[tuple[str, str]]:
    """Each kind of row and its columns; those that it has from another kind by that one's name."""
    from pipeline.pages import schemas_of, whole_page

    before: dict[str, pa.Schema] = {}
    for name, schema in schemas_of(whole_page()).items():
        within = [kind for kind, other in before.items() if set(other) <= set(schema)]
        base = max(within, key=lambda kind: len(before[kind]), default=None)
        known = set(before[base]) if base else set()
        added = ", ".join(f"{field.name}: {_short(field.type)}" for field in schema if field not in known)
        yield name, f"all of {base}, {added}" if base else added
        before[name] = schema


def _short(kind: pa.DataType) -> str:
    import pyarrow as pa

    if pa.types.is_fixed_size_binary(kind):
        return f"binary[{kind.byte_width}]"
    return f"[{_short(kind.value_type)}]" if pa.types.is_list(kind) else str(kind)


def run_command(words: Words) -> int:
    """run CONFIG.yaml [--section.key value ...]
        [--extend | --retry-failed] [--metrics-file PATH]

    Build the data set, or go on with it: what is done already is not done
    again. With --extend, add the config's sources to those of the data set.
    With --retry-failed, ask the URLs again that failed in a way that time can
    heal. With --metrics-file, write Prometheus metrics of what runs into that
    file every 15 seconds.
    """
    from rich import box
    from rich.table import Table

    from pipeline.own.record import refuse_own_stages
    from pipeline.runs.retry import begin_retry
    from pipeline.runs.run import run
    from pipeline.stages.fetch.img2dataset import LIMITS
    from pipeline.terminal.console import PrintableConsole

    extend, retry = words.take_flag("extend"), words.take_flag("retry-failed")
    metrics = words.take("metrics-file")
    (target,) = words.positional(1, "CONFIG.yaml or a preset's name")
    config = words.config(target)
    if extend and retry:
        raise ConfigError("--extend and --retry-failed: one at a time; extend first, then retry")
    refuse_own_stages(place_of(config.output))
    console = PrintableConsole(stderr=True)
    if config.fetch.engine == "img2dataset":
        console.print(LIMITS, soft_wrap=True)
    progress = Progress(console)
    if retry and not begin_retry(config, progress=progress):
        console.print(f"{config.output}: nothing to retry, no failed URL that time can heal", soft_wrap=True)
        return 0
    result = run(config, progress=progress, extend=extend, metrics_file=Path(metrics) if metrics else None)
    if result.retry is not None:
        console.print(f"retry: {_retried(result.retry)}")
    if not result.ran_tasks and not result.put_back:
        console.print(f"{config.output}: nothing to do, {result.samples:,} samples are up to date", soft_wrap=True)
        return 0
    table = Table("stage", "unit", "in", "kept", "rejected", "most common reasons", box=box.SIMPLE_HEAD)
    for column in table.columns[2:5]:
        column.justify = "right"
    for line in result.lines:
        reasons = sorted(line.rejected.items(), key=lambda item: (-item[1], item[0]))[:3]
        shown = ", ".join(f"{reason} {count:,}" for reason, count in reasons)
        rejected = sum(line.rejected.values())
        table.add_row(line.stage, line.unit, f"{line.rows_in:,}", f"{line.kept:,}", f"{rejected:,}", shown)
    console.print(table)
    console.print(
        f"{result.samples:,} samples, {result.num_bytes / 1e6:,.1f} MB in {config.output}/shards "
        f"({result.seconds:.0f} s)",
        soft_wrap=True,
    )
    for hint in result.hints:
        console.print(f"\n{hint.text}:\n  {hint.command}", soft_wrap=True, highlight=False)
    if not result.samples:
        console.print("The block list names every picture of the plan.")
    return 0


def status_command(words: Words) -> int:
    """status CONFIG.yaml|DIR

    Whether a run is under way, and what it is at: rates, time left, tasks that
    are slow or stuck; and how far each step is. From any shell, on any machine
    that sees the data set; reads only.
    """
    from rich import box
    from rich.table import Table

    from pipeline.own.record import recorded
    from pipeline.runs.last_run import last_run
    from pipeline.runs.live import lines_of
    from pipeline.runs.run import inspect
    from pipeline.steps.fetch.manners import manners_of
    from pipeline.steps.fetch.retries import retries_of
    from pipeline.terminal.console import PrintableConsole
    from pipeline.wit import build

    (target,) = words.positional(1, "CONFIG.yaml or a data set's directory")
    config = words.config(target)
    output, console = place_of(config.output), PrintableConsole()
    last = last_run(output)
    for line in [] if last is None else lines_of(last, console.width):
        console.print(line, soft_wrap=True, highlight=False)
    own = recorded(output)
    states = {state.step: state for state in inspect(config, own)[0]}
    table = Table("step", "done", "tasks", "rows", box=box.SIMPLE_HEAD)
    page = build(config, own)
    for step in page.steps:
        state = states.get(step.name)
        if state is None:
            table.add_row(step.name, "-", "-", "-")
        else:
            table.add_row(step.name, str(state.done), str(state.tasks), f"{state.rows:,}")
    console.print(table)
    for line in manners_of(page, config.fetch):
        console.print(line, highlight=False)
    retries = retries_of(output)
    for number, retried in enumerate(retries.finished, 1):
        console.print(f"retry {number}: {_retried(retried)}")
    if retries.under_way:
        console.print(f"retry {retries.number}: under way, the next run goes on with it")
    return 0


def _retried(retried: Retried) -> str:
    return f"{retried.retried:,} failed URLs asked again, {retried.healed:,} of them healed"
