"""Clients of object stores: obstore, pyarrow.fs and fsspec against one store on loopback, in one run.

    python -m benchmarks.object_stores [--requests 500] [--mb 256] [--repeats 5] [--clients obstore pyarrow ...]

The store is a process of its own, in memory, that speaks just enough S3 (it checks no signature), so that clients and
not a server are measured. s3fs takes part where it is installed. Printed: the rate of the best repeat (requests one
after the other, so latencies of loopback), the client's own CPU time (user + system, all its threads) of the best
repeat, its ratio to obstore's in the same run, and its spread: how far the median lies above the best.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import importlib.util
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

CHUNK_BYTES = 8_000_000
RANGE_BYTES = 30_000
SMALL = b"x" * 1000
ACCESS_KEY, SECRET_KEY, REGION = "key", "secret", "us-east-1"
CLIENTS = ("obstore", "obstore.fsspec", "pyarrow", "s3fs")


def _options(endpoint: str) -> dict[str, Any]:
    """What obstore and its file system of fsspec are opened with."""
    options = {"allow_http": True, "timeout": "1h"}
    keys = {"access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY, "region": REGION}
    return keys | {"endpoint": endpoint, "client_options": options}


class Client(ABC):
    """What is measured, of one library; keys lie in the bucket `bench`."""

    conditional: bool

    @abstractmethod
    def put(self, key: str) -> object:
        """Write `SMALL`."""

    def create(self, key: str) -> object:
        """Write `SMALL` if there is nothing."""
        raise NotImplementedError

    @abstractmethod
    def get(self, key: str) -> bytes:
        """Read a small object."""

    @abstractmethod
    def ranges(self, key: str, starts: list[int]) -> int:
        """Read `RANGE_BYTES` from each start; the number of bytes read."""

    @abstractmethod
    def read(self, key: str) -> int:
        """Read a large object in sequence, never whole in memory; its size."""

    @abstractmethod
    def write(self, key: str, chunks: Iterator[bytes]) -> object:
        """Write a large object that comes in chunks."""


class Obstore(Client):
    """obstore itself."""

    conditional = True

    def __init__(self, endpoint: str) -> None:
        import obstore
        from obstore.store import S3Store

        self._api: Any = obstore
        self._store = S3Store("bench", **_options(endpoint))

    def put(self, key: str) -> object:
        return self._api.put(self._store, key, SMALL)

    def create(self, key: str) -> object:
        return self._api.put(self._store, key, SMALL, mode="create")

    def get(self, key: str) -> bytes:
        return bytes(self._api.get(self._store, key).bytes())

    def ranges(self, key: str, starts: list[int]) -> int:
        return sum(len(self._api.get_range(self._store, key, start=start, length=RANGE_BYTES)) for start in starts)

    def read(self, key: str) -> int:
        return sum(len(chunk) for chunk in self._api.get(self._store, key).stream(min_chunk_size=CHUNK_BYTES))

    def write(self, key: str, chunks: Iterator[bytes]) -> object:
        return self._api.put(self._store, key, chunks, chunk_size=CHUNK_BYTES)


class Fsspec(Client):
    """A file system of fsspec: obstore's or s3fs."""

    def __init__(self, endpoint: str, name: str) -> None:
        if name == "s3fs":
            import s3fs  # type: ignore[import-not-found]  # a peer, where it is there

            self._fs: Any = s3fs.S3FileSystem(
                key=ACCESS_KEY,
                secret=SECRET_KEY,
                endpoint_url=endpoint,
                client_kwargs={"region_name": REGION},
                use_listings_cache=False,
            )
        else:
            from obstore.fsspec import FsspecStore

            self._fs = FsspecStore("s3", **_options(endpoint))
        self.conditional = name == "s3fs"  # obstore's takes mode="create" without a word, and overwrites

    def put(self, key: str) -> object:
        return self._fs.pipe_file(f"bench/{key}", SMALL)

    def create(self, key: str) -> object:
        return self._fs.pipe_file(f"bench/{key}", SMALL, mode="create")

    def get(self, key: str) -> bytes:
        return bytes(self._fs.cat_file(f"bench/{key}"))

    def ranges(self, key: str, starts: list[int]) -> int:
        return sum(len(self._fs.cat_file(f"bench/{key}", start=start, end=start + RANGE_BYTES)) for start in starts)

    def read(self, key: str) -> int:
        with self._fs.open(f"bench/{key}", "rb", block_size=CHUNK_BYTES) as file:
            return sum(len(chunk) for chunk in iter(lambda: file.read(CHUNK_BYTES), b""))

    def write(self, key: str, chunks: Iterator[bytes]) -> object:
        with self._fs.open(f"bench/{key}", "wb", block_size=CHUNK_BYTES) as file:
            return sum(file.write(chunk) for chunk in chunks)


