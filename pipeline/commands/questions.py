"""Commands that ask a data set and leave it as it is: sql, explain, report, verify."""

from __future__ import annotations

import dataclasses
import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from configs.load import ConfigError
from pipeline.commands.results import shape_of, show
from pipeline.commands.words import Words
from pipeline.storage.place import Place, place_of
from pipeline.storage.written import written
from pipeline.terminal.printable import printable_json, say
from pipeline.terminal.progress import Progress

if TYPE_CHECKING:
    from pipeline.questions.verify import Damage

__all__ = ["balance_report_command", "explain_command", "report_command", "sql_command", "verify_command"]

_DATA_SET = "CONFIG.yaml or a data set's directory"
_REPAIRS = 2


def sql_command(words: Words) -> int:
    """sql CONFIG.yaml|DIR "SELECT ..."|NAME
        [--format table|csv|json|parquet] [--to FILE] [--allow-files]

    Ask the data set in SQL (DuckDB), or by the name of a query. SQL sees the
    data set and nothing else of the machine, and writes nothing, unless
    --allow-files is given.

    Views: candidates, matched, deduplicated, permitted, selected, fetched,
        queries, query_counts, final_counts, published, samples, rejections,
        hosts, heavy_hosts, robots, robots_coverage, robots_live, shards,
        runs, ledger, reasons
    Names: aspect_ratios, balance, balance_curve, balance_final,
        balance_summary, balance_tail, balance_unmatched,
        caption_characters, caption_words, consent, duplicates, failures,
        formats, funnel, heavy_hosts, host_shares, hosts, image_sizes,
        language_probability, languages, licences, links_left,
        queries_by_rank, query_sources, sample_hosts, totals
    """
    from pipeline.catalog.catalog import NAMED_QUERIES, check_query, confine, named_query, open_catalog, sql_errors

    shape, to, allow_files = words.take("format"), words.take("to"), words.take_flag("allow-files")
    shape = shape_of(shape, to)
    target, query = words.positional(2, f'{_DATA_SET}, and "SELECT ..." or one of {", ".join(NAMED_QUERIES)}')
    output = words.output(target)
    ours = len(query.split()) == 1
    if ours:
        query = named_query(query.strip())
    with _written(to) as path, open_catalog(output, query) as database, sql_errors():
        if not ours and not allow_files:
            confine(database, [output], [] if path is None else [path])
            check_query(database, query)
        relation = database.sql(query)
        if relation is not None:
            show(relation, shape, path)
    return 0


def _written(to: str | None) -> AbstractContextManager[Path | None]:
    """Where to write the result that is to be the file `to`; None for the terminal."""
    return nullcontext() if to is None else written(place_of(to))


def explain_command(words: Words) -> int:
    """explain CONFIG.yaml|DIR --uid HEX | --url URL [--format text|json]

    The story of one link: where it was found, what each stage said, its
    queries with their counts, thresholds and its own hashes, what came of the
    request, its shard and key. Works in the middle of a run.
    """
    from pipeline.catalog.catalog import sql_errors
    from pipeline.questions.explain import explain, lines_of

    uid, url, shape = words.take("uid"), words.take("url"), words.take("format") or "text"
    if shape not in ("text", "json"):
        raise ConfigError(f"--format {shape!r} is not one of text, json")
    if (uid is None) == (url is None):
        raise ConfigError("name one link: --uid HEX or --url URL")
    (target,) = words.positional(1, _DATA_SET)
    output = words.output(target)
    with sql_errors(str(output)):
        stories = explain(output, uid=uid, url=url)
    if shape == "json":
        rows = [dataclasses.asdict(story) for story in stories]
        print(printable_json(json.dumps(rows, indent=1, ensure_ascii=False, default=_plain)))
    else:
        for number, story in enumerate(stories):
            for line in ([""] if number else []) + lines_of(story):
                say(line)
    return 0


