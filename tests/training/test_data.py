"""Batches: coverage, equality at any world size, broken pictures, keyed augmentation."""

from __future__ import annotations

import io
import time
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from pipeline.stages.check_image.check import check_image
from pipeline.stages.check_image.config import ImageConfig, Picture
from tests.training.tiny_shards import make_shards
from training.config import AugmentConfig, DataConfig
from training.data.batches import Batch, BatchDataset, batches
from training.data.decode import crop_box, decode, draws, random_crop, sample_keys
from training.data.index import write_index
from training.data.slots import one_ahead, whole_batches
from training.data.stream import Segment, Stream
from training.errors import DataError


class LengthTokenizer:
    """A stand-in that needs no vocabulary: the caption's first bytes."""

    def __call__(self, texts: list[str]) -> torch.Tensor:
        tokens = torch.zeros(len(texts), 12, dtype=torch.int64)
        for row, text in enumerate(texts):
            head = text.encode()[:12]
            tokens[row, : len(head)] = torch.tensor(list(head))
        return tokens


def dataset_of(data: Path, index_dir: Path, *, batch: int, seed: int = 0, fields: tuple[str, ...] = ()) -> BatchDataset:
    index = write_index(data, root=index_dir, fields=fields)
    return BatchDataset(
        index_dirs=(str(index_dir / index.fingerprint),),
        stream=Stream(segments=(Segment(sizes=(len(index),)),), seed=seed, global_batch_size=batch),
        augment=AugmentConfig(),
        image_size=32,
        tokenizer=LengthTokenizer(),
        seed=seed,
    )


def load(dataset: BatchDataset, *, stop: int, rank: int = 0, world_size: int = 1, workers: int = 0) -> list[Batch]:
    config = DataConfig(path="", num_workers=workers)
    with closing(batches(dataset, start=0, stop=stop, rank=rank, world_size=world_size, config=config)) as found:
        return list(found)


def same(left: Batch, right: Batch) -> bool:
    return all(torch.equal(getattr(left, n), getattr(right, n)) for n in ("images", "tokens", "keys"))


