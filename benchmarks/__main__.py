"""The benchmarks that need neither a GPU nor a network, one after the other: what `make bench` runs.

    python -m benchmarks [NAME ...] [--data DIR] [--list]

Each measures ours and a peer's method in one run and prints machine, ratio and spread; `python -m benchmarks.NAME
--help` tells its options. Those that need another environment or a GPU are run by hand: fetch (img2dataset),
train_open_clip (open_clip's trainer), train_gpu, and gpu_check.sh, which runs all that a GPU can show.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHOICES = {
    "wat": "reading WAT, against gzip + json lines and bare record reading",
    "language": "language identification, against fastText",
    "match": "matching 500,000 queries, against pyahocorasick",
    "text_path": "clean, language and match, Parquet in and out, against fastText + pyahocorasick",
    "select_scale": "dedup, count and balance through the real steps, against NumPy and DuckDB",
    "fidelity": "the balance of a simulated crawl, beside MetaCLIP's published figures",
    "driver": "what a task costs the driver, against Ray's calls alone",
    "catalog": "the catalog's named queries (no peer)",
    "huge_batch": "the losses over tiles, against open_clip's and rows of the matrix",
    "train_bucket": "how well the trainer's order for buckets mixes, against buffers of samples",
    "train_sampling": "choosing the trainer's batches by their queries, against heapq",
    "search": "the index of features: recall, speed and memory, against brute force (and faiss, where it is)",
    "robots": "deciding by robots.txt, against plain Protego",
    "object_stores": "obstore, against pyarrow.fs and fsspec, from one store on loopback",
}
DEFAULT = ("wat", "language", "match", "text_path")


def command_of(name: str, scratch: Path) -> list[str]:
    """The words that run one benchmark at a size of minutes."""
    command = [sys.executable, "-m", f"benchmarks.{name}"]
    if name == "select_scale":
        command += ["--scratch", str(scratch), "--compare", "--engine", "inline"]
    if name == "fidelity":
        command += ["--scratch", str(scratch)]
    if name == "catalog":
        command += ["--rows", "1000000"]
    return command


def main() -> int:
    """Run the chosen benchmarks; the number of those that failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which to run; default: {' '.join(DEFAULT)}")
    parser.add_argument("--data", type=Path, help="the directory of real data; default: $OPENWIT_SHARED_DATA")
    parser.add_argument("--list", action="store_true", help="only list them")
    options = parser.parse_args()
    if options.list:
        for name, what in CHOICES.items():
            print(f"{name:14}{what}")
        return 0
    unknown = [name for name in options.names if name not in CHOICES]
    if unknown:
        parser.error(f"no benchmark named {', '.join(unknown)}; there are {', '.join(CHOICES)}")
    data = options.data or Path(os.environ.get("OPENWIT_SHARED_DATA", "../shared/data"))
    if not data.is_dir():
        parser.error(f"real data not found at {data}; set --data or OPENWIT_SHARED_DATA to its directory")
    environment = {**os.environ, "OPENWIT_SHARED_DATA": str(data.resolve())}
    failed = 0
    for name in options.names or DEFAULT:
        print(f"=== {name}: {CHOICES[name]}", flush=True)
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(command_of(name, Path(folder)), env=environment, check=False)
        failed += done.returncode != 0
        print(f"=== {name}: {'done' if done.returncode == 0 else 'FAILED'} in {time.perf_counter() - start:.0f} s\n")
    return failed


if __name__ == "__main__":
    sys.exit(main())
