"""The benchmarks are whole: all can be imported, and those without a side environment run, at sizes of no meaning."""

from __future__ import annotations

import gzip
import importlib
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.published_matches import PUBLISHED, fitted
from tests.conftest import REPOSITORY

REAL_DATA = ("language", "query_list_build", "text_path")


@pytest.mark.parametrize("path", sorted((REPOSITORY / "benchmarks").glob("[a-z]*.py")), ids=lambda path: path.stem)
def test_it_can_be_imported(path: Path) -> None:
    importlib.import_module(f"benchmarks.{path.stem}")


def test_generated_matches_have_the_published_aggregates() -> None:
    text_E, query_E = fitted().of(np.arange(60_000, dtype=np.uint64))
    assert len(text_E) / 60_000 == pytest.approx(PUBLISHED.matches / PUBLISHED.texts, rel=0.02)
    assert (query_E < PUBLISHED.heads).mean() == pytest.approx(PUBLISHED.head_share, abs=0.005)
    # Where they meet, both laws give a query t matches.
    border = (query_E >= 0.8 * PUBLISHED.heads) & (query_E < 1.25 * PUBLISHED.heads)
    each = border.sum() / (0.45 * PUBLISHED.heads) / 60_000 * PUBLISHED.texts
    assert each == pytest.approx(PUBLISHED.t, rel=0.1)
    assert len(set(zip(text_E.tolist(), query_E.tolist(), strict=True))) == len(text_E)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("catalog", ["--rows", "20000", "--repeats", "1"]),
        ("driver", ["--tasks", "20", "--files", "200"]),
        ("fidelity", ["--rows", "20000"]),
        ("language", ["--texts", "2000", "--repeats", "1"]),
        (
            "object_stores",
            ["--clients", "obstore", "obstore.fsspec", "--requests", "20", "--mb", "16", "--repeats", "1"],
        ),
        ("one_pass", ["--repeats", "1"]),
        ("query_list_build", ["--words", "1000"]),
        ("robots", ["--hosts", "50", "--urls", "500", "--repeats", "1"]),
        ("select_scale", ["--rows", "20000", "--engine", "inline", "--max-urls-per-caption", "10", "--compare"]),
        ("semantic_duplicates", ["--rows", "600", "--width", "16", "--clusters", "9", "--all-pairs"]),
        ("train_bucket", []),
        ("train_sampling", ["--samples", "30000", "--batch", "512", "--repeats", "1"]),
        ("text_path", ["--texts", "3000", "--queries", "2000", "--repeats", "1"]),
    ],
)
def test_it_runs(
    name: str,
    arguments: list[str],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if name in REAL_DATA:
        arguments = [*arguments, "--data", str(request.getfixturevalue("few_rows"))]
    if name == "one_pass":
        table = pa.table({"url": [f"http://a.example/{i}.jpg" for i in range(9)], "text": ["a dog in the snow"] * 9})
        pq.write_table(table, tmp_path / "links.parquet")
        (tmp_path / "queries.txt").write_text("dog\n")
        arguments = [*arguments, str(tmp_path / "links.parquet"), "--queries", str(tmp_path / "queries.txt")]
    if name in ("fidelity", "select_scale", "semantic_duplicates"):
        arguments = [*arguments, "--scratch", str(tmp_path / "scratch")]
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    importlib.import_module(f"benchmarks.{name}").main()
    assert capsys.readouterr().out.strip()


@pytest.fixture(scope="module")
def few_rows(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real data, of captions and texts every twentieth."""
    root = tmp_path_factory.mktemp("few-rows")
    for name in ("captions/captions.tsv.gz", "lid/lid.tsv.gz"):
        (root / name).parent.mkdir()
        head, *rows = gzip.decompress((shared_data / name).read_bytes()).split(b"\n")
        (root / name).write_bytes(gzip.compress(b"\n".join([head, *rows[::20]]), compresslevel=1))
    (root / "pictures").mkdir()
    texts = pq.read_table(shared_data / "pictures/texts.parquet")
    pq.write_table(texts.take(list(range(0, texts.num_rows, 20))), root / "pictures/texts.parquet")
    (root / "queries").symlink_to(shared_data / "queries")
    return root
