"""What owners say of the use of their pictures and pages, each form of it, and its neighbours that forbid nothing."""

from __future__ import annotations

import datetime
import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from configs.load import ConfigError, from_mapping
from pipeline.config import WitConfig
from pipeline.consent import c2pa_manifest
from pipeline.consent.again import judge_again
from pipeline.consent.answers import judge, when_received
from pipeline.consent.body import statements_in
from pipeline.consent.config import SIGNALS, STRICT_SIGNALS, ConsentConfig
from pipeline.consent.data_mining import data_mining_terms
from pipeline.consent.pages import PageRules
from pipeline.consent.signals import AnswerSignals, PageSignals
from pipeline.consent.tdmrep import parse_tdmrep
from pipeline.consent.usage import content_signal_forbids, content_usage_forbids
from pipeline.pictures.xmp import xmp_packets

NOW = datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC)
ALL = AnswerSignals(c2pa=True)


# --- the config -----------------------------------------------------------------------------------


def test_levels_and_single_signals() -> None:
    standard, strict, off = ConsentConfig(), ConsentConfig(level="strict"), ConsentConfig(level="off")
    assert [signal for signal in SIGNALS if not standard.honours(signal)] == sorted(STRICT_SIGNALS, key=SIGNALS.index)
    assert all(map(strict.honours, SIGNALS))
    assert not any(map(off.honours, SIGNALS))
    assert ConsentConfig(level="off", c2pa=True).honours("c2pa")
    assert not ConsentConfig(level="strict", robots_txt=False).honours("robots_txt")
    assert AnswerSignals.of(standard) == AnswerSignals()
    assert PageSignals.of(standard) == PageSignals()
    assert AnswerSignals.of(off).x_robots_directives == PageSignals.of(off).directives == ()
    with pytest.raises(ConfigError, match="x_robots_directives: 'NoAI' must be one word in small letters"):
        ConsentConfig(x_robots_directives=("NoAI",))


BASE: dict[str, Any] = {"sources": ["a"], "queries": "q", "output": "o"}


@pytest.mark.parametrize(
    ("sections", "consent"),
    [
        ({"fetch": {"respect_x_robots_tag": ["noai"]}}, ConsentConfig(x_robots_directives=("noai",))),
        ({"fetch": {"respect_x_robots_tag": []}}, ConsentConfig(x_robots_tag=False)),
        ({"fetch": {"respect_x_robots_tag": list(ConsentConfig().x_robots_directives)}}, ConsentConfig()),
        ({"fetch": {"respect_tdm_reservation": False}}, ConsentConfig(tdm_reservation=False)),
        (
            {"fetch": {"respect_tdm_reservation": False}, "extract": {"respect_tdm_reservation": True}},
            ConsentConfig(),
        ),
        ({"extract": {"respect_page_robots": False, "robots_directives": ["noindex"]}}, "both"),
        ({"fetch": {"respect_tdm_reservation": True}, "consent": {"tdm_reservation": False}}, "theirs"),
    ],
)
def test_options_of_earlier_versions_are_read_where_they_are_now(sections: dict[str, Any], consent: Any) -> None:
    expected = {
        "both": ConsentConfig(page_robots=False, page_directives=("noindex",)),
        "theirs": ConsentConfig(tdm_reservation=False),
    }.get(consent if isinstance(consent, str) else "", consent)
    sections = {**sections, "fetch": {"user_agent": "a (+http://b.c/)", **sections.get("fetch", {})}}
    assert from_mapping(WitConfig, BASE | sections).consent == expected
    with pytest.raises(ConfigError, match=r"unknown key 'fetch.respect_robots'"):
        from_mapping(WitConfig, BASE | {"fetch": {"respect_robots": True}})


def test_img2dataset_is_refused_what_it_does_not_look_at() -> None:
    fetch = {"user_agent": "a (+http://b.c/)", "engine": "img2dataset", "engine_python": "python"}
    with pytest.raises(ConfigError, match=r"cannot honour consent.tdm_reservation, consent.content_usage"):
        from_mapping(WitConfig, BASE | {"fetch": fetch})
    from_mapping(WitConfig, BASE | {"fetch": fetch, "consent": {"level": "off", "x_robots_tag": True}})


