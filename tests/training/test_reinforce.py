"""`reinforce`: what teachers say of every augmentation and caption, made once, gone on with, and followed by a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision.transforms import RandAugment
from torchvision.transforms.autoaugment import _apply_op
from torchvision.transforms.functional import InterpolationMode

import training.data.shards as shards_module
import training.reinforcement.reinforce as reinforce_module
from configs.load import ConfigError, from_mapping
from pipeline.records.identity import first_64_bits, keyed_hash, keyed_hashes, keyed_state
from tests.training.conftest import TINY_VIT, _random_weights, put_tree, tiny_run
from tests.training.test_data import LengthTokenizer
from tests.training.test_train import CrashError, assert_same_run, crash, interrupt_at, losses
from tests.training.tiny_shards import make_shards
from training.commands import main
from training.config import CaptionsConfig, DataConfig, DataSet, MethodConfig, TrainConfig, learns
from training.data.augmentations import OPERATIONS, _apply, augmentation_keys, augmented, operations_of
from training.data.augmentations_config import StrongAugmentConfig
from training.data.batches import Batch, BatchDataset, batches
from training.data.beside import Beside
from training.data.companions import load_companions, write_companions
from training.data.decode import decode, draws, random_crop, sample_keys
from training.data.index import write_index
from training.data.reinforcements import Reinforcements, open_reinforcements
from training.data.stream import Segment, Stream
from training.data.taught import SYNTHETIC, TEACHER_SCALE, teacher_field
from training.distributed import World
from training.errors import CheckpointError, DataError, FeaturesError, OutputError
from training.learning.features import image_features, text_features
from training.learning.pretrained import load_model
from training.reinforcement.config import ReinforceConfig
from training.reinforcement.reinforce import reinforce
from training.train import train

K = 3
"""Augmentations of the tests."""


@pytest.fixture(scope="module", autouse=True)
def models_are_loaded_once() -> Iterator[None]:
    """Which takes longest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reinforce_module, "load_model", lru_cache(None)(load_model))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty samples in three shards, of which two pictures are cut short."""
    root = tmp_path_factory.mktemp("reinforce") / "set"
    make_shards(root, counts=(9, 8, 3), size=40, broken=(4, 18))
    return root


@pytest.fixture(scope="module")
def larger_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A teacher with larger pictures and narrower features."""
    path = tmp_path_factory.mktemp("larger") / "openwit-test-teacher.json"
    vision = {**TINY_VIT["vision_cfg"], "image_size": 48}  # type: ignore[dict-item]
    path.write_text(json.dumps({**TINY_VIT, "embed_dim": 8, "vision_cfg": vision}))
    return _random_weights(path.parent, path, seed=2)


def samples_of(data: Path) -> list[dict[str, Any]]:
    """The rows of the Parquet beside the shards, each with the bytes of its picture."""
    rows = []
    for parquet in sorted((data / "shards").glob("*.parquet")):
        tar = parquet.with_suffix(".tar").read_bytes()
        for row in pq.read_table(parquet).to_pylist():
            start = row["tar_offset"]
            rows.append({**row, "jpeg": tar[start : start + row["num_bytes"]]})
    return rows


