"""What only a GPU can show of the trainer: gradients, sharding, resuming, speed, a peer, a profile. See gpu_check.sh.

    shards (made here) --> each part in a process of its own, with a limit --> a table, OUT/gpu_check.json

A part that fails or takes too long is told, and the others go on. The whole ends before --limit_s: parts that no
time is left for are left out, so they stand in the order of their worth.

`--small` runs the same parts with tiny models, on a CPU if there is no GPU: what it prints then are no figures, but it
shows that nothing here fails for a silly reason.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
import torch
import torch.distributed as dist

from configs.load import load
from training.checkpoints.layout import Progress
from training.checkpoints.loading import load_checkpoint
from training.checkpoints.saving import CheckpointWriter
from training.config import LossConfig, MethodConfig, ModelConfig, TrainConfig
from training.data.batch import Batch
from training.distributed import World
from training.learning.gradient import accumulate_gradient, make_gradients
from training.learning.learner import Learner, make_learner
from training.learning.method import make_method
from training.learning.model import create_model
from training.learning.sharding import is_sharded, mesh_of

ROOT = Path(__file__).resolve().parents[1]
TINY = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
WORDS = (
    "a",
    "red",
    "blue",
    "old",
    "new",
    "small",
    "dog",
    "cat",
    "house",
    "river",
    "tree",
    "on",
    "in",
    "near",
    "the",
    "of",
)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One thing to find out."""

    name: str
    limit_s: float
    command: list[str]
    """Prints a JSON object on each line that counts, beside whatever else."""


def main() -> None:
    """All parts, or (--part) one of those that are functions here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu_check"))
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--limit_s", type=float, default=530.0)
    parser.add_argument("--only", default="", help="names of parts; empty for all")
    parser.add_argument("--part", choices=sorted(FUNCTIONS))
    options = parser.parse_args()
    options.out = options.out.resolve()
    if options.part is not None:
        torch.backends.cuda.matmul.allow_tf32 = False
        for found in FUNCTIONS[options.part](options):
            print(json.dumps(found), flush=True)
        return
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    begun = time.monotonic()
    results: list[dict[str, Any]] = []
    for part in parts(options):
        if options.only and part.name not in options.only.split(","):
            continue
        left = options.limit_s - (time.monotonic() - begun)
        limit_s = part.limit_s * (5 if options.small else 1)  # of a busy CPU
        entry = run_part(part, min(limit_s, left), options.out) if left > 5 else {"error": "no time left"}
        results.append({"part": part.name, **entry})
        (options.out / "gpu_check.json").write_text(json.dumps(results, indent=1) + "\n")
        print(told(results[-1]), flush=True)
    print(f"{time.monotonic() - begun:.0f} s; {options.out / 'gpu_check.json'}")
    sys.exit(any("error" in result for result in results))


def parts(options: argparse.Namespace) -> list[Part]:
    """In the order of their worth."""
    small, out = options.small, options.out
    own = [sys.executable, "-m", "benchmarks.gpu_check", "--out", str(out), *(["--small"] if small else [])]
    speed = [sys.executable, "-m", "benchmarks.train_gpu"]
    workers = str(1 if small else max(1, (os.cpu_count() or 2) - 2))
    if small:
        b32 = b16 = [*speed, "--models", str(out / "tiny.json"), "--batch", "16", "--steps", "2", "--warmup_steps", "1"]
    else:
        b32 = [*speed, "--models", "ViT-B-32", "--batch", "1024", "--steps", "20"]
        b16 = [*speed, "--models", "ViT-B-16", "--batch", "512", "--steps", "20"]
    shards = ["--data", str(out / "shards"), "--num_workers", workers]
    # With one process no collective needs torchrun: the part itself joins a group of one.
    return [
        Part(name="machine", limit_s=60, command=[*own, "--part", "machine"]),
        Part(name="shards", limit_s=90, command=[*own, "--part", "shards"]),
        Part(name="gradients", limit_s=60, command=[*own, "--part", "gradients"]),
        Part(name="sharded", limit_s=90, command=[*own, "--part", "sharded"]),
        Part(name="B/32, step alone", limit_s=60, command=b32),
        Part(name="B/32, from shards", limit_s=70, command=[*b32, *shards, "--profile", str(out / "profile.txt")]),
        Part(name="B/16, step alone", limit_s=60, command=b16),
        Part(name="resume", limit_s=100, command=[*own, "--part", "resume"]),
        Part(name="open_clip's trainer, B/32", limit_s=80, command=[*own, "--part", "peer"]),
        Part(name="B/32, compiled", limit_s=120, command=[*b32, "--compile"]),
        Part(name="B/16, compiled", limit_s=120, command=[*b16, "--compile"]),
    ]


def run_part(part: Part, limit_s: float, out: Path) -> dict[str, Any]:
    """What the part printed, or how it failed; all it said is kept in OUT/NAME.log."""
    begun = time.monotonic()
    log = out / (re.sub(r"\W+", "_", part.name) + ".log")
    with log.open("w") as file:
        process = subprocess.Popen(
            part.command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code: int | None = process.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    lines = log.read_text(errors="replace").splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
    entry: dict[str, Any] = {"seconds": round(time.monotonic() - begun, 1), "found": found}
    if code is None:
        entry["error"] = f"not done after {limit_s:.0f} s"
    elif code:
        entry["error"] = next((line.strip()[:300] for line in reversed(lines) if line.strip()), f"exit status {code}")
    elif not found:
        entry["error"] = "said nothing"
    return entry


def told(result: dict[str, Any]) -> str:
    """A result as lines of the table."""
    lines = [f"{result['part']}  ({result.get('seconds', 0)} s)"]
    for found in result.get("found", []):
        shown = (
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in found.items()
        )
        lines.append("    " + ", ".join(shown))
    if "error" in result:
        lines.append(f"    FAILED: {result['error']}")
    return "\n".join(lines)


# --- parts ------------------------------------------------------------------------------------


def machine(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What it runs on."""
    device = device_here(options)
    cuda = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    yield {
        "device": cuda.name if cuda else "cpu",
        "memory_gib": round(cuda.total_memory / 2**30, 1) if cuda else None,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "shm_gib": round(shutil.disk_usage("/dev/shm").free / 2**30, 1),
    }


