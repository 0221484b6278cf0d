"""The parts of gpu_check.py that are no runs of train_gpu.py, each by its name:

    python -m benchmarks.gpu_parts --out OUT [--small] machine|shards|gradients|sharded|sharded_compiled|resume|peer

Prints facts and checks, a JSON object on a line each. A check says what was compared, what was found, what is asked,
and whether that holds; one that does not is no reason to stop.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import simplejpeg
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor
from torch._C._distributed_c10d import FileStore

from benchmarks.gpu_check import CONFIGS, ROOT
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
from training.learning.sharding import is_sharded, mesh_of, part_of
from training.train import train

Found = Iterator[dict[str, Any]]

MOST_OFF = {"fp64": 1e-9, "fp32": 1e-4, "bf16": 0.1}
"""Length of the difference between two gradients over the length of one: what an order of sums, and bf16's eight bits,
make of it. A sum that lacks a part, or is a mean, is off by a third and more."""
WORDS = ("a", "red", "blue", "old", "new", "small", "dog", "cat", "house", "river", "tree", "on", "in", "near", "the")


def main() -> None:
    """One part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("part", choices=sorted(FUNCTIONS))
    options = parser.parse_args()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before cuBLAS begins: see `repeatable`
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for found in FUNCTIONS[options.part](options):
        print(json.dumps(found), flush=True)


def check(what: str, value: float | bool, *, at_most: float | None = None, **facts: Any) -> dict[str, Any]:
    """A comparison and its bound; without one `value` is to be true."""
    holds = bool(value) if at_most is None else bool(value <= at_most)  # not of NaN
    bound = True if at_most is None else at_most
    return {"check": what, "value": value, "bound": bound, "holds": holds, **facts}


def machine(options: argparse.Namespace) -> Found:
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


# --- data -------------------------------------------------------------------------------------


def shards(options: argparse.Namespace) -> Found:
    """Tars of pictures whose shorter side is 256 pixels, which decode as fast as photographs of the same bytes."""
    per_tar, tars = (64, 2) if options.small else (2048, 8)
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


# --- gradients --------------------------------------------------------------------------------


def gradients(options: argparse.Namespace) -> Found:
    """The gradient on the device against the CPU's in float64."""
    device = device_here(options)
    for loss in ("softmax", "sigmoid"):
        exact = gradient_of(options, torch.device("cpu"), "fp64", loss=loss, micro_batches=1)
        for kind, micro_batches in (("fp64", 1), ("fp64", 3), ("fp32", 1), ("bf16", 1), ("bf16", 3)):
            found = gradient_of(options, device, kind, loss=loss, micro_batches=micro_batches)
            what = f"{loss}, {kind}, {micro_batches} micro-batches, against the CPU's float64"
            yield check(what, off_by(found, exact), at_most=MOST_OFF[kind])


def gradient_of(
    options: argparse.Namespace, device: torch.device, kind: str, *, loss: Any, micro_batches: int
) -> Tensor:
    """Of the tiny model, whole, in float64 on the CPU."""
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


def off_by(found: Tensor, expected: Tensor) -> float:
    """The length of the difference over that of what is expected."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())


# --- FSDP2 ------------------------------------------------------------------------------------


def sharded(options: argparse.Namespace) -> Found:
    """FSDP2 in a group of one: its gradient against the whole model's, its checkpoint, a step after that is loaded."""
    with group_of_one(options) as world, repeatable():
        for precision in ("fp32", "bf16"):
            yield from sharded_against_whole(options, world, precision, compiled=False)


def sharded_compiled(options: argparse.Namespace) -> Found:
    """The same with compiled layers."""
    if device_here(options).type == "cpu" and not any(map(shutil.which, ("g++", "clang++"))):
        yield {"left_out": "torch.compile needs a C++ compiler on a CPU, and there is none"}
        return
    with group_of_one(options) as world, repeatable():
        for precision in ("fp32", "bf16"):
            yield from sharded_against_whole(options, world, precision, compiled=True)


