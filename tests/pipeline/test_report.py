"""The data card: what it shows of which set, that it asks for nothing, and that it fits a phone."""

from __future__ import annotations

import html
import io
import itertools
import json
import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from PIL import Image

from configs.load import load
from pipeline.catalog.catalog import NAMED_QUERIES, named_query, open_catalog
from pipeline.commands import main
from pipeline.config import WitConfig
from pipeline.pages import reasons_of, whole_page
from pipeline.questions.card import gather as gather_module
from pipeline.questions.card import samples
from pipeline.questions.card.charts import curve_of, histogram_of
from pipeline.questions.card.render import render
from pipeline.questions.card.words import answer_in_words, explained_figure, explained_stage
from pipeline.questions.report import write_report
from pipeline.storage.output import open_output
from tests.pipeline import small_set

BAD = """<script>alert(1)</script> "onload='x' & <img src=http://evil.example/x.png> </style></svg>"""
SECTIONS = [
    *("published", "funnel", "balance", "queries", "rejections", "captions", "pictures", "hosts", "consent"),
    *("duplicates", "samples", "reading"),
]
VOID = {"meta", "img", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """The elements of a page; every one is closed in its place."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def of(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


def _card(output: Path, path: Path) -> str:
    write_report(output, path)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("card") / "my set"
    small_set.make_set(root)
    return root


@pytest.fixture(scope="module")
def card(small: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return _card(small, tmp_path_factory.mktemp("page") / "card.html")


# --- the page -------------------------------------------------------------------------------------


def test_a_card_asks_for_nothing(card: str) -> None:
    page = Page(card)
    assert not page.of("script", "link", "iframe", "object", "embed", "form", "base", "audio", "video", "use", "image")
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "srcset", "poster", "action", "data", "xlink:href"):
                assert (tag, name) == ("img", "src")
                assert str(value).startswith("data:image/")
            if name == "href":
                assert str(value).startswith("#")
    (style,) = re.findall(r"<style>(.*?)</style>", card, re.DOTALL)
    assert "url(" not in style
    assert "@import" not in style
    assert "http" not in style


def test_a_card_can_be_listened_to(card: str) -> None:
    page = Page(card)
    assert page.of("html")[0]["lang"] == "en"
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(image["alt"] for image in page.of("img"))
    ids = [str(attributes["id"]) for _, attributes in page.elements if "id" in attributes]
    assert [name for name, times in Counter(ids).items() if times > 1] == []
    charts = [svg for svg in page.of("svg") if svg.get("role") == "img"]
    assert len(charts) == 6
    for chart in charts:
        assert set(str(chart["aria-labelledby"]).split()) <= set(ids)
    for svg in page.of("svg"):
        assert svg.get("role") == "img" or svg.get("aria-hidden") == "true" or "preserveaspectratio" in svg
    targets = {str(link["href"])[1:] for link in page.of("a")}
    assert targets == set(SECTIONS)
    assert targets <= set(ids)


def test_sections_stand_in_their_order_each_with_its_sql(card: str) -> None:
    assert re.findall(r'<section id="(\w+)"', card) == SECTIONS
    shown = re.findall(r'<pre tabindex="0" aria-label="(\w+)">', card)
    assert set(shown) <= set(NAMED_QUERIES)
    for name in shown:
        assert named_query(name).strip() in html.unescape(card)


def test_the_same_set_gives_the_same_bytes(small: Path, card: str, tmp_path: Path) -> None:
    assert _card(small, tmp_path / "again.html") == card
    moved = tmp_path / "my set"
    shutil.copytree(small, moved, symlinks=True)
    assert _card(moved, tmp_path / "moved.html") == card, "where a set lies is its config's affair"


def test_header_says_what_made_the_set(card: str) -> None:
    for term, told in (("t, pairs a query", "20"), ("seed", "5"), ("made", "2024-05-05"), ("with", "not recorded")):
        assert f"<dt>{term}</dt><dd>{told}</dd>" in card
    assert "<dt>balancing</dt><dd>quota: " in card
    assert "q.txt, fingerprint not recorded" in card


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--mode=metaclip"], "each query selects about 20 pairs"),
        (["--mode=none", "--baseline_pairs=9"], "<dt>t, pairs a query</dt><dd>none; 9 pairs drawn uniformly</dd>"),
        (["--tail_share=0.5"], "<dt>t, pairs a query</dt><dd>not recorded; derived: "),
        (["--expected_yield=0.9"], "20; planned with a reserve for a yield of 90%"),
    ],
)
def test_header_says_what_t_is(small: Path, words: list[str], told: str) -> None:
    options = [f"--balance.{word[2:]}" for word in words]
    config = load(WitConfig, small / "config.yaml", options)
    with pytest.MonkeyPatch.context() as patch, open_catalog(small) as database:
        patch.setattr(gather_module, "config_of", lambda output: config)
        assert told in render(gather_module.gather(small, database))


def test_strangers_words_are_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row | {"caption": BAD, "url": f"http://{BAD}/x"} for row in small_set.make_rows(60)]
    monkeypatch.setattr(small_set, "make_rows", lambda pairs: rows)
    monkeypatch.setattr(small_set, "QUERIES_OF_THE_SET", [f"{BAD} {i}" for i in range(8)])
    small_set.make_set(tmp_path / "bad <b>set", 60)
    text = _card(tmp_path / "bad <b>set", tmp_path / "card.html")
    test_a_card_asks_for_nothing(text)
    assert text.count("&lt;script&gt;") > 48
    assert "<title>Data card: bad &lt;b&gt;set</title>" in text


def test_a_set_without_anything_has_a_card(tmp_path: Path) -> None:
    with open_output(tmp_path / "empty"):
        pass
    text = _card(tmp_path / "empty", tmp_path / "card.html")
    assert re.findall(r'<section id="(\w+)"', text) == SECTIONS
    assert "<dt>seed</dt><dd>not recorded</dd>" in text
    assert "No sample yet" in text
    test_a_card_asks_for_nothing(text)


def test_a_subset_has_a_card(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--where", "caption LIKE '%1%'", "--limit_per_query", "3"]
    assert main(["subset", str(small), "--out", str(tmp_path / "less"), *words]) == 0
    assert main(["report", str(tmp_path / "less")]) == 0
    text = (tmp_path / "less" / "report.html").read_text()
    assert "<dt>t, pairs a query</dt><dd>3; the subset&#39;s limit</dd>" in text
    assert "where caption LIKE &#39;%1%&#39;; at most 3 a query</dd>" in text
    assert "samples of the set that this one was taken from" in text
    assert "were taken into this subset <code>subset</code>" in text
    assert "the first part that does not, with its values" in text
    assert "balancing is that of the set that this one was taken from" in text
    assert 'aria-label="sample_hosts"' in text


def test_a_set_without_query_counts_or_config_has_a_card(small: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(small, bare, symlinks=True)
    for name in ("work", "ledger.json", "config.yaml", "runs.jsonl"):
        shutil.rmtree(bare / name) if (bare / name).is_dir() else (bare / name).unlink()
    (bare / "shards").resolve().joinpath("config.yaml").unlink()
    text = _card(bare, tmp_path / "card.html")
    assert text.count('<figure class="sample">') == 48
    assert "the pairs of each query are not counted yet" in text
    assert "What the config honours is not recorded" in text


def test_stages_of_a_later_run_are_told_from_the_published_samples(small: Path, tmp_path: Path) -> None:
    later = tmp_path / "later"
    shutil.copytree(small, later, symlinks=True)
    ledger = json.loads((later / "ledger.json").read_text())
    assert "those of a later run" not in _card(later, tmp_path / "card.html")
    ledger["lines"][0] |= {"rows_in": ledger["lines"][0]["rows_in"] - 1, "kept": ledger["lines"][0]["kept"] - 1}
    (later / "ledger.json").write_text(json.dumps(ledger))
    assert "those of a later run" in _card(later, tmp_path / "card.html")


# --- pictures -------------------------------------------------------------------------------------


def _image(side: int, kind: str) -> bytes:
    noise = np.random.default_rng(side).integers(0, 255, (side, side, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


def test_large_pictures_are_made_small_and_odd_formats_are_encoded_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large, gif = _image(40, "JPEG"), _image(600, "PNG"), _image(40, "GIF")
    broken = b"\xff\xd8\xff" + large[8:]
    monkeypatch.setattr(samples, "_pictures", lambda output, rows: [small, large, gif, broken])
    row = {"caption": "c", "lang": "en", "width": 1, "height": 1, "queries": None}
    shown = [sample.picture for sample in samples.samples_of(Path(), [row] * 4)]
    assert shown[0] == samples._data_uri(small)
    assert shown[1] is not None
    assert shown[2] is not None
    assert shown[1].startswith("data:image/jpeg;base64,")
    assert shown[2].startswith("data:image/jpeg;base64,")
    assert len(shown[1]) < len(large) / 4
    assert shown[3] is None, "what cannot be decoded is not shown"


@pytest.mark.parametrize(("size", "same"), [(40_000, True), (40_001, False)])
def test_a_picture_of_the_limit_stays_as_it_is(size: int, same: bool) -> None:
    image = _image(40, "JPEG").ljust(size, b"\x00")
    (shown,) = samples._small([image])
    assert (shown == image) is same


# --- charts ---------------------------------------------------------------------------------------


def test_histogram_has_empty_bins_and_says_the_middle() -> None:
    chart = histogram_of([(1.0, 1), (4.0, 3)], step=1.0, name=lambda at: f"{at:.0f}", what="samples")
    assert chart is not None
    assert [(bin_.x, bin_.height) for bin_ in chart.bins] == [(0, 33.3), (25, 0), (50, 0), (75, 100)]
    assert [tick.text for tick in chart.ticks] == ["1", "2", "3", "4"]
    assert chart.says == "4 samples; the middle one lies in 4, most in 4"
    assert histogram_of([], step=1.0, name=str, what="samples") is None


@pytest.mark.parametrize("number", [1, 2, 9, 10, 17, 18, 40])
def test_labels_of_a_histogram_are_apart_and_the_last_is_there(number: int) -> None:
    chart = histogram_of([(float(i), 1) for i in range(number)], step=1.0, name=lambda at: f"{at:.0f}", what="x")
    assert chart is not None
    shown = [int(tick.text) for tick in chart.ticks]
    assert shown[-1] == number - 1
    assert len(shown) <= 9
    steps = {after - before for before, after in itertools.pairwise(shown)}
    assert not steps or min(steps) >= -(-number // 9)


def test_a_bin_that_holds_little_is_seen() -> None:
    chart = histogram_of([(0.0, 1), (1.0, 10**9)], step=1.0, name=str, what="x")
    assert chart is not None
    assert chart.bins[0].height == 0.6


def _ranked(matched: list[int], t: int) -> list[dict[str, Any]]:
    return [
        {"rank": rank, "matched": m, "contained": min(m, 2 * t), "selected": min(m, t)}
        for rank, m in enumerate(matched, 1)
    ]


def test_curve_has_a_name_at_each_line_and_the_cap_where_t_is() -> None:
    curve = curve_of(_ranked([1000, 500, 100, 20, 5, 1], 50), 50)
    assert curve is not None
    assert [line.kind for line in curve.lines] == ["matched", "contained", "selected"]
    assert [line.name for line in curve.lines] == ["before", "after", "selected: at most t = 50"]
    assert [tick.text for tick in curve.y_ticks] == ["1", "10", "100", "1 k"]
    selected = curve.lines[2]
    (height,) = {float(point.split(",")[1]) for point in selected.points.split()[:3]}
    assert curve.cap == pytest.approx(height, abs=0.05)
    assert all(0 <= line.label_y <= 90 for line in curve.lines)


@pytest.mark.parametrize(
    ("contained", "place"),
    [(400_000, (30.0, False, "end")), (25_000, (1.0, True, "start")), (5_000_000, (30.0, False, "end"))],
)
def test_the_name_between_two_lines_is_where_there_is_room(contained: int, place: tuple[float, bool, str]) -> None:
    rows = [
        {"rank": rank, "matched": m, "contained": min(m, contained), "selected": min(m, 20_000)}
        for rank in range(1, 2000)
        for m in [10**7 // rank]
    ]
    curve = curve_of(rows, 20_000)
    assert curve is not None
    found = curve.lines[1].place
    assert (found.x, found.is_above, found.anchor) == place


def test_lines_that_are_alike_are_one_line_with_all_names() -> None:
    curve = curve_of(_ranked([40, 20, 1], 50), 50)
    assert curve is not None
    assert [line.name for line in curve.lines] == ["before = after"]
    assert (curve.cap, curve.lines[0].more) == (pytest.approx(1.9, abs=0.1), "")
    unbalanced = curve_of([row | {"selected": row["contained"]} for row in _ranked([400, 20, 1], 50)], None)
    assert unbalanced is not None
    assert [line.name for line in unbalanced.lines] == ["before", "after"]
    high = curve_of(_ranked([40, 20, 1], 50), 500)
    assert high is not None
    assert high.cap is None, "t is above all"
    one = curve_of(_ranked([1], 1), None)
    assert one is not None
    assert one.lines
    assert curve_of([], 20) is None


# --- words and queries ----------------------------------------------------------------------------


def test_every_stage_and_every_figure_has_plain_words(small: Path) -> None:
    for stage in reasons_of(whole_page()):
        assert explained_stage(stage) != f"pass {stage}", stage
    assert explained_stage("no_words") == "pass no_words"
    with open_catalog(small) as database:
        figures = [row[0] for row in database.execute(named_query("balance_summary")).fetchall()]
    for figure in figures:
        words, note, unit = explained_figure(figure)
        assert note, figure
        assert words != figure
        assert unit in ("", "%")


def test_answers_of_servers_have_the_names_of_the_standard() -> None:
    assert answer_in_words("http_404") == "the server's answer: Not Found"
    assert answer_in_words("http_599") == "the server's answer: a status 599, which no standard knows"
    assert answer_in_words("http_x") == answer_in_words("dns") == ""


def _asked(name: str, column: str, values: list[Any]) -> dict[Any, int]:
    """First column -> samples of a named query over a view `published` with one column."""
    with duckdb.connect() as database:
        database.execute(f"CREATE TABLE published AS SELECT unnest(?) AS {column}", [values])
        return {row[0]: row[-1] for row in database.execute(named_query(name)).fetchall()}


def test_bins_on_both_sides_of_their_edges() -> None:
    texts = ["a", "a b", " ".join("a" * 39), " ".join("a" * 40), " ".join("a" * 41)]
    assert _asked("caption_words", "caption", texts) == {1: 1, 2: 1, 39: 1, 40: 2}
    lengths = ["x" * n for n in (9, 10, 19, 299, 300, 999)]
    assert _asked("caption_characters", "caption", lengths) == {0: 1, 10: 2, 290: 1, 300: 2}
    shares = _asked("language_probability", "p_en", [0.0, 0.04, 0.06, 0.96, 1.0])
    assert shares == {0.0: 2, 0.05: 1, 0.95: 2}


def test_aspects_are_quarters_of_a_doubling_and_end_at_eight() -> None:
    with duckdb.connect() as database:
        sides = [(100, 100), (150, 100), (100, 150), (1600, 100), (100, 1600), (100, 0)]
        database.execute("CREATE TABLE published (original_width INTEGER, original_height INTEGER)")
        database.executemany("INSERT INTO published VALUES (?, ?)", sides)
        found = {row[0]: row[1:] for row in database.execute(named_query("aspect_ratios")).fetchall()}
    assert found == {-12: (0.125, 1), -2: (0.707, 1), 0: (1.0, 1), 2: (1.414, 1), 12: (8.0, 1)}


def test_links_left_is_a_share_of_all_links() -> None:
    with duckdb.connect() as database:
        database.execute(
            """CREATE TABLE ledger AS FROM (VALUES (0, 'extract', 'record', 9, 8, 1),
                   (1, 'extract', 'link', 200, 100, 100),
                   (2, 'match', 'link', 100, 50, 50), (3, 'balance', 'pair', 50, 50, 0))
               t(position, stage, unit, rows_in, kept, rejected)"""
        )
        database.execute(
            """CREATE TABLE reasons AS FROM (VALUES ('extract', 'link', 'a', 1000), ('extract', 'link', 'b', 2000),
                   ('extract', 'link', 'c', 1), ('extract', 'link', 'd', 3), ('extract', 'record', 'e', 1))
               t(stage, unit, reason, "count")"""
        )
        rows = database.execute(named_query("links_left")).fetchall()
    assert rows == [
        ("extract", 200, 100, 50.0, 100, "b 2,000, a 1,000, d 3"),
        ("match", 100, 50, 25.0, 50, None),
        ("balance", 50, 50, 25.0, 0, None),
    ]


def test_duplicates_are_counted_per_kind() -> None:
    with duckdb.connect() as database:
        database.execute(
            """CREATE TABLE published AS FROM (VALUES (1, 'a', 1, 'x'), (1, 'a', 1, 'y'), (2, 'a', 2, 'z'),
                   (3, 'b', 3, 'x'))
               t(url_id, sha256, phash, caption)"""
        )
        rows = database.execute(named_query("duplicates")).fetchall()
    assert [row[1:] for row in rows] == [(3, 1, 25.0), (2, 2, 50.0), (3, 1, 25.0), (3, 1, 25.0)]


def test_hosts_without_user_or_port_and_their_shares() -> None:
    urls = [f"http://{host}/x" for host in ("u:p@A.example:80", "a.example", "[::1]:9", "b.example")]
    with duckdb.connect() as database:
        database.execute("CREATE TABLE published AS SELECT unnest(?) AS url", [urls])
        assert database.execute(named_query("sample_hosts")).fetchall() == [
            ("a.example", 2, 50.0), ("[::1]", 1, 25.0), ("b.example", 1, 25.0),
        ]  # fmt: skip
        database.execute("CREATE TABLE hosts AS SELECT 'h' || i AS host, 1 AS pairs FROM range(200) t(i)")
        shares = database.execute(named_query("host_shares")).fetchall()
    assert shares == [(200, 200, 0.5, 5.0, 50.0, 200)]


# --- in a browser ---------------------------------------------------------------------------------

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
_MEASURE = """<!doctype html><iframe id=f width={width} height=800 srcdoc="{card}"></iframe><script>
document.getElementById('f').onload = event => {{
  const page = event.target.contentDocument, box = page.documentElement, wide = [];
  for (const element of page.querySelectorAll('body *')) {{
    const at = element.getBoundingClientRect();
    if (at.right > box.clientWidth + 0.5 && !element.closest('.scroll, pre')) wide.push(element.tagName + '.' + element.getAttribute('class'));
  }}
  document.title = JSON.stringify({{scroll: box.scrollWidth, client: box.clientWidth, wide: wide.slice(0, 9)}});
}};</script>"""  # noqa: E501


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("length", [1, 60])
def test_nothing_runs_off_the_page_in_a_browser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int, width: int
) -> None:
    browser = next((found for name in _BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser to look with: none of {', '.join(_BROWSERS)} is installed")
    texts = dict.fromkeys(("caption", "page_url", "license", "source", "lang"), "x" * length)
    rows = [row | texts | {"url": f"http://{'h' * length}/{row['record']}"} for row in small_set.make_rows(150)]
    rows = [row | {"original_width": 64 * (1 + i), "original_height": 64 * (1 + i)} for i, row in enumerate(rows)]
    monkeypatch.setattr(small_set, "make_rows", lambda pairs: rows)
    monkeypatch.setattr(small_set, "QUERIES_OF_THE_SET", [str(i) * length for i in range(8)])
    small_set.make_set(tmp_path / ("n" * length))
    text = _card(tmp_path / ("n" * length), tmp_path / "card.html")
    path = tmp_path / "measure.html"
    path.write_text(_MEASURE.format(width=width, card=html.escape(text)), encoding="utf-8")
    words = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    done = subprocess.run(
        [browser, *words, "--window-size=1400,900", "--virtual-time-budget=10000", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    (title,) = re.findall(r"<title>(\{.*?\})</title>", done.stdout) or [done.stderr[-500:]]
    assert json.loads(html.unescape(title)) == {"scroll": width, "client": width, "wide": []}
