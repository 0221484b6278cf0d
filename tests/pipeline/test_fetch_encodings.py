"""Content-Encoding: what is known by name and bytes is undone, all else is passed through, and limits hold."""

from __future__ import annotations

import gzip
import random
import time
import tracemalloc
import zlib
from dataclasses import replace

import brotli
import pytest
import zstandard

from pipeline.stages.fetch.encodings import TooLargeError, UndecodableError, decoded
from tests.pipeline.loopback_server import LoopbackServer, text
from tests.pipeline.test_fetch import CONFIG, fetch_all, fetch_one

PICTURE = b"\xff\xd8\xff\xe0" + random.Random(0).randbytes(300_000)


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


GZIPPED = gzip.compress(PICTURE, mtime=0)
HALVES = PICTURE[:150_000], PICTURE[150_000:]

WHOLE = {
    "gzip": ("gzip", GZIPPED),
    "upper case, spaces": (" GZip ", GZIPPED),
    "x-gzip": ("x-gzip", GZIPPED),
    "gzip of several members": ("gzip", b"".join(map(gzip.compress, HALVES))),
    "gzip with bytes after its end": ("gzip", GZIPPED + b"\n<!-- served by x -->"),
    "gzip with zeros after its end": ("gzip", GZIPPED + bytes(1000)),
    "gzip with the beginning of a member after its end": ("gzip", GZIPPED + b"\x1f\x8b\x08junk"),
    "gzip without its last bytes": ("gzip", GZIPPED[:-6]),
    "deflate as it is meant": ("deflate", zlib.compress(PICTURE)),
    "deflate without zlib's frame": ("deflate", raw_deflate(PICTURE)),
    "br": ("br", brotli.compress(PICTURE, quality=1)),
    "zstd": ("zstd", zstd(PICTURE)),
    "zstd of several frames": ("zstd", b"".join(map(zstd, HALVES))),
    "zstd with a skippable frame": ("zstd", b"\x50\x2a\x4d\x18\x03\0\0\0abc" + zstd(PICTURE)),
    "zstd with bytes after its end": ("zstd", zstd(PICTURE) + b"junk"),
    "two codings": ("gzip, br", brotli.compress(GZIPPED, quality=1)),
    "a coding and a name that is none": ("gzip, aws-chunked", GZIPPED),
    "a name that is none and a coding": ("aws-chunked,gzip", GZIPPED),
    "empty names": (", gzip,,", GZIPPED),
    "the same coding twice, applied once": ("gzip, gzip", GZIPPED),
    "gzip that is none": ("gzip", PICTURE),
    "deflate that is none": ("deflate", PICTURE),
    "br that is none": ("br", PICTURE),
    "zstd that is none": ("zstd", PICTURE),
} | {
    f"no coding: {name}": (name, PICTURE)
    for name in (
        "UTF-8",
        "aws-chunked",
        "binary",
        "base64",
        "image/jpeg",
        "identity",
        "none",
        "compress",
        "",
        "a;q=1",
        "é",
    )
}


@pytest.mark.parametrize("name", WHOLE)
def test_the_picture_comes_out_whole(name: str) -> None:
    encodings, body = WHOLE[name]
    assert decoded(body, encodings, 10**6) == PICTURE


def test_pictures_of_other_formats_are_taken_as_they_are() -> None:
    heads = [
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"RIFF\1\2\3\4WEBPVP8 ",
        b"BM\1\2\3\4\0\0\0\0",
        b"\0\0\0\x1cftypavif",
        b"II*\0",
    ]
    for body in (head + PICTURE for head in heads):
        for name in ("gzip", "deflate", "br", "zstd", "gzip, br"):
            assert decoded(body, name, 10**6) == body


DAMAGED = {
    "gzip": [b"not gzip", GZIPPED[:5], GZIPPED[:1000] + b"xxx" + GZIPPED[1003:]],
    "deflate": [b"not deflate", zlib.compress(PICTURE)[:-1] + b"x"],
    "br": [b"not brotli", b"<html>no picture here</html>"],  # it has no checksum: more damage goes unseen
    "zstd": [b"not zstd", zstd(PICTURE)[:5], zstd(b"abc" * 1000)[:8] + b"\xff" * 100],
    ", ".join(["gzip"] * 6): [GZIPPED],
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_neither_coded_nor_a_picture_is_rejected(name: str) -> None:
    for body in DAMAGED[name]:
        with pytest.raises(UndecodableError):
            decoded(body, name, 10**6)


def test_half_of_a_coded_body_gives_what_there_is() -> None:
    """The image check then says that the picture is cut."""
    for name, body in (("gzip", GZIPPED), ("deflate", zlib.compress(PICTURE)), ("br", WHOLE["br"][1])):
        half = decoded(body[: len(body) // 2], name, 10**6)
        assert PICTURE.startswith(half)
        assert len(half) > 100_000


ZEROS = bytes(100_000_000)


@pytest.mark.parametrize(
    ("encodings", "body"),
    [
        ("gzip", gzip.compress(ZEROS, 1)),
        ("gzip, gzip", gzip.compress(gzip.compress(ZEROS, 1))),
        ("deflate", zlib.compress(ZEROS, 1)),
        ("br", brotli.compress(ZEROS, quality=1)),
        ("zstd", zstd(ZEROS)),
        ("zstd", b"\x28\xb5\x2f\xfd\0\x58" + b"\x02\0\x10\0" * 50_000),  # blocks of 128 KB in four bytes
        ("gzip, zstd", zstd(gzip.compress(ZEROS, 1) * 100)),  # large in the middle
    ],
)
def test_bombs_are_too_large_and_small_in_memory(encodings: str, body: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(TooLargeError):
        decoded(body, encodings, 400_000)
    assert tracemalloc.get_traced_memory()[1] < 30_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("encodings", ["gzip", "zstd"])
def test_a_million_empty_members_are_not_gone_through(encodings: str) -> None:
    empty = gzip.compress(b"") if encodings == "gzip" else zstd(b"")
    begin = time.process_time()
    with pytest.raises(UndecodableError):
        decoded(empty * 1_000_000, encodings, 10**6)
    assert time.process_time() - begin < 5, "over 20 s if each copied what follows it"


def test_the_limit_is_inclusive() -> None:
    assert decoded(GZIPPED, "gzip", len(PICTURE)) == PICTURE
    with pytest.raises(TooLargeError):
        decoded(GZIPPED, "gzip", len(PICTURE) - 1)


def test_codings_over_the_wire() -> None:
    routes = {f"/{i}": text(body, {"Content-Encoding": name}) for i, (name, body) in enumerate(WHOLE.values())}
    routes["/lines"] = text(brotli.compress(GZIPPED), {"Content-Encoding": "gzip", "content-encoding": "br"})
    routes["/robots.txt"] = text(gzip.compress(b"User-agent: *\nDisallow: /5\n"), {"Content-Encoding": "gzip"})
    with LoopbackServer(routes) as server:
        urls = [server.url(path) for path in routes if path != "/robots.txt"]
        got = fetch_all(urls)
        assert [fetched.reason for fetched in got] == [None] * len(urls)
        assert {fetched.body for fetched in got} == {PICTURE}
        assert {request.headers["accept-encoding"] for request in server.requests} == {"identity"}
        assert fetch_one(server.url("/5"), replace(CONFIG, robots_txt=True)).reason == "robots_txt"
