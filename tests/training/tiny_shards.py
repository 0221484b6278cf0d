"""A stand-in for the pipeline's output: shapes in colours as shards, and an evaluation set.

Layout as the pipeline writes it: `shards/{00000..}.tar` with KEY.jpg, KEY.txt, KEY.json, the Parquet
with `tar_offset` beside each, `sizes.json`. Everything follows from the seed.
"""

from __future__ import annotations

import io
import json
import math
import random
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

COLOURS = {
    "red": (214, 39, 40),
    "green": (44, 140, 44),
    "blue": (31, 70, 200),
    "yellow": (240, 210, 30),
    "orange": (250, 130, 10),
    "purple": (130, 50, 160),
    "black": (20, 20, 20),
    "white": (245, 245, 245),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "arrow", "diamond", "crescent")
CLASSES = [f"{colour} {shape}" for shape in SHAPES for colour in COLOURS]
BACKGROUNDS = {"grey": (128, 128, 128), "beige": (225, 205, 170), "teal": (40, 130, 130), "pink": (245, 170, 190)}
QUERIES = ("a", "the", "of", "background", "picture", "clip", *COLOURS, *SHAPES)
TEMPLATES = ["a {c}", "a picture of a {c}", "{c}", "a {c} on a plain background"]


def make_shards(
    directory: Path,
    *,
    counts: tuple[int, ...],
    size: int = 64,
    seed: int = 0,
    num_classes: int = len(CLASSES),
    broken: tuple[int, ...] = (),
    offsets: bool = True,
    queries: bool = False,
) -> None:
    """Shards of `counts` samples each; `broken` are global numbers whose picture is cut short; `queries` for the column
    `query_ids`, places in QUERIES."""
    shards = directory / "shards"
    shards.mkdir(parents=True)
    number = 0
    sizes = {}
    for shard, count in enumerate(counts):
        name = f"{shard:05d}.tar"
        rows = []
        with tarfile.open(shards / name, "w", format=tarfile.USTAR_FORMAT) as tar:
            for i in range(count):
                draw = random.Random(f"{seed}/{number}")
                # A long tail over classes: rank r with weight 1 / (r + 3).
                ranks = range(num_classes)
                label = draw.choices(ranks, weights=[1 / (r + 3) for r in ranks])[0]
                label = label * 37 % num_classes if num_classes == len(CLASSES) else label
                picture, caption = draw_sample(CLASSES[label], draw, size=size)
                data = encode(picture)
                if number in broken:
                    data = data[: len(data) // 2]
                key = f"{shard:05d}{i:04d}"
                offset = _add(tar, f"{key}.jpg", data)
                _add(tar, f"{key}.txt", caption.encode())
                _add(tar, f"{key}.json", json.dumps({"caption": caption, "key": key}).encode())
                uid = random.Random(f"uid/{seed}/{number}").randbytes(16)
                rows.append({"key": key, "caption": caption, "uid": uid, "tar_offset": offset, "num_bytes": len(data)})
                if queries:
                    words = caption.lower().replace(",", "").split()
                    rows[-1]["query_ids"] = [number for number, word in enumerate(QUERIES) if word in words]
                number += 1
        if offsets:
            schema = pa.schema(
                [
                    ("key", pa.string()),
                    ("caption", pa.string()),
                    ("uid", pa.binary(16)),
                    ("tar_offset", pa.int64()),
                    ("num_bytes", pa.int64()),
                    *([("query_ids", pa.list_(pa.int32()))] if queries else []),
                ]
            )
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), shards / f"{shard:05d}.parquet")
        sizes[name] = count
    (shards / "sizes.json").write_text(json.dumps(sizes))


