"""Downloading and storing pictures: ours against img2dataset, in one run, from one server on loopback.

    python -m benchmarks.fetch --pictures DIR --peer-python PYTHON [--urls 1000] [--repeats 1]

DIR holds JPEGs; the 150 largest are encoded again so that their mean is about 190 KB, a quarter of them progressive.
Every tenth URL answers 404. PYTHON is the interpreter of an environment with img2dataset 1.47 (its pins do not agree
with ours); without it only ours runs. Both write the same layout: tar of jpg, json, txt, and a Parquet file; both
get one process, 32 transfers at once, 256 pixels, quality 95.

Printed for each: CPU seconds per 1000 URLs (user + system, all processes), the same without start-up (a run of one
URL), the highest sum of proportional memory over its processes, the wall time, and the mean and lowest SSIM of the
stored pictures against a full decode resized by areas and not encoded. Wall times on loopback say little.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import platform
import ssl
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

CERTIFICATES = Path(__file__).parent.parent / "tests" / "pipeline" / "certificates"
SIZE = 256
_PEER = """
import sys
from img2dataset import download
if __name__ == "__main__":
    download(url_list=sys.argv[1], input_format="txt", output_folder=sys.argv[2], output_format="webdataset",
             processes_count=1, thread_count=32, image_size=256, resize_mode="keep_ratio",
             resize_only_if_bigger=True, encode_quality=95, number_sample_per_shard=10000, timeout=10, retries=0,
             enable_wandb=False)
"""


def make_pictures(source: Path, count: int) -> list[bytes]:
    """The largest JPEGs of `source`, encoded again to a mean of about 190 KB, every fourth progressive."""
    files = sorted(
        (p for p in source.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg")), key=lambda p: p.stat().st_size
    )
    made: list[bytes] = []
    for quality in (92, 95, 97, 98):
        made = []
        for i, path in enumerate(reversed(files[-count:])):
            with Image.open(path) as image:
                buffer = io.BytesIO()
                image.convert("RGB").save(buffer, "JPEG", quality=quality, progressive=i % 4 == 0)
                made.append(buffer.getvalue())
        if sum(map(len, made)) > 180_000 * len(made):
            break
    return made


def serve(folder: Path, tls: bool) -> None:
    """Answer /N.jpg with picture N modulo their number, every tenth with 404; print the port."""
    pictures = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]

    class Server(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport, self.data = transport, b""

        def data_received(self, data: bytes) -> None:
            self.data += data
            while b"\r\n\r\n" in self.data:
                head, _, self.data = self.data.partition(b"\r\n\r\n")
                number = int(head.split(b" ", 2)[1].split(b"/")[-1].split(b".")[0])
                bad = number % 10 == 9
                body = b"not found" if bad else pictures[number % len(pictures)]
                status = b"404 Not Found" if bad else b"200 OK"
                close = b"connection: close" in head.lower()
                extra = b"Connection: close\r\n" if close else b""
                self.transport.write(  # type: ignore[attr-defined]
                    b"HTTP/1.1 %s\r\nContent-Type: image/jpeg\r\n%sContent-Length: %d\r\n\r\n"
                    % (status, extra, len(body))
                    + body
                )
                if close:
                    self.transport.close()

    async def main() -> None:
        context = None
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(CERTIFICATES / "loopback.pem", CERTIFICATES / "loopback.key")
        server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0, ssl=context, backlog=1024)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    asyncio.run(main())


def run_ours(url_list: Path, output: Path, decoding: str) -> None:
    """fetch, check_image, tar and Parquet, as the fetch step does it, without Ray."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipeline.stages.check_image.config import ImageConfig, Picture
    from pipeline.stages.check_image.isolate import IsolatedChecker
    from pipeline.stages.fetch.config import FetchConfig
    from pipeline.stages.fetch.download import fetch

    urls = url_list.read_text(encoding="utf-8").split()
    output.mkdir(parents=True)
    fetching = FetchConfig(
        user_agent="openwit-benchmark/0.1 (+http://localhost/)",
        concurrency=32,
        per_host_concurrency=32,
        retries=0,
        allow_addresses=("127.0.0.0/8",),
    )
    images = ImageConfig(image_size=SIZE, scaled_decoding="exact" if decoding == "exact" else "fast")
    if decoding not in ("exact", "fast"):
        images = ImageConfig(image_size=SIZE, scaled_oversampling=float(decoding))
    rows = []
    with IsolatedChecker(images) as checker, tarfile.open(output / "00000.tar", "w") as tar:
        for fetched in fetch(urls, fetching):
            key = f"{fetched.index:09d}"
            row = {"key": key, "url": urls[fetched.index], "reason": fetched.reason}
            if fetched.body is not None:
                [result] = checker.check([fetched.body])
                if isinstance(result, Picture):
                    facts = {
                        "width": result.width,
                        "height": result.height,
                        "sha256": result.sha256,
                        "exif": result.exif,
                    }
                    row |= facts
                    for name, data in (
                        ("jpg", result.encoded),
                        ("json", json.dumps(row).encode()),
                        ("txt", b""),
                    ):
                        member = tarfile.TarInfo(f"{key}.{name}")
                        member.size = len(data)
                        tar.addfile(member, io.BytesIO(data))
                else:
                    row["reason"] = result.reason
            rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows), output / "00000.parquet")


