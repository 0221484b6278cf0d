"""Training cost on a CPU: our trainer against open_clip's own at its best setting, on the same tars, model and batch.

    python -m benchmarks.train_open_clip --scratch /tmp/peer [--data data/sample/shards]

open_clip's trainer wants an old webdataset, so it gets an environment of its own, which the first run builds in
--scratch: this one's packages, and over them webdataset 0.2.86 and pandas.

Each trainer runs as its user would start it. Where its log says that the first of --steps is done, and again at the
last, the CPU seconds of all its processes are read: the difference is the steady cost, free of imports, model
building, compiling and saving.

First a search (--search), for each trainer by itself: from fp32, one data worker and one torch thread, each of its
changes (`CHANGES`) is tried in turn and kept where it saves CPU time. Then both run --repeats times at what was found,
and also at the same plain settings. What is printed is the best run, with the worst; samples/s are of the fastest, and
depend on what else the machine does.

Models: `vit` (ViT of 4 x 128 at 64 px in patches of 8, text 3 x 128, context 77: CLIP's) and `sample`
(configs/train/models/openwit-sample.json, context 32).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
VIT = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "layers": 4, "width": 128, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 3},
}
PEER_MAIN = """
import sys, torch, open_clip
torch.set_num_threads(int(sys.argv[1]))
open_clip.add_model_config(sys.argv[2])
from open_clip_train.main import main
main(sys.argv[3:])
"""


@dataclass(frozen=True)
class Setting:
    """How a trainer is run."""

    precision: str = "fp32"
    workers: int = 1
    threads: int = 1
    words: tuple[str, ...] = ()
    """More options of the trainer."""

    def __str__(self) -> str:
        plural = "" if self.workers == 1 else "s"
        return " ".join([self.precision, f"{self.workers} worker{plural}", f"{self.threads} thread", *self.words])


@dataclass(frozen=True)
class Cost:
    """What one run took."""

    cpu_s: float
    """User + system seconds a sample, of all processes of the run."""
    wall_s: float
    """Seconds a sample."""


Change = Callable[[Setting], Setting]


def with_words(*words: str) -> Change:
    """The change that adds options."""
    return lambda setting: replace(setting, words=setting.words + words)


CHANGES: dict[str, list[Change]] = {
    "open_clip": [
        with_words("--torchcompile"),
        with_words("--dataset-resampled"),
        lambda setting: replace(setting, threads=2),
        lambda setting: replace(setting, workers=2),
        with_words("--local-loss", "--gather-with-grad"),
        lambda setting: replace(setting, precision="bf16"),
        lambda setting: replace(setting, precision="pure_bf16"),
    ],
    "ours": [
        with_words("--model.compile", "true"),
        lambda setting: replace(setting, threads=2),
        lambda setting: replace(setting, workers=2),
        lambda setting: replace(setting, precision="bf16"),
    ],
}


def main() -> None:
    """Measure every model asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, required=True, help="where open_clip's environment is, or is to be")
    parser.add_argument("--data", default="data/sample/shards")
    parser.add_argument("--models", default="vit,sample")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument(
        "--steps", default="4,16", help="steps between which it is measured; the last ends a pass at most"
    )
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--search", default="open_clip,ours", help="for whom to search; empty: plain settings only")
    options = parser.parse_args()
    peer = build_peer(options.scratch)
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"torch {torch.__version__}, batch {options.batch}, load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    for model in options.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "openwit-benchmark.json"
            path.write_text((ROOT / "configs/train/models/openwit-sample.json").read_text())
            if model == "vit":
                path.write_text(json.dumps(VIT))
            Comparison(model, path, peer, options).run()


