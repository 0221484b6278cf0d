"""`openwit init`: five questions, and a config with comments that `openwit plan` accepts.

    words, answers --check each at once--> Answers --look at the first table--> YAML --load--> the file

An answer that cannot be right is told in one line and asked for again.
"""

from __future__ import annotations

import glob
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import yaml

from configs.load import ConfigError, from_mapping
from openwit.command.answers import (
    Sources,
    read_contact,
    read_most,
    read_output,
    read_queries,
    read_sources,
)
from pipeline.commands.words import Words
from pipeline.config import WitConfig
from pipeline.errors import InputError, PipelineError
from pipeline.stages.extract.formats import format_of
from pipeline.storage.atomic import write_bytes
from pipeline.storage.output import is_output
from pipeline.terminal.printable import printable, say

__all__ = ["init"]

T = TypeVar("T")
_NO_TERMINAL = (
    "init asks five questions, and this is no terminal; answer them with "
    "--yes --sources PATHS --queries FILE --output DIR --contact URL"
)
_DEEPEST = 2
_MOST_ENTRIES = 5_000
"""Where sources are looked for: so deep below this directory, and not beyond so many files."""


def init(words: Sequence[str]) -> None:
    """Ask what `words` leave open, and write the config. Raises ConfigError, PipelineError."""
    given = Words(words)
    yes, force = given.take_flag("yes"), given.take_flag("force")
    to = Path(given.take("to") or "openwit.yaml")
    answers = {name: given.take(name) for name in ("sources", "queries", "output", "contact", "pairs-per-query")}
    given.positional(0, "options alone")
    for option in given.overrides():
        raise ConfigError(f"unknown option {option.partition('=')[0]}; put it into the config, or see init --help")
    asks = not yes and sys.stdin.isatty()
    if not asks and not yes and None in answers.values():
        raise ConfigError(_NO_TERMINAL)
    if to.exists() and not force and not (asks and _agrees(f"{to} is there already. Replace it?")):
        raise ConfigError(f"{to}: is there already; --force replaces it, --to FILE writes another")

    def ask(name: str, question: str, proposal: str | None, read: Callable[[str], T]) -> T:
        answer = answers[name]
        return _answer(name, question, proposal, read, answer, asks=asks and answer is None)

    sources = ask(
        "sources",
        "Where are the links? Tables or crawl archives: a path, a glob or a URL",
        _find_sources(),
        read_sources,
    )
    queries = ask(
        "queries",
        "Which queries? A file with one a line, or a list of `openwit queries`",
        _find_queries(),
        read_queries,
    )
    output = ask("output", "Where shall the data set go? A directory", f"data/{_name_of(sources)}", read_output)
    contact = ask(
        "contact",
        "How can a site's owner reach you? A URL or an e-mail address; it is sent with each request",
        _find_contact() if asks else None,
        read_contact,
    )
    most = ask("pairs-per-query", "How many pairs may one query bring? 20000 as in CLIP, or none", "20000", read_most)
    text = _config_text(to, sources, queries, output, contact, most)
    from_mapping(WitConfig, yaml.safe_load(text), where=str(to))
    write_bytes(to, text.encode())
    _tell(to, sources, queries)


def _answer(
    name: str, question: str, proposal: str | None, read: Callable[[str], T], given: str | None, *, asks: bool
) -> T:
    """What `read` makes of the answer, which is given, asked for, or the proposal."""
    while True:
        if asks:
            say(question)
            given = input(f"  [{printable(proposal, one_line=True)}] " if proposal else "  ").strip()
        answer = given or proposal
        try:
            if not answer:
                raise ConfigError(f"--{name.replace('-', '_')}: there is nothing to propose; give one")
            return read(answer)
        except (ConfigError, PipelineError) as error:
            if not asks:
                raise
            say(f"  {error}")


def _agrees(question: str) -> bool:
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


# --- what to propose --------------------------------------------------------------------------


def _find_sources() -> str | None:
    """The files here that look like a table of links or an archive: of the folder and kind with most bytes."""
    groups: dict[tuple[str, str], list[Path]] = {}
    for path in _files_here(Path(), _DEEPEST):
        if (ending := _ending_of(path.name)) is not None:
            groups.setdefault((str(path.parent), ending), []).append(path)
    for (folder, ending), files in sorted(groups.items(), key=lambda item: -sum(map(_size_of, item[1]))):
        pattern = str(files[0]) if len(files) == 1 else os.path.join(glob.escape(folder), f"*{ending}")
        try:
            read_sources(pattern)
        except (ConfigError, PipelineError):
            continue
        return pattern.removeprefix("./")
    return None


