"""The build as a whole: deterministic, idempotent, and honest about bad input."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from configs.load import from_mapping, load
from pipeline.engine import EngineConfig
from pipeline.errors import InputError, QueryListError
from pipeline.matching.config import MatchConfig
from pipeline.records.queries import query_list_of, read_queries
from pipeline.storage.bucket import BucketPath
from query_list.build import build
from query_list.commands import main
from query_list.config import BuildConfig, EmptyQueriesConfig
from query_list.report import diff_rules, lint, stats
from query_list.stop_words import Judge
from tests.object_store.fixtures import Bucket
from tests.query_list.small_wiki import HEAD, article, redirect, write_dump, write_views, write_wordnet

REPOSITORY = Path(__file__).resolve().parents[2]


def pages() -> list[str]:
    return [
        article("Dog", "The dog is an animal. The red fox is no dog. " * 6),
        redirect("Dogs", "Dog"),
        article("New York (city)", "New York is a city. {{Infobox}} The dog likes New York. " * 6),
        article("Bank", "{{Disambig}} words that must not count"),
        article("File:X", "nor these", namespace=6),
        article("Old Tom", "Old Tom sleeps."),
    ]


def config_for(directory: Path, **changes: object) -> BuildConfig:
    mapping: dict[str, object] = {
        "output": str(directory / "out" / "queries.parquet"),
        "dump": {"files": [str(directory / "dump*.bz2")]},
        "unigrams": {"min_count": 6},
        "bigrams": {"min_count": 6},
        "titles": {"pageviews": [str(directory / "views*.gz")]},
        "wordnet": {"index": [str(directory / "index.noun")]},
        "engine": {"kind": "inline"},
    }
    return from_mapping(BuildConfig, mapping | changes)


@pytest.fixture
def wiki(tmp_path: Path) -> Path:
    write_dump(tmp_path / "dump.bz2", pages(), cuts=[len(HEAD), len(HEAD) + 700])
    write_views(
        tmp_path / "views.gz",
        ["en Dog 5 0", "en Dogs 2 0", "en New_York_(city) 9 0", "en Bank 100 0", "en Old_Tom 3 0"],
    )
    write_wordnet(tmp_path)
    return tmp_path


def test_sources_in_order_each_giving_what_is_new(wiki: Path) -> None:
    result = build(config_for(wiki))
    table = pq.read_table(result.path)
    rows = {source: [] for source in ("unigrams", "bigrams", "titles", "wordnet")}
    for row in table.to_pylist():
        rows[row["source"]].append(row["query"])
    assert rows["unigrams"][:2] == ["dog", "New"]  # The, is, an and the like are no queries
    assert "New York" in rows["bigrams"]
    assert rows["titles"] == ["Old Tom"]  # New York and dog are there already, Bank is a disambiguation
    assert rows["wordnet"] == ["disease", "cold", "domestic dog", "flu"]  # so is animal
    assert table.column("query_id").to_pylist() == list(range(table.num_rows))
    tom = next(row for row in table.to_pylist() if row["query"] == "Old Tom")
    assert (tom["views"], tom["count"], tom["rank"]) == (3, None, 0)
    assert not {"words", "nor", "Infobox"} & set(table.column("query").to_pylist())
    assert result.facts["disambiguations"] == 1


def test_the_list_does_not_depend_on_how_the_work_is_cut(wiki: Path) -> None:
    first = build(config_for(wiki)).path.read_bytes()
    other = wiki / "other"
    other.mkdir()
    for name, part in (("dump-2", pages()[3:]), ("dump-1", pages()[:3])):
        write_dump(other / f"{name}.bz2", part)
    (other / "views.gz").write_bytes((wiki / "views.gz").read_bytes())
    (other / "index.noun").write_bytes((wiki / "index.noun").read_bytes())
    small = config_for(other)
    small = replace(small, dump=replace(small.dump, max_entries_in_memory=2))
    assert build(small).path.read_bytes() == first


def test_a_second_build_does_nothing_and_a_change_redoes_what_it_affects(wiki: Path) -> None:
    config = config_for(wiki)
    first = build(config)
    assert first.built
    record = wiki / "out" / "queries.parquet.work" / "count" / "done" / "range-00000.json"
    stamp = record.stat().st_mtime_ns
    again = build(config)
    assert not again.built
    assert (again.fingerprint, again.num_queries) == (first.fingerprint, first.num_queries)
    fewer = build(config_for(wiki, wordnet=None))
    assert fewer.built
    assert fewer.num_queries < first.num_queries
    assert record.stat().st_mtime_ns == stamp  # the dump was not read again
    os.utime(wiki / "dump.bz2")
    assert not build(config_for(wiki, wordnet=None)).built  # touched, not changed


def test_a_moved_dump_and_another_limit_of_memory_count_nothing_again(wiki: Path) -> None:
    config = config_for(wiki)
    build(config)
    work = wiki / "out" / "queries.parquet.work"
    records = [*work.glob("count/done/*.json"), *work.glob("views/done/*.json"), *work.glob("merge/done/*.json")]
    stamps = [record.stat().st_mtime_ns for record in records]
    (wiki / "dump.bz2").rename(wiki / "dump-moved.bz2")
    build(replace(config, dump=replace(config.dump, max_entries_in_memory=7)))
    assert [record.stat().st_mtime_ns for record in records] == stamps
    build(replace(config, dump=replace(config.dump, title_words=("OTHER",))))
    changed = [record.stat().st_mtime_ns != stamp for record, stamp in zip(records, stamps, strict=True)]
    assert changed == ["range" in record.name for record in records]


def test_a_lost_output_is_put_back(wiki: Path) -> None:
    config = config_for(wiki)
    before = build(config).path.read_bytes()
    (wiki / "out" / "queries.parquet").unlink()
    assert build(config).built
    assert (wiki / "out" / "queries.parquet").read_bytes() == before


def test_budgets_cut_by_rank_and_own_lists_come_first(wiki: Path) -> None:
    (wiki / "mine.txt").write_text("zebra\ndog\n")
    config = config_for(
        wiki, lists=[str(wiki / "mine.txt")], unigrams={"min_count": 6, "budget": 2}, bigrams=None, titles=None
    )
    rows = read_queries(build(config).path).table.to_pylist()
    assert [(row["query"], row["source"]) for row in rows[:4]] == [
        ("zebra", "file"),
        ("dog", "file"),
        ("New", "unigrams"),
        ("York", "unigrams"),
    ]


def test_missing_inputs_and_empty_lists_are_named(wiki: Path) -> None:
    with pytest.raises(InputError, match=r"none\*\.bz2.*no such file"):
        build(config_for(wiki, dump={"files": [str(wiki / "none*.bz2")]}))
    with pytest.raises(QueryListError, match="no query"):
        build(config_for(wiki, unigrams={"min_count": 10**6}, bigrams=None, titles=None, wordnet=None))


def test_a_remote_dump_gives_the_same_list(wiki: Path) -> None:
    import fsspec

    first = read_queries(build(config_for(wiki)).path).queries
    with fsspec.open("memory://wiki/dump.bz2", "wb") as file:
        file.write((wiki / "dump.bz2").read_bytes())
    remote = config_for(wiki, output=str(wiki / "r.parquet"), dump={"files": ["memory://wiki/*.bz2"]})
    assert read_queries(build(remote).path).queries == first


def test_a_list_is_built_in_a_bucket_from_inputs_in_it(
    wiki: Path, bucket: Bucket, capsys: pytest.CaptureFixture[str]
) -> None:
    first = build(config_for(wiki))
    for path in (*wiki.glob("dump*.bz2"), *wiki.glob("views*.gz"), *wiki.glob("index.*")):
        BucketPath.of(f"{bucket.url}/in/{path.name}").put(path)
    (wiki / "own.txt").write_text("a unicorn\n")
    config = config_for(
        wiki,
        output=f"{bucket.url}/lists/queries.parquet",
        dump={"files": [f"{bucket.url}/in/dump*.bz2"]},
        titles={"pageviews": [f"{bucket.url}/in/views.gz"]},
        wordnet={"index": [f"{bucket.url}/in/index.noun"]},
    )
    made = build(config)
    listed = BucketPath.of(config.output)
    assert (made.path, made.built, made.facts) == (listed, True, first.facts)
    assert listed.read_bytes() == Path(str(first.path)).read_bytes()
    assert read_queries(config.output).queries == read_queries(first.path).queries
    requests = bucket.proxy.counts()["PUT"]
    assert not build(config).built
    assert bucket.proxy.counts()["PUT"] == requests, "nothing to do"
    BucketPath.of(f"{bucket.url}/in/index.noun").put((wiki / "index.noun").read_bytes() + b"  1 a line more\n")
    assert build(config).fingerprint == first.fingerprint
    assert bucket.proxy.counts()["PUT"] > requests, "an input that changed is read again"
    counted = next(path for path, _ in BucketPath.of(f"{config.output}.work/count").walk() if path.suffix == ".arrow")
    counted.put(b"damaged")
    BucketPath.of(f"{bucket.url}/lists/own.txt").put(b"a unicorn\n")
    longer = build(replace(config, lists=(f"{bucket.url}/lists/own.txt",)))
    assert read_queries(longer.path).queries[0] == "a unicorn"
    assert "made again" in capsys.readouterr().err
    assert main(["stats", config.output]) == 0
    texts = BucketPath.of(f"{bucket.url}/texts.csv")
    texts.put(b"caption\na unicorn and a dog\n")
    assert main(["diff-rules", config.output, str(texts)]) == 0
    assert main(["lint", f"{bucket.url}/lists/none.parquet"]) == 2
    assert "none.parquet: no such query list" in capsys.readouterr().err


def test_the_shipped_configs_load() -> None:
    built = set()
    for path in sorted((REPOSITORY / "configs" / "queries").glob("*.yaml")):
        config = load(BuildConfig, path)
        assert isinstance(config.engine, EngineConfig)
        built.add(config.output)
    for path in sorted((REPOSITORY / "configs" / "shards").glob("*.yaml")):
        assert yaml.safe_load(path.read_text())["queries"] in built, path
    published = load(BuildConfig, REPOSITORY / "configs" / "queries" / "wikipedia.yaml")
    parts = (published.unigrams, published.bigrams, published.titles, published.wordnet)
    assert sum(part.budget for part in parts if part is not None) == 500_000


@pytest.mark.slow
def test_a_real_slice_of_wikipedia(shared_data: Path, tmp_path: Path) -> None:
    files = shared_data / "queries"
    mapping = {
        "output": str(tmp_path / "queries.parquet"),
        "dump": {"files": [str(files / "enwiki*.bz2")]},
        "unigrams": {"min_count": 20},
        "bigrams": {"min_count": 10, "budget": 500},
        "titles": None,
        "wordnet": {"index": [str(files / "wordnet-3.0-index.*.gz")]},
        "engine": {"kind": "inline"},
    }
    found = read_queries(build(from_mapping(BuildConfig, mapping)).path)
    by_source = {facts.source: facts for facts in stats(found)}
    assert by_source["unigrams"].first[:3] == ("two", "time", "state")
    assert by_source["bigrams"].num_queries == 500
    assert by_source["wordnet"].num_queries == 86_654
    bigrams = {
        q for q, s in zip(found.queries, found.table.column("source").to_pylist(), strict=True) if s == "bigrams"
    }
    assert {"United States", "Los Angeles"} & bigrams
    assert not {"of the", "in the"} & bigrams


# --- reports and commands -----------------------------------------------------------------------


def test_lint_names_what_is_in_vain() -> None:
    made = query_list_of(
        ["dog", "...", "C", "C++", "St. Louis", "a", "no", "On!", "part", "of the", "The Who", "IT", "犬"]
    )
    empty = {
        *(("lone_letter", query) for query in ("C", "C++", "a")),
        *(("near_stop_word", query) for query in ("no", "On!", "part", "of the")),
    }
    kinds = {(f.kind, f.query) for f in lint(made, MatchConfig())}
    assert kinds == {("never_matches", "..."), ("duplicate", "C++"), *empty}
    kinds = {(f.kind, f.query) for f in lint(made, MatchConfig(), ["a dog", "a cat"])}
    assert kinds == {("never_matches", "..."), ("duplicate", "C++"), *empty, ("near_stop_word", "dog")}
    metaclip = {f.query for f in lint(made, MatchConfig(rule="metaclip")) if f.kind == "never_matches"}
    assert metaclip == {"...", "On!", "St. Louis"}
    none = lint(made, MatchConfig(), empty_queries=EmptyQueriesConfig(function_words="none"))
    assert {f.query for f in none if f.kind == "near_stop_word"} == set()


def test_frequent_words_of_a_large_corpus_are_near_stop_words_in_any_language() -> None:
    counts = {"egy": 3_000, "kutya": 1_999, "A": 9_000}
    judge = Judge(EmptyQueriesConfig(function_words="none"), counts, 1_000_000)
    assert [judge.reason(query) is None for query in ("egy", "kutya", "egy kutya", "egy egy")] == [
        False,
        True,
        True,
        False,
    ]
    small = Judge(EmptyQueriesConfig(function_words="none"), counts, 999_999)
    assert small.reason("egy") is None  # in a small corpus a share says little


def test_empty_queries_can_be_kept_as_the_published_recipe_does(wiki: Path) -> None:
    (wiki / "mine.txt").write_text("a\nno\n")
    lists = [str(wiki / "mine.txt")]
    dropped = build(config_for(wiki, lists=lists))
    assert read_queries(dropped.path).queries[:2] == ["a", "no"]  # your own lists are as they are
    assert dropped.facts["near_stop_word"] > 0
    assert not {"The", "is"} & set(read_queries(dropped.path).queries)
    kept = build(config_for(wiki, lists=lists, empty_queries={"rule": "keep"}))
    assert {"The", "is", "dog"} <= set(read_queries(kept.path).queries)


def test_titles_have_the_case_of_their_articles(tmp_path: Path) -> None:
    pages = [
        article("Ice hockey", "'''Ice hockey''' is a game. We play ice hockey. The ice hockey team."),
        article("IPhone", "{{Lowercase title}} IPhone. "),
        article("EBay", "{{DISPLAYTITLE:eBay}} A market."),
        article("Avatar (2009 film)", "'''Avatar''' is a film. In Avatar, an avatar is seen. See Avatar."),
        article("A", "the letter a"),
        redirect("Hockey on ice", "Ice hockey"),
    ]
    write_dump(tmp_path / "dump.bz2", pages)
    views = ["Ice_hockey 5 0", "IPhone 4 0", "EBay 3 0", "Avatar_(2009_film) 2 0", "A 9 0", "Hockey_on_ice 1 0"]
    write_views(tmp_path / "views.gz", [f"en {line}" for line in views])
    found = read_queries(build(config_for(tmp_path, unigrams=None, bigrams=None, wordnet=None)).path)
    assert found.queries == ["ice hockey", "iPhone", "eBay", "Avatar"]
    assert found.table.column("views").to_pylist() == [6, 4, 3, 2]


def test_diff_rules_shows_both_sides() -> None:
    made = query_list_of(["dog", "?"])
    found = [(d.only, d.query, d.text) for d in diff_rules(made, ["(dog)", "a dog", "dog?"], MatchConfig())]
    assert found == [("words", "dog", "(dog)"), ("metaclip", "?", "dog?")]


def test_damaged_counts_are_made_again_and_named(wiki: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_for(wiki)
    build(config)
    whole = (wiki / "out" / "queries.parquet").read_bytes()
    work = wiki / "out" / "queries.parquet.work"
    for kind in ("count/range-00000.words.arrow", "merge/bucket-0000.words.arrow", "list/queries.parquet"):
        path = work / kind
        path.write_bytes(bytes(path.stat().st_size))
        changed = replace(config, unigrams=replace(config.unigrams, budget=3)) if "list" not in kind else config
        build(changed)
        assert f"damaged: {path}: " in capsys.readouterr().err
        build(config)
        assert (wiki / "out" / "queries.parquet").read_bytes() == whole
        capsys.readouterr()


def test_commands_end_with_status_and_one_line(wiki: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = wiki / "out" / "queries.parquet"
    (wiki / "c.yaml").write_text(
        f"output: {output}\ndump: {{files: ['{wiki}/dump.bz2']}}\nunigrams: {{min_count: 6}}\nbigrams: null\n"
        "titles: null\nwordnet: null\nengine: {kind: inline}\n"
    )
    assert main(["build", str(wiki / "c.yaml")]) == 0
    assert main(["build", str(wiki / "c.yaml")]) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert main(["stats", str(output)]) == 0
    assert main(["lint", str(wiki / "c.yaml"), "--case", "fold"]) == 0
    assert main(["lint", str(wiki / "c.yaml"), "--function_words", "none"]) == 0
    (wiki / "texts.txt").write_text("the (dog)\n")
    assert main(["diff-rules", str(output), str(wiki / "texts.txt"), "--limit", "3"]) == 0
    assert re.search(r"only words: [1-9]", capsys.readouterr().out)
    for wrong in (
        ["build", str(wiki / "c.yaml"), "--unigrams.min_cuont", "3"],
        ["build", str(wiki / "none.yaml")],
        ["build"],
        ["stats", str(wiki / "none.parquet")],
        ["lint", str(output), "--rule", "word"],
        ["lint", str(output), "--function_words", "xx"],
        ["diff-rules", str(output), str(wiki / "none.txt")],
        ["nonsense"],
    ):
        capsys.readouterr()
        assert main(wrong) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert main(["build", "--help", "unigrams"]) == 0
    assert "--unigrams.min_count" in capsys.readouterr().out


def test_doing_nothing_imports_nothing_heavy(wiki: Path) -> None:
    (wiki / "c.yaml").write_text(
        f"output: {wiki}/q.parquet\ndump: {{files: ['{wiki}/dump.bz2']}}\nunigrams: {{min_count: 6}}\nbigrams: null\n"
        "titles: null\nwordnet: null\n"  # engine: ray, which must not start for nothing
    )
    assert main(["build", str(wiki / "c.yaml"), "--engine.kind", "inline"]) == 0
    code = (
        "import sys; from query_list.commands import main; status = main(['build', sys.argv[1]]);"
        "print(status, [m for m in ('ray', 'numba', 'torch', 'duckdb', 'fsspec') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(wiki / "c.yaml")], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "0 []"
