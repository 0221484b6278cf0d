"""The commands of `python -m pipeline`.

plan    CONFIG.yaml [--section.key value ...]          the stages, their schemas, and what would run
run     CONFIG.yaml [--section.key value ...]          build the data set, or go on with it
status  CONFIG.yaml|DIR                                how far each step is
sql     CONFIG.yaml|DIR "SELECT ..."|NAME [--format table|csv|json|parquet] [--to FILE]
report  CONFIG.yaml|DIR [--to FILE.html]               the data card
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from configs.load import ConfigError, describe, load
from pipeline.errors import PipelineError

__all__ = ["main"]

_FORMATS = ("table", "csv", "json", "parquet")


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit status (0 done, 2 a mistake that the message explains)."""
    words = list(arguments)
    command = _COMMANDS.get(words[0]) if words else None
    if command is None or words[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if words and words[0] in ("-h", "--help", "help") else 2
    if "--help" in words or "-h" in words:
        return _help(words[0])
    try:
        return command(words[1:])
    except (ConfigError, PipelineError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0


def _help(command: str) -> int:
    print(__doc__)
    if command in ("plan", "run"):
        from pipeline.wit import WitConfig

        print(f"Options of {command}, in CONFIG.yaml or on the command line:\n")
        print(describe(WitConfig))
    if command == "sql":
        from pipeline.catalog import NAMED_QUERIES, VIEWS

        print(f"Views: {', '.join(VIEWS)}\nNamed queries: {', '.join(NAMED_QUERIES)}")
    return 0


def _plan(words: list[str]) -> int:
    import pipeline.schema as schemas
    from pipeline.run import inspect
    from pipeline.wit import PAGE, WitConfig

    config = load(WitConfig, _target(words), words[1:])
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
    for name in ("CANDIDATES", "MATCHED", "SELECTED", "FETCHED", "SAMPLES", "REJECTIONS", "QUERIES", "QUERY_COUNTS"):
        fields = ", ".join(f"{field.name}: {field.type}" for field in getattr(schemas, name))
        console.print(f"[bold]{name}[/bold]  {fields}", highlight=False)
    console.print(f"\noutput: {config.output}   next: {first.title if first else 'nothing, all done'}")
    return 0


def _run(words: list[str]) -> int:
    from pipeline.progress import Progress
    from pipeline.run import run
    from pipeline.wit import WitConfig

    config = load(WitConfig, _target(words), words[1:])
    console = Console(stderr=True)
    result = run(config, progress=Progress(console))
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


def _status(words: list[str]) -> int:
    from pipeline.run import inspect
    from pipeline.wit import PAGE, WitConfig

    target = _target(words)
    config = load(WitConfig, target / "config.yaml" if target.is_dir() else target, words[1:])
    states = {state.step: state for state in inspect(config)[0]}
    table = Table("step", "done", "tasks", "rows", box=box.SIMPLE_HEAD)
    for entry in PAGE:
        state = states.get(entry.step)
        if state is None:
            table.add_row(entry.step, "-", "-", "-")
        else:
            table.add_row(entry.step, str(state.done), str(state.tasks), f"{state.rows:,}")
    Console().print(table)
    return 0


def _sql(words: list[str]) -> int:
    import duckdb

    from pipeline.catalog import NAMED_QUERIES, SqlError, named_query, open_catalog

    shape = _take(words, "--format") or "table"
    to = _take(words, "--to")
    if shape not in _FORMATS:
        raise ConfigError(f"--format {shape!r} is not one of {', '.join(_FORMATS)}")
    if shape == "parquet" and to is None:
        raise ConfigError("--format parquet needs --to FILE")
    output = _output(words)
    if len(words) < 2 or words[1].startswith("--"):
        raise ConfigError(f'give a query: "SELECT ..." or one of {", ".join(NAMED_QUERIES)}')
    query = words[1] if " " in words[1].strip() else named_query(words[1].strip())
    try:
        with open_catalog(output) as database:
            relation = database.sql(query.strip().rstrip(";"))
            if relation is None:
                return 0
            _show(relation, shape, to)
    except duckdb.Error as error:
        raise SqlError(f"SQL: {' '.join(str(error).split())}") from error
    return 0


def _show(relation: "duckdb.DuckDBPyRelation", shape: str, to: str | None) -> None:  # noqa: F821, UP037
    """Print or write a result; 16-byte identities are shown in hex."""
    columns = [
        f'lower(hex("{name}")) AS "{name}"' if str(kind) == "BLOB" else f'"{name}"'
        for name, kind in zip(relation.columns, relation.types, strict=True)
    ]
    if shape == "parquet":
        relation.write_parquet(str(to), compression="zstd")
        return
    shown = relation.project(", ".join(columns))
    if shape == "csv":
        text = _csv(shown)
    elif shape == "json":
        import json

        rows = [dict(zip(shown.columns, row, strict=True)) for row in shown.fetchall()]
        text = json.dumps(rows, indent=1, ensure_ascii=False, default=str) + "\n"
    else:
        table = Table(*shown.columns, box=box.SIMPLE_HEAD)
        for row in shown.fetchall():
            table.add_row(*("" if value is None else str(value) for value in row))
        if to is None:
            Console().print(table)
            return
        console = Console(file=Path(to).open("w", encoding="utf-8"), width=200)  # noqa: SIM115
        console.print(table)
        return
    if to is None:
        sys.stdout.write(text)
    else:
        Path(to).write_text(text, encoding="utf-8")


def _csv(relation: "duckdb.DuckDBPyRelation") -> str:  # noqa: F821, UP037
    import csv
    import io

    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(relation.columns)
    writer.writerows(relation.fetchall())
    return buffer.getvalue()


def _report(words: list[str]) -> int:
    from pipeline.report import write_report

    to = _take(words, "--to")
    output = _output(words)
    path = Path(to) if to else output / "report.html"
    write_report(output, path)
    print(f"wrote {path}")
    return 0


def _target(words: Sequence[str]) -> Path:
    """The config (or directory) that a command is about: its first word."""
    if not words or words[0].startswith("--"):
        raise ConfigError("name a config first: python -m pipeline COMMAND CONFIG.yaml [--section.key value ...]")
    return Path(words[0])


def _output(words: Sequence[str]) -> Path:
    """The data set's directory: the first word itself, or what the config says."""
    target = _target(words)
    if target.is_dir():
        return target
    from pipeline.wit import WitConfig

    options = list(words[1:])
    if options and not options[0].startswith("--"):
        options = options[1:]
    return Path(load(WitConfig, target, options).output)


def _take(words: list[str], option: str) -> str | None:
    """Remove `option VALUE` from `words`; returns the value."""
    if option not in words:
        return None
    position = words.index(option)
    if position + 1 >= len(words):
        raise ConfigError(f"{option} needs a value")
    value = words[position + 1]
    del words[position : position + 2]
    return value


_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "plan": _plan,
    "run": _run,
    "status": _status,
    "sql": _sql,
    "report": _report,
}