def table_of(path: Path, uids: list[bytes], captions: list[list[str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    kinds = {"uid": pa.array(uids, pa.binary(16)), "captions": pa.array(captions, pa.list_(pa.string()))}
    pq.write_table(pa.table(kinds), path)
    return path


@pytest.fixture(scope="module")
def captions(data: Path) -> Path:
    """Of each sample none, one or two synthetic captions, in another order than the shards have."""
    uids = [row["uid"] for row in samples_of(data)]
    texts = [[f"synthetic {number} {which}" for which in range(number % 3)] for number in range(len(uids))]
    return table_of(data.parent / "captions.parquet", uids[::-1], texts[::-1])


def reinforced(teachers: list[str], data: Path | str, to: Path | str | None = None, **options: Any) -> Reinforcements:
    given = {"device": "cpu", "precision": "fp32", "batch_size": 6, "augmentations": K, "decode_threads": 1, **options}
    config = ReinforceConfig(data=str(data), teachers=tuple(teachers), to=None if to is None else str(to), **given)
    found = reinforce(config, quiet=True)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def whole(data: Path, tiny_model: str, larger_model: str, captions: Path, tmp_path_factory: Any) -> Reinforcements:
    """By two teachers, with captions; to be read only."""
    to = tmp_path_factory.mktemp("whole") / "reinforced"
    return reinforced([tiny_model, larger_model], data, to, captions=str(captions))


def files_of(place: Any) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(place.iterdir())}


@contextmanager
def counted(patch: pytest.MonkeyPatch, *, stop_after: int | None = None) -> Iterator[list[str]]:
    """The names of the parts that are made meanwhile; the process dies in the one after `stop_after`."""
    made: list[str] = []
    real = reinforce_module.write_part

    def counting(place: Any, name: str, *rest: Any, **options: Any) -> Any:
        if len(made) == stop_after:
            raise KeyboardInterrupt
        made.append(name)
        return real(place, name, *rest, **options)

    with patch.context() as patched:
        patched.setattr(reinforce_module, "write_part", counting)
        patched.setattr(reinforce_module, "_seconds_a_picture", lambda *_: 0.0)
        yield made


# --- augmentations ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_torchvisions(name: str) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (33, 33, 3), np.uint8)
    picture, spaces = Image.fromarray(noise), RandAugment()._augmentation_space(31, (33, 33))
    theirs = {"autocontrast": "AutoContrast"}.get(name, "".join(word.capitalize() for word in name.split("_")))
    magnitudes, is_signed = spaces[theirs]
    for magnitude in (0, 9, 30):
        for sign in (1, -1) if is_signed else (1,):
            value = float(magnitudes[magnitude]) if magnitudes.ndim else 0.0
            expected = _apply_op(picture, theirs, sign * value, InterpolationMode.NEAREST, None)
            found = np.asarray(_apply(picture, name, sign, magnitude)).astype(int)
            assert np.abs(found - np.asarray(expected)).max() <= 1, (magnitude, sign)  # factors are float32 there


def test_draws_of_one_key_are_those_of_many() -> None:
    keys = np.array([1, 1 << 63, 987654321987654321], np.uint64)
    found = keyed_hashes(np.array([keyed_state(seed) for seed in (0, 7, 256)]), keys)
    assert np.array_equal(found, np.stack([keyed_hash(seed, keys) for seed in (0, 7, 256)], axis=1))


def test_an_augmentation_is_a_function_of_seed_uid_and_number() -> None:
    picture = np.random.default_rng(3).integers(0, 256, (50, 40, 3), np.uint8)
    config = StrongAugmentConfig()
    uids = np.array([7, 7, 8], np.uint64)
    keys = augmentation_keys(uids, np.array([0, 1, 0]), seed=5)
    views = [augmented(picture, key, size=24, config=config) for key in keys]
    assert len({view.tobytes() for view in views}) == 3
    again = augmentation_keys(uids[::-1], np.array([0, 1, 0])[::-1], seed=5)[::-1]
    assert [augmented(picture, key, size=24, config=config).tobytes() for key in again] == [v.tobytes() for v in views]
    assert augmentation_keys(uids, np.array([0, 1, 0]), seed=6).tolist() != keys.tolist()
    plain = replace(config, operations=0)
    crop = random_crop(picture, draws(keys[:1])[0], size=24, config=config.crop)
    assert np.array_equal(augmented(picture, keys[0], size=24, config=plain), crop)
    drawn = augmentation_keys(np.arange(3000, dtype=np.uint64), np.zeros(3000, np.int64), seed=0)
    chosen = [operation for key in drawn for operation in operations_of(key, config)]
    counts = [sum(name == operation for operation, _ in chosen) for name in OPERATIONS]
    assert min(counts) > 6000 / len(OPERATIONS) * 0.8
    assert 0.45 < sum(sign > 0 for _, sign in chosen) / len(chosen) < 0.55


# --- the step --------------------------------------------------------------------------------------


def test_every_augmentation_and_caption_has_each_teachers_features(
    data: Path, whole: Reinforcements, tiny_model: str, larger_model: str
) -> None:
    about = whole.about
    assert (about.rows, about.augmentations, about.widths) == (20, K, (16, 8))
    assert [part.name for part in about.parts] == ["00000", "00001", "00002"]
    assert (sum(part.whole for part in about.parts), sum(part.broken for part in about.parts)) == (18, 2)
    models = [load_model(word, device="cpu", precision="fp32") for word in (tiny_model, larger_model)]
    assert [teacher.image_size for teacher in about.teachers] == [32, 48]
    number = 0
    rows = iter(samples_of(data))
    for part in about.parts:
        tensors = load_file(str(whole.place / f"{part.name}.safetensors"))
        assert tensors["image"].dtype == torch.bfloat16
        for row in range(part.rows):
            sample = next(rows)
            assert bytes(tensors["uid"][row].tolist()) == sample["uid"]
            picture = decode(sample["jpeg"])
            assert bool(tensors["is_whole"][row]) == (picture is not None)
            if picture is None:
                assert not tensors["image"][row].any()
            else:
                keys = augmentation_keys(np.full(K, first_64_bits(sample["uid"])[0]), np.arange(K), seed=0)
                expected = []
                for model in models:
                    views = [augmented(picture, key, size=model.image_size, config=about.augment) for key in keys]
                    expected.append(image_features(model, np.stack(views)))
                assert torch.allclose(tensors["image"][row].float(), torch.cat(expected, 1), atol=3e-3)
            texts = torch.cat([text_features(model, [sample["caption"]]) for model in models], 1)
            assert torch.allclose(tensors["text"][row].float(), texts[0], atol=3e-3)
            first, last = (int(tensors["first"][row + more]) for more in (0, 1))
            told = [f"synthetic {number} {which}" for which in range(number % 3)] if picture is not None else None
            if told is not None:
                assert last - first == len(told)
                if told:
                    theirs = torch.cat([text_features(model, told) for model in models], 1)
                    assert torch.allclose(tensors["synthetic"][first:last].float(), theirs, atol=3e-3)
            number += 1


def test_what_it_will_take_is_said_before(
    data: Path, tiny_model: str, captions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["reinforce", str(data), tiny_model, "--captions", str(captions), "--augmentations", "4"]
    words += ["--to", str(tmp_path / "to"), "--device", "cpu", "--precision", "fp32"]
    assert main([*words, "--plan", "true"]) == 0
    told = capsys.readouterr().err
    assert not (tmp_path / "to").exists()
    # 16 numbers of 2 bytes: of 4 augmentations and a caption each, and of the synthetic ones.
    num_captions = sum(number % 3 for number in range(20))
    assert f"20 samples, 4 augmentations and {num_captions} synthetic captions" in told
    assert f"storage    {32 * (20 * 5 + num_captions):,} bytes" in told
    assert "time       about 0:00:0" in told
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "rows 20, with a picture 18" in out
    assert main([*words, "--plan", "true"]) == 0
    assert "there is nothing to be done" in capsys.readouterr().err


def test_a_killed_run_goes_on_to_the_same_bytes(
    data: Path, tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with counted(monkeypatch) as made:
        reinforced([tiny_model], data, tmp_path / "whole")
    assert made == ["00000", "00001", "00002"]
    killed = tmp_path / "killed"
    with counted(monkeypatch, stop_after=2), pytest.raises(KeyboardInterrupt):
        reinforced([tiny_model], data, killed)
    with pytest.raises(FeaturesError, match="unfinished"):
        open_reinforcements(killed)
    with counted(monkeypatch) as made:
        reinforced([tiny_model], data, killed)
    assert made == ["00002"]
    assert files_of(killed) == files_of(tmp_path / "whole")


def test_any_number_of_processes_gives_the_same_bytes(
    data: Path, tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = reinforced([tiny_model], data, tmp_path / "whole")

    class Rank(World):
        """Rank 1 of two; the other one has made its parts, and tells of them."""

        def gather_objects(self, value: Any) -> list[Any]:
            return [[part for part in whole.about.parts if part not in value], value]

    @contextmanager
    def ranks(**_: Any) -> Iterator[World]:
        yield Rank(rank=1, size=2)

    for name in ("on_first", "on_first_however_long", "together"):
        monkeypatch.setattr(Rank, name, lambda self, told: told())
    monkeypatch.setattr(reinforce_module, "distributed", ranks)
    with counted(monkeypatch) as made:
        reinforced([tiny_model], data, tmp_path / "ranks")
    assert made == ["00001"]
    for name in ("00001.safetensors", "reinforced.json"):
        assert (tmp_path / "ranks" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_it_follows_a_set_that_grew_and_captions_that_came(
    tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large, to = tmp_path / "small", tmp_path / "large", tmp_path / "to"
    make_shards(large, counts=(5, 4, 3), size=40)
    shutil.copytree(large, small)
    (small / "shards" / "00002.tar").unlink()
    (small / "shards" / "sizes.json").write_text(json.dumps({"00000.tar": 5, "00001.tar": 4}))
    with counted(monkeypatch) as made:
        reinforced([tiny_model], small, to)
        assert reinforced([tiny_model], large, to).about.rows == 12
    assert made == ["00000", "00001", "00002"]
    uid = samples_of(large)[6]["uid"]
    table = table_of(tmp_path / "captions.parquet", [uid], [["a new caption", " ", "a new caption"]])
    with counted(monkeypatch) as made:
        about = reinforced([tiny_model], large, to, captions=str(table)).about
    assert made == ["00001"]
    assert about.captions == 1
    (to / "00000.safetensors").write_bytes((to / "00000.safetensors").read_bytes()[:-1])
    with counted(monkeypatch) as made:
        reinforced([tiny_model], small, to)
    assert made == ["00000", "00001"]  # damaged, and without the caption
    assert sorted(path.name for path in to.iterdir()) == ["00000.safetensors", "00001.safetensors", "reinforced.json"]


def test_removed_samples_go_from_it(tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_shards(tmp_path / "set", counts=(5, 4), size=40)
    to = tmp_path / "to"
    reinforced([tiny_model], tmp_path / "set", to)
    gone = samples_of(tmp_path / "set")[6]["uid"]
    monkeypatch.setattr(shards_module, "tombstones_of", lambda root: frozenset([gone]))
    reinforced([tiny_model], tmp_path / "set", to)
    tensors = load_file(str(to / "00001.safetensors"))
    assert tensors["is_whole"].tolist() == [1, 0, 1, 1]
    assert not tensors["image"][1].any()
    assert not tensors["text"][1].any()
    index = write_index(tmp_path / "set", root=tmp_path / "index")
    config = DataConfig(path=str(tmp_path / "set"), reinforced=(str(to),))
    assert write_companions(index, tmp_path / "index" / index.fingerprint, config) is not None


def test_from_bucket_to_bucket_the_bytes_are_the_same(
    data: Path, tiny_model: str, tmp_path: Path, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{bucket.url}/reinforce-set"
    put_tree(data / "shards", f"{url}/shards")
    local = reinforced([tiny_model], data, tmp_path / "local")
    remote = reinforced([tiny_model], url, f"{bucket.url}/reinforced")
    for part in local.about.parts:
        name = f"{part.name}.safetensors"
        assert (remote.place / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
    with counted(monkeypatch) as made:
        assert reinforced([tiny_model], url, f"{bucket.url}/reinforced").about == remote.about
    assert made == []
    assert open_reinforcements(f"{bucket.url}/reinforced").about == remote.about


@pytest.mark.parametrize(
    ("options", "told"),
    [({"seed": 1}, "other seed"), ({"augmentations": 4}, "other augmentations"),
     ({"augment": StrongAugmentConfig(magnitude=3)}, "other augment;")],
)  # fmt: skip
def test_other_reinforcements_are_not_written_over(
    data: Path, whole: Reinforcements, tiny_model: str, larger_model: str, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(FeaturesError, match=told):
        reinforced([tiny_model, larger_model], data, str(whole.place), **options)
    with pytest.raises(FeaturesError, match="other teachers"):
        reinforced([larger_model, tiny_model], data, str(whole.place))


def test_what_cannot_be_reinforced_is_one_line(data: Path, tiny_model: str, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(OutputError, match="holds no reinforcements"):
        reinforced([tiny_model], data, tmp_path / "full")
    Image.new("RGB", (32, 32)).save(tmp_path / "picture.png")
    with pytest.raises(DataError, match="a folder, and only shards are trained on"):
        reinforced([tiny_model], tmp_path, tmp_path / "to")
    for options, told in (({"teachers": ()}, "teachers is empty"), ({"augmentations": 0}, "at least 1")):
        with pytest.raises(ConfigError, match=told):
            ReinforceConfig(**{"data": "x", "teachers": ("y",), **options})


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"uid": [b"0" * 16]}, "no column captions among uid; a table of captions has"),
        ({"uid": [b"0" * 16], "captions": ["one"]}, "column captions is string"),
        ({"uid": [b"0" * 8], "captions": [["one"]]}, "a uid is not of 16 bytes"),
        ({"uid": ["no hex"], "captions": [["one"]]}, "uid 'no hex' is no hex digits"),
    ],
)
def test_a_table_that_is_none_is_told(
    data: Path, tiny_model: str, tmp_path: Path, columns: dict[str, Any], told: str
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "table.parquet")
    with pytest.raises(DataError, match=told):
        reinforced([tiny_model], data, tmp_path / "to", captions=str(tmp_path / "table.parquet"))
    with pytest.raises(DataError, match="no Parquet file there"):
        reinforced([tiny_model], data, tmp_path / "to", captions=str(tmp_path / "none"))


# --- batches ---------------------------------------------------------------------------------------


def dataset_of(data: Path, root: Path, config: DataConfig, *, batch: int = 10) -> BatchDataset:
    index = write_index(data, root=root)
    write_companions(index, root / index.fingerprint, config)
    dirs = (str(root / index.fingerprint),)
    return BatchDataset(
        index_dirs=dirs,
        stream=Stream(segments=(Segment(sizes=(len(index),)),), seed=0, global_batch_size=batch),
        augment=config.augment,
        image_size=32,
        tokenizer=LengthTokenizer(),
        seed=0,
        beside=Beside(dirs, config.captions, is_reinforced=bool(config.reinforced)),
    )


def loaded(dataset: BatchDataset, *, stop: int, rank: int = 0, world_size: int = 1, workers: int = 0) -> list[Batch]:
    config = DataConfig(path="", num_workers=workers)
    with closing(batches(dataset, start=0, stop=stop, rank=rank, world_size=world_size, config=config)) as found:
        return list(found)


def joined(parts: list[Batch]) -> dict[str, torch.Tensor]:
    return {name: torch.cat([part.fields[name] for part in parts]) for name in parts[0].fields}


def test_a_batch_holds_what_teachers_saw(data: Path, whole: Reinforcements, tmp_path: Path) -> None:
    config = DataConfig(path=str(data), reinforced=(str(whole.place),))
    dataset = dataset_of(data, tmp_path, config)
    index = write_index(data, root=tmp_path / "again")
    by_uid = {first_64_bits(row["uid"])[0]: row for row in samples_of(data)}
    parts = [load_file(str(whole.place / f"{part.name}.safetensors")) for part in whole.about.parts]
    image, text, first = (torch.cat([part[name] for part in parts]) for name in ("image", "text", "is_whole"))
    assert len(first) == len(index) == 20
    views = {}
    for sample, uid in enumerate(index.uid):
        picture = decode(by_uid[uid]["jpeg"])
        for number in range(K) if picture is not None else ():
            (key,) = augmentation_keys(np.array([uid]), np.array([number]), seed=0)
            views[augmented(picture, key, size=32, config=whole.about.augment).tobytes()] = sample, number
    seen = set()
    for batch in loaded(dataset, stop=200):
        for row in range(len(batch)):
            sample, number = views[batch.images[row].numpy().tobytes()]
            seen.add((sample, number))
            theirs = torch.cat([batch.fields[teacher_field("image", teacher)][row] for teacher in (0, 1)])
            assert torch.equal(theirs, image[sample, number])
            own = torch.cat([batch.fields[teacher_field("text", teacher)][row] for teacher in (0, 1)])
            assert torch.equal(own, text[sample])
            if sample % 3 == 0:  # has no synthetic caption
                other = torch.cat([batch.fields[teacher_field(SYNTHETIC, teacher)][row] for teacher in (0, 1)])
                assert torch.equal(other, own)
                assert torch.equal(batch.fields[SYNTHETIC][row], batch.tokens[row])
        scales = torch.tensor([teacher.logit_scale for teacher in whole.about.teachers])
        assert torch.equal(batch.fields[TEACHER_SCALE], scales.repeat(len(batch), 1))
        assert batch.fields["teacher_image_0"].dtype == torch.bfloat16
    assert len(seen) > 0.9 * 18 * K  # 10 epochs: of each sample nearly every augmentation


def test_every_world_size_sees_the_same(data: Path, whole: Reinforcements, tmp_path: Path) -> None:
    config = DataConfig(path=str(data), reinforced=(str(whole.place),))
    dataset = dataset_of(data, tmp_path, config)
    one = joined(loaded(dataset, stop=40))
    for ranks in (2, 3):
        by_rank = [loaded(dataset, stop=40, rank=rank, world_size=ranks) for rank in range(ranks)]
        several = joined([part for parts in zip(*by_rank, strict=True) for part in parts])
        assert all(torch.equal(one[name], several[name]) for name in one)


@pytest.mark.slow
def test_worker_processes_see_the_same(data: Path, whole: Reinforcements, tmp_path: Path) -> None:
    dataset = dataset_of(data, tmp_path, DataConfig(path=str(data), reinforced=(str(whole.place),)))
    one, worker = joined(loaded(dataset, stop=40)), joined(loaded(dataset, stop=40, workers=1))
    assert all(torch.equal(one[name], worker[name]) for name in one)


@pytest.mark.parametrize("share", [0.0, pytest.param(0.3, marks=pytest.mark.slow), 1.0])
def test_captions_are_drawn_anew_in_each_epoch(data: Path, captions: Path, tmp_path: Path, share: float) -> None:
    config = DataConfig(path=str(data), captions=CaptionsConfig(path=str(captions), own_probability=share))
    dataset = dataset_of(data, tmp_path, config)
    told: dict[int, list[str]] = {}
    index, beside = dataset._index(0), dataset.beside
    assert beside is not None
    for position in range(20 * 40):
        drawn = dataset.stream.draw(np.array([position]))
        (key,) = sample_keys(index.uid[drawn.samples], drawn.epochs, seed=0)
        sample = int(drawn.samples[0])
        told.setdefault(sample, []).append(beside.caption(0, sample, key, index.caption(sample)))
    for sample, texts in told.items():
        own = dataset._index(0).caption(sample)
        others = [f"synthetic {sample} {which}" for which in range(sample % 3)]
        shares = [texts.count(text) / len(texts) for text in (own, *others)]
        assert sum(shares) == pytest.approx(1)
        expected = [share, *((1 - share) / len(others) for _ in others)] if others else [1.0]
        assert shares == pytest.approx(expected, abs=0.25)


def test_captions_need_no_reinforcements_and_reach_the_batch(data: Path, captions: Path, tmp_path: Path) -> None:
    plain = dataset_of(data, tmp_path / "plain", DataConfig(path=str(data)))
    plain.beside = None
    mixed = dataset_of(
        data, tmp_path / "mixed", DataConfig(path=str(data), captions=CaptionsConfig(path=str(captions)))
    )
    own, drawn = joined(loaded(plain, stop=60)), joined(loaded(mixed, stop=60))
    assert own.keys() == drawn.keys()
    assert torch.equal(own["image"], drawn["image"])
    changed = (own["tokens"] != drawn["tokens"]).any(1).float().mean()
    assert 0.1 < changed < 0.6
    companions = load_companions(tmp_path / "mixed" / next((tmp_path / "mixed").iterdir()).name)
    assert companions is not None
    assert companions.num_without == len([number for number in range(20) if number % 3 == 0])


def test_shards_that_were_cut_anew_find_their_samples(
    tiny_model: str, captions: Path, data: Path, tmp_path: Path
) -> None:
    """By uid, whatever the shards are called."""
    to = tmp_path / "to"
    made = reinforced([tiny_model], data, to, captions=str(captions))
    renamed = tmp_path / "renamed" / "shards"
    renamed.mkdir(parents=True)
    for path in (data / "shards").iterdir():
        name = path.name if path.name == "sizes.json" else f"{2 - int(path.stem):05d}{path.suffix}"
        shutil.copy(path, renamed / name)
    (renamed / "sizes.json").write_text(json.dumps({"00000.tar": 3, "00001.tar": 8, "00002.tar": 9}))
    index = write_index(renamed.parent, root=tmp_path / "index")
    place = tmp_path / "index" / index.fingerprint
    found = write_companions(index, place, DataConfig(path="x", reinforced=(str(made.place),)))
    assert found is not None
    assert found.part is not None
    assert found.part.tolist() == [2] * 3 + [1] * 8 + [0] * 9
    table = write_companions(index, place, DataConfig(path="x", captions=CaptionsConfig(path=str(captions))))
    assert table is not None
    assert [table.captions_of(sample) for sample in range(3)] == [
        [f"synthetic {n} {which}" for which in range(n % 3)] for n in (17, 18, 19)
    ]


def test_several_sets_have_reinforcements_of_their_own(
    tiny_model: str, data: Path, whole: Reinforcements, tmp_path: Path
) -> None:
    make_shards(tmp_path / "other", counts=(5,), size=40, seed=9)
    first = reinforced([tiny_model], data, tmp_path / "first")
    second = reinforced([tiny_model], tmp_path / "other", tmp_path / "second")
    index = write_index(data, tmp_path / "other", root=tmp_path / "index")
    place = tmp_path / "index" / index.fingerprint

    def joined_to(*sets: Reinforcements) -> list[int]:
        mixture = (DataSet(path="a"), DataSet(path="b"))
        config = DataConfig(mixture=mixture, reinforced=tuple(str(one.place) for one in sets))
        found = write_companions(index, place, config)
        assert found is not None
        assert found.part is not None
        return found.part.tolist()

    assert joined_to(first, second) == [0] * 9 + [1] * 8 + [2] * 3 + [3] * 5
    with pytest.raises(DataError, match="20 of the 20 samples of the data set have no reinforcement there"):
        joined_to(second, first)
    with pytest.raises(DataError, match="reinforced with other teachers than"):
        joined_to(whole, second)


# --- runs ------------------------------------------------------------------------------------------


def run_of(output: Path, data: Path, model: Path, place: Any, **options: Any) -> dict[str, Any]:
    run = tiny_run(output, data, model) | {"method": {"name": "distillation", "options": {"weight": 0.5, **options}}}
    return run | {"data": {**run["data"], "reinforced": [str(place)]}, "micro_batches": 2}


@pytest.fixture(scope="module")
def trained(data: Path, whole: Reinforcements, tiny_vit: Path, tmp_path_factory: Any) -> TrainConfig:
    """A finished run, to be read only."""
    run = run_of(tmp_path_factory.mktemp("trained") / "run", data, tiny_vit, whole.place)
    config = from_mapping(TrainConfig, run)
    assert train(config).progress.samples_seen == 160
    return config


def test_a_student_learns_what_its_teachers_say(trained: TrainConfig) -> None:
    lines = [json.loads(line) for line in (Path(trained.output) / "log.jsonl").read_text().splitlines()]
    terms = [f"loss_{name}{of}" for name in ("contrastive", "distillation") for of in ("", "_synthetic")]
    for line in lines:
        assert line["loss"] == pytest.approx(sum(line[term] for term in terms), rel=1e-5)


def test_resumed_run_is_the_same(trained: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(trained, output=str(tmp_path / "run"))
    with monkeypatch.context() as patch:
        interrupt_at(patch, 7, crash)
        with pytest.raises(CrashError):
            train(config)
    train(config)
    assert_same_run(config.output, trained.output)
    assert losses(config.output)[-1] == losses(trained.output)[-1]


def test_a_run_does_not_go_on_with_other_reinforcements(
    trained: TrainConfig, data: Path, tiny_model: str, larger_model: str, tmp_path: Path
) -> None:
    shutil.copytree(trained.output, tmp_path / "run")
    other = reinforced([tiny_model, larger_model], data, tmp_path / "other", seed=1)
    config = replace(trained, output=str(tmp_path / "run"), data=replace(trained.data, reinforced=(str(other.place),)))
    with pytest.raises(CheckpointError, match="was trained on other shards"):
        train(config)


def test_reinforcements_that_do_not_fit_are_told_before_training(
    trained: TrainConfig, whole: Reinforcements, tiny_data: Path, tmp_path: Path
) -> None:
    def told(match: str, kind: type[Exception] = DataError, **data: Any) -> None:
        config = replace(trained, output=str(tmp_path / "run"), data=replace(trained.data, **data))
        with pytest.raises(kind, match=match):
            train(config)
        assert not (tmp_path / "run" / "run.json").exists()

    told(r"83 of the 103 samples of the data set have no reinforcement there; run", path=str(tiny_data))
    told("no reinforcements here", FeaturesError, reinforced=(str(tmp_path),))
    damaged = tmp_path / "damaged"
    shutil.copytree(str(whole.place), damaged)
    short = damaged / "00001.safetensors"
    short.write_bytes(short.read_bytes()[:100])
    told("missing or damaged", reinforced=(str(damaged),))
    short.unlink()
    told("missing or damaged", reinforced=(str(damaged),))
    told("name reinforcements of the data with", ConfigError, reinforced=())
    strangers = table_of(tmp_path / "strangers.parquet", [b"?" * 16], [["somebody else's"]])
    config = replace(trained, output=str(tmp_path / "plain"), method=MethodConfig())
    of_others = replace(trained.data, reinforced=(), captions=CaptionsConfig(path=str(strangers)))
    with pytest.raises(DataError, match="has captions of none of the 20 samples"):
        train(replace(config, data=of_others))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"reinforced": ["a", "b"]}, "names 2 directories, and the data has 1 paths"),
        ({"reinforced": ["a"], "captions": {"path": "b"}}, "are both given"),
        ({"reinforced": ["a"], "augment": {"min_crop_area": 0.5}}, "augment does nothing to reinforced data"),
        ({"reinforced": ["a"], "follow": True}, "nothing reinforces them"),
        ({"reinforced": ["s3://a/b"]}, "is read at random"),
        ({"captions": {"own_probability": 2}}, r"must lie in \[0, 1\]"),
    ],
)
def test_mistakes_in_the_config_are_told(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        from_mapping(DataConfig, {"path": "x", **options})


def test_what_is_not_used_leaves_the_fingerprint_as_it_was(trained: TrainConfig) -> None:
    plain = replace(trained, data=replace(trained.data, reinforced=()))
    assert learns(plain) != learns(trained)
    unused = replace(plain.data, captions=CaptionsConfig(own_probability=0.9))
    assert learns(replace(plain, data=unused)) == learns(plain)
    used = replace(plain.data, captions=CaptionsConfig(path="x"))
    assert learns(replace(plain, data=used)) != learns(plain)
