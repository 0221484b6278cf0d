"""Deciding by robots.txt, against plain Protego: python -m benchmarks.robots [--hosts N] [--urls N] [--repeats R]

Made files of 5 to 80 rules, half of them with a star, of which a third name CCBot or GPTBot, and one in five equals
another. Ours: the files are read and kept (once a crawl), then the URLs, in random order, are judged from the mapped
table: at first (a host is looked up and compiled when its first URL comes), and again with all hosts compiled; by our
own group and CCBot's, which every URL is held against; one folder in twenty of a URL is a word of the rules. Peer:
Protego parses every host's file, and can_fetch is asked for our group alone. CPU seconds of one process; ours and the
peer's take turns.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from protego import Protego

from pipeline.consent.robots_file import kept_text, read_groups
from pipeline.consent.robots_rules import RobotsSignals
from pipeline.consent.robots_table import Robots, TableFiles, robots_hash, robots_url_of, write_table
from pipeline.storage.location import Files, Location

_PRODUCT = "openwit"
_WORDS = ("wp-admin", "search", "cart", "private", "tmp", "admin", "login", "tag", "feed", "images", "cgi-bin", "user")

_PLACES = ("wp-content", "uploads", "2024", "06", "media", "photos", "products", "catalog", "assets", "img", "large")


def made_file(dice: random.Random) -> str:
    lines = ["# robots.txt", "User-agent: *"]
    for _ in range(dice.randint(5, 80)):
        words = "/".join(dice.choices(_WORDS, k=dice.randint(1, 3)))
        pattern = dice.choice([f"/{words}/", f"/{words}", f"/*/{words}", f"/*?{words}=", f"/{words}/*.pdf$"])
        lines.append(f"{'Allow' if dice.random() < 0.1 else 'Disallow'}: {pattern}")
    if dice.random() < 0.33:
        lines += ["", "User-agent: CCBot", "User-agent: GPTBot", dice.choice(["Disallow: /", "Disallow: /private/"])]
    return "\n".join([*lines, "Sitemap: https://example.org/sitemap.xml", ""])


def made_url(dice: random.Random, host: str) -> str:
    words = "/".join(dice.choice(_WORDS if dice.random() < 0.05 else _PLACES) for _ in range(dice.randint(1, 4)))
    return f"https://{host}/{words}/photo-{dice.randint(0, 10**6)}.jpg" + ("?w=300" if dice.random() < 0.2 else "")


def seconds_of(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=2_000)
    parser.add_argument("--urls", type=int, default=40_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()

    dice = random.Random(0)
    files: list[str] = []
    for _ in range(options.hosts):
        files.append(dice.choice(files) if files and dice.random() < 0.2 else made_file(dice))
    hosts = [f"www.host{number}.example" for number in range(options.hosts)]
    urls = [made_url(dice, dice.choice(hosts)) for _ in range(options.urls)]
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, {os.cpu_count()} CPUs")
    print(f"{options.hosts:,} hosts with files of {statistics.mean(map(len, files)):,.0f} bytes, {options.urls:,} URLs")

    rates: dict[str, list[float]] = {}
    for _ in range(options.repeats):
        for name, rate in one_round(hosts, files, urls).items():
            rates.setdefault(name, []).append(rate)
    for name, found in rates.items():
        median = f"median {statistics.median(found):>9,.0f}/s"
        print(f"{name:<26}{median}, best {max(found):>9,.0f}, worst {min(found):>9,.0f}")


def one_round(hosts: list[str], files: list[str], urls: list[str]) -> dict[str, float]:
    """What is done -> how many of it a second."""
    kept: list[str] = []
    read = seconds_of(lambda: kept.extend(kept_text(read_groups(file.encode(), _PRODUCT)) for file in files))
    keyed = ((robots_hash(f"https://{host}/robots.txt"), text) for host, text in zip(hosts, kept, strict=True))
    rows = sorted(keyed)
    flags = [True] * len(urls)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{kind}.npy" for kind in ("urls", "places", "texts")]
        write_table(*paths, np.array([key for key, _ in rows], np.uint64), [text for _, text in rows])
        table = TableFiles(**{path.stem: Files([Location(str(path))]) for path in paths})
        robots = Robots([table], RobotsSignals(product=_PRODUCT))
        first = seconds_of(lambda: list(robots.verdicts(urls, flags)))
        again = seconds_of(lambda: list(robots.verdicts(urls, flags)))
    peer: dict[str, Protego] = {}
    named = [f"https://{host}/robots.txt" for host in hosts]
    pairs = zip(named, files, strict=True)
    parsed = seconds_of(lambda: peer.update((url, Protego.parse(file)) for url, file in pairs))
    plain = seconds_of(lambda: [peer[robots_url_of(u)].can_fetch(u, _PRODUCT) for u in urls])
    for url, (verdict, _) in zip(urls, robots.verdicts(urls, flags), strict=True):
        ours = verdict is None or verdict.reason != "robots_txt"
        assert ours == peer[robots_url_of(url)].can_fetch(url, _PRODUCT), url
    return {
        "files read and kept": len(files) / read,
        "URLs judged, hosts new": len(urls) / first,
        "URLs judged, hosts known": len(urls) / again,
        "files parsed by Protego": len(files) / parsed,
        "can_fetch, Protego": len(urls) / plain,
        "parse and can_fetch": len(urls) / (plain + parsed),
    }


if __name__ == "__main__":
    main()