def measure(command: list[str], environment: dict[str, str]) -> tuple[float, float, float]:
    """(CPU seconds of all processes, wall seconds, peak of summed proportional memory in MB)."""
    begin = time.monotonic()
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    peak = 0.0
    over = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.1):
            peak = max(peak, _memory_mb(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    over.set()
    watcher.join()
    if process.returncode != 0:
        raise SystemExit(f"failed: {' '.join(command)[:200]}")
    return usage.ru_utime + usage.ru_stime, time.monotonic() - begin, peak


def _memory_mb(root: int) -> float:
    """Proportional set size of a process and all below it."""
    total, todo = 0, [root]
    while todo:
        pid = todo.pop()
        try:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
            for task in Path(f"/proc/{pid}/task").iterdir():
                todo += map(int, (task / "children").read_text().split())
        except OSError:
            continue
    return total / 1024


def ssim(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> float:
    """Mean structural similarity of two gray pictures (Wang et al. 2004: Gaussian 11 x 11, sigma 1.5)."""
    x, y = a.astype(np.float64), b.astype(np.float64)

    def blur(z: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(cv2.GaussianBlur(z, (11, 11), 1.5))[5:-5, 5:-5]

    mx, my = blur(x), blur(y)
    vx, vy, vxy = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return float((((2 * mx * my + c1) * (2 * vxy + c2)) / ((mx * mx + my * my + c1) * (vx + vy + c2))).mean())


def similarity(output: Path, pictures: list[bytes]) -> tuple[int, float, float]:
    """(stored pictures, mean SSIM, lowest SSIM) of the tars in `output`; the URL in each json names the picture."""
    scores = []
    for path in sorted(output.glob("*.tar")):
        with tarfile.open(path) as tar:
            members = {member.name: member for member in tar}
            for name in members:
                if not name.endswith(".json"):
                    continue
                file = tar.extractfile(members[name])
                image = tar.extractfile(members[name[:-4] + "jpg"])
                assert file is not None
                assert image is not None
                number = int(json.load(file)["url"].rsplit("/", 1)[1].split(".")[0])
                stored = cv2.imdecode(np.frombuffer(image.read(), np.uint8), cv2.IMREAD_GRAYSCALE)
                body = np.frombuffer(pictures[number % len(pictures)], np.uint8)
                whole = cv2.imdecode(body, cv2.IMREAD_COLOR)
                exact = cv2.cvtColor(
                    cv2.resize(whole, stored.shape[::-1], interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY
                )
                scores.append(ssim(exact, stored))
    return len(scores), float(np.mean(scores)), float(np.min(scores))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--peer-python", default="")
    parser.add_argument("--urls", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--schemes", nargs="+", default=["http", "https"])
    parser.add_argument(
        "--modes", nargs="+", default=["exact", "2.0", "fast", "1.0"], help="exact, fast or an oversampling"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "pictures").mkdir()
        pictures = make_pictures(arguments.pictures, 150)
        if not pictures:
            parser.error(f"--pictures {arguments.pictures}: no picture below this directory")
        for i, body in enumerate(pictures):
            (folder / "pictures" / f"{i:05d}.jpg").write_bytes(body)
        # The system's authorities and the server's: a file of one certificate would load faster than users' do.
        system = ssl.get_default_verify_paths().cafile
        bundle = Path(system).read_bytes() if system else b""
        (folder / "authorities.pem").write_bytes(bundle + b"\n" + (CERTIFICATES / "loopback.pem").read_bytes())
        mean_kb = sum(map(len, pictures)) / len(pictures) / 1000
        print(
            f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()};"
        )
        print(f"{len(pictures)} pictures, mean {mean_kb:.0f} KB, {arguments.urls} URLs, a tenth 404")
        for scheme in arguments.schemes:
            server = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.fetch", "serve", str(folder / "pictures"), scheme],
                stdout=subprocess.PIPE,
                text=True,
            )
            try:
                assert server.stdout is not None
                port = int(server.stdout.readline())
                _compare(scheme, port, folder, pictures, arguments)
            finally:
                server.kill()
                server.wait()


def _compare(scheme: str, port: int, folder: Path, pictures: list[bytes], arguments: argparse.Namespace) -> None:
    lists = {}
    for count in (1, arguments.urls):
        lists[count] = folder / f"{scheme}{count}.txt"
        lists[count].write_text("".join(f"{scheme}://localhost:{port}/{i}.jpg\n" for i in range(count)))
    ours = [sys.executable, "-m", "benchmarks.fetch", "ours"]
    trust = {"SSL_CERT_FILE": str(folder / "authorities.pem")}
    runs = {f"ours, {mode}": [[*ours, mode], trust] for mode in arguments.modes}
    if arguments.peer_python:
        peer_file = folder / "peer.py"
        peer_file.write_text(_PEER)
        peer_environment = {**trust, "NO_ALBUMENTATIONS_UPDATE": "1"}
        runs["img2dataset 1.47"] = [[arguments.peer_python, str(peer_file)], peer_environment]
    for repeat in range(arguments.repeats):
        for name, (command, environment) in runs.items():
            where = folder / f"{scheme}-{name.replace(' ', '_')}-{repeat}"
            start, _, _ = measure([*command, str(lists[1]), f"{where}-start"], environment)
            cpu, wall, memory = measure([*command, str(lists[arguments.urls]), str(where)], environment)
            stored, mean, lowest = similarity(where, pictures)
            per_thousand = 1000 / arguments.urls
            print(
                f"{scheme:5} {name:18} CPU {cpu * per_thousand:6.2f} s/1000 URLs"
                f" ({(cpu - start) * per_thousand:6.2f} without start-up), {memory:5.0f} MB, wall {wall:5.1f} s,"
                f" stored {stored}, SSIM mean {mean:.4f} lowest {lowest:.4f}",
                flush=True,
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(Path(sys.argv[2]), sys.argv[3] == "https")
    elif sys.argv[1:2] == ["ours"]:
        run_ours(Path(sys.argv[3]), Path(sys.argv[4]), sys.argv[2])
    else:
        main()