def sharded_against_whole(
    options: argparse.Namespace, world: World, precision: Literal["fp32", "bf16"], *, compiled: bool
) -> Found:
    """Checks of one way to cut a model."""
    config = load(
        TrainConfig,
        None,
        ["--output", "unused", "--data.path", "unused", "--samples", "64", "--global_batch_size", "32",
         "--model.name", str(options.out / "tiny.json"), "--model.compile", str(compiled).lower(),
         "--precision", precision, "--distributed", "fsdp", "--optimiser.max_gradient_norm", "1"],
    )  # fmt: skip
    plain = replace(config, model=replace(config.model, compile=False))
    whole = make_learner(plain, world, mesh=None, image_size=None)
    cut = make_learner(config, world, mesh=mesh_of(world), image_size=None)
    how = f"{precision}, compiled layers" if compiled else precision
    by_whole, by_cut = one_step(whole, world), one_step(cut, world)
    yield check(f"{how}: gradient of sharded weights", off_by(by_cut, by_whole), at_most=MOST_OFF[precision])

    again = make_learner(config, world, mesh=mesh_of(world), image_size=None)
    folder = options.out / "work" / f"sharded_{precision}"
    writer = CheckpointWriter(folder, world, keep=2, sharded=True, timeout_s=60)
    writer.save(cut.model.clip, cut.optimiser, Progress(samples_seen=32, model_name=cut.model.name))
    writer.finish()
    writer.close()
    load_checkpoint(max(path for path in folder.iterdir() if path.is_dir()), again.model.clip, again.optimiser)
    yield check(f"{how}: weights and moments are loaded to the bit", have_same_state(cut, again))
    by_cut, by_again = one_step(cut, world), one_step(again, world)
    yield check(
        f"{how}: gradient of the step after loading", off_by(by_again, by_cut), at_most=MOST_OFF[precision],
        is_bitwise_the_same=torch.equal(by_again, by_cut),
    )  # fmt: skip


def have_same_state(one: Learner, other: Learner) -> bool:
    """Whether weights and moments are the same, to the bit."""

    def state(learner: Learner) -> list[Tensor]:
        weights = list(learner.model.clip.state_dict().values())
        moments = [value for entry in learner.optimiser.state_dict()["state"].values() for value in entry.values()]
        return [part_of(tensor) for tensor in (*weights, *moments) if isinstance(tensor, Tensor)]

    pairs = list(zip(state(one), state(other), strict=True))
    return all(torch.equal(a.cpu(), b.cpu()) for a, b in pairs)


def one_step(learner: Learner, world: World) -> Tensor:
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
    is_finite = torch.isfinite(torch.stack([norm, *terms.values()])).all()
    learner.step(rate=1e-4, norm=norm, is_finite=is_finite, samples_seen=32)
    return torch.cat(found)


@contextmanager
def group_of_one(options: argparse.Namespace) -> Iterator[World]:
    """As long as it is entered: FSDP2 wants processes that know each other."""
    device = device_here(options)
    store = FileStore(str(options.out / "work" / "store"), 1)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        yield World(device=device)
    finally:
        dist.destroy_process_group()


