"""The commands of `python -m query_list`, each with --help.

build      CONFIG.yaml [--section.key value ...]   make the list, or bring it up
           to date
stats      CONFIG.yaml|LIST                        sizes by source, examples
lint       CONFIG.yaml|LIST [--texts FILE] [--rule words|metaclip]
           [--case smart|fold|exact] [--function_words en|de|none]
           what matches never, twice, or says nothing
diff-rules CONFIG.yaml|LIST TEXTS [--case smart|fold|exact] [--limit N]
           what each rule of matching finds in texts that the other does not

LIST is a .parquet, .csv or .txt file; TEXTS a .txt (one a line), or a .parquet,
.csv or .tsv with a column caption, alt_text or text. CONFIG.yaml may be a
preset's word instead: sample, wikipedia, german, biomedical.
Paths are relative to the directory in which the command is run.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from configs.help import ask_for_help, help_page
from configs.load import ConfigError, from_mapping, load, parse_overrides
from configs.near import did_you_mean
from configs.presets import no_preset, preset
from configs.system import check_system
from pipeline.errors import PipelineError
from pipeline.storage.place import Place, place_of
from pipeline.terminal.printable import printable, say

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.records.queries import QueryList

__all__ = ["VERBS", "main"]


_CONFIG_ENDINGS = (".yaml", ".yml")
_NEEDED = ("output", "lists", "dump.files", "titles.pageviews", "wordnet.index")
"""Options on the first page of help."""


def main(arguments: Sequence[str], *, called: str | None = None) -> int:
    """Run one command; returns the exit status (0 done, 2 a mistake that the message explains). `called` is what the
    user wrote for it, if not `python -m query_list`."""
    words = list(arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(__doc__)
        return 0 if words else 2
    try:
        if words[0] not in _COMMANDS:
            raise ConfigError(f"no command {words[0]!r}; {did_you_mean(words[0], _COMMANDS)}")
        asked, topic = ask_for_help(words)
        if asked:
            return _help(words[0], called or f"python -m query_list {words[0]}", topic)
        check_system()
        return _COMMANDS[words[0]](words[1:])
    except (ConfigError, PipelineError) as error:
        say(f"error: {error}", to=sys.stderr)
        return 2
    except KeyboardInterrupt:
        say("stopped; run the same command again to go on from here", to=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0


def _help(command: str, called: str, topic: str | None) -> int:
    if command != "build":
        print(__doc__)
        return 0
    from query_list.config import BuildConfig

    page = help_page(BuildConfig, topic, needed=_NEEDED)
    usage = f"{called} CONFIG.yaml [--section.key value ...]\n\nMake the list, or bring it up to date.\n\n"
    print(printable(page if topic else usage + page), flush=True)
    return 0


def _build(words: list[str]) -> int:
    from pipeline.records.queries import read_queries
    from pipeline.terminal.console import PrintableConsole
    from pipeline.terminal.progress import Progress
    from query_list.build import build
    from query_list.config import BuildConfig

    if not words or words[0].startswith("--"):
        raise ConfigError("give a config or a preset's name: python -m query_list build configs/queries/sample.yaml")
    config = load(BuildConfig, _config_place(words[0]), words[1:])
    console = PrintableConsole(stderr=True, highlight=False)
    result = build(config, Progress(console))
    if not result.built:
        console.print(f"{result.path}: nothing to do, {result.num_queries:,} queries are up to date")
        return 0
    for name in (
        "pages",
        "articles",
        "redirects",
        "disambiguations",
        "broken_pages",
        "words",
        "broken_lines",
        "lone_letter",
        "near_stop_word",
    ):
        if result.facts.get(name):
            console.print(f"  {name.replace('_', ' '):<18} {result.facts[name]:>14,}")
    _print_stats(read_queries(result.path), console)
    console.print(f"{result.num_queries:,} queries in {result.path} (fingerprint {result.fingerprint})")
    return 0


def _stats(words: list[str]) -> int:
    from pipeline.records.queries import read_queries
    from pipeline.terminal.console import PrintableConsole

    path, rest = _list_path(words)
    if rest:
        raise ConfigError(f"unexpected argument {rest[0]!r}")
    found = read_queries(path)
    console = PrintableConsole(highlight=False)
    _print_stats(found, console)
    console.print(f"{len(found.queries):,} queries, fingerprint {found.fingerprint}")
    return 0


def _lint(words: list[str]) -> int:
    from pipeline.matching.config import MatchConfig
    from pipeline.records.queries import read_queries
    from query_list.config import EmptyQueriesConfig
    from query_list.report import lint, read_texts

    path, rest = _list_path(words)
    options = dict(parse_overrides(rest))
    texts = options.pop("texts", None)
    language = {"function_words": options.pop("function_words")} if "function_words" in options else {}
    empty_queries = from_mapping(EmptyQueriesConfig, language, where="the command line")
    config = from_mapping(MatchConfig, options, where="the command line")
    sample = read_texts(place_of(texts)) if texts else ()
    findings = lint(read_queries(path), config, sample, empty_queries=empty_queries)
    for finding in findings:
        say(f"{finding.kind:<15} {finding.query_id:>7}  {finding.query!r}: {finding.detail}")
    kinds = Counter(finding.kind for finding in findings)
    say(", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items())) or "nothing to report")
    return 0


def _diff_rules(words: list[str]) -> int:
    from pipeline.matching.config import MatchConfig
    from pipeline.records.queries import read_queries
    from query_list.report import diff_rules, read_texts

    path, rest = _list_path(words)
    if not rest or rest[0].startswith("--"):
        raise ConfigError("give a sample of texts: python -m query_list diff-rules LIST TEXTS")
    options = dict(parse_overrides(rest[1:]))
    limit = int(options.pop("limit", 20))
    config = from_mapping(MatchConfig, options, where="the command line")
    texts = read_texts(place_of(rest[0]))
    differences = diff_rules(read_queries(path), texts, config)
    for only in ("words", "metaclip"):
        found = [difference for difference in differences if difference.only == only]
        in_texts = len({difference.text for difference in found})
        say(f"only {only}: {len(found):,} matches in {in_texts:,} of {len(texts):,} texts")
        for difference in found[:limit]:
            say(f"  {difference.query!r} in {difference.text[:100]!r}")
    return 0


def _list_path(words: list[str]) -> tuple[Place, list[str]]:
    """The list that the first word names, itself or by its build config; and the other words."""
    if not words or words[0].startswith("--"):
        raise ConfigError("give a query list (.parquet, .csv, .txt) or the config that builds one")
    path = place_of(words[0])
    if path.suffix in _CONFIG_ENDINGS or not path.suffix:
        from query_list.config import BuildConfig

        path = place_of(load(BuildConfig, _config_place(words[0])).output)
    return path, words[1:]


def _config_place(word: str) -> Place:
    """Where the config is that `word` names: a path, or a preset. Raises ConfigError."""
    path = place_of(word)
    if not isinstance(path, Path) or path.suffix in _CONFIG_ENDINGS:
        return path
    if (file := preset("queries", word)) is not None:
        return file
    if not path.exists():
        raise ConfigError(f"{word}: no config here; {no_preset('queries', word)}")
    return path


def _print_stats(found: QueryList, console: Console) -> None:
    from rich import box
    from rich.table import Table

    from query_list.report import stats

    table = Table("source", "queries", "ranked by", "first", "last", box=box.SIMPLE_HEAD)
    for facts in stats(found):
        table.add_row(
            facts.source, f"{facts.num_queries:,}", facts.figure, ", ".join(facts.first), ", ".join(facts.last)
        )
    console.print(table)


_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "build": _build,
    "stats": _stats,
    "lint": _lint,
    "diff-rules": _diff_rules,
}
VERBS = tuple(_COMMANDS)
"""The commands, by name."""
