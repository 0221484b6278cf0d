"""`openwit init`: its questions, what it proposes, and that the config it writes is one."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.load import ConfigError, load
from openwit.command import main
from openwit.command.columns import guess_columns
from pipeline.config import WitConfig
from pipeline.storage.output import open_output

ROWS = [
    {"id": i, "pic": f"https://a.example/{i}.jpg", "page_url": f"https://a.example/{i}", "words": f"a dog, number {i}"}
    for i in range(60)
]
YES = ("--yes", "--contact", "https://example.org/me")
Typed = Callable[..., list[str]]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EMAIL", raising=False)
    return tmp_path


def _write_parquet(path: Path, rows: Sequence[dict[str, Any]] = ROWS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path)


def _error(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(["init", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("error: ")


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Typed:
    """A person at a terminal who gives these answers; the prompts that they saw."""

    def answer(*answers: str) -> list[str]:
        rest, prompts = list(answers), []

        def read(prompt: str) -> str:
            prompts.append(prompt)
            if not rest:
                raise EOFError
            return rest.pop(0)

        monkeypatch.setattr("builtins.input", read)
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        return prompts

    return answer


def test_proposals_that_are_agreed_to_make_a_config(
    here: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _write_parquet(here / "links" / "a.parquet")
    _write_parquet(here / "links" / "b.parquet")
    (here / "links.csv").write_text("url,alt\nhttps://a.example/1.jpg,a dog\n")
    (here / "my-queries.txt").write_text("dog\n")
    monkeypatch.setenv("EMAIL", "me@example.org")
    prompts = typed("", "", "", "", "")
    assert main(["init"]) == 0
    assert [prompt.strip(" []") for prompt in prompts] == [
        *("links/*.parquet", "my-queries.txt", "data/links", "me@example.org", "20000")
    ]
    told = capsys.readouterr().out
    assert "2 files: pictures' URLs from 'pic', texts from 'words' (links/a.parquet)" in told
    assert "next: openwit plan openwit.yaml" in told
    config = load(WitConfig, Path("openwit.yaml"))
    assert config.sources == ("links/*.parquet",)
    assert (config.queries, config.output) == ("my-queries.txt", "data/links")
    assert config.extract.url_columns == ("pic",)
    assert config.extract.text_columns == ("words",)
    assert config.extract.page_url_columns == ("page_url",)
    assert config.balance.max_pairs_per_query == 20_000
    assert config.fetch.user_agent == "openwit/0.1 (me@example.org)"
    assert main(["plan", "openwit.yaml"]) == 0


def test_wrong_answer_is_told_and_asked_for_again(here: Path, typed: Typed, capsys: pytest.CaptureFixture[str]) -> None:
    _write_parquet(here / "a.parquet")
    with open_output(here / "set"):
        pass
    typed(
        *("nofile.csv", "a.parquet", "no-list.txt", "list", "wikipedia", "set/shards", "data/x"),
        *("nobody", "", "https://example.org/me", "-3", "many", "none"),
    )
    assert main(["init", "--to", "my.yaml"]) == 0
    told = capsys.readouterr().out
    for line in (
        "nofile.csv: no such file",
        "no-list.txt: no such file; write one query a line into a .txt, or say wikipedia",
        "list: a query list is a .txt, .csv or .parquet, or a preset: wikipedia, german, biomedical",
        "set/shards: inside a data set; did you mean set?",
        "nobody: user_agent must hold a URL or an e-mail address under which you can be reached",
        "--contact: there is nothing to propose; give one",
        "-3: write a whole number of at least 1, or none",
        "many: write a whole number of at least 1, or none",
    ):
        assert f"\n  {line}\n" in told
    assert "data/queries/wikipedia.parquet: not there yet; make it: openwit queries wikipedia" in told
    config = load(WitConfig, Path("my.yaml"))
    assert config.balance.mode == "none"
    assert config.queries == "data/queries/wikipedia.parquet"


def test_what_is_given_is_not_asked_for(here: Path, typed: Typed) -> None:
    _write_parquet(here / "a.parquet")
    prompts = typed("data/y")
    assert (
        main(
            [
                *("init", "--sources", "a.parquet", "--queries", "german", "--contact", "a@b.example"),
                *("--pairs_per_query", "1_000"),
            ]
        )
        == 0
    )
    assert len(prompts) == 1
    config = load(WitConfig, Path("openwit.yaml"))
    assert (config.output, config.balance.max_pairs_per_query) == ("data/y", 1000)


def test_file_that_is_there_is_replaced_by_consent_alone(
    here: Path, typed: Typed, capsys: pytest.CaptureFixture[str]
) -> None:
    _write_parquet(here / "a.parquet")
    (here / "openwit.yaml").write_text("mine")
    assert _error(capsys, *YES) == "openwit.yaml: is there already; --force replaces it, --to FILE writes another"
    typed("n")
    assert "is there already" in _error(capsys)
    assert (here / "openwit.yaml").read_text() == "mine"
    typed("y", "", "", "", "a@b.example", "")
    assert main(["init"]) == 0
    assert (here / "openwit.yaml").read_text() != "mine"
    assert main(["init", *YES, "--force"]) == 0


def test_one_who_leaves_has_written_nothing(here: Path, typed: Typed, capsys: pytest.CaptureFixture[str]) -> None:
    _write_parquet(here / "a.parquet")
    typed("a.parquet")
    assert main(["init"]) == 130
    assert capsys.readouterr().err == "stopped; nothing was written\n"
    assert not (here / "openwit.yaml").exists()


def test_without_a_terminal_it_says_how_to_answer(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _error(capsys).startswith("init asks five questions, and this is no terminal; answer them with --yes")
    assert _error(capsys, "--yes") == "--sources: there is nothing to propose; give one"
    _write_parquet(here / "a.parquet")
    assert _error(capsys, "--yes") == "--contact: there is nothing to propose; give one"
    assert "unknown option --balance.mode" in _error(capsys, "--balance.mode", "none")
    assert "unexpected argument 'a.yaml'" in _error(capsys, "a.yaml")
    assert [path.name for path in here.iterdir()] == ["a.parquet"]


def test_data_sets_and_tables_without_links_are_not_proposed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_output(here / "set"):
        _write_parquet(here / "set" / "shards.parquet")
    _write_parquet(here / ".cache" / "a.parquet")
    _write_parquet(here / "scores.parquet", [{"uid": "a", "score": 1.0}] * 100)
    (here / "few.jsonl").write_text('{"URL": "https://a.example/1.jpg", "TEXT": "a dog"}\n')
    assert main(["init", *YES]) == 0
    assert load(WitConfig, Path("openwit.yaml")).sources == ("few.jsonl",)


def test_archives_and_what_is_elsewhere_have_no_columns(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "a.warc.wat.gz").write_bytes(gzip.compress(b""))
    for sources, told in (
        ("a.warc.wat.gz", "wrote openwit.yaml"),
        ("https://example.org/a.parquet", "elsewhere, not looked at"),
        ("[a.warc.wat.gz, 'https://example.org/wat.paths.gz']", "wrote openwit.yaml"),
    ):
        assert main(["init", *YES, "--force", "--sources", sources]) == 0
        assert told in capsys.readouterr().out
        assert "extract:" not in (here / "openwit.yaml").read_text()
        load(WitConfig, Path("openwit.yaml"))


def test_directory_of_img2dataset_keeps_its_pictures(here: Path) -> None:
    row = {"url": "https://a.example/1.jpg", "caption": "a dog here", "key": "000", "status": "success"}
    _write_parquet(here / "out" / "00000.parquet", [row])
    (here / "out" / "00000.tar").write_bytes(b"")
    assert main(["init", *YES]) == 0
    config = load(WitConfig, Path("openwit.yaml"))
    assert config.source_format == "img2dataset"
    assert config.image.store_original


def test_names_of_others_do_not_steer_the_terminal(
    here: Path, typed: Typed, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "a\x1b[2J.csv").write_text("\x1b[1mpic,words\nhttps://a.example/1.jpg,a dog\n")
    prompts = typed("", "", "", "a@b.example", "")
    assert main(["init"]) == 0
    assert "\x1b" not in "".join(prompts) + capsys.readouterr().out
    assert load(WitConfig, Path("openwit.yaml")).sources == ("a\x1b[2J.csv",)


def test_names_of_others_cannot_break_out_of_the_file(here: Path) -> None:
    evil = "x\noutput: /etc\n# : [{\u2028\u0085\U0001f600"
    _write_parquet(here / "a.parquet", [{evil: "https://a.example/1.jpg", "it's: #1": "a dog here"}])
    assert main(["init", *YES, "--output", "data/: 'mine' #"]) == 0
    config = load(WitConfig, Path("openwit.yaml"))
    assert config.output == "data/: 'mine' #"
    assert config.extract.url_columns == (evil,)
    assert config.extract.text_columns == ("it's: #1",)


@pytest.mark.parametrize("format", ["parquet", "csv", "tsv", "jsonl", "csv.gz"])
def test_columns_are_told_by_what_is_in_them(here: Path, format: str) -> None:
    path = here / f"a.{format}"
    if format == "parquet":
        _write_parquet(path)
    elif format == "jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    else:
        opener = gzip.open if format.endswith("gz") else open
        with opener(path, "wt", newline="") as file:
            writer = csv.DictWriter(file, list(ROWS[0]), delimiter="\t" if format == "tsv" else ",")
            writer.writeheader()
            writer.writerows(ROWS)
    guess = guess_columns(str(path), format.removesuffix(".gz"))
    assert guess.names == ("id", "pic", "page_url", "words")
    assert (guess.url, guess.text, guess.page_url, guess.license) == ("pic", "words", "page_url", None)
    assert not guess.headless


def test_names_that_are_known_come_first(here: Path) -> None:
    row = {
        "thumb": "https://a.example/s.jpg",
        "URL": "https://a.example/1",
        "blurb": "many words stand in this column",
        "TEXT": "two words",
        "LICENSE": "https://cc.example/by",
    }
    _write_parquet(here / "a.parquet", [row])
    guess = guess_columns("a.parquet", "parquet")
    assert (guess.url, guess.text, guess.license) == ("URL", "TEXT", "LICENSE")
    _write_parquet(here / "b.parquet", [{"url": "https://a.example/1.jpg", "caption": ["a dog", "the dog"]}])
    assert guess_columns("b.parquet", "parquet").text == "caption"
    _write_parquet(
        here / "c.parquet", [{"jpg": b"\xff", "vector": [1.0], "url": "https://a.example/1", "words": "a dog"}]
    )
    guess = guess_columns("c.parquet", "parquet")
    assert (guess.names, guess.text) == (("jpg", "vector", "url", "words"), "words")
    _write_parquet(here / "d.parquet", [{"url": None, "caption": None}])
    assert guess_columns("d.parquet", "parquet").url == "url"


def test_table_without_a_header_is_given_names(here: Path) -> None:
    (here / "cc12m.tsv").write_text('https://a.example/1.jpg\ta "dog" here\t7\n' * 3)
    guess = guess_columns("cc12m.tsv", "tsv")
    assert guess.headless
    assert guess.names == ("url", "caption", "column_3")
    assert main(["init", *YES]) == 0
    config = load(WitConfig, Path("openwit.yaml"))
    assert config.extract.column_names == ("url", "caption", "column_3")
    (here / "my-queries.txt").write_text("dog\n")
    assert main(["plan", "openwit.yaml", "--queries", "my-queries.txt"]) == 0


def test_table_that_is_none_says_what_it_has(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match=r"a\.csv: no column holds URLs; it has a, b$"):
        guess_columns("a.csv", "csv")
    (here / "b.csv").write_text("url,b\nhttps://a.example/1.jpg,2\n")
    with pytest.raises(ConfigError, match="no column holds texts; it has url, b"):
        guess_columns("b.csv", "csv")
    (here / "c.parquet").write_bytes(b"PAR1" + bytes(100))
    assert "c.parquet: cannot be read as Parquet" in _error(capsys, *YES, "--sources", "c.parquet")
    (here / "d.jsonl").write_text("[1]\nno\n")
    assert "d.jsonl: no column holds URLs; it has none" in _error(capsys, *YES, "--sources", "d.jsonl")
    (here / "e").mkdir()
    assert _error(capsys, *YES, "--sources", "e") == "e: no such file; its files are e/*"
    (here / "f.bin").write_bytes(b"")
    assert "the name does not tell the format" in _error(capsys, *YES, "--sources", "f.bin")


@pytest.mark.parametrize("answer", ["[]", "[2026-99-99]", "[a", "[" * 2000])
def test_list_that_names_no_file_is_told(here: Path, capsys: pytest.CaptureFixture[str], answer: str) -> None:
    assert "write [first, second]" in _error(capsys, *YES, "--sources", answer)