class Pyarrow(Client):
    """pyarrow.fs.S3FileSystem."""

    conditional = False

    def __init__(self, endpoint: str) -> None:
        from pyarrow import fs

        self._fs = fs.S3FileSystem(
            access_key=ACCESS_KEY,
            secret_key=SECRET_KEY,
            region=REGION,
            endpoint_override=urlsplit(endpoint).netloc,
            scheme="http",
            allow_delayed_open=True,  # a small object is one put
        )

    def put(self, key: str) -> object:
        with self._fs.open_output_stream(f"bench/{key}") as file:
            return file.write(SMALL)

    def get(self, key: str) -> bytes:
        with self._fs.open_input_stream(f"bench/{key}") as file:
            return bytes(file.read())

    def ranges(self, key: str, starts: list[int]) -> int:
        with self._fs.open_input_file(f"bench/{key}") as file:
            return sum(len(file.read_at(RANGE_BYTES, start)) for start in starts)

    def read(self, key: str) -> int:
        with self._fs.open_input_stream(f"bench/{key}") as file:
            return sum(len(chunk) for chunk in iter(lambda: file.read(CHUNK_BYTES), b""))

    def write(self, key: str, chunks: Iterator[bytes]) -> object:
        with self._fs.open_output_stream(f"bench/{key}") as file:
            return sum(file.write(chunk) for chunk in chunks)


def open_client(name: str, endpoint: str) -> Client:
    """The client of this name."""
    if name == "obstore":
        return Obstore(endpoint)
    if name == "pyarrow":
        return Pyarrow(endpoint)
    return Fsspec(endpoint, name)


class Store:
    """An object store in memory: puts with conditions, puts of parts, gets of ranges."""

    def __init__(self) -> None:
        self._objects: dict[str, tuple[bytes, str]] = {}
        self._parts: dict[str, dict[int, bytes]] = {}

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> tuple[str, str, bytes]:
        """Status line, further headers and body."""
        url = urlsplit(target)
        query = parse_qs(url.query, keep_blank_values=True)
        upload = query.get("uploadId", [""])[0]
        if method == "PUT" and upload:
            self._parts[upload][int(query["partNumber"][0])] = body
            return "200 OK", 'ETag: "part"\r\n', b""
        if method == "PUT":
            known = self._objects.get(url.path, (b"", None))[1]
            if ("if-none-match" in headers and known) or headers.get("if-match", known) != known:
                return "412 Precondition Failed", "", b"<Error><Code>PreconditionFailed</Code></Error>"
            return "200 OK", f"ETag: {self._keep(url.path, body)}\r\n", b""
        if method == "POST" and "uploads" in query:
            upload = str(len(self._parts))
            self._parts[upload] = {}
            names = f"<Bucket>bench</Bucket><Key>key</Key><UploadId>{upload}</UploadId>"
            return "200 OK", "", f"<InitiateMultipartUploadResult>{names}</InitiateMultipartUploadResult>".encode()
        if method == "POST":
            parts = self._parts.pop(upload)
            tag = self._keep(url.path, b"".join(parts[number] for number in sorted(parts)))
            names = f"<Bucket>bench</Bucket><Key>key</Key><ETag>{tag.replace(chr(34), '&quot;')}</ETag>"
            return "200 OK", "", f"<CompleteMultipartUploadResult>{names}</CompleteMultipartUploadResult>".encode()
        if url.path not in self._objects:
            return "404 Not Found", "", b"<Error><Code>NoSuchKey</Code></Error>"
        data, tag = self._objects[url.path]
        about = f"ETag: {tag}\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nAccept-Ranges: bytes\r\n"
        if "range" not in headers:
            return "200 OK", about, data
        first, _, last = headers["range"].removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last) + 1 if last else len(data), len(data))
        return "206 Partial Content", f"{about}Content-Range: bytes {start}-{end - 1}/{len(data)}\r\n", data[start:end]

    def _keep(self, path: str, body: bytes) -> str:
        tag = f'"{hashlib.md5(body[:1000], usedforsecurity=False).hexdigest()}"'
        self._objects[path] = body, tag
        return tag

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError), contextlib.closing(writer):
            while True:
                line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
                method, target, _ = line.split(" ")
                if "expect" in headers:
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                body = await _body(reader, headers)
                status, about, content = self.answer(method, target, headers, body)
                writer.write(f"HTTP/1.1 {status}\r\n{about}Content-Length: {len(content)}\r\n\r\n".encode())
                if method != "HEAD":
                    writer.write(content)
                await writer.drain()


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    """The body of a request; of one that comes in signed pieces ("aws-chunked") without their frames."""
    if "chunked" in headers.get("transfer-encoding", ""):
        body = bytearray()
        while num_bytes := int((await reader.readline()).partition(b";")[0], 16):
            body += await reader.readexactly(num_bytes)
            await reader.readline()
        while (await reader.readline()).strip():
            pass
    else:
        body = bytearray(await reader.readexactly(int(headers.get("content-length", "0"))))
    if "aws-chunked" not in headers.get("content-encoding", ""):
        return bytes(body)
    whole, at = bytearray(), 0
    while True:
        end = body.index(b"\r\n", at)
        num_bytes = int(body[at:end].partition(b";")[0], 16)
        if num_bytes == 0:
            return bytes(whole)
        whole += body[end + 2 : end + 2 + num_bytes]
        at = end + 4 + num_bytes