def make_evaluation(
    directory: Path, *, per_class: int, size: int = 64, seed: int = 1, classes: list[str] = CLASSES, num_tars: int = 2
) -> None:
    """A class-balanced evaluation set with captions, in CLIP_benchmark's WebDataset form."""
    test = directory / "test"
    test.mkdir(parents=True)
    (test / "nshards.txt").write_text(f"{num_tars}\n")
    (directory / "classnames.txt").write_text("".join(f"{name}\n" for name in classes))
    (directory / "zeroshot_classification_templates.txt").write_text("".join(f"{t}\n" for t in TEMPLATES))
    items = [(label, copy) for copy in range(per_class) for label in range(len(classes))]
    for tar_number in range(num_tars):
        with tarfile.open(test / f"{tar_number}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for number, (label, copy) in enumerate(items):
                if number % num_tars != tar_number:
                    continue
                picture, caption = draw_sample(classes[label], random.Random(f"{seed}/{label}/{copy}"), size=size)
                _add(tar, f"{number:06d}.jpg", encode(picture))
                _add(tar, f"{number:06d}.cls", str(label).encode())
                _add(tar, f"{number:06d}.txt", caption.encode())


def draw_sample(name: str, draw: random.Random, *, size: int) -> tuple[Image.Image, str]:
    """A picture of a class, and a caption that is true of it."""
    colour, shape = name.split(" ")
    ground = draw.choice(list(BACKGROUNDS))
    big = 4 * size
    base = tuple(min(255, max(0, c + draw.randint(-25, 25))) for c in BACKGROUNDS[ground])
    picture = Image.new("RGB", (big, big), base)
    canvas = ImageDraw.Draw(picture)
    for _ in range(draw.randint(0, 6)):
        x, y, r = draw.randint(0, big), draw.randint(0, big), draw.randint(4, big // 12)
        canvas.rectangle((x, y, x + r, y + r), fill=tuple(max(0, c - draw.randint(10, 60)) for c in base))
    scale = draw.uniform(0.18, 0.4)
    column, row = draw.choice(("left", "middle", "right")), draw.choice(("top", "middle", "bottom"))
    places = {"left": 0.3, "top": 0.3, "middle": 0.5, "right": 0.7, "bottom": 0.7}
    x = big * (places[column] + draw.uniform(-0.05, 0.05))
    y = big * (places[row] + draw.uniform(-0.05, 0.05))
    fill = tuple(min(255, max(0, c + draw.randint(-20, 20))) for c in COLOURS[colour])
    _draw_shape(canvas, shape, x, y, big * scale, draw.uniform(-0.3, 0.3), fill, base)
    where = {"middlemiddle": "in the middle"}.get(row + column, f"at the {row} {column}".replace(" middle", "", 1))
    extent = "small" if scale < 0.25 else "large" if scale > 0.33 else "medium-sized"
    caption = draw.choice(
        (
            f"a {colour} {shape} {where}",
            f"A {extent} {colour} {shape} on a {ground} background",
            f"picture of a {colour} {shape}",
            f"{ground} wall with one {colour} {shape}, {where}",
            f"{colour.capitalize()} {shape} | clip art",
            f"There is a {extent} {colour} {shape} {where} of this {ground} drawing",
            f"Buy {colour} {shape} stickers",
        )
    )
    return picture.resize((size, size), Image.Resampling.BOX), caption


def encode(picture: Image.Image) -> bytes:
    """JPEG bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _draw_shape(
    canvas: ImageDraw.ImageDraw,
    shape: str,
    x: float,
    y: float,
    r: float,
    turn: float,
    fill: tuple[int, ...],
    base: tuple[int, ...],
) -> None:
    def polygon(points: list[tuple[float, float]]) -> None:
        cos, sin = math.cos(turn), math.sin(turn)
        canvas.polygon([(x + r * (u * cos - v * sin), y + r * (u * sin + v * cos)) for u, v in points], fill=fill)

    def disc(cx: float, cy: float, radius: float, ink: tuple[int, ...]) -> None:
        canvas.ellipse((cx - radius, cy - radius, cx + radius, cy + radius), fill=ink)

    if shape in ("circle", "ring", "crescent"):
        disc(x, y, r, fill)
        if shape == "ring":
            disc(x, y, 0.55 * r, base)
        if shape == "crescent":
            disc(x + 0.45 * r, y - 0.2 * r, 0.8 * r, base)
    elif shape == "square":
        polygon([(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)])
    elif shape == "diamond":
        polygon([(0, -1), (0.6, 0), (0, 1), (-0.6, 0)])
    elif shape == "triangle":
        polygon([(0, -1), (0.9, 0.7), (-0.9, 0.7)])
    elif shape == "star":
        radii = [(1 if i % 2 == 0 else 0.42, math.pi * i / 5 - math.pi / 2) for i in range(10)]
        polygon([(a * math.cos(t), a * math.sin(t)) for a, t in radii])
    elif shape == "cross":
        polygon([(-0.3, -1), (0.3, -1), (0.3, 1), (-0.3, 1)])
        polygon([(-1, -0.3), (1, -0.3), (1, 0.3), (-1, 0.3)])
    elif shape == "heart":
        angles = [2 * math.pi * i / 40 for i in range(40)]
        polygon(
            [
                (
                    math.sin(t) ** 3,
                    -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16,
                )
                for t in angles
            ]
        )
    else:  # arrow
        polygon([(-1, -0.25), (0.1, -0.25), (0.1, -0.7), (1, 0), (0.1, 0.7), (0.1, 0.25), (-1, 0.25)])


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Append a member; return where its bytes start."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    offset = tar.offset + 512
    tar.addfile(info, io.BytesIO(data))
    return offset
