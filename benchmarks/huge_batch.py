"""The losses over tiles: time, memory, and what a batch of a million takes.

    python -m benchmarks.huge_batch --rows 8192 65536

For each size a process of its own: CPU seconds and growth of memory for one forward and backward pass of ours, of
open_clip's `ClipLoss`, which holds the whole matrix and its gradient, and of the softmax over rows of it, as trainers
with gathered features have it (4,096 rows at a time, both directions). The last two as far as `--most-rows` goes.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from training.learning.similarity import sigmoid_loss, softmax_loss

_CHUNK = 4096


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
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.process_time()
    value = KINDS[kind](image, text, scale)
    if value.requires_grad:
        value.backward()  # type: ignore[no-untyped-call]  # torch's stub
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "cpu_s": time.process_time() - began,
        "grown_mb": (after.ru_maxrss - before.ru_maxrss) / 1024,
        "loss": float(value.detach()),
    }


def main() -> None:
    """Each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[4096, 8192])
    parser.add_argument("--own", type=int, help="rows of this rank; all of them where it is left out")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--most-rows", type=int, default=16_384, help="of those that hold rows or all of the matrix")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        kind, rows = json.loads(options.one)
        print(json.dumps(measure(kind, rows, options.width, options.dtype, options.own or rows)))
        return
    print(f"{options.width} wide, {options.dtype}, {torch.get_num_threads()} threads")
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
            print(f"{rows:>9,}  {kind:<14} {found['cpu_s']:>8.1f} {found['grown_mb']:>12,.0f} MB", flush=True)


if __name__ == "__main__":
    main()
