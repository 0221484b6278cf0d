"""Figures of a made-up journal: a domain that looks and reads otherwise than the sample web (docs/domain.md).

    DIR/pictures/*.png, DIR/figures.parquet (url, caption, license, article_url) --any web server--> a data set
    DIR/eval/test.parquet (image, label, captions), its class names and templates --> an evaluation set

Micrographs in grey or stained, of five structures in three preparations. A caption is one to three hundred words long
and names what is seen anywhere in it, often far behind CLIP's 77 tokens. Everything follows from the seed.

`python -m benchmarks.domain_figures DIR [--figures 1500] [--port 8770]`
"""

from __future__ import annotations

import argparse
import io
import math
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFilter

__all__ = ["CLASSES", "draw_figure", "write_figures"]

SIDE = 64
"""Of a picture, in pixels."""
STRUCTURES = ("gland", "nucleus", "collagen fibre", "villus", "blood vessel")
PREPARATIONS = {  # background, structures
    "haematoxylin-stained": ((238, 205, 222), (92, 46, 130)),
    "silver-impregnated": ((214, 196, 160), (40, 28, 16)),
    "fluorescence": ((10, 12, 22), (70, 210, 120)),
}
CLASSES = tuple(f"{preparation} {structure}" for preparation in PREPARATIONS for structure in STRUCTURES)
TEMPLATES = ("{c}", "a micrograph of a {c}", "this is an image of a {c}")
LICENCES = ("CC BY", "CC BY-NC", "CC0")
FILLER = (
    "Sections were cut at five micrometres and mounted on coated slides.",
    "Scale bar, 50 um.",
    "Values are means of three independent experiments with standard errors.",
    "Arrowheads point at the region that is enlarged in the inset.",
    "Images were acquired with the same exposure for all groups.",
    "Animals were kept under a cycle of twelve hours of light and dark.",
    "The asterisk marks a significant difference from the control group (p < 0.05).",
    "Samples of patients were taken with written consent, as the ethics committee had approved.",
    "Background was subtracted before the intensity of the signal was measured.",
    "Representative fields of at least six animals in each group are shown.",
    "Slides were read by two pathologists who did not know the treatment.",
    "Data of the second cohort are given in the supplementary table.",
)


def write_figures(directory: Path, *, figures: int, port: int, per_class: int = 16, seed: int = 0) -> None:
    """Write the pictures, their table and the evaluation set to `directory`; URLs are of 127.0.0.1:`port`."""
    (directory / "pictures").mkdir(parents=True)
    rows = []
    for number in range(figures):
        draw = random.Random(f"{seed}/{number}")
        label = draw.randrange(len(CLASSES))
        name = f"{number:05d}.png"
        (directory / "pictures" / name).write_bytes(draw_figure(label, draw))
        base = f"http://127.0.0.1:{port}"
        rows.append(
            {
                "url": f"{base}/pictures/{name}",
                "caption": caption_of(label, draw, number),
                "license": draw.choice(LICENCES),
                "article_url": f"{base}/articles/{number // 4}",
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), directory / "figures.parquet")
    test = []
    for label in range(len(CLASSES)):
        for copy in range(per_class):
            draw = random.Random(f"{seed}/eval/{label}/{copy}")
            picture = draw_figure(label, draw)
            test.append({"image": picture, "label": label, "caption": caption_of(label, draw, copy)})
    (directory / "eval").mkdir()
    pq.write_table(pa.Table.from_pylist(test), directory / "eval/test.parquet")
    (directory / "eval/classnames.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    templates = "".join(f"{template}\n" for template in TEMPLATES)
    (directory / "eval/zeroshot_classification_templates.txt").write_text(templates)


def caption_of(label: int, draw: random.Random, number: int) -> str:
    """One to twenty sentences, of which one says what is seen; the others fit any figure."""
    preparation, structure = _class(label)
    seen = draw.choice(
        (
            f"Micrograph of a {preparation} {structure} of the {draw.choice(('rat', 'mouse', 'human'))}",
            f"A {preparation} {structure} is seen in the {draw.choice(('liver', 'kidney', 'gut', 'lung'))}",
            f"Representative {preparation} section with a {structure}",
        )
    )
    before = draw.choice((0, 0, 1, 3, 8))
    sentences = [draw.choice(FILLER) for _ in range(before + draw.choice((0, 1, 3, 8)))]
    return " ".join([f"Figure {number % 9 + 1}.", *sentences[:before], f"{seen}.", *sentences[before:]])


def draw_figure(label: int, draw: random.Random) -> bytes:
    """A PNG of SIDE x SIDE pixels of the class `label`."""
    preparation, structure = _class(label)
    ground, ink = ((np.array(c) + draw.randint(-14, 14)).clip(0, 255) for c in PREPARATIONS[preparation])
    big = 4 * SIDE
    mask = Image.new("L", (big, big))
    canvas = ImageDraw.Draw(mask)
    for _ in range(draw.randint(3, 6)):
        x, y, r = draw.uniform(0, big), draw.uniform(0, big), draw.uniform(0.08, 0.16) * big
        turn = draw.uniform(0, math.pi)
        if structure == "nucleus":
            canvas.ellipse((x - r * 0.7, y - r * 0.6, x + r * 0.7, y + r * 0.6), fill=255)
        elif structure == "gland":
            cells = [(x + r * math.cos(i * 0.52), y + r * math.sin(i * 0.52)) for i in range(12)]
            for u, v in cells:
                canvas.ellipse((u - r * 0.2, v - r * 0.2, u + r * 0.2, v + r * 0.2), fill=255)
        elif structure == "collagen fibre":
            for shift in range(-3, 4):
                line = [
                    (x + (t - 40) * 3 * math.cos(turn) - shift * 9 * math.sin(turn) + 4 * math.sin(t / 6),
                     y + (t - 40) * 3 * math.sin(turn) + shift * 9 * math.cos(turn) + 4 * math.cos(t / 6))
                    for t in range(80)
                ]  # fmt: skip
                canvas.line(line, fill=220, width=3)
        elif structure == "villus":
            canvas.rounded_rectangle(
                (x - r * 0.4, y - 2 * r, x + r * 0.4, y + 2 * r), int(r * 0.4), outline=255, width=9
            )
        else:  # a blood vessel, which branches
            for angle in (turn, turn + 0.6, turn + 2.8):
                canvas.line((x, y, x + 4 * r * math.cos(angle), y + 4 * r * math.sin(angle)), fill=255, width=12)
    share = np.asarray(mask.filter(ImageFilter.GaussianBlur(1.5)).resize((SIDE, SIDE)), np.float32)[..., None] / 255
    noise = np.random.default_rng(draw.getrandbits(32)).normal(0, 9, (SIDE, SIDE, 1))
    pixels = (ground * (1 - share) + ink * share + noise).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _class(label: int) -> tuple[str, str]:
    return list(PREPARATIONS)[label // len(STRUCTURES)], STRUCTURES[label % len(STRUCTURES)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--figures", type=int, default=1500)
    parser.add_argument("--port", type=int, default=8770)
    options = parser.parse_args()
    write_figures(options.directory, figures=options.figures, port=options.port)
