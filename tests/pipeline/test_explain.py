"""What `explain` says where stages are on, a reserve is cut back, and nothing is balanced."""

from __future__ import annotations

from pathlib import Path

from pipeline.questions.explain import Story, explain, lines_of
from tests.pipeline.loopback_server import LoopbackServer, text
from tests.pipeline.small_run import SmallRun, picture

PATHS = {f"/{i}": text(picture(i)) for i in range(8)}


def _stories(tmp_path: Path, *words: str) -> list[Story]:
    """The story of each link of a run with these overrides."""
    with LoopbackServer(PATHS) as server:
        run = SmallRun.make(tmp_path, server, PATHS)
        assert run.run(*words) == 0
        return [story for path in PATHS for story in explain(run.output, url=server.url(path))]


def test_stages_that_are_on_have_a_verdict_of_their_own(tmp_path: Path) -> None:
    stories = _stories(
        tmp_path, *("--dedup.max_urls_per_caption", "5", "--filters.min_chars", "45", "--image_dedup.mode", "near")
    )
    seen = set()
    for story in stories:
        verdicts = {verdict.stage: verdict for verdict in story.verdicts}
        assert {stage for stage, verdict in verdicts.items() if verdict.verdict == "off"} == {"robots", "decontaminate"}
        filtered = verdicts["filters"]
        short = len(story.row["caption"]) < 45
        assert (filtered.verdict, filtered.reason) == (("rejected", "too_short") if short else ("kept", None))
        assert verdicts["image_dedup"].verdict == ("not reached" if short else "kept")
        seen.add(short)
    assert seen == {True, False}


def test_reserve_that_was_not_needed_shows_both_thresholds(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("the\n")
    words = ("--balance.max_pairs_per_query", "2", "--balance.expected_yield", "0.5")
    stories = _stories(tmp_path, *words, "--queries", str(tmp_path / "one.txt"), "--texts.keep_candidates", "true")
    spared = [story for story in stories if story.verdicts[-1].reason == "reserve_not_needed"]
    kept = [story for story in stories if story.sample is not None]
    assert len(spared) == len(kept) == 2, "four are planned, two are wanted"
    for story in spared + kept:
        for query in story.queries:
            assert query.hash is not None
            assert query.threshold is not None
            assert query.final_threshold is not None
            assert query.planned == (query.hash <= query.threshold)
            assert query.final == (query.planned and query.hash <= query.final_threshold)
    said = "\n".join(lines_of(spared[0]))
    assert "final threshold " in said
    assert "selects it, but no longer in the final balance" in said
    assert "final_balance rejected (reserve_not_needed)" in said


def test_uniform_sample_is_explained_by_its_one_draw(tmp_path: Path) -> None:
    stories = _stories(tmp_path, "--balance.mode", "none", "--balance.baseline_pairs", "3")
    assert sum(story.sample is not None for story in stories) == 3
    for story in stories:
        for query in story.queries:
            assert query.hash is not None
            assert query.threshold is not None
            assert (query.hash <= query.threshold) == (story.sample is not None)


def test_story_ends_with_the_place_in_the_tar(tmp_path: Path) -> None:
    for story in _stories(tmp_path):
        assert story.sample is not None
        tar = (tmp_path / "set" / "shards" / f"{story.sample['shard']:05d}.tar").read_bytes()
        begin = story.sample["tar_offset"]
        assert tar[begin : begin + 3] == b"\xff\xd8\xff"
        key, size = story.sample["key"], story.sample["num_bytes"]
        assert lines_of(story)[-1] == f"sample   shard 00000, key {key}, {size:,} bytes at {begin:,} of the tar"
