"""The list of source formats: what is derived from it, and that one file and one line add to it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from configs.help import describe
from configs.load import ConfigError, from_mapping
from pipeline.errors import InputError
from pipeline.stages.extract import (
    ExtractConfig,
    Format,
    check_source,
    extract,
    format_of,
    formats,
    stores_pictures,
)
from pipeline.stages.extract.formats import FORMATS, SourceFormat

_DOCS = Path(__file__).parents[2] / "docs" / "extraction.md"
_NAMES = "auto, wat, warc, parquet, csv, tsv, jsonl, img2dataset"


@dataclass(frozen=True, kw_only=True)
class _Config:
    source_format: Format = "auto"
    """What the sources are."""


def test_config_takes_the_listed_names_and_auto_alone() -> None:
    for name in _NAMES.split(", "):
        assert from_mapping(_Config, {"source_format": name}).source_format == name
    with pytest.raises(ConfigError, match=rf"'parket' is not one of {_NAMES}; did you mean 'parquet'\?"):
        from_mapping(_Config, {"source_format": "parket"})


def test_help_has_a_line_for_each_format() -> None:
    text = " ".join(describe(_Config).split())
    assert f"--source_format {_NAMES.replace(', ', ' | ')} [" in text
    for known in FORMATS:
        assert f" {known.name}: {known.says[:20]}" in text


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.warc.wat.gz", "wat"),
        ("a.wat", "wat"),
        ("a.warc.gz", "warc"),
        ("dir.csv/A.WARC.ZST", "warc"),
        ("a.parquet", "parquet"),
        ("a.pq", "parquet"),
        ("a.csv.gz", "csv"),
        ("a.csv.bgz", "csv"),
        ("https://example.com/a.tsv.zst", "tsv"),
        ("a.jsonl.lz4", "jsonl"),
        ("a.ndjson", "jsonl"),
    ],
)
def test_name_of_a_file_tells_its_format(name: str, format: str) -> None:
    assert format_of(name).name == format
    assert format_of(name, "img2dataset").name == "img2dataset", "a named format goes before the name of the file"


@pytest.mark.parametrize("name", ["a.txt", "a", "a.parquet/b", "a.gz", "csv"])
def test_name_that_tells_no_format_is_an_error(name: str) -> None:
    told = "does not tell the format; set it to one of wat, warc, parquet, csv, tsv, jsonl$"
    for read in (lambda: format_of(name), lambda: extract(name, ExtractConfig()), lambda: _check(name)):
        with pytest.raises(InputError, match=told):
            read()


def _check(name: str) -> None:
    check_source(name, ExtractConfig())


def test_format_that_is_not_listed_is_an_error() -> None:
    for read in (format_of, lambda name, format: stores_pictures(format)):
        with pytest.raises(ConfigError, match=f"no format 'xml'; name one of {_NAMES}"):
            read("a.csv", "xml")


def test_no_file_name_tells_two_formats() -> None:
    endings = [ending for known in FORMATS for ending in known.endings]
    for ending in endings:
        assert [other for other in endings if ending.endswith(other)] == [ending]
        assert ending.startswith(".")
        assert ending == ending.lower()


def test_pictures_beside_a_source_are_asked_for_by_name() -> None:
    assert [known.name for known in FORMATS if known.stores_pictures] == ["img2dataset"]
    assert stores_pictures("img2dataset")
    assert not stores_pictures("auto")
    assert not any(known.endings for known in FORMATS if known.stores_pictures)


def test_list_of_formats_loads_no_reader() -> None:
    heavy = "{'numpy', 'pyarrow', 'numba', 'fastwarc', 'selectolax', 'msgspec', 'fsspec', 'zstandard'}"
    program = f"import sys, pipeline.stages.extract; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_format_of_the_docs_is_read_once_it_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = _DOCS.read_text(encoding="utf-8").split("## A format of one's own in the code")[1]
    code = section.split("```python\n")[1].split("```")[0]
    found: dict[str, Any] = {"__name__": "urls"}
    exec(compile(code, "docs/extraction.md", "exec"), found)
    urls: SourceFormat = found["URLS"]
    path = tmp_path / "a.urls"
    path.write_bytes(b"http://example.com/1.jpg\ta dog\nno tab\n" + b"x" * 300 + b"\nhttp://example.com/2.jpg\ta cat")
    config = ExtractConfig(max_record_bytes=200)
    with pytest.raises(InputError, match="does not tell the format"):
        extract(str(path), config)

    monkeypatch.setattr(formats, "FORMATS", (*FORMATS, urls))
    check_source(str(path), config)
    (outcome,) = extract(str(path), config)
    assert outcome.kept["url"].to_pylist() == ["http://example.com/1.jpg", "http://example.com/2.jpg"]
    assert outcome.kept["alt_text"].to_pylist() == ["a dog", "a cat"]
    assert outcome.rejected["reason"].to_pylist() == ["bad_record", "oversized_record"]
    assert (outcome.num_in, outcome.num_records, outcome.num_read) == (2, 4, 2)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="the file is empty; a URL list file was expected"):
        check_source(str(path), config)