# --- headers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("train-ai=n", "train-ai=n"),
        ("search=y, train-ai=n", "train-ai=n"),
        ("train-ai=n;exceptions=3", "train-ai=n"),
        ("train-ai=y, train-ai=n", "train-ai=n"),
        ("train-ai=n, train-ai=y", "train-ai=n"),  # RFC 9651 takes the last; the stricter counts
        ("train-ai=n, ???", "train-ai=n"),  # no Dictionary at all
        ("train-genai=n, train-ai=y", "train-genai=n"),  # of an earlier draft
        ("bots=n", "bots=n"),
        ("tdm=n, train-ai=y", None),
        ("train-ai=y", None),
        ("train-ai", None),
        ('train-ai="n"', None),
        ("train-ai=?0", None),
        ("TRAIN-AI=n", None),
        ("train-ai=no", None),
        ("search=n", None),
        ('note="a, train-ai=n", search=n', None),
        ("", None),
    ],
)
def test_content_usage(value: str, said: str | None) -> None:
    assert content_usage_forbids(value) == said


@pytest.mark.parametrize(
    ("value", "forbids"),
    [
        ("ai-train=no", True),
        ("search=yes, ai-train=no", True),
        ("Search=yes,AI-Train = NO", True),
        ("ai-train=yes, search=no, ai-input=no", False),
        ("ai-train", False),
        ("", False),
    ],
)
def test_content_signal(value: str, forbids: bool) -> None:
    assert (content_signal_forbids(value) is not None) == forbids


@given(st.text(max_size=80))
def test_any_header_is_read_without_an_error(value: str) -> None:
    content_usage_forbids(value)
    content_signal_forbids(value)
    judge(
        ALL, [f"{name}: {value}" for name in ("x-robots-tag", "content-usage", "plus:datamining", "c2pa")], product="a"
    )


SAID = {
    "x_robots_tag": "x-robots-tag: noai",
    "tdm_reservation": "tdm-reservation: 1",
    "content_usage": "content-usage: train-ai=n",
    "content_signal": "content-signal: ai-train=no",
    "data_mining": "plus:datamining: DMI-PROHIBITED",
    "c2pa_training": "c2pa: cawg.training-mining: ai_training=notAllowed",
}


@pytest.mark.parametrize(
    ("reason", "without"),
    [
        ("x_robots_tag", AnswerSignals(x_robots_directives=("noml",))),
        ("tdm_reservation", AnswerSignals(tdm_reservation=False)),
        ("content_usage", AnswerSignals(content_usage=False)),
        ("content_signal", AnswerSignals(content_signal=False)),
        ("data_mining", AnswerSignals(xmp_data_mining=False)),
        ("c2pa_training", AnswerSignals()),
    ],
)
def test_each_signal_has_its_reason_and_its_switch(reason: str, without: AnswerSignals) -> None:
    refusal = judge(ALL, [SAID[reason]], product="openwit")
    assert refusal is not None
    assert refusal.reason == reason
    assert judge(without, [SAID[reason]], product="openwit") is None
    assert without.key != ALL.key


def test_unavailable_after_is_judged_as_of_the_answer() -> None:
    said = ["x-robots-tag: unavailable_after: 2026-05-01"]
    assert judge(ALL, said, product="a") is None, "nobody knows when it was said"
    assert judge(ALL, said + when_received(said, NOW), product="a") is not None
    assert judge(ALL, said + when_received(said, NOW - datetime.timedelta(days=60)), product="a") is None
    assert when_received(["x-robots-tag: noai"], NOW) == []


# --- pages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "metas", "reason", "detail"),
    [
        ([("Content-Usage", "train-ai=n")], [], "content_usage", "train-ai=n"),
        ([("content-signal", "ai-train=no")], [], "content_signal", "ai-train=no"),
        ([("X-Robots-Tag", "noai"), ("Content-Usage", "train-ai=n")], [], "page_robots", "noai, train-ai=n"),
        (
            [("Content-Signal", "ai-train=no")],
            [("tdm-reservation", "1")],
            "tdm_reservation",
            "ai-train=no, tdm-reservation",
        ),
        ([("Content-Usage", "train-ai=y"), ("Content-Signal", "search=no")], [("robots", "noindex")], None, None),
    ],
)
def test_pages_forbid(headers: Any, metas: Any, reason: str | None, detail: str | None) -> None:
    rules = PageRules(PageSignals())
    refusal = rules.forbid(headers, metas)
    assert (refusal and refusal.reason, refusal and refusal.detail) == (reason, detail)
    if reason is not None:
        text = str((headers, metas)).lower()
        assert any(word in text for word in rules.words), "what the fast readers look for first"
    nothing = PageSignals(directives=(), tdm_reservation=False, content_usage=False, content_signal=False)
    assert PageRules(nothing).forbid(headers, metas) is None
    assert PageRules(nothing).words == ()


