"""Training speed on a GPU: pairs/s, model FLOPs utilisation, data wait and memory, of the trainer itself.

    python -m benchmarks.train_gpu CONFIG.yaml --data DIR [--batch 1024] [--from shards,memory] [--section.key value]

The first steps of CONFIG's own run: the loop of `training/train.py` takes them, with all that the config says, until it
has no more batches; what is told is what its log says of the steps after the first window. What was changed in CONFIG
is told with it.

    from shards    pictures are read, decoded, cropped and tokenised by worker processes, as in any run
    from memory    the first of these batches lies on the device and is learnt from again and again: the step alone

Prints one JSON line a source. FLOPs are counted as 6 per parameter and token (2 forward, 4 backward) for matrices
inside the blocks, plus attention's 12 per token pair and width, at the lengths that the texts of the batches have;
embeddings and normalisations are left out, and so is what gradient checkpointing recomputes. --peak_tflops is the dense
bf16 peak (H100 and H200 SXM: 989).
"""

from __future__ import annotations

import argparse
import gc
import gzip
import importlib
import json
import os
import statistics
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import torch

from configs.load import load
from training.config import TrainConfig
from training.data.batches import Batch
from training.learning.model import model_json, resolve_precision
from training.run.begin import Run

_PROFILED_STEPS = 3


class _Enough(Exception):  # noqa: N818 - no error: it ends a run whose end, with its checkpoint, nobody wants
    pass


def main() -> None:
    """Measure from every source asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="as `python -m training run` takes it; what follows the options changes it")
    parser.add_argument("--data", required=True, help="a data set, such as tars")
    parser.add_argument("--from", dest="sources", default="shards,memory")
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--windows", type=int, default=3, help="of steps that are measured")
    parser.add_argument("--steps", type=int, default=8, help="of a window; as many come before the first one")
    parser.add_argument("--peak_tflops", type=float, default=989.0)
    parser.add_argument("--profile", type=Path, help="file for the costliest operators of some more steps from shards")
    parser.add_argument("--scratch", help="directory for the run, which is removed; default: the system's")
    options, changes = parser.parse_known_args()
    for source in options.sources.split(","):
        if source not in ("shards", "memory"):
            parser.error(f"--from {source}: neither shards nor memory")
        print(json.dumps(measure(options, changes, source)), flush=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def measure(options: argparse.Namespace, changes: list[str], source: str) -> dict[str, Any]:
    """Figures of one run."""
    profiled = options.profile is not None and source == "shards"
    steps = (1 + options.windows) * options.steps
    changed = ["--global_batch_size", str(options.batch), *changes]
    if not any(word.startswith("--data.num_workers") for word in changes):
        changed += ["--data.num_workers", str(max(1, (os.cpu_count() or 2) - 2))]
    of_this_run = ["--data.path", options.data, "--log.every_steps", str(options.steps), "--log.tensorboard", "false"]
    if profiled:
        of_this_run += ["--profile.steps", str(_PROFILED_STEPS), "--profile.after", str(steps + 1)]
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        config = load(TrainConfig, options.config, [*changed, *of_this_run, "--output", f"{folder}/run"])
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        loop = importlib.import_module("training.train")
        enough = steps + (1 + _PROFILED_STEPS if profiled else 0)
        with watched(loop, enough, repeat=source == "memory") as lengths, suppress(_Enough):
            loop.train(config)
        lines = [json.loads(line) for line in Path(folder, "run/log.jsonl").read_text().splitlines()]
        if profiled:
            options.profile.write_text(costliest(next(Path(folder, "run/profile").glob("*.json.gz"))))
    first, last = options.batch * options.steps, options.batch * steps
    windows = [line for line in lines if "samples_per_s" in line and first < line["samples_seen"] <= last]
    seconds = [options.batch * options.steps / window["samples_per_s"] for window in windows]
    step_s = sum(seconds) / (options.steps * len(windows))
    flops = flops_per_pair(config.model.name, text_tokens=statistics.mean(lengths[options.steps : steps]))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return {
        "source": source,
        "config": options.config,
        "changed": " ".join(changed),
        "model": config.model.name,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "precision": resolve_precision(config.precision, device),
        "compile": config.model.compile,
        "batch": options.batch,
        "steps": options.steps * len(windows),
        "samples_per_s": options.batch / step_s,
        "step_ms": 1e3 * step_s,
        "data_wait_share": sum(w["data_wait_share"] * s for w, s in zip(windows, seconds, strict=True)) / sum(seconds),
        "text_tokens": statistics.mean(lengths[options.steps : steps]),
        "model_flops_utilisation": flops * options.batch / step_s / (options.peak_tflops * 1e12),
        "peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None,
    }


@contextmanager
def watched(loop: Any, steps: int, *, repeat: bool) -> Iterator[list[int]]:
    """As long as it is entered, runs of `loop` end by `_Enough` after so many `steps`, and note how long the texts of
    each batch are. With `repeat` they learn from their first batch alone, which stays on the device."""
    begin, lengths = loop.begin, []

    def noted(run: Run) -> Generator[Batch, None, None]:
        kept: Batch | None = None
        for _ in range(steps):
            if kept is None or not repeat:
                kept = next(run.incoming).to(run.learner.world.device)
            lengths.append(kept.tokens.shape[1])
            yield kept
        raise _Enough

    def watching(*arguments: Any) -> Run:
        run: Run = begin(*arguments)
        return replace(run, incoming=noted(run))

    with patch.object(loop, "begin", watching):
        yield lengths


def costliest(trace: Path, most: int = 40) -> str:
    """A table of the operators that took longest in the trace of some steps, on the GPU where there is one."""
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    kind = "kernel" if any(event.get("cat") == "kernel" for event in events) else "cpu_op"
    micros, calls = Counter[str](), Counter[str]()
    for event in events:
        if event.get("cat") == kind:
            micros[event["name"]] += event["dur"]
            calls[event["name"]] += 1
    total = sum(micros.values())
    lines = [
        f"{kind}s of {_PROFILED_STEPS} steps, {total / 1e3:.1f} ms in all (of cpu_ops those within others as well)"
    ]
    for name, spent in micros.most_common(most):
        lines.append(f"{spent / 1e3:10.2f} ms {spent / total:6.1%} {calls[name]:6} x  {name[:150]}")
    return "\n".join(lines) + "\n"


def flops_per_pair(name: str, *, text_tokens: float) -> float:
    """Training FLOPs of one (image, text) pair for a plain ViT CLIP; see the module's docstring."""
    config = model_json(name)
    vision, text = config["vision_cfg"], config["text_cfg"]
    patches = (vision["image_size"] // vision["patch_size"]) ** 2

    def tower(width: int, layers: int, length: float) -> float:
        return layers * length * (6 * 12 * width**2 + 12 * length * width)

    patch_embedding = 6 * patches * 3 * vision["patch_size"] ** 2 * vision["width"]
    return cast(
        float,
        tower(vision["width"], vision["layers"], patches + 1)
        + tower(text["width"], text["layers"], text_tokens)
        + patch_embedding,
    )


if __name__ == "__main__":
    main()
