"""The commands of `python -m pipeline`, each with --help.

plan   CONFIG.yaml [--section.key value ...]     the steps, and what would run
run    CONFIG.yaml [--section.key value ...]     build the data set, or go on
       [--extend]                                add the config's sources to it
       [--retry-failed]                          ask failed URLs again
       [--metrics-file PATH]                     Prometheus metrics of what runs
status CONFIG.yaml|DIR                           whether a run lives, how far it is
sql    CONFIG.yaml|DIR "SELECT ..."|NAME [--format table|csv|json|parquet]
       [--to FILE] [--allow-files]               let SQL use files of this machine
report CONFIG.yaml|DIR [--to FILE.html]          the data card
balance-report CONFIG.yaml|DIR                   what several t, and each mode, keep
explain CONFIG.yaml|DIR --uid HEX | --url URL    the story of one link
verify CONFIG.yaml|DIR [--work] [--repair]       check every byte and count
       RELEASE [--key KEY.pub]                   the same of a release
subset DIR --out DIR2 [--where "CONDITION"] [--uids FILE] [--limit_per_query N]
       [--samples_per_shard N] [--allow-files]   new shards from old
join   DIR SCORES.parquet [--name NAME]          a user's columns, by uid
export-list DIR --to FILE.parquet                URLs and captions, no images
release DIR OUT [--about FILE.yaml] [--pictures] the set for others, checked
remove DIR --urls FILE | --hosts FILE | --sha256 FILE | --uids FILE
       [--reason TEXT] [--sign KEY] [--replace]
       [--dry-run]                               take samples out, for good
compact DIR [--sign KEY]                         their bytes too, in a bucket
apply-delta DIR DELTA.json [--key PUBLIC]        what a publisher removed

CONFIG.yaml may be a preset's word instead: sample, commoncrawl, laion ...
Paths are relative to the directory in which the command is run.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence

from configs.help import ask_for_help, describe, help_page
from configs.load import ConfigError
from configs.near import did_you_mean
from configs.system import check_system
from pipeline.errors import PipelineError
from pipeline.terminal.printable import printable, say

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
    "release": "sets.release_command",
    "remove": "takedown.remove_command",
    "compact": "takedown.compact_command",
    "apply-delta": "takedown.apply_delta_command",
}
"""Command -> module here and function of `Words`. A function imports what it drives, so that `--help`, which prints its
docstring, loads none of it."""


_NEEDED = ("sources", "queries", "output", "fetch.user_agent", "balance.max_pairs_per_query", "language.targets")
"""Options on the first page of help."""


def main(arguments: Sequence[str], *, called: str | None = None) -> int:
    """Run one command; returns the exit status. `called` is what the user wrote for it, if not `python -m pipeline`.

    0 done, 1 `verify` found damage, 2 a mistake that the message explains, 130 stopped by the user.
    """
    words = list(arguments)
    try:
        return _run(words, called)
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its end
        return 0


def _run(words: list[str], called: str | None) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(__doc__)
        return 0 if words else 2
    if words[0] not in _COMMANDS:
        say(f"error: no command {words[0]!r}; {did_you_mean(words[0], _COMMANDS)}", to=sys.stderr)
        return 2
    try:
        command = _command(words[0])
        asked, topic = ask_for_help(words)
        if asked:
            return _help(words[0], command, called or f"python -m pipeline {words[0]}", topic)
        check_system()
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


def _help(name: str, command: Callable[..., int], called: str, topic: str | None) -> int:
    from pipeline.config import WitConfig

    # Every command with a config takes its options, but only these two are about them.
    first = name in ("plan", "run")
    page = help_page(WitConfig, topic, needed=_NEEDED) if first or topic else ""
    if topic is None:
        print(f"{called} {(inspect.getdoc(command) or '').partition(' ')[2]}\n")
    if name == "subset" and topic is None:
        from pipeline.sets.subset_config import SubsetConfig

        page = describe(SubsetConfig)
    if name == "release" and topic is None:
        from pipeline.releasing.config import ReleaseConfig

        page = describe(ReleaseConfig)
    print(printable(page), end="\n" if page else "")
    return 0
