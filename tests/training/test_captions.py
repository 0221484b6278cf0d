"""A run of BLIP goes on after a crash, writes captions of pictures by uid, and judges texts by its matching head."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import training.captions.caption as caption_module
from configs.load import from_mapping
from pipeline.commands import main as pipeline
from tests.conftest import REPOSITORY
from tests.pipeline import small_set
from tests.training.blip_reference import TINY_BLIP
from tests.training.conftest import tiny_run
from tests.training.test_train import CrashError, assert_same_run, crash, interrupt_at, weights_of
from tests.training.tiny_shards import make_shards
from training.__main__ import main
from training.captions.caption import caption
from training.captions.caption_files import open_captions
from training.captions.captioner import keys_of, nucleus
from training.captions.config import CaptionConfig, ScoreCaptionsConfig
from training.captions.load import load_with_heads
from training.captions.score_captions import score_captions
from training.config import TrainConfig
from training.errors import DataError, ModelError, TrainingError
from training.learning.heads import HEADS
from training.train import train

HOW = {"captions": 2, "min_tokens": 2, "max_tokens": 4, "device": "cpu", "precision": "fp32", "threads": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards, with a picture that is cut short."""
    root = tmp_path_factory.mktemp("pictures")
    make_shards(root, counts=(9, 5), size=40, broken=(3,))
    return root


