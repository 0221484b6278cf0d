"""Training cost on a CPU: our trainer against open_clip's own, on the same tars, model, batch and precision.

    python -m benchmarks.train_open_clip --peer-python /tmp/peer/bin/python [--data data/sample/shards]

open_clip's trainer wants an old webdataset, so it lives in an environment of its own:

    python3 -m venv /tmp/peer
    /tmp/peer/bin/python -m pip install 'open_clip_torch[training]==3.3.0' 'webdataset<=0.2.86' torch==2.14.1

Each trainer runs as its user would start it, in turn, once for a short and once for a long run; the difference
is the steady cost, free of imports, model building and saving. CPU seconds are user + system of every process
that a run started, orphans too. Both use one torch thread and one data worker. Best of --repeats, with the spread.

Models: `vit` (ViT of 4 x 128 at 64 px in patches of 8, text 3 x 128, context 77: CLIP's) and `sample`
(configs/train/models/openwit-sample.json, context 32).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VIT = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "layers": 4, "width": 128, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 3},
}
PEER_MAIN = """
import sys, open_clip
open_clip.add_model_config(sys.argv[1])
from open_clip_train.main import main
main(sys.argv[2:])
"""


@dataclass(frozen=True)
class Cost:
    """What one run took."""

    cpu_s: float
    wall_s: float


def main() -> None:
    """Measure every setting asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True, help="python of open_clip's environment, see above")
    parser.add_argument("--data", default="data/sample/shards")
    parser.add_argument("--models", default="vit,sample")
    parser.add_argument("--precisions", default="fp32,bf16")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=8, help="steps in a pass, at most what the data holds")
    parser.add_argument("--epochs", default="1,4", help="passes of the short and the long run")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--peer-options", default="", help="more words for open_clip's trainer, say --torchcompile")
    parser.add_argument("--our-options", default="", help="more words for ours")
    options = parser.parse_args()
    # Orphans (the fork server of our data workers) come back to us, so that their time is counted.
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER, linux/prctl.h
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"batch {options.batch}, {options.workers} worker, 1 thread, load {os.getloadavg()[0]:.1f}"
    )
    for model in options.models.split(","):
        for precision in options.precisions.split(","):
            compare(model, precision, options)


def compare(model: str, precision: str, options: argparse.Namespace) -> None:
    """Print the costs of both trainers and their ratio for one model and precision."""
    shards = Path(options.data)
    counts = json.loads((shards / "sizes.json").read_text())
    steps = min(options.steps, sum(counts.values()) // options.batch)  # whole batches: the peer rounds the rest
    short, long = (int(word) for word in options.epochs.split(","))
    samples = (long - short) * steps * options.batch
    found: dict[str, list[Cost]] = {"ours": [], "open_clip": []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "openwit-benchmark.json"
        path.write_text((ROOT / "configs/train/models/openwit-sample.json").read_text())
        if model == "vit":
            path.write_text(json.dumps(VIT))
        for repeat in range(options.repeats):
            for name in found:  # in turn, so that a busy moment hits both
                costs = []
                for epochs in (short, long):
                    output = f"{folder}/{name}-{repeat}-{epochs}"
                    make = our_command if name == "ours" else peer_command
                    costs.append(run(make(path, output, precision, epochs, steps, counts, options)))
                found[name].append(Cost(costs[1].cpu_s - costs[0].cpu_s, costs[1].wall_s - costs[0].wall_s))
    best = {name: min(cost.cpu_s for cost in costs) / samples for name, costs in found.items()}
    for name, costs in found.items():
        spread = max(cost.cpu_s for cost in costs) / samples
        shortest = min(cost.wall_s for cost in costs)
        speed = f"{samples / shortest:7.1f} samples/s" if shortest > 0 else "no speed: the machine was too busy"
        print(
            f"{model:7} {precision}  {name:10} {1e3 * best[name]:7.3f} ms CPU a sample (worst {1e3 * spread:.3f})"
            f"  {speed}",
            flush=True,
        )
    print(f"{model:7} {precision}  open_clip / ours = {best['open_clip'] / best['ours']:.2f}", flush=True)


def our_command(
    model: Path,
    output: str,
    precision: str,
    epochs: int,
    steps: int,
    counts: dict[str, int],
    options: argparse.Namespace,
) -> list[str]:
    """Words that start our trainer."""
    return [
        sys.executable, "-m", "training", "run", "--output", output, "--data.path", options.data,
        "--data.num_workers", str(options.workers), "--model.name", str(model), "--device", "cpu",
        "--samples", str(epochs * steps * options.batch), "--global_batch_size", str(options.batch),
        "--precision", precision, "--threads", "1", "--log.tensorboard", "false", *options.our_options.split(),
    ]  # fmt: skip


def peer_command(
    model: Path,
    output: str,
    precision: str,
    epochs: int,
    steps: int,
    counts: dict[str, int],
    options: argparse.Namespace,
) -> list[str]:
    """Words that start open_clip's trainer."""
    names = sorted(counts)
    pattern = f"{options.data}/{{{names[0].removesuffix('.tar')}..{names[-1].removesuffix('.tar')}}}.tar"
    return [
        options.peer_python, "-c", PEER_MAIN, str(model), "--model", model.stem, "--dataset-type", "webdataset",
        "--train-data", pattern, "--train-num-samples", str(steps * options.batch), "--batch-size", str(options.batch),
        "--epochs", str(epochs), "--workers", str(options.workers), "--device", "cpu", "--logs", output,
        "--precision", {"bf16": "amp_bf16"}.get(precision, precision), "--warmup", "10", "--lr", "5e-4",
        "--save-frequency", "0", "--log-every-n-steps", "10", *options.peer_options.split(),
    ]  # fmt: skip


def run(command: list[str]) -> Cost:
    """Run `command` to its end and that of all its descendants."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    before, start = os.times(), time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    output = process.communicate()[0]
    wall = time.perf_counter() - start
    if process.returncode:
        sys.exit(f"failed: {' '.join(command)}\n{output[-3000:]}")
    while True:  # orphans that came back
        try:
            os.wait()
        except ChildProcessError:
            break
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Cost(cpu, wall)


if __name__ == "__main__":
    main()