# --- tdmrep.json ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "reserved", "free"),
    [
        ('[{"location": "/", "tdm-reservation": 1}]', ["/", "/a.jpg", "/a?b"], []),
        (
            '[{"location": "/a/", "tdm-reservation": 1}, {"location": "/a/free/", "tdm-reservation": 0}]',
            ["/a/b"],
            ["/b", "/a/free/b"],
        ),
        ('[{"location": "/*.jpg$", "tdm-reservation": 1}]', ["/x/a.jpg"], ["/a.jpg?x", "/a.png"]),
        ('[{"location": "/a", "tdm-reservation": 0}, {"location": "/a", "tdm-reservation": 1}]', ["/a"], []),
        ('[{"location": "/é", "tdm-reservation": "1"}]', ["/%C3%A9", "/é"], ["/e"]),
        ('{"location": "/", "tdm-reservation": 1}', [], ["/"]),  # no list
        ('[1, {"location": 3}, {"tdm-reservation": 1}, {"location": "a", "tdm-reservation": 1}]', [], ["/a"]),
        ("<html>", [], ["/"]),
    ],
)
def test_tdmrep_json_reserves_by_the_longest_path(rules: str, reserved: list[str], free: list[str]) -> None:
    found = parse_tdmrep(rules.encode())
    assert [path for path in (*reserved, *free) if found.reserves(f"https://a.example{path}")] == reserved


@given(st.binary(max_size=200))
def test_any_tdmrep_json_is_read_without_an_error(body: bytes) -> None:
    parse_tdmrep(body).reserves("http://a.example/x")


# --- XMP ------------------------------------------------------------------------------------------


PLUS = "http://ns.useplus.org/ldf/xmp/1.0/"


def xmp(inside: str, *, wrapper: bool = True) -> bytes:
    """A packet with a description that has `inside`; `plus` is bound."""
    description = (
        f'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:plus="{PLUS}">{inside}</rdf:RDF>'
    )
    meta = f'<x:xmpmeta xmlns:x="adobe:ns:meta/">{description}</x:xmpmeta>'
    begin = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    return (f'{begin}{meta}<?xpacket end="w"?>' if wrapper else meta).encode()


VOCABULARY = "http://ns.useplus.org/ldf/vocab/"
PROHIBITED = xmp(f'<rdf:Description plus:DataMining="{VOCABULARY}DMI-PROHIBITED"/>')


def encoded(kind: str, **options: Any) -> bytes:
    pixels = np.random.default_rng(3).integers(0, 255, (24, 32, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def with_png_chunk(kind: bytes, data: bytes) -> bytes:
    body = encoded("PNG")
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return body[:33] + chunk + body[33:]


def png_text(packet: bytes, *, compressed: bool) -> bytes:
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", packet.decode(), zip=compressed)
    return encoded("PNG", pnginfo=info)


def png_raw_profile(packet: bytes) -> bytes:
    text = f"\nxmp\n{len(packet):8}\n{packet.hex()}\n".encode()
    return with_png_chunk(b"zTXt", b"Raw profile type xmp\0\0" + zlib.compress(text))


def gif(packet: bytes) -> bytes:
    """An application extension, whose bytes are the packet's own and then count down (XMP specification, part 3)."""
    body = encoded("GIF")
    trailer = bytes([1, *range(255, -1, -1), 0])
    return body[:-1] + b"\x21\xff\x0bXMP DataXMP" + packet + trailer + body[-1:]


def extended_jpeg(packet: bytes) -> bytes:
    """A packet in two segments that need not stand in order."""
    half = packet.index(b"DataMining") + 4
    guid = b"0" * 32
    pieces = [(half, packet[half:]), (0, packet[:half])]
    segments = b""
    for offset, piece in pieces:
        data = b"http://ns.adobe.com/xmp/extension/\0" + guid + struct.pack(">II", len(packet), offset) + piece
        segments += b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data
    body = encoded("JPEG")
    return body[:2] + segments + body[2:]


FORMATS: dict[str, Callable[[bytes], bytes]] = {
    "JPEG": lambda packet: encoded("JPEG", xmp=packet),
    "JPEG, extended": extended_jpeg,
    "PNG": lambda packet: png_text(packet, compressed=False),
    "PNG, compressed": lambda packet: png_text(packet, compressed=True),
    "PNG, raw profile": png_raw_profile,
    "WEBP": lambda packet: encoded("WEBP", xmp=packet),
    "AVIF": lambda packet: encoded("AVIF", xmp=packet),
    "TIFF": lambda packet: encoded("TIFF", tiffinfo={700: packet}),
    "GIF": gif,
    "JPEG2000": lambda packet: encoded("JPEG2000") + struct.pack(">I", len(packet) + 24) + b"uuid" + bytes(16) + packet,
}


@pytest.mark.parametrize("kind", FORMATS)
def test_data_mining_is_found_in_every_format(kind: str) -> None:
    body = FORMATS[kind](PROHIBITED)
    assert data_mining_terms(body) == ["DMI-PROHIBITED"]
    Image.open(io.BytesIO(body)).load()
    assert statements_in(body, AnswerSignals()) == (SAID["data_mining"],)
    assert data_mining_terms(FORMATS[kind](xmp('<rdf:Description plus:DataMining=""/>'))) == []


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "GIF", "JPEG2000", "BMP"])
def test_pictures_without_xmp_say_nothing(kind: str) -> None:
    assert statements_in(encoded(kind), ALL) == ()