def shards(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Tars of pictures whose shorter side is 256 pixels, which decode as fast as photographs of the same bytes."""
    per_tar, tars = (64, 2) if options.small else (2048, 8)
    (options.out / "tiny.json").write_text(json.dumps(TINY))
    folder = options.out / "shards"
    folder.mkdir()
    begun = time.perf_counter()
    with ProcessPoolExecutor(min(tars, os.cpu_count() or 1)) as pool:
        sizes = list(pool.map(make_tar, [(folder / f"{number:05d}.tar", number, per_tar) for number in range(tars)]))
    yield {
        "samples": per_tar * tars,
        "kilobytes_each": sum(sizes) / per_tar / tars / 1e3,
        "s": time.perf_counter() - begun,
    }


def make_tar(task: tuple[Path, int, int]) -> int:
    """Write one; return the bytes of its pictures."""
    path, seed, count = task
    cv2.setNumThreads(1)
    draw = np.random.default_rng(seed)
    total = 0
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            width = int(draw.integers(256, 400))
            coarse = draw.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            fine = draw.normal(0, 6, (128, width // 2, 3))
            pixels = cv2.resize(coarse, (width, 256), interpolation=cv2.INTER_CUBIC).astype(np.float32)
            pixels += cv2.resize(fine.astype(np.float32), (width, 256), interpolation=cv2.INTER_LINEAR)
            jpeg = simplejpeg.encode_jpeg(pixels.clip(0, 255).astype(np.uint8), quality=95, colorsubsampling="420")
            caption = " ".join(draw.choice(WORDS, int(draw.integers(4, 20))))
            for kind, data in (("jpg", jpeg), ("txt", caption.encode())):
                member = tarfile.TarInfo(f"{seed:03d}{number:06d}.{kind}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
            total += len(jpeg)
    return total


def gradients(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The gradient on the device against the CPU's in float64: largest difference over the largest entry."""
    device = device_here(options)
    for loss in ("softmax", "sigmoid"):
        exact = gradient_of(options, torch.device("cpu"), "fp64", loss=loss, micro_batches=1)
        for kind, micro_batches in (("fp64", 1), ("fp64", 3), ("fp32", 1), ("bf16", 1), ("bf16", 3)):
            found = gradient_of(options, device, kind, loss=loss, micro_batches=micro_batches)
            error = float((found - exact).abs().max() / exact.abs().max())
            limit = {"fp64": 1e-9, "fp32": 1e-3, "bf16": 0.2}[kind]
            if not error < limit:
                raise SystemExit(
                    f"{loss}, {kind}, {micro_batches} micro-batches: off by {error:.2e}, more than {limit}"
                )
            yield {"loss": loss, "precision": kind, "micro_batches": micro_batches, "relative_error": error}


def gradient_of(
    options: argparse.Namespace, device: torch.device, kind: str, *, loss: Any, micro_batches: int
) -> torch.Tensor:
    method = make_method(MethodConfig(), LossConfig(name=loss))
    model = create_model(
        ModelConfig(name=str(options.out / "tiny.json")), device=device, precision="bf16" if kind == "bf16" else "fp32",
        init_logit_scale=method.init_logit_scale, init_logit_bias=method.init_logit_bias, seed=0,
    )  # fmt: skip
    if kind == "fp64":
        model.clip.double()
        model.mean_C11, model.std_C11 = model.mean_C11.double(), model.std_C11.double()
    world = World(device=device)
    parameters = [p for p in model.clip.parameters() if p.requires_grad]
    held = make_gradients(model.clip, parameters, world)
    accumulate_gradient(
        model, method, made_batch(32, model.image_size, device), held, world,
        global_batch_size=32, micro_batches=micro_batches,
    )  # fmt: skip
    return torch.cat([p.grad.flatten().double().cpu() for p in parameters if p.grad is not None])


def sharded(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """FSDP2 in a group of one: its gradient against the whole model's, its checkpoint, one step after each."""
    device = device_here(options)
    store = dist.FileStore(str(options.out / "store"), 1)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=0, world_size=1)
    world = World(device=device)
    try:
        for compiled in (False, True) if device.type == "cuda" else (False,):
            config = sharded_config(options, compiled=compiled)
            whole = make_learner(
                replace(config, model=replace(config.model, compile=False)), world, mesh=None, image_size=None
            )
            cut = make_learner(config, world, mesh=mesh_of(world), image_size=None)
            by_whole, by_cut = one_step(whole, world), one_step(cut, world)
            again = make_learner(config, world, mesh=mesh_of(world), image_size=None)
            folder = options.out / f"sharded_{compiled}"
            writer = CheckpointWriter(folder, world, keep=2, sharded=True, timeout_s=60)
            writer.save(cut.model.clip, cut.optimiser, Progress(samples_seen=32, model_name=cut.model.name))
            writer.finish()
            writer.close()
            load_checkpoint(max(path for path in folder.iterdir() if path.is_dir()), again.model.clip, again.optimiser)
            same = bool(torch.equal(one_step(cut, world), one_step(again, world)))
            yield {
                "compiled": compiled,
                "precision": cut.model.precision,
                "gradient_against_whole": float((by_cut - by_whole).abs().max() / by_whole.abs().max()),
                "step_after_loading_is_bitwise_the_same": same,
            }
    finally:
        dist.destroy_process_group()


def sharded_config(options: argparse.Namespace, *, compiled: bool) -> TrainConfig:
    return load(
        TrainConfig,
        None,
        ["--output", "unused", "--data.path", "unused", "--samples", "64", "--global_batch_size", "32",
         "--model.name", str(options.out / "tiny.json"), "--model.compile", str(compiled).lower(),
         "--distributed", "fsdp"],
    )  # fmt: skip


def one_step(learner: Learner, world: World) -> torch.Tensor:
    """Take it; return the gradient."""
    terms = accumulate_gradient(
        learner.model, learner.method, made_batch(32, learner.model.image_size, world.device), learner.gradients, world,
        global_batch_size=32,
    )  # fmt: skip
    found = [
        (p.grad.full_tensor() if is_sharded(p.grad) else p.grad).flatten().clone()  # type: ignore[attr-defined]
        for p in learner.model.clip.parameters()
        if p.grad is not None
    ]
    norm = learner.gradients.norm()
    learner.step(rate=1e-4, norm=norm, is_finite=torch.isfinite(norm), samples_seen=32)
    assert all(torch.isfinite(term) for term in terms.values())
    return torch.cat(found)


def resume(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A run from the shards, and the same from its first half's checkpoint: do they end with the same weights?"""
    out, small = options.out, options.small
    batch, steps = (16, 8) if small else (512, 16)
    half = batch * steps // 2
    command = [
        sys.executable, "-m", "training", "run", "--data.path", str(out / "shards"), "--samples", str(batch * steps),
        "--global_batch_size", str(batch), "--model.name", str(out / "tiny.json") if small else "ViT-B-32",
        "--checkpoint.every_samples", str(half), "--log.tensorboard", "false", "--log.every_steps", "4",
        "--data.num_workers", str(1 if small else max(1, (os.cpu_count() or 2) - 2)), "--profile.steps", "0",
    ]  # fmt: skip
    subprocess.run([*command, "--output", str(out / "run")], check=True)
    shutil.copytree(out / "run", out / "again")
    last = max((out / "again/checkpoints").iterdir())
    shutil.rmtree(last)
    subprocess.run([*command, "--output", str(out / "again")], check=True)
    ends = [max((out / name / "checkpoints").iterdir()) / "model.safetensors" for name in ("run", "again")]
    from safetensors.torch import load_file

    whole, resumed = (load_file(path) for path in ends)
    lines = [json.loads(line) for line in (out / "run/log.jsonl").read_text().splitlines()]
    yield {
        "bitwise_the_same": all(torch.equal(whole[name], resumed[name]) for name in whole),
        "largest_difference": max(float((whole[name].double() - resumed[name].double()).abs().max()) for name in whole),
        **{name: lines[-1][name] for name in ("loss", "samples_per_s", "data_wait_share") if name in lines[-1]},
    }


def peer(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """open_clip's own trainer on made pictures, which it need not decode: the best case of its step."""
    small = options.small
    batch, steps = (8, 4) if small else (1024, 24)
    workers = str(1 if small else max(1, (os.cpu_count() or 2) - 2))
    from benchmarks.train_open_clip import PEER_MAIN

    command = [
        sys.executable, "-c", PEER_MAIN, "1", str(options.out / "tiny.json"),
        "--model", "tiny" if small else "ViT-B-32", "--dataset-type", "synthetic",
        "--train-num-samples", str(batch * steps), "--batch-size", str(batch), "--epochs", "1", "--workers", workers,
        "--logs", str(options.out / "peer"), "--warmup", "10", "--lr", "5e-4", "--save-frequency", "0",
        "--log-every-n-steps", "1", "--precision", "fp32" if device_here(options).type == "cpu" else "amp_bf16",
        "--local-loss", "--gather-with-grad",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    # "... Train Epoch: 0 [ 512/2048 (25%)] Data (t): 0.001 Batch (t): 0.130, 7876.92/s ..."
    found = re.findall(r"Data \(t\): ([\d.]+) Batch \(t\): ([\d.]+)", done.stdout + done.stderr)
    timed = [(float(data_s), float(batch_s)) for data_s, batch_s in found][steps // 3 :]
    if not timed:
        raise SystemExit(f"open_clip's trainer did not run: {(done.stderr.strip() or done.stdout.strip())[-300:]}")
    seconds = sorted(batch_s for _, batch_s in timed)[len(timed) // 2]
    yield {
        "batch": batch,
        "samples_per_s": batch / max(seconds, 1e-9),
        "data_wait_share": sum(data_s for data_s, _ in timed) / max(sum(batch_s for _, batch_s in timed), 1e-9),
    }


def device_here(options: argparse.Namespace) -> torch.device:
    if not torch.cuda.is_available() and not options.small:
        raise SystemExit("there is no usable GPU here; SMALL=1 runs the same parts on the CPU")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def made_batch(size: int, side: int, device: torch.device) -> Batch:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.zeros(size, 16, dtype=torch.int64)
    tokens[:, :9] = torch.randint(1, 49000, (size, 9), generator=generator)
    tokens[:, 9] = 49407
    images = torch.randint(0, 256, (size, side, side, 3), generator=generator, dtype=torch.uint8)
    return Batch.of(images=images, tokens=tokens, keys=torch.arange(size)).to(device)


FUNCTIONS: dict[str, Callable[[argparse.Namespace], Iterator[dict[str, Any]]]] = {
    "machine": machine,
    "shards": shards,
    "gradients": gradients,
    "sharded": sharded,
    "resume": resume,
    "peer": peer,
}


if __name__ == "__main__":
    main()
