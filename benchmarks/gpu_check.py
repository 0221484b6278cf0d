"""What only a GPU can show of the trainer: gradients, speed, sharding, resuming, a peer, a profile. See gpu_check.sh.

    shards (made here) --> each part in a process of its own, with a limit --> facts, checks
                                              --> a table, OUT/gpu_check.json, and which checks do not hold

A part that fails or takes too long is told, and the others go on. They stand in the order of their worth, and each has
its share of --limit_s to itself: what one leaves of it goes to the next, and none takes of what those behind it are
promised. The exit status is 0 if all parts ran and every check holds, the published figures on an H100 or H200 among
them.

`--small` runs the same parts with tiny models, on a CPU if there is no GPU: what it prints then are no figures, but it
shows that nothing here fails for a silly reason, and its checks are the same.

OUT is a directory of this script's own: a new or an empty one, or one that an earlier run has made. Of that it removes
what it makes anew and nothing else. `--only b32,resume` runs these parts alone, with the shards that are there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 530.0
SLOWER = 20.0
"""By so much a CPU that other work fills may be, for `--small`."""
OWN = ".gpu_check.json"
"""Says that OUT is this script's own, and what lies in it."""
TINY = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
CONFIGS = {"b32": "configs/train/clip-vit-b-32.yaml", "b16": "configs/train/clip-vit-b-16.yaml"}
TARGETS = {
    "b32": {"samples_per_s": 7800.0, "model_flops_utilisation": 0.35},
    "b16": {"samples_per_s": 3600.0, "model_flops_utilisation": 0.45},
}
"""What the fastest run from shards is to reach on one H100."""
MOST_WAIT = 0.01
"""Share of that run's time that is spent waiting for data."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One thing to find out."""

    name: str
    limit_s: float
    """Its share of the whole, on a GPU."""
    finds: str
    command: list[str]
    """Prints a JSON object on each line that counts, beside whatever else: facts, or a check (`gpu_parts.check`)."""
    reads_shards: bool = False


