"""Commands that bring a data set about: plan, run, status."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

import pipeline.schema as schemas
from pipeline.commands.words import Words
from pipeline.progress import Progress
from pipeline.run import inspect, run
from pipeline.wit import PAGE

__all__ = ["plan_command", "run_command", "status_command"]

_SCHEMAS = (
    *("CANDIDATES", "MATCHED", "SELECTED", "FACTS", "FETCHED", "SAMPLES", "REJECTIONS"),
    *("QUERIES", "QUERY_COUNTS", "FINAL_COUNTS"),
)


def plan_command(words: Words) -> int:
    """plan CONFIG.yaml [--section.key value ...]

    Print the stages, their schemas, and what would run. Nothing is written.
    """
    (target,) = words.positional(1, "CONFIG.yaml")
    config = words.config(target)
    states, first = inspect(config)
    known = {state.step: state for state in states}
    table = Table("step", "stages", "reads", "writes", "one task per", "to run", box=box.SIMPLE_HEAD)
    for entry in PAGE:
        state = known.get(entry.step)
        if state is None or state.tasks is None:
            todo = "after the above"
        else:
            todo = f"{state.tasks - state.done} of {state.tasks}" if state.done < state.tasks else "done"
        table.add_row(entry.step, entry.stages, entry.reads, entry.writes, entry.per, todo)
    console = Console()
    console.print(table)
    for name in _SCHEMAS:
        fields = ", ".join(f"{field.name}: {field.type}" for field in getattr(schemas, name))
        console.print(f"[bold]{name}[/bold]  {fields}", highlight=False)
    console.print(f"\noutput: {config.output}   next: {first.title if first else 'nothing, all done'}")
    return 0


def run_command(words: Words) -> int:
    """run CONFIG.yaml [--section.key value ...] [--extend]

    Build the data set, or go on with it: what is done already is not done again. With --extend, add the config's
    sources to those of the data set.
    """
    extend = words.take_flag("extend")
    (target,) = words.positional(1, "CONFIG.yaml")
    config = words.config(target)
    console = Console(stderr=True)
    result = run(config, progress=Progress(console), extend=extend)
    if not result.ran_tasks:
        console.print(f"{config.output}: nothing to do, {result.samples:,} samples are up to date")
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
        f"({result.seconds:.0f} s)"
    )
    if not result.samples:
        console.print("No sample survived: look at `python -m pipeline sql` ... failures")
    return 0


def status_command(words: Words) -> int:
    """status CONFIG.yaml|DIR

    How far each step is.
    """
    (target,) = words.positional(1, "CONFIG.yaml or a data set's directory")
    states = {state.step: state for state in inspect(words.config(target))[0]}
    table = Table("step", "done", "tasks", "rows", box=box.SIMPLE_HEAD)
    for entry in PAGE:
        state = states.get(entry.step)
        if state is None:
            table.add_row(entry.step, "-", "-", "-")
        else:
            table.add_row(entry.step, str(state.done), str(state.tasks), f"{state.rows:,}")
    Console().print(table)
    return 0
