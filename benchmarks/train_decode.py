"""What a data worker does with a picture: CPU time from JPEG to crop, and how near the crop is to a plain reference.

    python -m benchmarks.train_decode DIRECTORY [--sides 256,512] [--size 224] [--repeats 7]

Photographs of DIRECTORY (JPEG, shorter side 512 and more) are cut square, made smaller to each of --sides and stored
as the pipeline stores pictures (quality 95, 4:2:0). Timed in turn, on one core: decoding alone, and decoding with the
crop at `augment.min_decoded_sides` 2 and 1. The reference is Pillow's: all pixels decoded, the same box, bicubic.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from PIL import Image

from training.config import AugmentConfig
from training.data.decode import crop_box, decode, draws, random_crop, sample_keys

_CONFIG = AugmentConfig()


def main() -> None:
    """Measure every size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--sides", default="256,512")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--pictures", type=int, default=48)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for side in map(int, options.sides.split(",")):
        bodies = pictures(options.directory, side, options.pictures)
        uniform = draws(sample_keys(np.arange(len(bodies), dtype=np.uint64), np.zeros(len(bodies), np.int64), seed=0))
        row = np.zeros((options.size, options.size, 3), np.uint8)

        def crop(number: int, sides: float, bodies: list[bytes] = bodies, uniform: npt.NDArray[np.float64] = uniform,
                 row: npt.NDArray[np.uint8] = row) -> npt.NDArray[np.uint8]:  # fmt: skip
            whole = decode(bodies[number], min_side=int(sides * options.size))
            assert whole is not None
            return random_crop(whole, uniform[number], size=options.size, config=_CONFIG, out=row)

        ways: dict[str, Callable[[int], object]] = {
            "decoding alone": lambda number, bodies=bodies: simplejpeg.decode_jpeg(bodies[number]),  # type: ignore[misc]  # bound
            "min_decoded_sides 2": lambda number, crop=crop: crop(number, 2),  # type: ignore[misc]  # bound
            "min_decoded_sides 1": lambda number, crop=crop: crop(number, 1),  # type: ignore[misc]  # bound
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.repeats):
            for name, way in ways.items():
                begun = time.process_time()
                for number in range(len(bodies)):
                    way(number)
                times[name].append((time.process_time() - begun) / len(bodies))
        for name, found in times.items():
            middle = statistics.median(found)
            line = f"{side} px, {name:20}{1e3 * middle:7.3f} ms CPU  {1 / middle:6.0f} a second and core"
            if name != "decoding alone":
                sides = float(name.split()[1])
                errors = [
                    crop(number, sides).astype(float)
                    - reference(body, uniform[number], options.size, min_side=int(sides * options.size))
                    for number, body in enumerate(bodies)
                ]
                levels = [float(np.abs(error).mean()) for error in errors]
                psnr = [10 * np.log10(255**2 / max(float((error**2).mean()), 1e-9)) for error in errors]
                line += f"  off by {statistics.mean(levels):.2f} levels (worst {max(levels):.2f}), "
                line += f"PSNR {statistics.mean(psnr):.1f} dB (lowest {min(psnr):.1f})"
            print(line, flush=True)


def pictures(directory: Path, side: int, count: int) -> list[bytes]:
    """JPEGs of `side` x `side`."""
    found: list[bytes] = []
    for path in sorted(directory.rglob("*.jp*g")):
        with Image.open(path) as image:
            short = min(image.size)
            if short < 512 or image.mode != "RGB":
                continue
            square = image.crop((0, 0, short, short)).resize((side, side), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        square.save(buffer, "JPEG", quality=95, subsampling="4:2:0")
        found.append(buffer.getvalue())
        if len(found) == count:
            break
    return found


def reference(body: bytes, draw: npt.NDArray[np.float64], size: int, *, min_side: int) -> npt.NDArray[np.uint8]:
    """The crop as torchvision makes it of a picture of Pillow, from the box that was drawn on the smaller one."""
    image = Image.open(io.BytesIO(body)).convert("RGB")
    smaller = decode(body, min_side=min_side)
    assert smaller is not None
    top, left, height, width = crop_box(smaller.shape[0], smaller.shape[1], draw, _CONFIG)
    y, x = image.height / smaller.shape[0], image.width / smaller.shape[1]
    box = (left * x, top * y, (left + width) * x, (top + height) * y)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))


if __name__ == "__main__":
    main()
