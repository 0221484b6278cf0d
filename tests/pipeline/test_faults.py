"""Faults around a fetch task: the server goes away for good, the disk fills up. Each once, as it really happens."""

from __future__ import annotations

import errno
import io
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.consent.signals import AnswerSignals
from pipeline.engine import EngineConfig, Info, Task, open_engine, output
from pipeline.errors import OutputError
from pipeline.records.schema import FACTS
from pipeline.stages.check_image.config import ImageConfig
from pipeline.stages.fetch.config import FetchConfig
from pipeline.steps.fetch.facts import Answers
from pipeline.steps.fetch.fetch import Fetch
from pipeline.steps.fetch.requests import MISSING
from pipeline.storage.checked import digest_of, load_vector
from pipeline.storage.duck import open_duckdb
from pipeline.storage.location import Location
from pipeline.storage.parquet import save_vector
from tests.pipeline.loopback_server import LoopbackServer, text

COUNT = 30


def picture() -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def fetch_task(tmp_path: Path, port: int, kind: type[Fetch] = Fetch, retries: int = 0) -> Fetch:
    urls = [f"http://a.localhost:{port}/{i}" for i in range(COUNT)]
    rows = [{"url_id": i.to_bytes(16, "big"), "url": url, "retry": 0} for i, url in enumerate(urls)]
    pq.write_table(pa.Table.from_pylist(rows, schema=MISSING), tmp_path / "missing.parquet")
    config = FetchConfig(
        user_agent="test/0.1 (+http://localhost/)",
        allow_addresses=(f"127.0.0.0/8:{port}",),
        retries=retries,
        backoff_s=0.01,
        concurrency=2,
        timeout_s=5,
    )
    return kind(
        partition="p",
        missing=Location(str(tmp_path / "missing.parquet"), digest_of(tmp_path / "missing.parquet")),
        settings="",
        block_key="",
        signals=AnswerSignals(),
        config=config,
        image=ImageConfig(isolate="none"),
        seed=0,
        first=0,
        last=2**64 - 1,
        retry=0,
    )


DYING_SERVER = """
import os, socketserver, sys
body, left = sys.stdin.buffer.read(), 15
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        global left
        while line := self.rfile.readline():
            while self.rfile.readline().strip():
                pass
            if left == 0:
                self.request.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 999\\r\\n\\r\\nhalf")
                os._exit(9)
            left -= 1
            self.request.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
    print(server.server_address[1], flush=True)
    server.serve_forever()
"""


@pytest.mark.parametrize("retries", [0, 1])
def test_a_server_that_dies_for_good_costs_only_what_it_had_not_sent(tmp_path: Path, retries: int) -> None:
    with (
        subprocess.Popen([sys.executable, "-c", DYING_SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server,
        open_engine(EngineConfig(kind="inline")) as engine,
    ):
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(picture())
        server.stdin.close()
        try:
            task = fetch_task(tmp_path, int(server.stdout.readline()), retries=retries)
            (done,) = engine.run_step(tmp_path / "fetch", [task])
            assert server.wait(10) == 9
        finally:
            server.kill()  # else a failure waits for it without end
    facts = pq.read_table(tmp_path / "fetch/p.facts.parquet", schema=FACTS).to_pylist()
    assert [row["url_id"][-1] for row in facts] == list(range(COUNT)), "one fact for each URL, no more"
    success = [row for row in facts if row["status"] == "success"]
    assert {row["reason"] for row in facts if row not in success} <= {"transfer", "connect"}
    assert len(success) == done.info["success"]
    assert 13 <= len(success) <= 15, "all that was sent whole; the other open connection may die with the last"
    tar = (tmp_path / "fetch/p.tar").read_bytes()
    for row in success:
        assert tar[row["tar_offset"] : row["tar_offset"] + row["num_bytes"]][:3] == b"\xff\xd8\xff"


@dataclass(frozen=True, kw_only=True)
class Vector:
    vector: Location = output("npy")


class SaveAVector(Task[Vector]):
    def work(self, out: Vector) -> Info:
        save_vector(out.vector.local, np.zeros(1 << 17))
        return {}


def test_a_disk_that_takes_only_half_of_a_npy_is_one_clear_line(tmp_path: Path) -> None:
    # NumPy's own writer says "131072 requested and 65536 written", and not why.
    task = SaveAVector(partition="a")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, hard))
    try:
        with (
            open_engine(EngineConfig(kind="inline")) as engine,
            pytest.raises(OutputError, match=r"cannot write \(File too large\)"),
        ):
            engine.run_step(tmp_path / "step", [task])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [p for p in (tmp_path / "step").rglob("*") if p.is_file()]
    with open_engine(EngineConfig(kind="inline")) as engine:
        (done,) = engine.run_step(tmp_path / "step", [task])
    assert load_vector(done.located(tmp_path / "step")["a.npy"]).sum() == 0


@pytest.mark.parametrize("shape", [(0, 16), (7,), (3, 4), (2, 2, 5), ()])
def test_a_npy_is_what_numpy_reads_and_writes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    vector = np.arange(np.prod(shape, dtype=int), dtype=np.uint64).reshape(shape)
    save_vector(tmp_path / "a.npy", vector.T)
    np.save(tmp_path / "b.npy", np.ascontiguousarray(vector.T).reshape(vector.T.shape))
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def _full_spill(database: Any) -> None:
    raise duckdb.IOException('IO Error: Could not write file "x": No space left on device')


def test_a_disk_that_is_too_full_to_spill_says_so(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as caught, open_duckdb(tmp_path / "x", memory_mb=64) as database:
        _full_spill(database)
    assert caught.value.errno == errno.ENOSPC


class FetchOnAFullDisk(Fetch):
    def work(self, out: Answers) -> Info:
        out.tar.local.symlink_to("/dev/full")  # the kernel's own ENOSPC at every write
        return super().work(out)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_disk_that_fills_up_during_a_download_is_one_clear_line_and_the_next_run_goes_on(tmp_path: Path) -> None:
    routes = {f"/{i}": text(picture()) for i in range(COUNT)}
    with LoopbackServer(routes) as server, open_engine(EngineConfig(kind="inline")) as engine:
        with pytest.raises(OutputError, match="no space left on the disk; free some and run the same command"):
            engine.run_step(tmp_path / "fetch", [fetch_task(tmp_path, server.port, FetchOnAFullDisk)])
        assert [p for p in (tmp_path / "fetch").rglob("*") if p.is_file()] == [], "nothing half-written stays"
        (done,) = engine.run_step(tmp_path / "fetch", [fetch_task(tmp_path, server.port)])
    assert done.info["success"] == COUNT