def described(attributes: str, inside: str = "") -> str:
    return f"<rdf:Description {attributes}>{inside}</rdf:Description>"


@pytest.mark.parametrize(
    ("inside", "terms"),
    [
        (described("", f"<plus:DataMining>{VOCABULARY}DMI-ALLOWED</plus:DataMining>"), "DMI-ALLOWED"),
        (described("", f'<plus:DataMining rdf:resource="{VOCABULARY}DMI-PROHIBITED"/>'), "DMI-PROHIBITED"),
        (described(f'xmlns:p="{PLUS}" p:DataMining="{VOCABULARY}DMI-ALLOWED/"'), "DMI-ALLOWED"),  # another prefix
        (described('plus:DataMining="DMI-PROHIBITED-SEECONSTRAINT"'), "DMI-PROHIBITED-SEECONSTRAINT"),
        (
            described('plus:DataMining="DMI-UNSPECIFIED"', "<plus:DataMining>DMI-PROHIBITED</plus:DataMining>"),
            "DMI-UNSPECIFIED DMI-PROHIBITED",
        ),
        (described('xmlns:q="urn:other" q:DataMining="DMI-PROHIBITED"'), ""),  # another's property
        ('<rdf:Description plus:DataMining="DMI-PROHIBITED">', "DMI-PROHIBITED"),  # no XML
        (described("", "About DataMining."), ""),
    ],
)
def test_spellings_of_the_property(inside: str, terms: str) -> None:
    assert data_mining_terms(encoded("JPEG", xmp=xmp(inside))) == terms.split()
    assert data_mining_terms(encoded("WEBP", xmp=xmp(inside, wrapper=False))) == terms.split()


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-be", "utf-16-le", "utf-32"])
def test_packets_in_wide_characters_are_read(coding: str) -> None:
    packet = PROHIBITED.decode().replace("\ufeff", "").encode(coding)
    assert data_mining_terms(encoded("JPEG", xmp=packet)) == ["DMI-PROHIBITED"]


def test_a_packet_of_entities_is_not_expanded() -> None:
    entities = '<!DOCTYPE x [<!ENTITY a "DMI-PROHIBITED">]><x plus:DataMining="&a;"/>'
    assert data_mining_terms(encoded("JPEG", xmp=entities.encode())) == []


@given(st.binary(max_size=120), st.sampled_from(list(FORMATS)), st.integers(0, 400))
def test_any_damage_is_read_without_an_error(noise: bytes, kind: str, at: int) -> None:
    body = FORMATS[kind](PROHIBITED)
    data_mining_terms(body[:at] + noise + body[at:])
    data_mining_terms(body[:at])
    assert len(xmp_packets(body[:100] + b"<x:xmpmeta" * 50)) <= 16


@pytest.mark.parametrize(
    ("term", "forbids"),
    [
        ("DMI-PROHIBITED", True),
        ("DMI-PROHIBITED-AIMLTRAINING", True),
        ("DMI-PROHIBITED-GENAIMLTRAINING", True),
        ("DMI-PROHIBITED-EXCEPTSEARCHENGINEINDEXING", True),
        ("DMI-PROHIBITED-SEECONSTRAINT", True),
        ("DMI-ALLOWED", False),
        ("DMI-UNSPECIFIED", False),
    ],
)
def test_terms_of_the_plus_vocabulary(term: str, forbids: bool) -> None:
    assert (judge(AnswerSignals(), [f"plus:datamining: {term}"], product="a") is not None) == forbids