def serve() -> None:
    """Serve on a port of loopback and print it."""

    async def main() -> None:
        server = await asyncio.start_server(Store().serve, "127.0.0.1", 0, limit=2 * CHUNK_BYTES)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    asyncio.run(main())


def measure(endpoint: str, names: list[str], options: argparse.Namespace) -> None:
    """Measure all clients in turn and print a table."""
    clients = {name: open_client(name, endpoint) for name in names}
    size = options.mb * 1_000_000
    chunk = random.Random(1).randbytes(CHUNK_BYTES)
    starts = [random.Random(2).randrange(size - RANGE_BYTES) for _ in range(options.requests)]
    fresh = iter(range(1_000_000_000))
    next(iter(clients.values())).write("large", _chunks(chunk, size))

    def repeated(act: Callable[[str], object]) -> None:
        for _ in range(options.requests):
            act(f"small/{next(fresh)}")

    works: dict[str, tuple[Callable[[Client], object], float, str]] = {
        "put 1 kB": (lambda client: repeated(client.put), options.requests, "/s"),
        "create 1 kB": (lambda client: repeated(client.create), options.requests, "/s"),
        "get 1 kB": (lambda client: repeated(lambda _: client.get("small/0")), options.requests, "/s"),
        "get 30 kB range": (lambda client: client.ranges("large", starts), options.requests, "/s"),
        f"get {options.mb} MB": (lambda client: client.read("large"), options.mb, "MB/s"),
        f"put {options.mb} MB": (lambda client: client.write("copy", _chunks(chunk, size)), options.mb, "MB/s"),
    }
    print(f"{'':18}{'':16}{'rate':>12}{'CPU':>14}{'x obstore':>11}{'spread':>8}")
    for work, (act, amount, unit) in works.items():
        cpu: dict[str, list[float]] = {name: [] for name in names}
        wall: dict[str, list[float]] = {name: [] for name in names}
        able = [name for name in names if clients[name].conditional or not work.startswith("create")]
        for _ in range(options.repeats):  # in turn, so that a busy moment hits all alike
            for name in able:
                begin, begin_cpu = time.perf_counter(), time.process_time()
                act(clients[name])
                cpu[name].append(time.process_time() - begin_cpu)
                wall[name].append(time.perf_counter() - begin)
        for name in names:
            if name not in able:
                print(f"{work:18}{name:16}{'none':>12}")
                continue
            best = min(cpu[name])
            per = f"{best / amount * 1e6:.0f} us" if unit == "/s" else f"{best / amount * 1e3:.2f} s/GB"
            ratio = f"{best / min(cpu['obstore']):.2f}" if "obstore" in able else ""
            spread = (statistics.median(cpu[name]) - best) / best
            print(
                f"{work:18}{name:16}{amount / min(wall[name]):8.0f} {unit:3}{per:>14}{ratio:>11}{spread:8.0%}",
                flush=True,
            )


def _chunks(chunk: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, size, len(chunk)):
        yield chunk[: size - at]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--mb", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clients", nargs="+", choices=CLIENTS)
    options = parser.parse_args()
    names = options.clients or [name for name in CLIENTS if name != "s3fs" or importlib.util.find_spec("s3fs")]
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    command = [sys.executable, "-m", "benchmarks.object_stores", "serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            measure(f"http://127.0.0.1:{int(server.stdout.readline())}", names, options)
        finally:
            server.kill()


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve()
    else:
        main()
