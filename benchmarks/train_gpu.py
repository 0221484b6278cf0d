"""Training speed on a GPU: samples/s, model FLOPs utilisation, data wait and memory, on our loop's parts.

    python -m benchmarks.train_gpu --models ViT-B-32,ViT-B-16 --batch 1024 --steps 30 [--data DIR] [--compile]

Without --data, batches are made once and stay on the device: the step alone. With it, shards are read,
decoded, cropped and tokenised by worker processes as in training. Prints one JSON line a setting.

FLOPs are counted as 6 per parameter and token (2 forward, 4 backward) for matrices inside the blocks,
plus attention's 12 per token pair and width; embeddings and normalisations are left out, and so is what
gradient checkpointing recomputes. --peak_tflops is the dense bf16 peak (H100 and H200 SXM: 989).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import torch

from training.config import AugmentConfig, DataConfig, LossConfig, MethodConfig, ModelConfig, OptimiserConfig
from training.data.batch import Batch
from training.data.batches import BatchDataset, batches
from training.data.index import write_index
from training.data.slots import one_ahead
from training.data.stream import Segment, Stream
from training.distributed import World
from training.learning.gradient import accumulate_gradient, make_gradients
from training.learning.method import make_method
from training.learning.model import Model, create_model, model_json, resolve_precision
from training.learning.optimiser import make_optimiser

_PROFILED_STEPS = 3


def main() -> None:
    """Measure every setting asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="ViT-B-32,ViT-B-16")
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--micro_batches", type=int, default=1)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--warmup_steps", type=int, default=8)
    parser.add_argument("--data", default=None)
    parser.add_argument("--num_workers", type=int, default=14)
    parser.add_argument("--tokens", type=int, default=24, help="caption length of made batches, with start and end")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument("--peak_tflops", type=float, default=989.0)
    parser.add_argument("--profile", default=None, help="file for the costliest operators of three more steps")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = True
    for name in options.models.split(","):
        print(json.dumps(measure(name, device, options)), flush=True)


def measure(name: str, device: torch.device, options: argparse.Namespace) -> dict[str, Any]:
    """Figures of one model."""
    method = make_method(MethodConfig(), LossConfig())
    model = create_model(
        ModelConfig(name=name, compile=options.compile, gradient_checkpointing=options.gradient_checkpointing),
        device=device,
        precision=resolve_precision("auto", device),
        init_logit_scale=method.init_logit_scale,
        init_logit_bias=None,
        seed=0,
    )
    optimiser = make_optimiser(model.clip, OptimiserConfig())
    world = World(device=device)
    gradients = make_gradients(model.clip, [p for group in optimiser.param_groups for p in group["params"]], world)
    warm = options.warmup_steps
    num_steps = warm + options.steps + (_PROFILED_STEPS if options.profile else 0)
    waits, tokens = [], []

    def step(batch: Batch) -> None:
        accumulate_gradient(
            model, method, batch, gradients, world,
            global_batch_size=options.batch, micro_batches=options.micro_batches,
        )  # fmt: skip
        gradients.norm()
        optimiser.step()

    with tempfile.TemporaryDirectory() as folder, closing(_source(model, options, folder, num_steps)) as source:
        for _ in range(warm):
            step(next(source).to(device))
        _wait_for(device)
        latest: torch.cuda.Event | None = None
        begin = time.perf_counter()
        for _ in range(options.steps):
            asked = time.perf_counter()
            batch = next(source).to(device)
            waits.append(time.perf_counter() - asked)
            tokens.append(batch.tokens.shape[1])
            step(batch)
            # As in the loop, the host is a step ahead at most.
            previous, latest = latest, _mark(device)
            if previous is not None:
                previous.synchronize()
        _wait_for(device)
        elapsed_s = time.perf_counter() - begin
        if options.profile:
            Path(options.profile).write_text(_profiled(lambda: step(next(source).to(device)), device))
    step_s = elapsed_s / options.steps
    flops = flops_per_pair(name, text_tokens=statistics.mean(tokens)) * options.batch
    return {
        "model": name,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "precision": model.precision,
        "batch": options.batch,
        "micro_batches": options.micro_batches,
        "compile": options.compile,
        "data": options.data is not None,
        "samples_per_s": options.batch / step_s,
        "step_ms": 1e3 * step_s,
        "data_wait_share": sum(waits) / elapsed_s,
        "model_flops_utilisation": flops / step_s / (options.peak_tflops * 1e12),
        "peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None,
    }


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _mark(device: torch.device) -> torch.cuda.Event | None:
    return torch.cuda.current_stream().record_event() if device.type == "cuda" else None


def _profiled(step: Callable[[], None], device: torch.device) -> str:
    """A table of the costliest operators."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as found:
        for _ in range(_PROFILED_STEPS):
            step()
        _wait_for(device)
    order = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    return str(found.key_averages().table(sort_by=order, row_limit=40))


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


def _source(model: Model, options: argparse.Namespace, folder: str, total_steps: int) -> Generator[Batch, None, None]:
    if options.data is None:
        return _made(model, options, total_steps)
    index = write_index(options.data, root=folder)
    dataset = BatchDataset(
        index_dirs=(str(Path(folder) / index.fingerprint),),
        stream=Stream(segments=(Segment(sizes=(len(index),)),), seed=0, global_batch_size=options.batch),
        augment=AugmentConfig(),
        image_size=model.image_size,
        tokenizer=model.tokenizer,
        seed=0,
    )
    found = batches(
        dataset,
        start=0,
        stop=options.batch * total_steps,
        rank=0,
        world_size=1,
        config=DataConfig(path=options.data, num_workers=options.num_workers),
        device=model.device,
        text_multiple=8 if model.can_trim else None,
    )
    return one_ahead(found) if model.device.type == "cuda" else found


def _made(model: Model, options: argparse.Namespace, total_steps: int) -> Generator[Batch, None, None]:
    generator = torch.Generator().manual_seed(0)
    size = model.image_size
    length = min(options.tokens, cast(Any, model.tokenizer).context_length)
    tokens = torch.randint(1, 49000, (options.batch, length), generator=generator)
    tokens[:, -1] = 49407
    batch = Batch.of(
        images=torch.randint(0, 256, (options.batch, size, size, 3), generator=generator, dtype=torch.uint8),
        tokens=tokens,
        keys=torch.arange(options.batch),
        num_replaced=0,
    ).to(model.device)
    for _ in range(total_steps):
        yield batch


if __name__ == "__main__":
    main()
