"""What comes from the web is shown on a terminal, never carried out there."""

from __future__ import annotations

import ast
import io
import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from pipeline.commands import main
from pipeline.questions.report import write_report
from pipeline.terminal.console import PrintableConsole
from pipeline.terminal.printable import printable, printable_json, say
from pipeline.terminal.progress import Progress
from tests.conftest import REPOSITORY
from tests.pipeline import small_set
from training.evaluation.metrics import Metric
from training.run.log import show_metrics

HOSTILE = "a\x1b]0;owned\x07\x1b[31m\x9b2J\u202egpj\u2066\u2028\r\x08[red]x[/] [link=http://b]y[/link] :boom:\x7f"
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069]")


def test_each_steering_character_is_spelt_out() -> None:
    assert printable("a\x1b[0m\x9b\u202e\U000e0041\x00\r") == r"a\x1b[0m\x9b\u202e\U000e0041\x00\x0d"
    assert printable("two\nlines\tand “quotes”, é, 猫, \u200d, 👩‍💻") == "two\nlines\tand “quotes”, é, 猫, \u200d, 👩‍💻"
    assert printable("two\nlines", one_line=True) == r"two\nlines"


@given(st.text())
def test_nothing_that_steers_is_left_and_nothing_else_is_touched(text: str) -> None:
    shown = printable(text)
    assert not STEERING.search(shown)
    assert not any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" for c in shown)
    if not any(unicodedata.category(c)[0] in "CZ" for c in text):
        assert shown == text
    shown.encode()


@given(st.text())
def test_json_says_the_same_as_before(text: str) -> None:
    shown = printable_json(json.dumps([text], ensure_ascii=False))
    assert json.loads(shown) == [text]
    assert not STEERING.search(shown)


def test_console_neither_steers_nor_reads_markup() -> None:
    file = io.StringIO()
    console = PrintableConsole(file=file, force_terminal=True, color_system="truecolor", width=200, highlight=False)
    table = Table(HOSTILE, title=HOSTILE)
    table.add_row(HOSTILE)
    console.print(HOSTILE)
    console.print(table)
    console.print(Text(HOSTILE, "bold"))
    shown = re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())  # what rich itself makes: styles
    assert not STEERING.search(shown.replace("\n", ""))
    assert shown.count("[red]x[/]") == shown.count(":boom:") == 5
    assert "\x1b[31m" not in file.getvalue()


def test_a_line_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"error: {HOSTILE}\nerror: forged")
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert not STEERING.search(out.rstrip("\n"))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set whose captions, pages and sources are HOSTILE."""
    root = tmp_path_factory.mktemp("hostile") / "set"
    plain = small_set.make_rows

    def rows(pairs: int) -> list[dict[str, Any]]:
        texts = dict.fromkeys(("caption", "alt_text", "page_url", "source"), HOSTILE)
        return [row | texts | {"reason": row["reason"] and HOSTILE} for row in plain(pairs)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_set, "make_rows", rows)
        small_set.make_set(root, 60)
    return root


@pytest.mark.parametrize(
    "words",
    [
        ["sql", "{set}", "SELECT caption, page_url FROM samples"],
        ["sql", "{set}", "SELECT caption AS \"[red]c\x1b[31m\" FROM samples", "--format", "json"],
        ["sql", "{set}", "SELECT {'k': caption} FROM samples"],
        ["sql", "{set}", "failures"],
        ["sql", "{set}", "SELECT nothing FROM samples WHERE '\x1b[31m' = 'x'"],
        ["sql", "{set}", "SELECT caption::INT FROM samples"],
        ["explain", "{set}", "--uid", "{uid}"],
        ["explain", "{set}", "--uid", "{uid}", "--format", "json"],
        ["explain", "{set}", "--url", HOSTILE],
        ["subset", "{set}", "--where", "caption::INT = 1", "--out", "{set}-out"],
        ["join", "{set}", HOSTILE.replace("\x00", "")],
        ["verify", "{set}"],
        ["status", HOSTILE],
        [HOSTILE],
    ],
)  # fmt: skip
def test_no_command_passes_an_escape_on(hostile: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    uid = small_set.make_rows(60)[0]["uid"].hex()
    main([word.replace("{set}", str(hostile)).replace("{uid}", uid) for word in words])
    printed = capsys.readouterr()
    assert not STEERING.search((printed.out + printed.err).replace("\n", ""))
    assert "[red]" in printed.out + printed.err or "[red]" not in " ".join(words) + "caption"


def test_csv_for_another_program_and_files_keep_the_text_as_it_is(
    hostile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = "SELECT caption FROM samples LIMIT 1"
    main(["sql", str(hostile), query, "--format", "csv"])
    assert "\x1b]0;owned" in capsys.readouterr().out
    main(["sql", str(hostile), query, "--to", str(tmp_path / "x.json")])
    assert json.loads((tmp_path / "x.json").read_text()) == [{"caption": HOSTILE}]


def test_data_card_shows_them_as_text(hostile: Path, tmp_path: Path) -> None:
    write_report(hostile, tmp_path / "card.html")
    page = (tmp_path / "card.html").read_text(encoding="utf-8")
    assert not STEERING.search(page.replace("\n", ""))
    assert r"\x1b]0;owned\x07" in page


def test_metrics_and_progress_show_names_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    show_metrics([Metric(name=HOSTILE, value=0.5, chance=0.1)], title=HOSTILE)
    with Progress(PrintableConsole(stderr=True)).step("step", HOSTILE, tasks=1, skipped=0) as watch:
        watch.given(HOSTILE, key="k", subject=HOSTILE)
    printed = capsys.readouterr()
    assert not STEERING.search((printed.out + printed.err).replace("\n", ""))


def test_everything_that_prints_goes_through_here() -> None:
    """No bare `print` of anything but our own words, and no rich console but ours, in the packages."""
    found = []
    for package in ("configs", "openwit", "pipeline", "query_list", "training"):
        for path in (REPOSITORY / package).rglob("*.py"):
            if path.name == "printable.py":
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                    continue
                if node.func.id == "Console" or (node.func.id == "print" and not _is_ours(node)):
                    found.append(f"{path.relative_to(REPOSITORY)}:{node.lineno}")
    assert found == []


def _is_ours(call: ast.Call) -> bool:
    """Help texts, and JSON that was made printable."""
    text = ast.unparse(call)
    ours = ("__doc__", "describe(", "getdoc", "printable(", "printable_json", "Options of")
    of_the_command = ("_overview()", "version(", "SHELLS[", "candidates(")  # the last are read by a shell, which quotes
    return any(words in text for words in (*ours, *of_the_command))
