"""A web made of a small directory of pictures that is drawn here."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from pipeline.errors import InputError
from pipeline.sample_web.__main__ import main
from pipeline.sample_web.classes import tier_of
from pipeline.sample_web.dice import Dice
from pipeline.sample_web.from_pictures import PicturesConfig, build_pictures_web
from pipeline.sample_web.from_pictures.captions import alt_text
from pipeline.sample_web.from_pictures.plan import spread_over_names
from pipeline.sample_web.from_pictures.read import Picture

NAMES = ("red-apple", "blue-boat", "old-house", "green-tree", "small-fish", "paper-kite", "tea-cup", "white-moon")
SETS = ("first", "second", "third")
"""Three designs; the third is held out."""
NUM_CLIPS = 20


def _drawn(colour: tuple[int, int, int], side: int) -> bytes:
    image = Image.new("RGBA", (96, 64), (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse((8, 8, 8 + side, 56), fill=(*colour, 255))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def make_pictures(directory: Path) -> Path:
    """Three designs of eight things with labels and tags, and clip art with titles and descriptions."""
    directory.mkdir()
    rows: list[dict[str, str]] = []
    files: dict[str, dict[str, bytes]] = {name: {} for name in (*SETS, "clips")}
    for number, style in enumerate(SETS):
        for i, name in enumerate(NAMES):
            if style == "second" and i == 7:
                continue  # no design has all
            path = f"{style}/{name}.webp"
            files[style][path] = _drawn((30 * i, 80 * number, 200 - 20 * i), 20 + 8 * i)
            label = name.replace("-", " ")
            for lang, kind, text in (
                ("en", "label", label),
                ("de", "label", f"Bild {i}"),
                ("pt-br", "label", f"desenho {i}"),
                ("en", "tags", f"{label.split()[0]}, {label.split()[1]}, thing, &"),
            ):
                rows.append({"path": path, "style": style, "name": name, "lang": lang, "kind": kind, "text": text})
    for i in range(NUM_CLIPS):
        path = f"clips/clip_{i}.webp"
        files["clips"][path] = _drawn((10 * i, 255 - 10 * i, 90), 10 + 3 * i)
        for kind, text in (
            ("title", f"Clip number {i}"),
            ("description", f"A drawing of the thing {i}"),
            ("tags", "a"),
        ):
            rows.append(
                {"path": path, "style": "clips", "name": f"clip_{i}", "lang": "und", "kind": kind, "text": text}
            )
    for style, members in files.items():
        with tarfile.open(directory / f"{style}.tar", "w") as tar:
            for name, data in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    pq.write_table(pa.Table.from_pylist(rows), directory / "texts.parquet")
    return directory


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("pictures") / "pictures")


@pytest.fixture(scope="module")
def web(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("web") / "web"
    assert main(["from-pictures", str(pictures), "--path", str(path), "--links", "600", "--held_out", "third"]) == 0
    return path


@pytest.fixture(scope="module")
def truth_of(web: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(web / "truth.parquet").to_pylist())


def _members(tar: Path) -> dict[str, bytes]:
    with tarfile.open(tar) as opened:
        return {m.name: opened.extractfile(m).read() for m in opened}  # type: ignore[union-attr]  # all are files


def test_equal_pictures_and_settings_give_equal_bytes(pictures: Path, web: Path, tmp_path: Path) -> None:
    make_pictures(tmp_path / "moved")
    config = PicturesConfig(
        directory=str(tmp_path / "moved"), path=str(tmp_path / "other"), links=600, held_out="third"
    )
    other = build_pictures_web(config)
    first, second = (
        {str(f.relative_to(root)): f.read_bytes() for f in sorted(root.rglob("*")) if f.is_file()}
        for root in (web, other)
    )
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    before = (other / "sample_web.json").stat().st_mtime_ns
    build_pictures_web(config)
    assert (other / "sample_web.json").stat().st_mtime_ns == before


def test_other_pictures_give_another_web(pictures: Path, web: Path, tmp_path: Path) -> None:
    other = make_pictures(tmp_path / "other")
    (other / "clips.tar").unlink()
    path = tmp_path / "w"
    build_pictures_web(PicturesConfig(directory=str(other), path=str(path), links=600, held_out="third"))
    assert (path / "truth.parquet").read_bytes() != (web / "truth.parquet").read_bytes()


def test_every_picture_is_linked_and_links_are_long_tailed(truth_of: list[dict[str, Any]]) -> None:
    in_wat = [row for row in truth_of if row["wat_link"] is not None]
    assert abs(len(in_wat) - 600) < 20
    links = Counter(row["class"] for row in truth_of if row["class"] and row["fetch_fate"] is None)
    labels = {name.replace("-", " ") for name in NAMES}
    assert labels <= links.keys()
    assert max(links.values()) > 4 * min(links.values())


def test_the_texts_are_the_webs(truth_of: list[dict[str, Any]]) -> None:
    kinds = Counter(row["text_kind"] for row in truth_of)
    assert {"caption", "wrong", "general", "unmatched", "foreign", "junk"} <= kinds.keys()
    assert kinds["caption"] > 0.3 * len(truth_of)
    foreign = {row["alt_text"] for row in truth_of if row["text_kind"] == "foreign"}
    assert foreign <= {f"{word} {i}" for word in ("Bild", "desenho") for i in range(8)}
    fates = {row["text_fate"] for row in truth_of}
    assert {"clean/file_name", "clean/placeholder", "extract/no_text", "extract/page_robots"} <= fates
    assert any(row["fetch_fate"] == "fetch/http_404" for row in truth_of)


def test_half_of_the_english_texts_contain_no_query(web: Path, truth_of: list[dict[str, Any]]) -> None:
    queries = {word.lower() for word in (web / "words.txt").read_text().splitlines()}
    texts: dict[str, list[str]] = {}
    for row in truth_of:
        texts.setdefault(row["text_kind"], []).append(row["alt_text"] or "")
    matching = sum(len(texts[kind]) for kind in ("caption", "wrong", "general"))
    assert 0.4 < len(texts["unmatched"]) / (len(texts["unmatched"]) + matching) < 0.55
    for text in texts["unmatched"]:
        assert queries.isdisjoint(text.lower().split()), text


def test_where_every_word_is_a_query_texts_without_one_name_no_place() -> None:
    class AllWords:
        def __contains__(self, word: object) -> bool:
            return True

    picture = Picture(path="s/a.webp", style="s", name="a")
    drawn = [alt_text(Dice(0, "texts", i), picture, picture, AllWords()) for i in range(60)]
    without = [found.text or "" for found in drawn if found.kind == "unmatched"]
    assert len(set(without)) > 10
    assert all(re.fullmatch(r"from [A-Z][a-z]+ and [A-Z][a-z]+ with all of them", text) for text in without)


def test_pictures_arrive_in_several_forms_sizes_and_grounds(web: Path) -> None:
    forms: Counter[str | None] = Counter()
    sizes, corners = set(), set()
    for file in (web / "pictures").rglob("*"):
        if file.is_file() and file.suffix in (".jpg", ".png", ".webp"):
            try:
                with Image.open(file) as image:
                    if max(image.size) < 1000:
                        forms[image.format] += 1
                        sizes.add(min(image.size))
                        corners.add(image.convert("RGB").getpixel((0, 0)))
            except (OSError, Image.DecompressionBombError):
                continue  # some are broken on purpose
    assert {"JPEG", "PNG", "WEBP"} <= forms.keys()
    assert {64, 96, 128, 256} <= sizes
    assert len(corners) > 50


def test_what_is_kept_apart_stands_on_no_page(web: Path, truth_of: list[dict[str, Any]]) -> None:
    shown = {row["same_picture_group"] for row in truth_of if row["same_picture_group"]}
    assert any(group.startswith("picture-first/") for group in shown)
    assert not any(group.startswith("picture-third/") for group in shown)
    files = _members(web / "retrieval" / "test" / "0.tar")
    told = [data.decode().split("\n") for name, data in files.items() if name.endswith("txt")]
    assert len(told) == NUM_CLIPS // 5  # at most a fifth of those with texts of their own
    titles = {captions[0] for captions in told}
    assert titles.isdisjoint(row["class"] for row in truth_of)


def test_the_held_out_design_becomes_the_classes(web: Path, truth_of: list[dict[str, Any]]) -> None:
    names = (web / "eval" / "classnames.txt").read_text().splitlines()
    assert names == sorted(name.replace("-", " ") for name in NAMES)
    files = _members(web / "eval" / "test" / "0.tar")
    labels = Counter(int(data) for name, data in files.items() if name.endswith(".cls"))
    assert labels == dict.fromkeys(range(len(names)), 4)
    classes = pq.read_table(web / "classes.parquet").to_pylist()
    counted = Counter(r["class"] for r in truth_of if r["text_kind"] == "caption" and r["verdict"] == "kept")
    assert [(row["name"], row["links"]) for row in classes] == [(name, counted[name]) for name in names]
    assert all(row["tier"] == tier_of(row["links"]) for row in classes)


def test_names_that_are_no_class_stand_nowhere(pictures: Path, tmp_path: Path) -> None:
    web = build_pictures_web(
        PicturesConfig(directory=str(pictures), path=str(tmp_path / "w"), links=400, held_out="third", classes=3)
    )
    names = (web / "eval" / "classnames.txt").read_text().splitlines()
    assert len(names) == 3
    shown = {row["class"] for row in pq.read_table(web / "truth.parquet").to_pylist()}
    all_names = {name.replace("-", " ") for name in NAMES}
    assert shown & all_names == set(names)
    assert any(str(name).startswith("Clip number") for name in shown)


def test_the_word_list_has_names_tags_and_repeated_words(web: Path) -> None:
    words = set((web / "words.txt").read_text().splitlines())
    assert {"red apple", "apple", "thing", "icon", "drawing", "Clip number 3"} <= words
    assert words.isdisjoint({"the", "&"})


def test_a_name_has_a_link_a_picture_and_the_rest_by_rank() -> None:
    shares = spread_over_names(["a", "b", "c"], [3, 1, 1], 105)
    assert sum(shares) == 105
    assert shares[0] > 2 * shares[1] > 2 * shares[2] > 2
    assert spread_over_names(["a", "b"], [2, 1], 1) == [2, 1]


def test_a_directory_without_pictures_or_the_held_out_set_is_told_in_one_line(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--path", str(tmp_path / "web")]
    assert main(["from-pictures", *words]) == 2
    assert main(["from-pictures", str(tmp_path), *words]) == 2
    assert main(["from-pictures", str(pictures), *words, "--held_out", "clips"]) == 2
    assert main(["from-pictures", str(pictures), *words, "--links", "10"]) == 2
    assert main(["from-pictures", str(pictures), *words, "--classes", "1"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5
    assert "texts.parquet" in lines[1]
    assert "'clips'" in lines[2]
    assert not (tmp_path / "web").exists()
    (tmp_path / "texts.parquet").write_bytes(b"")
    with pytest.raises(InputError, match=r"SET\.tar"):
        build_pictures_web(PicturesConfig(directory=str(tmp_path), path=str(tmp_path / "web")))


def test_the_port_of_the_server_is_told(web: Path) -> None:
    assert json.loads((web / "sample_web.json").read_bytes())["port"] == 8767


@pytest.mark.slow
def test_a_web_of_the_real_pictures(shared_data: Path, tmp_path: Path) -> None:
    directory = shared_data / "pictures"
    if not directory.is_dir():
        pytest.skip(f"{directory}: no pictures in the shared data")
    web = build_pictures_web(PicturesConfig(directory=str(directory), path=str(tmp_path / "web"), links=14_000))
    classes = pq.read_table(web / "classes.parquet").to_pylist()
    assert len(classes) == 400
    assert {row["tier"] for row in classes} >= {"middle", "tail"}