def main(arguments: Sequence[str] | None = None) -> int:
    """All parts, or those that are asked for; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu_check"))
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--limit_s", type=float, help=f"of all parts together; default {LIMIT_S:.0f} on a GPU")
    parser.add_argument("--only", default="", help="names of parts, with commas between; default: all")
    options = parser.parse_args(arguments)
    slower = SLOWER if options.small else 1.0
    all_parts = parts(options.out.resolve(), small=options.small)
    asked = [name.strip() for name in options.only.split(",") if name.strip()] or [part.name for part in all_parts]
    if unknown := sorted(set(asked) - {part.name for part in all_parts}):
        told_parts = "".join(f"\n  {part.name:<18} {part.finds}" for part in all_parts)
        parser.error(f"--only: there is no part {', '.join(unknown)}; the parts are:{told_parts}")
    out = open_folder(options.out, small=options.small, whole=not options.only)
    chosen = [part for part in all_parts if part.name in asked]
    if any(part.reads_shards for part in chosen) and "shards" not in asked and not has_shards(out):
        print("shards: made as well, since there are none that the other parts could read", flush=True)
        chosen = [part for part in all_parts if part.name in {*asked, "shards"}]
    limit_s = LIMIT_S * slower if options.limit_s is None else options.limit_s

    begun = time.monotonic()
    results: list[dict[str, Any]] = []
    for number, part in enumerate(chosen):
        left_s = limit_s - (time.monotonic() - begun)
        promised_s = sum(following.limit_s for following in chosen[number + 1 :]) * slower
        own_s = max(min(part.limit_s * slower, left_s), left_s - promised_s)
        if own_s < min(5.0, part.limit_s):
            results.append({"part": part.name, "not_run": "no time left"})
        else:
            results.append({"part": part.name, **run_part(part, own_s, out)})
        keep_results(out, results)
        print(told(results[-1]), flush=True)
    lines, failed = verdict(results, small=options.small)
    print("\n".join(lines))
    print(f"{time.monotonic() - begun:.0f} s; {out / 'gpu_check.json'}")
    return int(failed)


def parts(out: Path, *, small: bool) -> list[Part]:
    """In the order of their worth. Their limits are LIMIT_S together."""
    own = [sys.executable, "-m", "benchmarks.gpu_parts", "--out", str(out), *(["--small"] if small else [])]

    def speed(name: str, batch: int, *words: str) -> list[str]:
        command = [sys.executable, "-m", "benchmarks.train_gpu", CONFIGS[name]]
        command += ["--data", str(out / "shards"), "--scratch", str(out / "work")]
        # 1,024 and 512 pairs fit without it, and the config has it for 4,096 a GPU.
        changes = ["--model.gradient_checkpointing", "false", *words]
        if small:
            changes += ["--model.name", str(out / "tiny.json"), "--precision", "fp32", "--data.num_workers", "1"]
            return [*command, "--batch", "16", "--windows", "1", "--steps", "2", *changes]
        return [*command, "--batch", str(batch), *changes]

    compiled = ("--model.compile", "true", "--from", "shards")
    profile = ("--profile", str(out / "profile.txt"))
    # With one process no collective needs torchrun: the part itself joins a group of one.
    return [
        Part(name="machine", limit_s=15, finds="what it runs on", command=[*own, "machine"]),
        Part(name="shards", limit_s=40, finds="pictures that the others read", command=[*own, "shards"]),
        Part(name="gradients", limit_s=35, finds="against float64 on the CPU", command=[*own, "gradients"]),
        Part(
            name="b32", limit_s=45, finds="ViT-B/32 from shards and its step alone, a profile", reads_shards=True,
            command=speed("b32", 1024, *profile),
        ),
        Part(
            name="b16", limit_s=45, finds="ViT-B/16 from shards and its step alone", reads_shards=True,
            command=speed("b16", 512),
        ),
        Part(name="sharded", limit_s=35, finds="FSDP2: gradient, checkpoint", command=[*own, "sharded"]),
        Part(
            name="resume", limit_s=55, finds="a resumed run against a whole one", reads_shards=True,
            command=[*own, "resume"],
        ),
        Part(
            name="b32_compiled", limit_s=75, finds="ViT-B/32 from shards with model.compile", reads_shards=True,
            command=speed("b32", 1024, *compiled),
        ),
        Part(
            name="b16_compiled", limit_s=75, finds="ViT-B/16 from shards with model.compile", reads_shards=True,
            command=speed("b16", 512, *compiled),
        ),
        Part(name="peer", limit_s=50, finds="open_clip's trainer, ViT-B/32", command=[*own, "peer"]),
        Part(
            name="sharded_compiled", limit_s=60, finds="FSDP2 with compiled layers",
            command=[*own, "sharded_compiled"],
        ),
    ]  # fmt: skip


# --- the folder -------------------------------------------------------------------------------


def open_folder(path: Path, *, small: bool, whole: bool) -> Path:
    """OUT, made where it is missing; without what an earlier run made, if this is a `whole` one or of another size.

    Ends the program with one line where it is not this script's own.
    """
    out = path.resolve()
    if out.exists() and not out.is_dir():
        raise SystemExit(f"{path} is a file; set OUT to a directory for the results")
    marker = out / OWN
    is_new = not out.exists() or not any(out.iterdir())
    if not is_new and not marker.is_file():
        raise SystemExit(f"{path} is not empty and no earlier run made it; set OUT to a new directory for the results")
    about = {} if is_new else json.loads(marker.read_text())
    out.mkdir(parents=True, exist_ok=True)
    if whole or about.get("small") != small:
        for name in ("shards", "work"):
            shutil.rmtree(out / name, ignore_errors=True)
        for name in ("gpu_check.json", "profile.txt", *(f"{part.name}.log" for part in parts(out, small=small))):
            (out / name).unlink(missing_ok=True)
        about = {"small": small, "has_shards": False}
    _write(marker, about)
    _write(out / "tiny.json", TINY)
    return out


def has_shards(out: Path) -> bool:
    """Whether an earlier run has made all of them."""
    return bool(json.loads((out / OWN).read_text())["has_shards"])


def keep_results(out: Path, results: list[dict[str, Any]]) -> None:
    """In OUT/gpu_check.json, beside those of parts that this run does not have."""
    path = out / "gpu_check.json"
    before = json.loads(path.read_text()) if path.is_file() else []
    known = {entry["part"]: entry for entry in [*before, *results]}
    _write(path, list(known.values()))


# --- a part -----------------------------------------------------------------------------------


def run_part(part: Part, limit_s: float, out: Path) -> dict[str, Any]:
    """What the part printed, or how it failed; all it said is kept in OUT/NAME.log."""
    begun = time.monotonic()
    log, work = out / f"{part.name}.log", out / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    if part.name == "shards":
        shutil.rmtree(out / "shards", ignore_errors=True)
        _note_shards(out, False)
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
    shutil.rmtree(work, ignore_errors=True)
    lines = log.read_text(errors="replace").splitlines()
    found = _found(lines)
    entry: dict[str, Any] = {"seconds": round(time.monotonic() - begun, 1), "found": found}
    if code is None:
        entry["error"] = f"not done after {limit_s:.0f} s"
    elif code:
        entry["error"] = next((line.strip()[:300] for line in reversed(lines) if line.strip()), f"exit status {code}")
    elif not found:
        entry["error"] = "said nothing"
    elif part.name == "shards":
        _note_shards(out, True)
    return entry


def _found(lines: Sequence[str]) -> list[dict[str, Any]]:
    """What a part says, an object a line, among whatever else it prints."""
    found = []
    for line in lines:
        with suppress(ValueError):
            content = json.loads(line)
            if isinstance(content, dict):
                found.append(content)
    return found


def _note_shards(out: Path, has: bool) -> None:
    about = json.loads((out / OWN).read_text())
    _write(out / OWN, {**about, "has_shards": has})


def _write(path: Path, content: object) -> None:
    """Whole, or not at all."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(json.dumps(content, indent=1) + "\n")
    new.replace(path)


