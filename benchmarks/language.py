"""Language identification: speed against fastText's own list predict, and how good it is on labelled texts.

    python -m benchmarks.language [--data DIR] [--repeats 5] [--texts 200000]

DIR holds captions/captions.tsv.gz and lid/lid.tsv.gz. Prints texts/s per core (CPU time) of ours and of the peer in
turn, whether their likeliest labels are equal on every text, and for several least probabilities:

    recall           English rows that are kept
    false positives  rows of other languages that are kept

on the human sentences of lid, on alt texts of the web, and on captions that people wrote.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
import platform
import statistics
import time
from pathlib import Path

import fasttext
import numpy as np
import pyarrow as pa

from pipeline.stages.clean import CleanConfig, normalise, reason_against
from pipeline.stages.language_model import load_model, model_path

THRESHOLDS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.8)


def read_rows(path: Path) -> list[list[str]]:
    """Rows of a gzip-packed TSV without quoting, less its header."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
        return list(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]


def measure_speed(texts: list[str], repeats: int) -> None:
    """Print texts/s of both, and whether they agree."""
    model = load_model()
    library = fasttext.load_model(str(model_path()))
    array = pa.array(texts, pa.string())
    start = time.perf_counter()
    model.predict(array.slice(0, 1), "en")
    print(f"first call (compiled or read from the cache): {time.perf_counter() - start:.2f} s")
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(repeats):  # in turn, so that a busy moment hits both
        start = time.process_time()
        label, p_label, _ = model.predict(array, "en")
        ours.append(time.process_time() - start)
        start = time.process_time()
        # What its list predict does; that method itself fails in fasttext-predict unless given two texts.
        found = library.f.multilinePredict([text + "\n" for text in texts], 1, 0.0, "strict")
        theirs.append(time.process_time() - start)
    differ = sum(names[0] != f"__label__{model.labels[i]}" for names, i in zip(found, label, strict=True))
    for name, seconds in (("kernel", ours), ("fastText", theirs)):
        best = min(seconds)
        spread = (statistics.median(seconds) - best) / best
        print(f"{name:10}{len(texts) / best:12,.0f} texts/s  spread {spread:4.0%}  {min(theirs) / best:6.2f}x")
    print(f"likeliest labels that differ: {differ} of {len(texts):,}; highest p {p_label.max():.4f}")


def measure_quality(name: str, rows: list[tuple[str, str]]) -> None:
    """Print recall and false positives on (language, text) rows; "und" rows count as kept or not only."""
    cleaned = [(lang, normalise(text)) for lang, text in rows]
    cleaned = [(lang, text) for lang, text in cleaned if reason_against(text, CleanConfig()) is None]
    model = load_model()
    label, p_label, _ = model.predict(pa.array([text for _, text in cleaned], pa.string()), "en")
    is_english = label == model.labels.index("en")
    langs = np.array([lang for lang, _ in cleaned])
    for group, mask in (
        ("English", langs == "en"),
        ("other", (langs != "en") & (langs != "und")),
        ("not stated", langs == "und"),
    ):
        if mask.any():
            kept = [float((is_english & (p_label >= t) & mask).sum() / mask.sum()) for t in THRESHOLDS]
            print(f"| {name} | {group} | {mask.sum():,} | " + " | ".join(f"{share:.4f}" for share in kept) + " |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("OPENWIT_SHARED_DATA", "../shared/data")))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--texts", type=int, default=200_000)
    arguments = parser.parse_args()
    captions = read_rows(arguments.data / "captions" / "captions.tsv.gz")
    lid = read_rows(arguments.data / "lid" / "lid.tsv.gz")
    everything = [row[4] for row in captions] + [row[1] for row in lid]
    step = max(1, len(everything) // arguments.texts)
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, CPU time of one core")
    measure_speed(everything[::step], arguments.repeats)
    print("| rows | language | number | " + " | ".join(f"p >= {t}" for t in THRESHOLDS) + " |")
    print("|---|---|---" + "|---" * len(THRESHOLDS) + "|")
    measure_quality("lid, human sentences", [(row[0], row[1]) for row in lid if row[3] == "human"])
    measure_quality("web alt texts", [(row[1], row[4]) for row in captions if row[2] == "web_alt"])
    measure_quality("captions by people", [(row[1], row[4]) for row in captions if row[2] == "caption"][::10])
    measure_quality("figure captions", [(row[1], row[4]) for row in captions if row[2] == "figure_caption"])


if __name__ == "__main__":
    main()