@pytest.fixture(scope="module")
def trained(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A finished run of four steps, to be read only."""
    folder = tmp_path_factory.mktemp("blip")
    model = folder / "openwit-test-blip-words.json"
    model.write_text(json.dumps({**TINY_BLIP, "text_cfg": {**TINY_BLIP["text_cfg"], "vocab_size": 49408}}))  # type: ignore[dict-item]
    run = tiny_run(folder / "run", tiny_data, model) | {"samples": 64, "checkpoint": {"every_samples": 32, "keep": 2}}
    method = {"name": "blip", "options": {"queue": 40, "ramp_samples": 32, "momentum": 0.9}}
    config = from_mapping(TrainConfig, run | {"method": method, "micro_batches": 2})
    train(config)
    return config


@pytest.fixture(scope="module")
def written(trained: TrainConfig, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Captions of `data`."""
    to = tmp_path_factory.mktemp("captions") / "all"
    words = [f"--{name}={value}" for name, value in HOW.items()]
    assert main(["caption", trained.output, str(data), "--to", str(to), "--name", "small", *words]) == 0
    return to


def asked(trained: TrainConfig, data: Path, to: Path, **options: Any) -> CaptionConfig:
    return CaptionConfig(model=trained.output, data=str(data), to=str(to), name="small", **{**HOW, **options})


def files_of(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in place.glob("*.parquet")}


def test_resumed_run_is_the_same_with_its_queue_and_averages(
    trained: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(trained, output=str(tmp_path / "run"))
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3, crash)
        with pytest.raises(CrashError):
            train(config)
    train(config)
    assert_same_run(config.output, trained.output)
    weights = weights_of(trained.output)
    assert (int(weights[f"{HEADS}.queue.place"]), int(weights[f"{HEADS}.queue.samples_seen"])) == (64 % 40, 64)
    assert not torch.equal(weights[f"{HEADS}.follower.image.proj"], weights["visual.proj"])
    lines = [json.loads(line) for line in (Path(trained.output) / "log.jsonl").read_text().splitlines()]
    for name in ("loss_match", "loss_language"):
        assert lines[-1][name] < lines[0][name], name


def test_export_is_open_clips_without_the_heads(trained: TrainConfig, tmp_path: Path) -> None:
    shutil.copytree(trained.output, tmp_path / "run")
    assert main(["export", str(tmp_path / "run/config.yaml"), "--output", str(tmp_path / "run")]) == 0
    model = open_clip.create_model(f"local-dir:{tmp_path / 'run' / 'export'}")
    assert not any(name.startswith(HEADS) for name in model.state_dict())
    with pytest.raises(ModelError, match="has no decoder that writes captions; give a run of method blip, or a CoCa"):
        caption(
            asked(replace(trained, output=str(tmp_path / "run/export")), Path(str(trained.data.path)), tmp_path / "no")
        )


def test_captions_have_uids_and_tell_how_they_were_made(trained: TrainConfig, data: Path, written: Path) -> None:
    rows = [row for path in sorted(written.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    there = [row for path in sorted((data / "shards").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert [row["uid"] for row in rows] == [row["uid"] for row in there]
    assert [row["captions"] == [] for row in rows] == [number == 3 for number in range(14)]
    assert all(text == " ".join(text.split()) and text for row in rows for text in row["captions"])
    assert len({text for row in rows for text in row["captions"]}) > 14
    about = open_captions(written).about
    assert (about.name, about.model, about.rows, about.broken) == ("small", trained.output, 14, 1)
    assert about.options == {
        "captions": 2,
        "top_p": 0.9,
        "temperature": 1.0,
        "min_tokens": 2,
        "max_tokens": 4,
        "seed": 0,
    }
    assert json.loads(pq.read_schema(written / "00000.parquet").metadata[b"openwit.captions"]) == {"source": "small"}


@pytest.mark.slow  # of an untrained model: no token is likely, and whole vocabularies are sorted
def test_captions_do_not_hang_on_the_batch(trained: TrainConfig, data: Path, written: Path, tmp_path: Path) -> None:
    made = caption(asked(trained, data, tmp_path / "again", batch_size=3), quiet=True)
    for name in ("00000", "00001"):
        assert made.read(name).equals(open_captions(written).read(name))
    other = caption(asked(trained, data, tmp_path / "other", seed=1), quiet=True)
    assert not other.read("00000").equals(made.read("00000"))


def test_killed_captioner_goes_on(
    trained: TrainConfig, data: Path, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = asked(trained, data, tmp_path / "to")
    real = caption_module.write_part

    def dies(place: Any, name: str, *args: Any, **options: Any) -> Any:
        if name == "00001":
            raise KeyboardInterrupt
        return real(place, name, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(caption_module, "write_part", dies)
        with pytest.raises(KeyboardInterrupt):
            caption(config, quiet=True)
    with pytest.raises(DataError, match="no finished captions here"):
        open_captions(tmp_path / "to")
    made_at = (tmp_path / "to/00000.parquet").stat().st_mtime_ns
    caption(config, quiet=True)
    assert (tmp_path / "to/00000.parquet").stat().st_mtime_ns == made_at
    assert files_of(tmp_path / "to") == files_of(written)
    assert not (tmp_path / "to/done").exists()
    of_another = replace(config, model=_changed(trained, tmp_path / "changed"))
    with pytest.raises(TrainingError, match="captions of another model"):
        caption(of_another, quiet=True)


def _changed(trained: TrainConfig, to: Path) -> str:
    """The run one step further back."""
    shutil.copytree(trained.output, to)
    steps = sorted(path for path in (to / "checkpoints").iterdir() if path.is_dir())
    shutil.rmtree(steps[-1])
    return str(to)


def test_matching_head_and_cosine_judge_every_text(
    trained: TrainConfig, data: Path, written: Path, tmp_path: Path
) -> None:
    to = tmp_path / "by-match"
    words = ["--to", str(to), "--device", "cpu", "--precision", "fp32", "--threads", "1", "--batch_size", "4"]
    assert main(["score-captions", str(written), trained.output, *words]) == 0
    rows = [row for path in sorted(to.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    about = open_captions(to).about
    assert about.judge is not None
    assert (about.judge.by, about.name) == ("match", "small")
    assert [row["alt_text_score"] is None for row in rows] == [number == 3 for number in range(14)]
    for row in rows:
        assert len(row["scores"]) == len(row["captions"])
        assert all(0 < score < 1 for score in [*row["scores"], *([row["alt_text_score"]] if row["captions"] else [])])
    # One of them the long way.
    model = load_with_heads(trained.output, device="cpu", precision="fp32", tokenizer=None)
    grounding: Any = model.head("grounding")
    from training.embedding.sources import find_source
    from training.learning.features import prepare
    from training.learning.methods.blip.image_tokens import feature_and_tokens

    part = find_source(str(data)).parts[0].rows()
    pixels = prepare(part.pictures([5])[0] or b"", model)
    assert pixels is not None
    with model.evaluating():
        seen = feature_and_tokens(model, torch.from_numpy(pixels[None]))[1]
        hidden = grounding.encode(model.clip.text, model.tokenizer([rows[5]["captions"][0]]), seen)
        expected = float(grounding.match(hidden).softmax(1)[0, 1])
    assert rows[5]["scores"][0] == pytest.approx(expected, rel=1e-5)
    cosine = score_captions(
        ScoreCaptionsConfig(
            captions=str(written), model=trained.output, by="cosine", to=str(tmp_path / "c"), device="cpu", threads=1
        ),
        quiet=True,
    )
    assert cosine.about.judge is not None
    assert cosine.about.judge.fingerprint != about.judge.fingerprint
    assert all(
        -1 <= score <= 1 for row in pq.read_table(tmp_path / "c/00000.parquet").to_pylist() for score in row["scores"]
    )


def test_what_cannot_be_done_is_one_line(
    trained: TrainConfig, data: Path, written: Path, tiny_model: str, tiny_data: Path, tmp_path: Path
) -> None:
    def refused(call: Any, config: Any) -> str:
        with pytest.raises(TrainingError) as caught:
            call(config, quiet=True)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    plain = {"model": tiny_model, "device": "cpu"}
    assert "has no decoder" in refused(caption, CaptionConfig(data=str(data), to=str(tmp_path / "a"), **plain))
    match = ScoreCaptionsConfig(captions=str(written), by="match", to=str(tmp_path / "b"), **plain)
    assert "has no matching head; give a run of method blip" in refused(score_captions, match)
    foreign = ScoreCaptionsConfig(captions=str(written), data=str(tiny_data), to=str(tmp_path / "c"), **plain)
    assert "captions of part 00002" in (told := refused(score_captions, foreign)), told
    one_shard = tmp_path / "other"
    make_shards(one_shard, counts=(9,), size=40, seed=8)
    foreign = replace(foreign, data=str(one_shard))
    assert "part 00000 is of other samples" in refused(score_captions, foreign)
    nothing = ScoreCaptionsConfig(captions=str(tmp_path / "none"), **plain)
    assert "no finished captions here" in refused(score_captions, nothing)


def test_nucleus_is_the_likeliest_tokens_that_reach_the_share() -> None:
    probabilities = torch.tensor([0.02, 0.5, 0.03, 0.3, 0.15])
    logits = probabilities.log().double().expand(4000, 5)
    drawn = nucleus(logits, torch.arange(4000), top_p=0.9, salt=0).bincount(minlength=5)
    assert drawn[[0, 2]].sum() == 0  # 0.5 + 0.3 + 0.15 reach it
    assert (drawn / 4000 - torch.tensor([0, 0.5, 0, 0.3, 0.15]) / 0.95).abs().max() < 0.03
    assert set(nucleus(logits[:50], torch.arange(50), top_p=0.4, salt=0).tolist()) == {1}
    flat = torch.zeros(300, 3000, dtype=torch.float64)  # of whose tokens the likeliest few are not enough
    assert len(nucleus(flat, torch.arange(300), top_p=0.9, salt=0).unique()) > 200
    keys = keys_of([bytes(range(16)), bytes(range(1, 17))], seed=0)
    assert keys != keys_of([bytes(range(16)), bytes(range(1, 17))], seed=1)
    assert len(set(keys)) == 2


def test_coca_writes_captions_by_its_own_decoder(data: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    described = {
        "embed_dim": 32,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16, "attentional_pool": True,
            "attn_pooler_heads": 2, "attn_pooler_queries": 5, "output_tokens": True,
        },
        "text_cfg": {
            "context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1, "embed_cls": True,
            "output_tokens": True,
        },
        "multimodal_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }  # fmt: skip
    path = tmp_path / "openwit-test-coca-captions.json"
    path.write_text(json.dumps(described))
    open_clip.add_model_config(path)
    torch.manual_seed(0)
    clip = open_clip.create_model(path.stem)
    torch.nn.init.normal_(clip.text_decoder.text_projection, std=1.0)
    save_file(dict(clip.state_dict()), tmp_path / "coca.safetensors")
    config = CaptionConfig(
        model=f"{path}:{tmp_path / 'coca.safetensors'}",
        data=str(data),
        to=str(tmp_path / "to"),
        **{**HOW, "captions": 1},
    )
    made = caption(config, quiet=True)
    assert made.about.captions == 13
    assert np.unique([len(texts) for texts in made.read("00001")["captions"].to_pylist()]).tolist() == [1]


def _picture(row: Mapping[str, Any]) -> bytes:
    """A gray JPEG of its own."""
    shade = np.random.default_rng(row["record"]).integers(0, 255, (32, 32), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(shade).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.timeout(300)
def test_every_command_of_the_page_works(
    trained: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (REPOSITORY / "docs/captions.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(small_set, "picture", _picture)
    samples = small_set.make_set(tmp_path / "data" / "sample", 12)
    shutil.copytree(trained.output, tmp_path / "runs" / "blip-small")
    (block,) = re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    few = {"caption": ["--max_tokens", "3", "--min_tokens", "1"], "subset": ["--min_caption_score", "0.01"]}
    for line in block.splitlines():
        python, flag, program, *words = shlex.split(line)
        assert (python, flag) == ("python", "-m")
        called = {"training": main, "pipeline": pipeline}[program]
        assert called([*words, *few.get(words[0], [])]) == 0, capsys.readouterr().err
    told = capsys.readouterr().out
    assert "by match" in told
    assert "caption_source" in told
    (line,) = json.loads((tmp_path / "data/sample-capfilt/ledger.json").read_text())["lines"]
    assert line["kept"] == line["rows_in"] == len(samples)
    rows = pq.read_table(tmp_path / "data/sample-capfilt/shards/00000.parquet").to_pylist()
    assert {row["caption_source"] for row in rows} <= {"web", "small"}
    assert [row["alt_text"] for row in rows] == [row["alt_text"] for row in samples]
    for name in ("best", "web", "synthetic", "match", "cosine"):
        assert f"| `{name}` |" in page