def told(result: dict[str, Any]) -> str:
    """A result as lines of the table."""
    if "not_run" in result:
        return f"{result['part']}  NOT RUN: {result['not_run']}"
    lines = [f"{result['part']}  ({result['seconds']} s)"]
    for found in result["found"]:
        shown = (f"{name} {_short(value)}" for name, value in found.items() if name not in ("check", "holds"))
        if "check" in found:
            lines.append(f"    {'holds' if found['holds'] else 'FAILS'}: {found['check']}: {', '.join(shown)}")
        else:
            lines.append("    " + ", ".join(shown))
    if "error" in result:
        lines.append(f"    FAILED: {result['error']}")
    return "\n".join(lines)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# --- the end ----------------------------------------------------------------------------------


def verdict(results: list[dict[str, Any]], *, small: bool) -> tuple[list[str], bool]:
    """What it comes to, in lines, and whether anything failed."""
    checks = [(result["part"], found) for result in results for found in result.get("found", []) if "check" in found]
    failed = [
        f"FAILED  {part}: {check['check']}: {_short(check['value'])}, {_short(check['bound'])} is asked"
        for part, check in checks
        if not check["holds"]
    ]
    failed += [f"FAILED  {result['part']}: {result['error']}" for result in results if "error" in result]
    not_run = [result["part"] for result in results if "not_run" in result]
    if not_run:
        failed.append(f"NOT RUN for want of time: {', '.join(not_run)}; --only {','.join(not_run)} runs them alone")
    lines = ["", f"{sum(check['holds'] for _, check in checks)} of {len(checks)} checks hold"]
    if small:
        lines.append("published figures: not judged at tiny sizes")
    else:
        target_lines, missed = targets(results)
        lines += target_lines
        failed += missed
    return [*lines, *failed], bool(failed)


def targets(results: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """(whether the published figures are met, in lines; those of them whose miss is a failure on this GPU).

    Of each model the fastest run from shards counts. Utilisation, which is of the lengths that texts have, is told, and
    pairs/s and data wait decide.
    """
    lines, missed = [], []
    for name, asked in TARGETS.items():
        runs = [
            found
            for result in results
            if result["part"] in (name, f"{name}_compiled")
            for found in result.get("found", [])
            if found.get("source") == "shards"
        ]
        if not runs:
            lines.append(f"{name}: not measured from shards")
            continue
        best = max(runs, key=lambda run: float(run["samples_per_s"]))
        judged = [
            ("pairs/s", best["samples_per_s"], asked["samples_per_s"], True),
            ("of it waiting for data", best["data_wait_share"], MOST_WAIT, False),
            ("model FLOPs utilisation", best["model_flops_utilisation"], asked["model_flops_utilisation"], True),
        ]
        how = "compiled" if best["compile"] else "not compiled"
        for what, value, bound, is_least in judged:
            is_met = value >= bound if is_least else value < bound
            sign = ">=" if is_least else "<"
            line = f"{name}, {how}: {value:.4g} {what}, {sign} {bound:g} is asked: {'met' if is_met else 'NOT MET'}"
            lines.append(line)
            is_asked_for = any(gpu in best["device"] for gpu in ("H100", "H200")) and what != judged[2][0]
            if not is_met and is_asked_for:
                missed.append(f"FAILED  {line}")
    return lines, missed


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # the running part ends as well
    sys.exit(main())
