"""What `--help` says of a config class."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest

from configs.help import ask_for_help, describe, help_page
from configs.load import ConfigError
from configs.options import OneOf
from pipeline.config import WitConfig
from query_list.config import BuildConfig
from training.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Inner:
    """How pairs are kept. A second sentence."""

    max_pairs: int = 20
    """The most pairs,
    at all."""
    mode: Literal["quota", "none"] = "quota"


@dataclass(frozen=True, kw_only=True)
class Outer:
    output: str
    """Where to."""
    inner: Inner = field(default_factory=Inner)
    other: Inner | None = None


_METHODS = {"first": "the first that comes", "random": "one of " + "very " * 40 + "many", "none": ""}


@dataclass(frozen=True, kw_only=True)
class Listed:
    method: Annotated[str, OneOf(_METHODS)] = "first"
    """How to take one."""
    other: Annotated[str, OneOf({"a": "", "b": ""})] | None = None
    methods: tuple[Annotated[str, OneOf(_METHODS)], ...] = ()
    note: Annotated[str, "of somebody else"] = ""


def test_every_option_is_described_with_its_documentation() -> None:
    text = describe(Outer)
    assert "--output  str  (required)\n      Where to." in text
    assert "--inner.max_pairs  int  [20]\n      The most pairs, at all." in text
    assert "--inner.mode  quota | none" in text
    assert help_page(Outer, "all") == text


def test_names_of_a_list_are_told_with_what_they_mean() -> None:
    text = describe(Listed)
    assert (
        '--method  first | random | none  ["first"]\n      How to take one.\n        first: the first that comes\n'
        in text
    )
    assert "        random: one of very" in text
    assert "none: " not in text
    assert "--other  a | b | null  [null]\n" in text
    assert "--methods  [first | random | none, ...]" in text
    assert '--note  str  [""]' in text


def test_first_page_has_what_is_needed_and_the_sections() -> None:
    page = help_page(Outer, None, needed=("output", "inner.max_pairs"))
    assert "--output" in page
    assert "--inner.max_pairs" in page
    assert "--inner.mode" not in page
    assert "  general   1  " in page
    assert "  inner     2  How pairs are kept.\n" in page
    assert "second sentence" not in page
    assert "relative to the directory in which the command is run" in page


def test_page_of_a_section_or_an_option() -> None:
    assert help_page(Outer, "inner").startswith("inner: How pairs are kept.\n\n  --inner.max_pairs")
    assert help_page(Outer, "inner.mode") == help_page(Outer, "--inner.mode")
    assert "max_pairs" not in help_page(Outer, "inner.mode")
    assert "--output" in help_page(Outer, "general")
    for topic, told in (("iner", "did you mean 'inner'?"), ("xyz", "there are general, inner, other, all")):
        with pytest.raises(ConfigError, match=f"--help: no section or option '{topic}'; {told}".replace("?", r"\?")):
            help_page(Outer, topic)


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["run", "a.yaml"], (False, None)),
        (["run", "--help"], (True, None)),
        (["run", "-h", "fetch"], (True, "fetch")),
        (["--help", "--x"], (True, None)),
    ],
)
def test_help_is_asked_for_with_or_without_a_page(words: list[str], asked: tuple[bool, str | None]) -> None:
    assert ask_for_help(words) == asked


@pytest.mark.parametrize("config", [WitConfig, BuildConfig, TrainConfig, Listed])
def test_help_fits_a_terminal_of_80_columns(config: type[object]) -> None:
    lines = [*describe(config).splitlines(), *help_page(config, None).splitlines()]
    assert max(map(len, lines)) <= 80