def _plain(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def balance_report_command(words: Words) -> int:
    """balance-report CONFIG.yaml|DIR [--of limits|modes|published]
        [--t N,N,...] [--format table|csv|json|parquet] [--to FILE]

    What each of several t would keep of this set's pairs, so that t can be
    chosen without a run (limits); the captions that each mode of balancing
    would keep at its t (modes); its figures beside the published ones
    (published). A table on the terminal has all three, a file or another
    format the one that --of names, else the modes.
    """
    from pipeline.questions.balance_tables import TABLES, balance_table
    from pipeline.storage.duck import open_duckdb

    of, limits, shape, to = words.take("of"), words.take("t"), words.take("format"), words.take("to")
    shape = shape_of(shape, to)
    if of is not None and of not in TABLES:
        raise ConfigError(f"--of {of!r} is not one of {', '.join(TABLES)}")
    chosen = _limits_of(limits)
    (target,) = words.positional(1, _DATA_SET)
    output = words.output(target)
    shown = [of] if of else list(TABLES) if shape == "table" and to is None else ["modes"]
    with _written(to) as path, open_duckdb() as database:
        for name in shown:
            if len(shown) > 1:
                say(TABLES[name])
            database.register("answer", balance_table(output, name, chosen))
            show(database.sql("SELECT * FROM answer"), shape, path)
    return 0


def _limits_of(text: str | None) -> list[int]:
    try:
        found = [int(part.replace("_", "")) for part in text.split(",")] if text else []
    except ValueError:
        raise ConfigError(f"--t: expected whole numbers with commas between them, got {text!r}") from None
    if any(t < 1 for t in found):
        raise ConfigError(f"--t: each must be at least 1, got {text!r}")
    return found


def report_command(words: Words) -> int:
    """report CONFIG.yaml|DIR [--to FILE.html]

    Write the data card, one self-contained HTML page.
    """
    from pipeline.catalog.catalog import sql_errors
    from pipeline.questions.report import write_report

    to = words.take("to")
    (target,) = words.positional(1, _DATA_SET)
    output = words.output(target)
    path = place_of(to) if to else output / "report.html"
    with sql_errors(str(output)):
        write_report(output, path)
    say(f"wrote {path}")
    return 0


def verify_command(words: Words) -> int:
    """verify CONFIG.yaml|DIR [--work] [--repair] | RELEASE [--key KEY.pub]

    Check every tar, member, picture, hash, row and count of the published
    shards. Each damage is a line; the exit status is 1 when there is one. With
    --work, check every file of work/ too, against its done-record. With
    --repair, make again what is damaged, from what is left: nothing is
    requested. Of what `release` made, check every file against its checksum,
    and with --key who signed it.
    """
    from pipeline.releasing.verify import is_release
    from pipeline.runs.repair import repair
    from pipeline.terminal.console import PrintableConsole

    work, mend, key = words.take_flag("work"), words.take_flag("repair"), words.take("key")
    (target,) = words.positional(1, _DATA_SET)
    if is_release(place_of(target)):
        if work or mend:
            raise ConfigError(f"{target}: a release, which has no work, and is mended by a copy of what is damaged")
        return _verify_release(place_of(target), key)
    if key is not None:
        raise ConfigError("--key: a release is signed, a data set is not")
    output = words.output(target)
    damages = _verify(output, work=work)
    if mend and damages:
        for _ in range(_REPAIRS):  # a damaged manifest hides what else is damaged
            repair(output, damages, Progress(PrintableConsole(stderr=True)))
            damages = _verify(output, work=work)
            if not damages:
                break
    return 1 if damages else 0


def _verify_release(place: Place, key: str | None) -> int:
    from pipeline.releasing.verify import verify_release
    from pipeline.storage.keys import public_key

    result = verify_release(place, None if key is None else public_key(place_of(key)))
    for damage in result.damages:
        say(f"damaged: {damage.file}: {damage.what}")
    checked = f"{result.shards:,} files, {result.samples:,} samples, {result.num_bytes / 1e6:,.1f} MB"
    say(f"{place}: {checked}: {f'{len(result.damages)} damaged' if result.damages else 'all whole'}")
    return 1 if result.damages else 0


def _verify(output: Place, *, work: bool) -> list[Damage]:
    """Print what is damaged, and a last line that sums up."""
    from pipeline.questions.verify import verify
    from pipeline.questions.verify_work import verify_work

    result = verify(output)
    damages = list(result.damages)
    checked = f"{result.shards:,} shards, {result.samples:,} samples, {result.num_bytes / 1e6:,.1f} MB"
    if work:
        beneath = verify_work(output)
        damages += beneath.damages
        checked += f", {beneath.shards:,} tasks of work/, {beneath.num_bytes / 1e6:,.1f} MB"
    for damage in damages:
        say(f"damaged: {damage.file}: {damage.what}")
    say(f"{output}: {checked}: {f'{len(damages)} damaged' if damages else 'all whole'}")
    return damages
