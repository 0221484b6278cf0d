"""Language identification: speed against fastText's own list predict, and how good it is on labelled texts.

    python -m benchmarks.language [--data DIR] [--repeats 5] [--texts 200000]

DIR holds captions/captions.tsv.gz, lid/lid.tsv.gz and pictures/texts.parquet. Prints texts/s per core (CPU time) of
ours and of the peer (fed with lower-cased text) in turn, and whether their likeliest labels are equal on every text.
Then what several rules keep, after cleaning:

    of English       the share of English rows that is kept
    of others        the share of rows in other languages that is kept

on sentences, alt texts of the web, captions and labels of pictures, each text once; by number of words, and for the
targets that have a word list. Every second text by hash; `--half other` takes the others: the defaults were chosen on
the first half.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import os
import platform
import statistics
import time
from pathlib import Path

import fasttext
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.stages.clean.clean import normalise, reason_against
from pipeline.stages.clean.config import CleanConfig
from pipeline.stages.language.config import LanguageConfig
from pipeline.stages.language.language import identify
from pipeline.stages.language.model import load_model, model_path
from pipeline.stages.language.words import BUILTIN_LANGUAGES

Row = tuple[str, str]
"""Language ("und": not stated), text."""

DIALECTS = {"en_GB": "en", "en_AU": "en", "pt_BR": "pt", "es-mx": "es", "ca@valencia": "ca", "nb": "no"}
OFF: dict[str, tuple[str, ...]] = {"en": ()}
RULES = {
    **{f"p >= {p}, likeliest": LanguageConfig(min_probability=p, lexicons=OFF) for p in (0.0, 0.1, 0.2, 0.3, 0.5)},
    **{f"p >= {p}": LanguageConfig(min_probability=p, lexicons=OFF, rule="probability") for p in (0.05, 0.1, 0.2)},
    "lexicon, p >= 0.2 if short": LanguageConfig(short_min_probability=0.2),
    "lexicon, p >= 0.3 if short (default)": LanguageConfig(),
    "lexicon, p >= 0.4 if short": LanguageConfig(short_min_probability=0.4),
    "lexicon, p >= 0.5 if short": LanguageConfig(short_min_probability=0.5),
    "default, but known words from p >= 0.005": LanguageConfig(known_min_probability=0.005),
    "default, but known words from p >= 0.05": LanguageConfig(known_min_probability=0.05),
    "p >= 0.1 with the lexicon": LanguageConfig(rule="probability", min_probability=0.1),
}


def read_rows(path: Path) -> list[list[str]]:
    """Rows of a gzip-packed TSV without quoting, less its header."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
        return list(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]


def measure_speed(texts: list[str], repeats: int) -> None:
    """Print texts/s of both, and whether they agree."""
    model = load_model()
    library = fasttext.load_model(str(model_path()))
    array = pa.array(texts, pa.string())
    lowered = [text.lower() + "\n" for text in texts]  # not counted
    start = time.perf_counter()
    model.predict(array.slice(0, 1), "en")
    print(f"first call (compiled or read from the cache): {time.perf_counter() - start:.2f} s")
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(repeats):  # in turn, so that a busy moment hits both
        start = time.process_time()
        answers = model.predict(array, "en")
        ours.append(time.process_time() - start)
        start = time.process_time()
        # What its list predict does; that method itself fails in fasttext-predict unless given two texts.
        found = library.f.multilinePredict(lowered, 1, 0.0, "strict")
        theirs.append(time.process_time() - start)
    differ = sum(names[0] != f"__label__{model.labels[i]}" for names, i in zip(found, answers.label, strict=True))
    for name, seconds in (("kernel", ours), ("fastText", theirs)):
        best = min(seconds)
        spread = (statistics.median(seconds) - best) / best
        print(f"{name:10}{len(texts) / best:12,.0f} texts/s  spread {spread:4.0%}  {min(theirs) / best:6.2f}x")
    print(f"likeliest labels that differ: {differ} of {len(texts):,}; highest p {answers.p_label.max():.4f}")


def read_sets(data: Path, half: bool) -> dict[str, list[Row]]:
    """The labelled texts by set, cleaned, each once; only one half of them."""
    captions = read_rows(data / "captions" / "captions.tsv.gz")
    lid = read_rows(data / "lid" / "lid.tsv.gz")
    pictures = pq.read_table(data / "pictures" / "texts.parquet", columns=["lang", "kind", "text"]).to_pylist()
    of_pictures = {
        kind: [(DIALECTS.get(row["lang"], row["lang"]), row["text"]) for row in pictures if row["kind"] in kinds]
        for kind, kinds in {"labels": {"label"}, "captions": {"caption"}, "titles": {"title", "description"}}.items()
    }
    sets = {
        "sentences": [(row[0], row[1]) for row in lid if row[3] == "human"],
        "web alt texts": [(row[1], row[4]) for row in captions if row[2] == "web_alt"],
        "captions by people": [(row[1], row[4]) for row in captions if row[2] == "caption"][::10],
        "labels of drawings": of_pictures["labels"],
        "captions of stamps": of_pictures["captions"],
        "class names": [(DIALECTS.get(row[0], row[0]), row[1]) for row in lid if row[3] == "word"],
        "titles of clip art": [("und", text) for _, text in of_pictures["titles"]],
    }
    return {name: _cleaned(rows, half) for name, rows in sets.items()}