# --- C2PA -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "use", "said", "forbids"),
    [
        ("cawg.training-mining", "cawg.ai_training", "notAllowed", True),
        ("c2pa.training-mining", "c2pa.data_mining", "constrained", True),
        ("c2pa.training-mining", "c2pa.ai_training", "allowed", False),
        ("cawg.training-mining", "cawg.ai_inference", "notAllowed", False),
    ],
)
def test_manifests_of_c2pa_are_read(label: str, use: str, said: str, forbids: bool) -> None:
    pytest.importorskip("c2pa")
    pytest.importorskip("cryptography")
    from tests.pipeline.c2pa_pictures import signed

    body = signed(encoded("JPEG"), {"label": label, "data": {"entries": {use: {"use": said}}}})
    statements = statements_in(body, ALL)
    refusal = judge(ALL, statements, product="a")
    assert (refusal and refusal.reason) == ("c2pa_training" if forbids else None)
    assert statements_in(body, AnswerSignals()) == (), "it is not looked for unless it is honoured"
    assert c2pa_manifest.training_uses(body[: len(body) // 2]) == []


def test_without_the_library_the_config_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"consent.c2pa: needs the extra c2pa"):
        c2pa_manifest.check_c2pa()


# --- known answers --------------------------------------------------------------------------------


def answers(*rows: tuple[str, str | None, str | None, list[str] | None]) -> pa.Table:
    names = ("status", "reason", "detail", "statements")
    plain = [{"url_id": bytes([i] * 16), **dict(zip(names, row, strict=True))} for i, row in enumerate(rows)]
    types = [
        ("url_id", pa.binary(16)),
        *((name, pa.string()) for name in names[:3]),
        ("statements", pa.list_(pa.string())),
    ]
    return pa.Table.from_pylist(plain, schema=pa.schema(types))


def test_known_answers_are_judged_by_what_was_noted() -> None:
    gone, picture, failed = "failed_to_download", "success", "http_404"
    table = answers(
        (picture, None, None, None),  # of an earlier version: nothing is known
        (picture, None, None, []),
        (picture, None, None, [SAID["content_usage"]]),
        (gone, "content_usage", "Content-Usage: train-ai=n", [SAID["content_usage"]]),
        (gone, "opt_out", "X-Robots-Tag: noai", None),
        (gone, "opt_out", "tdm-reservation: 1", None),
        (gone, "tdm_reservation", "tdm-reservation: 1", [SAID["tdm_reservation"], SAID["content_usage"]]),
        (gone, failed, None, [SAID["content_usage"]]),
        (gone, "x_robots_tag", "Use of image disallowed by X-Robots-Tag directive", None),  # img2dataset's words
        (gone, "robots_txt", None, None),
        (gone, "content_signal", "group *", []),  # of a robots.txt
        (gone, "content_signal", "group *", ["content-usage: train-ai=y"]),  # of one that a redirect led to
        (gone, "tdmrep_json", "http://a.example/.well-known/tdmrep.json", None),
    )

    def told(signals: AnswerSignals) -> tuple[dict[int, str], list[int]]:
        judged = judge_again(table, signals, product="openwit")
        return {url_id[0]: refusal.reason for url_id, refusal in judged.refused.items()}, sorted(
            url_id[0] for url_id in judged.released
        )

    assert told(AnswerSignals(tdmrep_json=True)) == ({2: "content_usage"}, [])
    assert told(AnswerSignals()) == ({2: "content_usage"}, [12])
    assert told(AnswerSignals(content_usage=False)) == ({}, [3, 12])
    assert told(AnswerSignals(content_signal=False)) == ({2: "content_usage"}, [10, 11, 12])
    assert told(AnswerSignals(tdm_reservation=False)) == ({2: "content_usage", 6: "content_usage"}, [5, 12])
    assert told(AnswerSignals(x_robots_directives=("noml",))) == ({2: "content_usage"}, [4, 12])
    nothing = AnswerSignals.of(ConsentConfig(level="off"))
    assert told(nothing) == ({}, [3, 4, 5, 6, 8, 10, 11, 12])
