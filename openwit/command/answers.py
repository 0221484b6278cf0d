"""The answers to the questions of `openwit init`, each checked at once against what is there."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass
from pathlib import Path

import yaml

from configs.load import ConfigError, parse_overrides
from configs.presets import preset
from openwit.command.columns import Guess, guess_columns
from pipeline.commands.words import new_output
from pipeline.stages.extract.formats import format_of
from pipeline.stages.fetch.config import FetchConfig
from pipeline.storage.output import check_output

__all__ = ["Sources", "read_contact", "read_most", "read_output", "read_queries", "read_sources"]

_LISTS = (".paths", ".paths.gz")
_TABLES = ("parquet", "csv", "tsv", "jsonl")


@dataclass(frozen=True, kw_only=True)
class Sources:
    """An answer to the first question."""

    patterns: tuple[str, ...]
    files: int
    """On this machine; 0 where they are elsewhere."""
    guess: Guess | None
    """Of the first table; None for archives, and for what is elsewhere."""
    first: str
    """That table."""
    img2dataset: bool


def read_sources(answer: str) -> Sources:
    """The sources, and what the first table tells. Raises ConfigError, InputError."""
    patterns = _list_of(answer)
    files: list[str] = []
    for pattern in patterns:
        if "://" in pattern:
            continue
        found = sorted(name for name in _matching(pattern) if os.path.isfile(name))
        if not found:
            hint = f"; its files are {os.path.join(pattern, '*')}" if os.path.isdir(pattern) else ""
            raise ConfigError(f"{pattern}: no such file{hint}")
        files += found
    first = files[0] if files else patterns[0]
    if not files or first.endswith(_LISTS):
        return Sources(patterns=patterns, files=len(files), guess=None, first=first, img2dataset=False)
    known = format_of(first)
    if known.name not in _TABLES:
        return Sources(patterns=patterns, files=len(files), guess=None, first=first, img2dataset=False)
    guess = guess_columns(first, known.name)
    tar = Path(first).with_suffix(".tar")
    img2dataset = known.name == "parquet" and tar.exists() and {"key", "status"} <= set(guess.names)
    return Sources(patterns=patterns, files=len(files), guess=guess, first=first, img2dataset=img2dataset)


def _list_of(answer: str) -> tuple[str, ...]:
    if not answer.startswith("["):
        return (answer,)
    try:
        ((_, found),) = parse_overrides(["--sources", answer])
    except ConfigError as error:
        raise ConfigError(f"{answer}: no list; write [first, second]") from error
    if not isinstance(found, list) or not found:
        raise ConfigError(f"{answer}: names no file; write [first, second]")
    return tuple(str(pattern) for pattern in found)


def _matching(pattern: str) -> list[str]:
    return [pattern] if os.path.exists(pattern) else glob.glob(pattern, recursive=True)


def read_queries(answer: str) -> str:
    """The list's path; of a preset, the path of the list that it makes."""
    if (file := preset("queries", answer)) is not None:
        output = yaml.safe_load(file.read_text(encoding="utf-8"))["output"]
        return str(output)
    path = Path(answer)
    if path.suffix not in (".txt", ".csv", ".parquet"):
        raise ConfigError(
            f"{answer}: a query list is a .txt, .csv or .parquet, or a preset: wikipedia, german, biomedical"
        )
    if "://" not in answer and not path.exists() and path.parts[:2] != ("data", "queries"):
        raise ConfigError(f"{answer}: no such file; write one query a line into a .txt, or say wikipedia")
    return answer


def read_output(answer: str) -> str:
    """The directory, which is empty, absent or a data set. Raises ConfigError, OutputError; no bucket is asked."""
    place = new_output(answer)
    if isinstance(place, Path):
        check_output(place, must_exist=False)
    return answer


def read_contact(answer: str) -> str:
    """The user agent that says so. Raises ConfigError where it could reach nobody."""
    agent = f"openwit/0.1 ({'+' if '://' in answer else ''}{answer})"
    try:
        FetchConfig(user_agent=agent)
    except ConfigError as error:
        raise ConfigError(f"{answer}: {error}") from error
    return agent


def read_most(answer: str) -> int | None:
    """t; None for no balancing."""
    if answer.lower() == "none":
        return None
    try:
        most = int(answer.replace("_", "").replace(",", ""))
    except ValueError:
        most = 0
    if most < 1:
        raise ConfigError(f"{answer}: write a whole number of at least 1, or none")
    return most
