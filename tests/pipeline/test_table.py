"""Tables on terminals of any width, and where there is none: no value loses a letter."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.terminal.table import terminal_width, write_table

URL = "http://gallery.example/images/red-crescent-04115.jpg"


def shown(columns: list[str], rows: list[list[str]], width: int | None) -> list[str]:
    file = io.StringIO()
    write_table(columns, rows, file, width)
    return file.getvalue().splitlines()


def test_wide_terminal_shows_rows_in_one_line() -> None:
    lines = shown(["url", "width"], [[URL * 2, "120"]], 150)
    assert any(URL * 2 in line and "120" in line for line in lines)
    assert max(map(len, lines)) <= 150


def test_narrow_terminal_folds_values_and_loses_nothing() -> None:
    lines = shown(["url", "caption"], [[URL, "a red crescent"]], 60)
    assert max(map(len, lines)) <= 60
    assert "…" not in "".join(lines)
    assert URL in "".join(re.split(r" {2,}", line.strip())[0] for line in lines[3:])


def test_headers_break_at_underscores_before_values_do() -> None:
    lines = shown(["kept_percent", "head_percent", "full_queries"], [["31.85", "99.8", "350"]], 40)
    assert [line.split() for line in lines[1:3]] == [["kept_", "head_", "full_"], ["percent", "percent", "queries"]]
    assert lines[4].split() == ["31.85", "99.8", "350"]


def test_many_columns_are_shown_a_row_below_the_other() -> None:
    names = [f"column_{number}" for number in range(20)]
    lines = shown(names, [[f"value {number}" for number in range(20)], [URL] * 20], 80)
    assert max(map(len, lines)) <= 80
    assert next(line for line in lines if line.strip()).startswith(" row 1 ─")
    assert any(re.fullmatch(r" column_19 +value 19 *", line) for line in lines)


def test_where_there_is_no_terminal_rows_are_as_wide_as_they_are() -> None:
    lines = shown(["url", "n"], [[URL * 10, "1"]], None)
    assert any(URL * 10 in line for line in lines)


def test_a_table_without_rows_keeps_its_header() -> None:
    assert "kept_percent" in "".join(shown(["kept_percent"], [], 80))


@given(
    width=st.integers(40, 200),
    rows=st.lists(st.lists(st.text(st.characters(codec="ascii"), max_size=120), min_size=3, max_size=3), max_size=4),
)
def test_no_line_is_wider_than_the_terminal(width: int, rows: list[list[str]]) -> None:
    assert max(map(len, shown(["a", "long_name_of_a_column", "c"], rows, width)), default=0) <= width


def test_width_is_that_of_the_terminal_or_what_columns_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert terminal_width(io.StringIO()) is None

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdout", Terminal())
    monkeypatch.setenv("COLUMNS", "133")
    import sys

    assert terminal_width(sys.stdout) == 133