@contextmanager
def repeatable() -> Iterator[None]:
    """torch's deterministic algorithms, where it has them: what is compared bit by bit would else differ by the order
    in which a GPU adds up, from one run to the next."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


# --- resuming ---------------------------------------------------------------------------------


def resume(options: argparse.Namespace) -> Found:
    """A run from the shards, and the same from its first half's checkpoint: they end with the same weights.

    If they do not, the whole run is made again: what differs by as much between two of them is no fault of resuming.
    """
    work = options.out / "work"
    config = resume_config(options)
    with repeatable():
        train(replace(config, output=str(work / "run")))
        shutil.copytree(work / "run", work / "resumed")
        shutil.rmtree(max((work / "resumed/checkpoints").iterdir()))
        train(replace(config, output=str(work / "resumed")))
        difference = largest_difference(work / "run", work / "resumed")
        allowed = 0.0
        if difference:
            train(replace(config, output=str(work / "again")))
            allowed = 2 * largest_difference(work / "run", work / "again")
            yield {"two_whole_runs_differ_by": allowed / 2}
    what = "weights of a resumed run against those of a whole one, largest difference"
    yield check(what, difference, at_most=allowed, is_bitwise_the_same=not difference)
    lines = [json.loads(line) for line in (work / "run/log.jsonl").read_text().splitlines()]
    yield {name: lines[-1][name] for name in ("loss", "samples_per_s", "data_wait_share") if name in lines[-1]}


def resume_config(options: argparse.Namespace) -> TrainConfig:
    """Of ViT-B/32, of so few steps that it is cheap, with a checkpoint halfway."""
    batch, steps = (16, 8) if options.small else (512, 12)
    words = [
        "--output", "unused", "--data.path", str(options.out / "shards"), "--epochs", "null",
        "--samples", str(batch * steps), "--global_batch_size", str(batch), "--log.tensorboard", "false",
        "--checkpoint.every_samples", str(batch * steps // 2), "--log.every_steps", "4",
        "--data.num_workers", str(num_workers(options)), "--model.gradient_checkpointing", "false",
        "--optimiser.max_gradient_norm", "1",
    ]  # fmt: skip
    if options.small:
        words += ["--model.name", str(options.out / "tiny.json"), "--precision", "fp32"]
    return load(TrainConfig, str(ROOT / CONFIGS["b32"]), words)


def largest_difference(one: Path, other: Path) -> float:
    """Between the last weights of two runs; NaN where one of them has NaNs."""
    weights = [load_file(max((run / "checkpoints").iterdir()) / "model.safetensors") for run in (one, other)]
    differences = [(weights[0][name].double() - weights[1][name].double()).abs().max() for name in weights[0]]
    return float(torch.stack(differences).max())


# --- a peer -----------------------------------------------------------------------------------


def peer(options: argparse.Namespace) -> Found:
    """open_clip's own trainer on made pictures, which it need not decode: the best case of its step."""
    small = options.small
    batch, steps = (8, 4) if small else (1024, 24)
    from benchmarks.train_open_clip import PEER_MAIN

    command = [
        sys.executable, "-c", PEER_MAIN, "1", str(options.out / "tiny.json"),
        "--model", "tiny" if small else "ViT-B-32-quickgelu", "--dataset-type", "synthetic",
        "--train-num-samples", str(batch * steps), "--batch-size", str(batch), "--epochs", "1",
        "--workers", str(num_workers(options)),
        "--logs", str(options.out / "work" / "peer"), "--warmup", "10", "--lr", "5e-4", "--save-frequency", "0",
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


# --- what several have ------------------------------------------------------------------------


def num_workers(options: argparse.Namespace) -> int:
    """Processes that read data."""
    return 1 if options.small else max(1, (os.cpu_count() or 2) - 2)


def device_here(options: argparse.Namespace) -> torch.device:
    """The GPU, or for small sizes the CPU where there is none; else the end of the program."""
    if not torch.cuda.is_available() and not options.small:
        raise SystemExit("there is no usable GPU here; SMALL=1 runs the same parts on the CPU")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def made_batch(size: int, side: int, device: torch.device) -> Batch:
    """Always the same one."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.zeros(size, 16, dtype=torch.int64)
    tokens[:, :9] = torch.randint(1, 49000, (size, 9), generator=generator)
    tokens[:, 9] = 49407
    images = torch.randint(0, 256, (size, side, side, 3), generator=generator, dtype=torch.uint8)
    return Batch.of(images=images, tokens=tokens, keys=torch.arange(size)).to(device)


FUNCTIONS: dict[str, Callable[[argparse.Namespace], Found]] = {
    "machine": machine,
    "shards": shards,
    "gradients": gradients,
    "sharded": sharded,
    "sharded_compiled": sharded_compiled,
    "resume": resume,
    "peer": peer,
}


if __name__ == "__main__":
    main()
