"""The commands of `python -m pipeline`.

plan        CONFIG.yaml [--section.key value ...]      the stages, their schemas, and what would run
run         CONFIG.yaml [--section.key value ...]      build the data set, or go on with it
            [--extend]                                 add the config's sources to those of the data set
            [--retry-failed]                           ask failed URLs again that time can heal
            [--metrics-file PATH]                      write Prometheus metrics of what runs
status      CONFIG.yaml|DIR                            whether a run lives and what it is at; how far each step is
sql         CONFIG.yaml|DIR "SELECT ..."|NAME [--format table|csv|json|parquet] [--to FILE]
            [--allow-files]                            let the SQL read, and write, other files of this machine
report      CONFIG.yaml|DIR [--to FILE.html]           the data card
balance-report CONFIG.yaml|DIR                         what several t, and each mode, would keep
explain     CONFIG.yaml|DIR --uid HEX | --url URL      the story of one link
verify      CONFIG.yaml|DIR [--work] [--repair]        check every tar, picture, hash, row and count
subset      DIR --out DIR2 [--where "CONDITION"] [--uids FILE] [--limit_per_query N] [--samples_per_shard N]
            [--allow-files]                            let the condition read other files of this machine
join        DIR SCORES.parquet [--name NAME]           a user's columns, by uid
export-list DIR --to FILE.parquet                      URLs and captions without images
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence

from configs.load import ConfigError, describe
from pipeline.errors import PipelineError
from pipeline.terminal.printable import say

__all__ = ["main"]

_COMMANDS = {
    "plan": "runs.plan_command",
    "run": "runs.run_command",
    "status": "runs.status_command",
    "sql": "questions.sql_command",
    "report": "questions.report_command",
    "balance-report": "questions.balance_report_command",
    "explain": "questions.explain_command",
    "verify": "questions.verify_command",
    "subset": "sets.subset_command",
    "join": "sets.join_command",
    "export-list": "sets.export_list_command",
}
"""Command -> module here and function of `Words`. A function imports what it drives, so that `--help`, which prints its
docstring, loads none of it."""


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit status.

    0 done, 1 `verify` found damage, 2 a mistake that the message explains, 130 stopped by the user.
    """
    words = list(arguments)
    try:
        return _run(words)
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its end
        return 0


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(__doc__)
        return 0 if words else 2
    if words[0] not in _COMMANDS:
        say(f"error: no command {words[0]!r}; there are {', '.join(_COMMANDS)}", to=sys.stderr)
        return 2
    try:
        command = _command(words[0])
        if "--help" in words or "-h" in words:
            return _help(words[0], command)
        from pipeline.commands.words import Words

        return command(Words(words[1:]))
    except (ConfigError, PipelineError) as error:
        say(f"error: {error}", to=sys.stderr)
        return 2
    except KeyboardInterrupt:
        say("stopped; run the same command again to go on from here", to=sys.stderr)
        return 130


def _command(name: str) -> Callable[..., int]:
    module, function = _COMMANDS[name].split(".")
    found: Callable[..., int] = getattr(importlib.import_module(f"pipeline.commands.{module}"), function)
    return found


def _help(name: str, command: Callable[..., int]) -> int:
    print(f"python -m pipeline {inspect.getdoc(command)}\n")
    if name in ("plan", "run"):
        from pipeline.config import WitConfig

        print(f"Options of {name}, in CONFIG.yaml or on the command line:\n")
        print(describe(WitConfig))
    elif name == "subset":
        from pipeline.sets.subset_config import SubsetConfig

        print(describe(SubsetConfig))
    return 0