def joined(parts: list[Batch]) -> Batch:
    """The samples of all parts, in order."""
    fields = {name: torch.cat([part.fields[name] for part in parts]) for name in parts[0].fields}
    return Batch(fields=fields, num_replaced=sum(part.num_replaced for part in parts))


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_every_world_size_sees_the_same_global_batches(world_size: int, tiny_data: Path, tmp_path: Path) -> None:
    dataset = dataset_of(tiny_data, tmp_path / "index", batch=20)
    alone = load(dataset, stop=120)  # crosses the end of the epoch at 103
    ranks = [load(dataset, stop=120, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert len(alone) == 6
    for step, whole in enumerate(alone):
        assert same(whole, joined([rank[step] for rank in ranks]))


def test_worker_processes_change_nothing_and_lose_nothing(tmp_path: Path) -> None:
    # Fewer shards than workers, one of them short: where sequential readers lose samples.
    make_shards(tmp_path / "data", counts=(30, 3), size=24)
    dataset = dataset_of(tmp_path / "data", tmp_path / "index", batch=11)
    here, workers = load(dataset, stop=33), load(dataset, stop=33, workers=3)
    assert len(here) == len(workers) == 3
    assert all(same(a, b) for a, b in zip(here, workers, strict=True))
    keys = joined(here).keys
    assert len(keys.unique()) == 33


def test_memory_that_pictures_share_is_not_used_anew_too_early(tmp_path: Path) -> None:
    make_shards(tmp_path / "data", counts=(30,), size=24)
    dataset = dataset_of(tmp_path / "data", tmp_path / "index", batch=7)
    workers = load(dataset, stop=7 * 24, workers=2)  # far more chunks than there are slots
    assert all(same(a, b) for a, b in zip(load(dataset, stop=7 * 24), workers, strict=True))


def test_texts_end_at_a_multiple_where_that_is_asked_for() -> None:
    tokens = torch.zeros(5, 12, dtype=torch.int64)
    tokens[:3, :4], tokens[4, :6] = 1, 1
    parts = [
        Batch.of(images=torch.zeros(n, 2, 2, 3, dtype=torch.uint8), tokens=t, keys=torch.arange(n), num_replaced=1)
        for n, t in ((3, tokens[:3]), (2, tokens[3:]))
    ]
    lengths = {}
    for multiple in (None, 1, 4, 8):
        (batch,) = whole_batches(iter(parts), 5, device=torch.device("cpu"), spare=1, text_multiple=multiple)
        lengths[multiple] = batch.tokens.shape[1]
        assert torch.equal(batch.tokens, tokens[:, : lengths[multiple]])
        assert batch.num_replaced == 2
    assert lengths == {None: 12, 1: 6, 4: 8, 8: 8}


def test_batches_drawn_one_ahead_are_the_same_and_end_alike() -> None:
    tokens = torch.zeros(1, 1, dtype=torch.int64)
    all_of_them = [Batch.of(images=tokens, tokens=tokens, keys=torch.tensor([number])) for number in range(5)]
    drawn: list[int] = []
    ended = []

    def source(*, fails: bool) -> Generator[Batch, None, None]:
        try:
            for number, batch in enumerate(all_of_them):
                drawn.append(number)
                yield batch
            if fails:
                raise DataError("gone")
        finally:
            ended.append(True)

    with closing(one_ahead(source(fails=False))) as found:
        assert next(found) is all_of_them[0]
        while len(drawn) < 2:  # the next one, by a thread
            time.sleep(0.001)
        assert list(found) == all_of_them[1:]
    failing = one_ahead(source(fails=True))
    assert [next(failing) for _ in range(5)] == all_of_them
    with pytest.raises(DataError, match="gone"):
        next(failing)
    stopped = one_ahead(source(fails=False))
    next(stopped)
    stopped.close()
    assert len(ended) == 3


def test_broken_pictures_are_replaced_alike_at_any_world_size_and_counted(tmp_path: Path) -> None:
    make_shards(tmp_path / "data", counts=(20, 10), size=24, broken=(3, 4, 17, 29))
    dataset = dataset_of(tmp_path / "data", tmp_path / "index", batch=10)
    alone = load(dataset, stop=30)
    assert sum(batch.num_replaced for batch in alone) == 4
    ranks = [load(dataset, stop=30, rank=rank, world_size=2) for rank in range(2)]
    for step, whole in enumerate(alone):
        halves = joined([rank[step] for rank in ranks])
        assert same(whole, halves)
        assert whole.num_replaced == halves.num_replaced


def test_crops_differ_between_epochs_and_seeds_but_not_between_runs(tiny_data: Path, tmp_path: Path) -> None:
    uids = np.arange(5, dtype=np.uint64)
    epoch = np.zeros(5, np.int64)
    first = draws(sample_keys(uids, epoch, seed=0))
    assert np.array_equal(first, draws(sample_keys(uids, epoch, seed=0)))
    assert not np.array_equal(first, draws(sample_keys(uids, epoch + 1, seed=0)))
    assert not np.array_equal(first, draws(sample_keys(uids, epoch, seed=1)))
    assert ((first >= 0) & (first < 1)).all()
    dataset = dataset_of(tiny_data, tmp_path / "index", batch=20)
    again = dataset_of(tiny_data, tmp_path / "index", batch=20)
    assert all(same(a, b) for a, b in zip(load(dataset, stop=40), load(again, stop=40), strict=True))


def test_draws_are_uniform() -> None:
    found = draws(sample_keys(np.arange(20000, dtype=np.uint64), np.zeros(20000, np.int64), seed=4))
    assert np.abs(found.mean(axis=0) - 0.5).max() < 0.01
    assert np.abs(np.corrcoef(found.T) - np.eye(found.shape[1])).max() < 0.03


def test_whole_picture_crop_changes_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    config = AugmentConfig(min_crop_area=1.0, max_crop_aspect=1.0)
    crop = random_crop(image, np.full(23, 0.5), size=32, config=config)
    assert np.array_equal(crop, image)


def crop_boxes(height: int, width: int, config: AugmentConfig, count: int) -> np.ndarray:
    """float64[count, 4]: share of the area, log aspect, and the place of the top left corner of drawn crops."""
    rows = []
    for draw in draws(sample_keys(np.arange(count, dtype=np.uint64), np.zeros(count, np.int64), seed=3)):
        rows.append(crop_box(height, width, draw, config))
    return described(np.array(rows), height, width)


def described(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    top, left, crop_height, crop_width = boxes.T
    share, aspect = crop_height * crop_width / (height * width), np.log(crop_width / crop_height)
    return np.stack([share, aspect, top / height, left / width], axis=1)


@pytest.mark.parametrize("least", [0.9, 0.3])
@pytest.mark.parametrize("size", [(256, 341), (341, 256), (256, 256), (256, 400), (90, 300)])
def test_crops_are_distributed_as_torchvisions(size: tuple[int, int], least: float) -> None:
    """Area, aspect and place, by the greatest distance of their distribution functions (Kolmogorov and Smirnov).

    Of 256 x 400 few of the first draws fit, of 90 x 300 hardly any of ten.
    """
    count = 1500
    found = crop_boxes(*size, AugmentConfig(min_crop_area=least), count)
    torch.manual_seed(0)
    blank = torch.empty(3, *size)
    boxes = [RandomResizedCrop.get_params(blank, [least, 1.0], [3 / 4, 4 / 3]) for _ in range(count)]
    expected = described(np.array(boxes), *size)
    for column, name in enumerate(("area", "aspect", "top", "left")):
        ours, theirs = np.sort(found[:, column]), np.sort(expected[:, column])
        at = np.concatenate([ours, theirs])
        shares = [np.searchsorted(each, at + 1e-9) / count for each in (ours, theirs)]
        assert np.abs(shares[0] - shares[1]).max() < 0.06, name


def test_crops_keep_the_least_area() -> None:
    found = crop_boxes(256, 341, AugmentConfig(), 3000)
    assert found[:, 0].min() > 0.9 - 0.003  # sides are whole pixels
    assert 0.955 < found[:, 0].mean() < 0.963
    assert np.exp(np.abs(found[:, 1])).max() < 4 / 3 + 0.01


def test_a_picture_longer_than_crops_may_be_gives_its_middle() -> None:
    draw = draws(sample_keys(np.arange(1, dtype=np.uint64), np.zeros(1, np.int64), seed=0))[0]
    assert crop_box(90, 300, draw, AugmentConfig()) == (0, 90, 90, 120)
    assert crop_box(300, 90, draw, AugmentConfig()) == (90, 0, 120, 90)
    assert crop_box(256, 341, draw, AugmentConfig(min_crop_area=1.0, max_crop_aspect=1.0)) == (0, 42, 256, 256)


@pytest.mark.parametrize("shape", [(256, 341), (300, 256), (100, 90), (40, 300)])
def test_crops_are_resized_as_pillow_resizes_them(shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(noise).resize(shape[::-1], Image.Resampling.BICUBIC))
    for draw in draws(sample_keys(np.arange(5, dtype=np.uint64), np.zeros(5, np.int64), seed=0)):
        top, left, height, width = crop_box(*shape, draw, AugmentConfig())
        crop = Image.fromarray(image[top : top + height, left : left + width])
        expected = np.asarray(crop.resize((112, 112), Image.Resampling.BICUBIC)).astype(int)
        assert np.abs(random_crop(image, draw, size=112, config=AugmentConfig()) - expected).mean() < 0.1


def test_crops_stay_inside_and_keep_their_area() -> None:
    rows, columns = np.mgrid[0:50, 0:80]
    image = np.stack([rows, columns, np.zeros_like(rows)], axis=2).astype(np.uint8)
    config = AugmentConfig(min_crop_area=0.5, max_crop_aspect=1.2)
    for draw in draws(sample_keys(np.arange(200, dtype=np.uint64), np.zeros(200, np.int64), seed=0)):
        crop = random_crop(image, draw, size=20, config=config)
        assert crop.shape == (20, 20, 3)
        assert crop.dtype == np.uint8
        assert crop.max() <= 79
    row = np.zeros((3, 20, 20, 3), np.uint8)[1]
    assert np.array_equal(random_crop(image, draw, size=20, config=config, out=row), crop)
    assert np.array_equal(row, crop)
    flipped = random_crop(
        image, np.zeros(23), size=20, config=AugmentConfig(min_crop_area=0.5, max_crop_aspect=1.0, flip_probability=1)
    )
    assert flipped[0, 0, 1] > flipped[0, -1, 1]
    as_is = random_crop(
        image, np.zeros(23), size=20, config=AugmentConfig(min_crop_area=0.5, max_crop_aspect=1.0, flip_probability=0)
    )
    assert (flipped == as_is[:, ::-1]).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_every_kind_of_picture_decodes_to_rgb(kind: str) -> None:
    for mode in ("RGB", "L", "CMYK") if kind == "JPEG" else ("RGB", "L", "P"):
        if kind == "WEBP" and mode == "P":
            continue
        buffer = io.BytesIO()
        Image.new("RGB", (30, 20), (200, 30, 30)).convert(mode).save(buffer, kind)
        found = decode(buffer.getvalue(), min_side=8)
        assert found is not None
        assert found.shape[2] == 3
        if mode != "L":
            assert found[..., 0].mean() > 150 > found[..., 1].mean()


def oriented(pixels: np.ndarray, kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, exif=exif)
    return buffer.getvalue()


def test_the_trainer_sees_what_the_image_check_saw() -> None:
    """Pictures stored as they were served: turned, transparent, of 16 bits, inverted."""
    random = np.random.default_rng(0)
    colours = np.asarray(Image.fromarray(random.integers(0, 256, (5, 8, 3), np.uint8)).resize((80, 40)))
    rgba = np.dstack([colours, np.linspace(0, 255, 80 * 40).astype(np.uint8).reshape(40, 80)])
    levels = np.linspace(0, 65535, 80 * 40).astype(np.uint16).reshape(40, 80)
    pictures = [oriented(colours, kind, turn) for kind in ("JPEG", "PNG", "WEBP") for turn in range(1, 9)]
    for image, kind in (
        (Image.fromarray(rgba), "PNG"),
        (Image.fromarray(rgba), "WEBP"),
        (Image.fromarray(levels), "PNG"),
        (Image.fromarray(colours).convert("CMYK"), "JPEG"),
        (Image.fromarray(colours).convert("L"), "JPEG"),
        (Image.fromarray(colours).quantize(8), "GIF"),
    ):
        buffer = io.BytesIO()
        image.save(buffer, kind)
        pictures.append(buffer.getvalue())
    plain = ImageConfig(resize_mode="no", scaled_decoding="exact", encode_format="png", encode_quality=1)
    for body in pictures:
        checked = check_image(body, plain)
        assert isinstance(checked, Picture)
        with Image.open(io.BytesIO(checked.encoded)) as image:
            assert np.array_equal(decode(body, min_side=32), np.asarray(image))


def test_large_jpegs_are_decoded_at_a_fraction_of_their_size() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (800, 400)).save(buffer, "JPEG")
    found = decode(buffer.getvalue(), min_side=100)
    assert found is not None
    assert min(found.shape[:2]) == 100


@pytest.mark.parametrize(
    ("size", "found"), [((1300, 1400), (650, 700)), ((901, 895), (901, 895)), ((3586, 5000), (449, 625))]
)
def test_jpegs_are_made_smaller_by_powers_of_two_alone(size: tuple[int, int], found: tuple[int, int]) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", size, (9, 99, 199)).save(buffer, "JPEG")
    picture = decode(buffer.getvalue(), min_side=448)  # libjpeg could make three eighths of the first
    assert picture is not None
    assert picture.shape[1::-1] == found


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"<html>", b"\x89PNG\r\n\x1a\n" + bytes(20)])
def test_bytes_that_are_no_picture_give_none(data: bytes) -> None:
    assert decode(data, min_side=8) is None


def test_pictures_cut_short_give_none() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for kind in ("JPEG", "PNG"):
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, kind)
        assert decode(buffer.getvalue()[: len(buffer.getvalue()) // 2], min_side=8) is None


def test_columns_may_be_named_as_the_arguments_of_a_batch(tmp_path: Path) -> None:
    make_shards(tmp_path / "data", counts=(5,), size=40)
    (path,) = (tmp_path / "data").rglob("*.parquet")
    table, names = pq.read_table(path), ("images", "keys", "num_replaced")
    for name in names:
        table = table.append_column(name, pa.array(range(5), pa.int8()))
    pq.write_table(table, path)
    batch = dataset_of(tmp_path / "data", tmp_path / "index", batch=5, fields=names).__getitems__([0, 1, 2, 3, 4])
    assert batch.images.shape == (5, 32, 32, 3)
    assert batch.num_replaced == 0
    for name in names:
        assert sorted(batch.fields[name].tolist()) == [0, 1, 2, 3, 4]