def build_peer(folder: Path) -> Path:
    """The python of open_clip's environment in `folder`, made when missing."""
    python = folder / "bin/python"
    if not python.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        own = subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
        # What is installed there comes before what this line adds.
        (Path(own) / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")
        packages = ["webdataset<=0.2.86", "pandas"]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


class Comparison:
    """Both trainers on one model."""

    def __init__(self, model: str, path: Path, peer: Path, options: argparse.Namespace) -> None:
        self.model = model
        self.path = path
        self.peer = peer
        self.options = options
        self.shards = Path(options.data)
        self.names = sorted(json.loads((self.shards / "sizes.json").read_text()))
        self.first, self.last = (int(word) for word in options.steps.split(","))
        self.found: dict[tuple[str, Setting], list[Cost]] = {}

    def run(self) -> None:
        """Search, then compare."""
        plain = {"ours": Setting(), "open_clip": Setting()}
        searched = self.options.search.split(",")
        best = {name: self.search(name) if name in searched else setting for name, setting in plain.items()}
        self.compare("plain", plain)
        if best != plain:
            self.compare("best", best)

    def search(self, name: str) -> Setting:
        """The setting with least CPU time, found change by change."""
        best = Setting()
        least = self.measure(name, best).cpu_s
        print(f"{self.model:7}{name:10}{1e3 * least:8.3f} ms CPU a sample  {best}", flush=True)
        for change in CHANGES[name]:
            tried = change(best)
            try:
                cost = self.measure(name, tried, limit_s=2 * least)
            except RunError as error:
                print(f"{self.model:7}{name:10}  failed  {tried}: {error}", flush=True)
                continue
            mark = "kept" if cost.cpu_s < least else "not kept"
            print(f"{self.model:7}{name:10}{1e3 * cost.cpu_s:8.3f} ms CPU a sample  {tried} ({mark})", flush=True)
            if cost.cpu_s < least:
                best, least = tried, cost.cpu_s
        return best

    def compare(self, title: str, settings: dict[str, Setting]) -> None:
        """Print the costs of both trainers and their ratio."""
        while any(len(self.found.get(pair, ())) < self.options.repeats for pair in settings.items()):
            for name, setting in settings.items():  # in turn, so that a busy moment hits both
                self.measure(name, setting)
        best = {name: min(cost.cpu_s for cost in self.found[name, setting]) for name, setting in settings.items()}
        for name, setting in settings.items():
            costs = self.found[name, setting]
            worst = max(cost.cpu_s for cost in costs)
            print(
                f"{self.model:7}{name:10}{1e3 * best[name]:8.3f} ms CPU a sample (worst of {len(costs)}: "
                f"{1e3 * worst:.3f})  {1 / min(cost.wall_s for cost in costs):7.1f} samples/s  {setting}",
                flush=True,
            )
        print(f"{self.model:7}{title}: open_clip / ours = {best['open_clip'] / best['ours']:.2f}", flush=True)

    def measure(self, name: str, setting: Setting, *, limit_s: float = float("inf")) -> Cost:
        """One run, given up where a sample takes more than `limit_s` CPU seconds. Raises RunError."""
        command = self.our_command if name == "ours" else self.peer_command
        marks = tuple(step * self.options.batch for step in (self.first, self.last))
        with tempfile.TemporaryDirectory() as output:
            cost = run(command(setting, f"{output}/run"), setting.threads, marks, limit_s=limit_s)
        self.found.setdefault((name, setting), []).append(cost)
        return cost

    def our_command(self, setting: Setting, output: str) -> list[str]:
        """Words that start our trainer."""
        batch = self.options.batch
        return [
            sys.executable, "-m", "training", "run", "--output", output, "--data.path", str(self.shards),
            "--data.num_workers", str(setting.workers), "--model.name", str(self.path), "--device", "cpu",
            "--samples", str(self.last * batch), "--global_batch_size", str(batch), "--precision", setting.precision,
            "--threads", str(setting.threads), "--log.tensorboard", "false",
            "--log.every_steps", str(self.first), *setting.words,
        ]  # fmt: skip

    def peer_command(self, setting: Setting, output: str) -> list[str]:
        """Words that start open_clip's trainer."""
        first, last = (name.removesuffix(".tar") for name in (self.names[0], self.names[-1]))
        precision = {"bf16": "amp_bf16", "pure_bf16": "pure_bf16"}.get(setting.precision, setting.precision)
        return [
            str(self.peer), "-c", PEER_MAIN, str(setting.threads), str(self.path), "--model", self.path.stem,
            "--dataset-type", "webdataset", "--train-data", f"{self.shards}/{{{first}..{last}}}.tar",
            "--train-num-samples", str(self.last * self.options.batch), "--batch-size", str(self.options.batch),
            "--epochs", "1", "--workers", str(setting.workers), "--device", "cpu", "--logs", output,
            "--precision", precision, "--warmup", "10", "--lr", "5e-4", "--save-frequency", "0",
            "--log-every-n-steps", "1", *setting.words,
        ]  # fmt: skip


class RunError(Exception):
    """A trainer refused a setting."""


def run(command: list[str], threads: int, marks: tuple[int, int], *, limit_s: float) -> Cost:
    """Run `command` until its log says that the second of `marks` samples are seen; its cost since the first.

    Raises RunError where it does not come so far, or where a sample takes more than `limit_s` CPU seconds.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    assert process.stdout is not None
    found: list[tuple[int, float, float]] = []
    last_line = "no output"
    try:
        for line in process.stdout:
            last_line = line.strip() or last_line
            # Ours: "512 samples  loss ..."; open_clip's: "... Train Epoch: 0 [ 512/2048 (25%)] ..."
            seen = re.search(r"^\s*([\d,]+) samples  loss|Train Epoch: 0 \[\s*(\d+)/", line)
            if seen is None:
                continue
            samples = int((seen[1] or seen[2]).replace(",", ""))
            if samples >= marks[len(found)]:
                found.append((samples, cpu_of(process.pid), time.perf_counter()))
            if len(found) == len(marks):
                break
            if found and cpu_of(process.pid) - found[0][1] > limit_s * (marks[1] - marks[0]):
                last_line = f"more than {1e3 * limit_s:.1f} ms CPU a sample, given up"
                break
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    if len(found) < len(marks):
        raise RunError(last_line[:300])
    (samples_0, cpu_0, wall_0), (samples_1, cpu_1, wall_1) = found
    samples = samples_1 - samples_0
    return Cost((cpu_1 - cpu_0) / samples, (wall_1 - wall_0) / samples)


def cpu_of(process: int) -> float:
    """User + system seconds of `process` and all its descendants, those that ended among them."""
    ticks, parents = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # ended meanwhile
        parents[int(path.parent.name)] = int(fields[1])
        ticks[int(path.parent.name)] = sum(int(field) for field in fields[11:15])  # utime, stime, cutime, cstime

    def belongs(number: int) -> bool:
        while number not in (0, process):
            number = parents.get(number, 0)
        return number == process

    return sum(count for number, count in ticks.items() if belongs(number)) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
