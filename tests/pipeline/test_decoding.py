"""Decoders give pieces of bounded size, say where a member ended, and hand out what stands before damage."""

from __future__ import annotations

import gzip
import random
import re
import zlib
from collections.abc import Callable, Iterator
from functools import partial

import brotli
import pytest
import zstandard

from pipeline.web.decoding import GZIP, ZSTD, Brotli, DamagedError, Decoder, Inflate, Unzstd, members, pieces

TEXT = b"".join(b"%d bottles of beer on the wall\n" % i for i in range(20_000))
NOISE = random.Random(0).randbytes(300_000)
SKIPPED = b"\x50\x2a\x4d\x18\x03\0\0\0abc"


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, Inflate.RAW)
    return packer.compress(data) + packer.flush()


CODINGS: dict[str, tuple[Callable[[bytes], bytes], Callable[[], Decoder]]] = {
    "gzip": (gzip.compress, partial(Inflate, Inflate.GZIP)),
    "zlib": (zlib.compress, partial(Inflate, Inflate.ZLIB)),
    "raw deflate": (raw_deflate, partial(Inflate, Inflate.RAW)),
    "zstd": (zstandard.compress, Unzstd),
    "br": (partial(brotli.compress, quality=4), Brotli),
}


@pytest.mark.parametrize("name", CODINGS)
@pytest.mark.parametrize("plain", [TEXT, NOISE, bytes(10_000_000), b""], ids=["text", "noise", "zeros", "nothing"])
def test_pieces_are_small_and_all_of_it(name: str, plain: bytes) -> None:
    pack, new_decoder = CODINGS[name]
    packed = pack(plain)
    unpacked: list[bytes] = []
    decoder = new_decoder()
    at = 3
    while not decoder.at_end:
        found, at = decoder.unpack(b"..." + packed, at)
        unpacked.append(found)
    assert b"".join(unpacked) == plain
    assert at == 3 + len(packed)
    assert max(map(len, unpacked)) < 12_000_000


@pytest.mark.parametrize("name", ["gzip", "zlib", "raw deflate", "zstd"])
def test_a_member_ends_where_it_ends(name: str) -> None:
    pack, new_decoder = CODINGS[name]
    packed = pack(TEXT)
    ends: list[int] = []

    def unpack() -> Iterator[bytes]:
        ends.append((yield from pieces(new_decoder(), packed + b"behind it")))

    assert b"".join(unpack()) == TEXT
    assert ends == [len(packed)]


@pytest.mark.parametrize("name", CODINGS)
def test_half_of_it_gives_what_there_is_and_a_few_bytes_are_damage(name: str) -> None:
    pack, new_decoder = CODINGS[name]
    packed = pack(NOISE)
    half = b"".join(pieces(new_decoder(), packed[: len(packed) // 2]))
    assert NOISE.startswith(half)
    assert len(half) > 100_000
    with pytest.raises(DamagedError, match="before the first byte"):
        list(pieces(new_decoder(), packed[:3]))


def test_what_stands_before_damage_is_handed_out() -> None:
    packed = zstandard.ZstdCompressor(write_checksum=True).compress(NOISE)
    unpacked = bytearray()
    with pytest.raises(DamagedError):  # noqa: PT012 - the loop is what raises
        for piece in pieces(Unzstd(), packed[:-4] + b"\0\0\0\0"):
            unpacked += piece
    assert NOISE.startswith(unpacked)
    assert len(unpacked) > len(NOISE) - 1000


@pytest.mark.parametrize(("name", "magic"), [("gzip", GZIP), ("zstd", ZSTD)])
def test_members_follow_each_other_up_to_what_is_none(name: str, magic: re.Pattern[bytes]) -> None:
    pack, new_decoder = CODINGS[name]
    packed = pack(TEXT) + (SKIPPED if name == "zstd" else pack(b"")) + pack(b"the end")
    assert b"".join(members(packed + b"junk", magic, new_decoder)) == TEXT + b"the end"
    with pytest.raises(DamagedError) as error:
        list(members(packed + packed[:4] + bytes(range(255, 0, -1)), magic, new_decoder))
    assert error.value.member == 3
    with pytest.raises(DamagedError) as error:
        list(members(b"junk" + packed, magic, new_decoder))
    assert error.value.member == 0
    with pytest.raises(DamagedError, match="more than 1,000 members"):
        list(members(pack(b"") * 1001, magic, new_decoder))


def test_a_window_beyond_the_limit_is_damage() -> None:
    large = zstandard.ZstdCompressionParameters.from_level(3, window_log=24)
    packer = zstandard.ZstdCompressor(compression_params=large).compressobj()
    packed = packer.compress(NOISE * 60) + packer.flush()
    assert b"".join(pieces(Unzstd(), packed)) == NOISE * 60
    with pytest.raises(DamagedError):
        list(pieces(Unzstd(1 << 23), packed))