def _files_here(folder: Path, deeper: int) -> Iterator[Path]:
    """Files here and below, but not in data sets, nor in folders that begin with a dot."""
    try:
        entries = sorted(folder.iterdir())[:_MOST_ENTRIES]
    except OSError:
        return
    for entry in entries:
        if entry.is_file():
            yield entry
        elif deeper and entry.is_dir() and not entry.name.startswith(".") and not is_output(entry):
            yield from _files_here(entry, deeper - 1)


def _ending_of(name: str) -> str | None:
    """The part of a file's name that tells its format, as it is written; None where none does."""
    try:
        endings = format_of(name).endings
    except InputError:
        return None
    return name[max(name.lower().rfind(ending) for ending in endings) :]


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _find_queries() -> str:
    """A list here by its name; else the one that the published recipe makes."""
    found = [*sorted(Path().glob("*quer*.txt")), *sorted(Path().glob("*quer*.parquet")), *_made_lists()]
    return str(found[0]) if found else "wikipedia"


def _made_lists() -> list[Path]:
    return sorted(Path("data/queries").glob("*.parquet"))


def _find_contact() -> str | None:
    """$EMAIL, to be agreed to."""
    return os.environ.get("EMAIL") or None


def _name_of(sources: Sources) -> str:
    """A name for the data set, after the folder or file of its first source."""
    path = Path(sources.patterns[0].rpartition("://")[2])
    name = path.name if not glob.has_magic(path.name) else path.parent.name
    stem = name.partition(".")[0]
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in stem) or "set"


# --- the config -------------------------------------------------------------------------------


def _config_text(to: Path, sources: Sources, queries: str, output: str, contact: str, most: int | None) -> str:
    """The YAML, with comments. What a table calls its columns cannot break it."""
    name = json.dumps(str(to)).strip('"')  # in a comment, which no name may end
    lines = [
        f"# Written by `openwit init`. What would run: openwit plan {name}. All options: openwit shards --help all",
        "",
        "# Paths, globs or URLs. Relative paths are relative to the directory in which the command is run.",
        f"sources: {_yaml(sources.patterns)}",
    ]
    if sources.img2dataset:
        lines += [
            "source_format: img2dataset  # the pictures in its tars are used; without this line they are requested"
        ]
    lines += [f"queries: {_yaml(queries)}", f"output: {_yaml(output)}", *_extract_lines(sources), "", "balance:"]
    if most is None:
        lines += ["  mode: none  # every pair that matches a query"]
    else:
        lines += [f"  max_pairs_per_query: {most}  # t; CLIP took 20,000 of 400 million pairs"]
    lines += ["", "fetch:", f"  user_agent: {_yaml(contact)}  # sent with every request"]
    if sources.img2dataset:
        lines += [
            "",
            "image:",
            "  store_original: true  # the stored bytes stay as they are; false to encode them again",
        ]
    return "\n".join([*lines, ""])


def _extract_lines(sources: Sources) -> list[str]:
    guess = sources.guess
    if guess is None:
        return []
    known = guess.names[:20]
    more = f" and {len(guess.names) - len(known)} more" if len(guess.names) > len(known) else ""
    lines = [
        "",
        "extract:",
        f"  # The columns of {json.dumps(sources.first)}: {json.dumps(known)}{more}",
        f"  url_columns: {_yaml([guess.url])}",
        f"  text_columns: {_yaml([guess.text])}",
        f"  page_url_columns: {_yaml([guess.page_url] if guess.page_url else [])}",
        f"  license_columns: {_yaml([guess.license] if guess.license else [])}",
    ]
    if guess.headless:
        lines.append(f"  column_names: {_yaml(guess.names)}  # its first row is data")
    return lines


def _yaml(value: str | Sequence[str]) -> str:
    """`value` in one line of YAML, quoted where it has to be."""
    several = [value] if isinstance(value, str) else list(value)
    plain = all(one.isprintable() for one in several)  # PyYAML writes a next line (U+0085) that it reads as a line feed
    text: str = yaml.safe_dump(several, default_flow_style=True, width=1_000_000, allow_unicode=plain).strip()
    return text[1:-1] if isinstance(value, str) else text


def _tell(to: Path, sources: Sources, queries: str) -> None:
    guess = sources.guess
    if guess is not None:
        what = f"{sources.files:,} file{'s' if sources.files > 1 else ''}"
        say(f"{what}: pictures' URLs from {guess.url!r}, texts from {guess.text!r} ({sources.first})")
    elif not sources.files:
        say(f"{sources.patterns[0]}: elsewhere, not looked at; see extract.url_columns and text_columns")
    say(f"wrote {to}")
    if "://" not in queries and not Path(queries).exists():
        say(f"{queries}: not there yet; make it: openwit queries {Path(queries).stem}")
    say(f"next: openwit plan {to}, then openwit shards {to}")