def _cleaned(rows: list[Row], half: bool) -> list[Row]:
    once = dict.fromkeys((lang, normalise(text)) for lang, text in rows)
    return [
        (lang, text)
        for lang, text in once
        if reason_against(text, CleanConfig()) is None and hashlib.sha256(text.encode()).digest()[0] % 2 == half
    ]


def kept(rows: list[Row], config: LanguageConfig) -> np.ndarray:
    """bool[N]: what the stage keeps."""
    size = len(rows)
    place = pa.array(np.arange(size))
    batch = pa.record_batch(
        {
            **dict.fromkeys(("source", "record", "link", "uid"), place),
            "caption": pa.array([text for _, text in rows], pa.string()),
        }
    )
    outcome = identify(batch.set_column(3, "uid", pa.array([b"0" * 16] * size, pa.binary(16))), config)
    found = np.zeros(size, bool)
    found[outcome.kept["record"].to_numpy()] = True
    return found


def _share(found: np.ndarray, mask: np.ndarray) -> str:
    return f"{100 * found[mask].mean():.2f}" if mask.any() else "-"


def print_rules(sets: dict[str, list[Row]]) -> None:
    """A line per rule: of English, of others or, where no language is stated, of all; in percent."""
    columns = []
    for name, rows in sets.items():
        langs = np.array([lang for lang, _ in rows])
        masks = {"en": langs == "en", "other": (langs != "en") & (langs != "und"), "?": langs == "und"}
        columns += [(name, group, mask) for group, mask in masks.items() if mask.sum() > 60]
    print("| rule | " + " | ".join(f"{name}, {group} ({mask.sum():,})" for name, group, mask in columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for rule, config in RULES.items():
        found = {name: kept(rows, config) for name, rows in sets.items()}
        print(f"| {rule} | " + " | ".join(_share(found[name], mask) for name, _, mask in columns) + " |")


def print_by_words(sets: dict[str, list[Row]]) -> None:
    """The model alone and the default, by number of words, over all sets together."""
    rows = [row for part in sets.values() for row in part]
    langs = np.array([lang for lang, _ in rows])
    words = np.array([min(4, len(text.split())) for _, text in rows])
    alone, both = kept(rows, RULES["p >= 0.2, likeliest"]), kept(rows, LanguageConfig())
    print("| words | English | model | with lexicon | others | model | with lexicon |\n|---|---|---|---|---|---|---|")
    for count in (1, 2, 3, 4):
        english, other = (words == count) & (langs == "en"), (words == count) & (langs != "en") & (langs != "und")
        print(
            f"| {count}{' or more' if count == 4 else ''} | {english.sum():,} | {_share(alone, english)} | "
            f"{_share(both, english)} | {other.sum():,} | {_share(alone, other)} | {_share(both, other)} |"
        )


def print_targets(sets: dict[str, list[Row]]) -> None:
    """For each target with a word list: of the target and of the others, by the model alone and with the list."""
    print(
        "| target | set | rows | model | with lexicon | others: model | with lexicon |\n|---|---|---|---|---|---|---|"
    )
    for target in BUILTIN_LANGUAGES:
        for name, rows in sets.items():
            langs = np.array([lang for lang, _ in rows])
            mine, other = langs == target, (langs != target) & (langs != "und")
            if target == "en" or mine.sum() < 100 or name in ("captions by people", "sentences"):
                continue
            alone = kept(rows, LanguageConfig(targets=(target,), lexicons={target: ()}))
            both = kept(rows, LanguageConfig(targets=(target,)))
            shares = [_share(found, mask) for mask in (mine, other) for found in (alone, both)]
            print(f"| {target} | {name} | {mine.sum():,} | " + " | ".join(shares) + " |")


def print_nouns(data: Path) -> None:
    """How many of WordNet's nouns with the most tagged senses pass as a whole text, alone and in capitals."""
    with gzip.open(data / "queries" / "wordnet-3.0-index.noun.gz", "rt", encoding="utf-8") as lines:
        fields = [line.split() for line in lines if not line.startswith(" ")]
    tagged = [(row[0].replace("_", " "), int(row[5 + int(row[3])])) for row in fields]
    nouns = [("en", noun) for noun, senses in tagged if senses >= 3 and reason_against(noun, CleanConfig()) is None]
    for name, config in (("model", RULES["p >= 0.2, likeliest"]), ("with lexicon", LanguageConfig())):
        upper = kept([(lang, noun.upper()) for lang, noun in nouns], config).mean()
        print(f"WordNet's {len(nouns):,} nouns of three and more tagged senses, {name}: ", end="")
        print(f"{kept(nouns, config).mean():.1%} kept, in capitals {upper:.1%}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("OPENWIT_SHARED_DATA", "../shared/data")))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--texts", type=int, default=200_000)
    parser.add_argument("--half", choices=("first", "other"), default="first")
    arguments = parser.parse_args()
    captions = read_rows(arguments.data / "captions" / "captions.tsv.gz")
    lid = read_rows(arguments.data / "lid" / "lid.tsv.gz")
    everything = [row[4] for row in captions] + [row[1] for row in lid]
    step = max(1, len(everything) // arguments.texts)
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, CPU time of one core")
    measure_speed(everything[::step], arguments.repeats)
    sets = read_sets(arguments.data, arguments.half == "other")
    for show in (print_rules, print_by_words, print_targets):
        print()
        show(sets)
    print()
    print_nouns(arguments.data)


if __name__ == "__main__":
    main()
