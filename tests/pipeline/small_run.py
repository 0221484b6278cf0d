"""A whole run over a dozen links to a server of the test's own, on the inline engine: what `run` does, in a second.

with LoopbackServer({"/a": text(picture(0))}) as server:
    small = SmallRun.make(tmp_path, server, ["/a"])
    small.run()
"""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

from pipeline.commands import main
from tests.pipeline.loopback_server import LoopbackServer

_CAPTIONS = (
    "a red house beside the river in the morning",
    "an old dog that sleeps on the kitchen floor",
    "two children who play in the garden with a ball",
    "the mountains behind the village are full of snow",
    "a bowl of soup with bread on a wooden table",
    "the train waits at the station in the evening light",
    "a small boat on the lake under a cloudy sky",
    "people who walk through the market in the old town",
)


LARGE = 224
"""The side of a JPEG of about 60 kB: many blocks of a disk."""


def picture(seed: int, side: int = 64) -> bytes:
    """A JPEG of noise, `side` pixels wide and high."""
    noise = np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@dataclass(frozen=True, kw_only=True)
class SmallRun:
    """A config over the links `paths` of `server`, one caption each, and the set that it makes."""

    root: Path
    config: Path
    output: Path

    @classmethod
    def make(cls, root: Path, server: LoopbackServer, paths: Iterable[str]) -> SmallRun:
        root.mkdir(parents=True, exist_ok=True)
        rows = [{"url": server.url(path), "alt": _CAPTIONS[i % len(_CAPTIONS)]} for i, path in enumerate(paths)]
        pq.write_table(pa.Table.from_pylist(rows), root / "links.parquet")
        (root / "queries.txt").write_text("the\na\nan\ntwo\npeople\n")
        config = {
            "sources": [str(root / "links.parquet")],
            "queries": str(root / "queries.txt"),
            "output": str(root / "set"),
            "fetch": {
                "user_agent": "openwit-test/0.1 (+https://example.org/contact)",
                "allow_addresses": [f"127.0.0.0/8:{server.port}"],
                "retries": 0,
                "heavy_host_urls": 0,  # two steps less, of which no host here has a share
            },
            "consent": {"robots_live": False},  # one request a host less to count
            "image": {"isolate": "none", "min_side": 1, "image_size": 32},
            "engine": {"kind": "inline"},
        }
        (root / "config.yaml").write_text(yaml.safe_dump(config))
        return cls(root=root, config=root / "config.yaml", output=root / "set")

    def run(self, *words: str) -> int:
        """`python -m pipeline run`; its exit status."""
        return main(["run", str(self.config), *words])

    def samples(self) -> list[str]:
        """Paths of the published samples' URLs, sorted."""
        files = (self.output / "shards").glob("*.parquet")
        return sorted(_path(url) for file in files for url in pq.read_table(file)["url"].to_pylist())

    def rejections(self) -> dict[str, tuple[str, str | None]]:
        """Path -> reason and detail, of the planned links whose picture is not there."""
        step = self.output / "work" / "fetched"
        fetched = {
            row["uid"]: row for file in step.glob("*.fetched.parquet") for row in pq.read_table(file).to_pylist()
        }
        rejected = [row for file in step.glob("*.rejections.parquet") for row in pq.read_table(file).to_pylist()]
        assert all(fetched[row["uid"]]["reason"] == row["reason"] for row in rejected)
        return {_path(fetched[row["uid"]]["url"]): (row["reason"], row["detail"]) for row in rejected}

    def published(self) -> dict[str, str]:
        """sha256 of the published tars and Parquet files."""
        files = [path for path in (self.output / "shards").iterdir() if path.suffix in (".tar", ".parquet")]
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def state(self) -> dict[str, int]:
        """Every file's time of change, but for the lock's."""
        files = [path for path in self.output.rglob("*") if path.is_file() and path.name != "lock"]
        return {str(path): path.stat().st_mtime_ns for path in files}


def copy_set(source: Path, target: Path) -> None:
    """A copy that keeps links between work/shards and the published version."""
    shutil.copytree(source, target, symlinks=True)
    for path in (target / "versions").glob("*/*"):
        twin = target / "work" / "shards" / path.name
        if twin.is_file() and path.name != "manifest.json":
            path.unlink()
            path.hardlink_to(twin)


def _path(url: str) -> str:
    return "/" + url.split("/", 3)[3]
