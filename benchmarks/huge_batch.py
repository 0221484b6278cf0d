"""The losses over tiles: time, memory, and what a batch of a million takes.

    python -m benchmarks.huge_batch --rows 8192 65536
    python -m benchmarks.huge_batch --rows 16384 --towers ViT-B-32      # and its share of a step

For each size a process of its own: CPU seconds and growth of memory for one forward and backward pass of ours, of
open_clip's `ClipLoss`, which holds the whole matrix and its gradient, and of the softmax over rows of it, as trainers
with gathered features have it (4,096 rows at a time, both directions). The last two as far as `--most-rows` goes.
Memory is the most that the process held, less what it held before, in Linux's count; elsewhere what earlier peaks hide
is missing. `--towers` takes a forward and backward pass of a model of open_clip's over a few pairs, which stands for as
many as the batch has: the share of a step is reckoned from two times that were measured, not from such a step.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from training.learning.similarity import sigmoid_loss, softmax_loss

_CHUNK = 4096
_PAIRS = 16
"""Of the towers' pass."""


def ours(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Tiles of 4,096 x 4,096."""
    return softmax_loss(image, text, scale, first=0, tile=_CHUNK)


def ours_sigmoid(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """The same of SigLIP's loss."""
    return sigmoid_loss(image, text, scale, None, first=0, tile=_CHUNK)


def by_rows(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Rows of the matrix in both directions, each with a graph of its own."""
    total = torch.zeros(())
    for start in range(0, len(image), _CHUNK):
        rows = slice(start, start + _CHUNK)
        labels = torch.arange(start, min(start + _CHUNK, len(image)))
        part = F.cross_entropy(scale * image[rows] @ text.T, labels, reduction="sum")
        part = (part + F.cross_entropy(scale * text[rows] @ image.T, labels, reduction="sum")) / (2 * len(image))
        if part.requires_grad:
            part.backward()
        total += part.detach()
    return total


def open_clips(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """The whole matrix."""
    from open_clip.loss import ClipLoss

    loss: Tensor = ClipLoss()(image, text, scale)
    return loss


KINDS = {"ours": ours, "ours, sigmoid": ours_sigmoid, "by rows": by_rows, "open_clip": open_clips}


def measure(kind: str, rows: int, width: int, dtype: str, own: int) -> dict[str, float]:
    """One pass in this process."""
    torch.manual_seed(0)
    kept = getattr(torch, dtype)
    text = F.normalize(torch.randn(rows, width), dim=1).to(kept).requires_grad_()
    image = text[:own].detach().clone().requires_grad_()
    scale = torch.tensor(50.0, requires_grad=True)
    before, began = peak_mb(forget=True), time.process_time()
    value = KINDS[kind](image, text, scale)
    if value.requires_grad:
        value.backward()  # type: ignore[no-untyped-call]  # torch's stub
    return {
        "cpu_s": time.process_time() - began,
        "grown_mb": peak_mb() - before,
        "loss": float(value.detach()),
    }


def peak_mb(*, forget: bool = False) -> float:
    """The most that this process held, in 2^20 bytes; with `forget` from now on."""
    with suppress(OSError):
        if forget:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def towers_cpu_s(name: str) -> float:
    """CPU seconds of a pair in a forward and backward pass of both towers of `name`, in float32."""
    import open_clip

    torch.manual_seed(0)
    model = open_clip.create_model(name)
    images = torch.randn(_PAIRS, 3, *model.visual.image_size)
    texts = torch.randint(1, 49_000, (_PAIRS, model.context_length))
    took = []
    for _ in range(3):
        began = time.process_time()
        (model.encode_image(images).sum() + model.encode_text(texts).sum()).backward()
        took.append(time.process_time() - began)
    return min(took) / _PAIRS


def main() -> None:
    """Each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[4096, 8192])
    parser.add_argument("--own", type=int, help="rows of this rank; all of them where it is left out")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--most-rows", type=int, default=16_384, help="of those that hold rows or all of the matrix")
    parser.add_argument("--towers", help="a model of open_clip's, for the share of a step")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        kind, rows = json.loads(options.one)
        print(json.dumps(measure(kind, rows, options.width, options.dtype, options.own or rows)))
        return
    print(f"{options.width} wide, {options.dtype}, {torch.get_num_threads()} threads")
    pair_s = towers_cpu_s(options.towers) if options.towers else None
    if pair_s is not None:
        print(f"{options.towers}: {pair_s:.3f} CPU s a pair")
    print(f"{'rows':>9}  {'loss':<14} {'CPU s':>8} {'memory grew by':>15}")
    for rows in options.rows:
        for kind in KINDS:
            if not kind.startswith("ours") and (rows > options.most_rows or options.own):
                continue
            words = [sys.executable, "-m", "benchmarks.huge_batch", "--width", str(options.width)]
            words += ["--dtype", options.dtype, *(["--own", str(options.own)] if options.own else [])]
            done = subprocess.run(
                [*words, "--one", json.dumps([kind, rows])], check=True, capture_output=True, text=True
            )
            found = json.loads(done.stdout)
            share = "" if pair_s is None else f"  {found['cpu_s'] / (found['cpu_s'] + rows * pair_s):.2%} of a step"
            print(f"{rows:>9,}  {kind:<14} {found['cpu_s']:>8.1f} {found['grown_mb']:>12,.0f} MB{share}", flush=True)


if __name__ == "__main__":
    main()
