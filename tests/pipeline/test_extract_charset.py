"""The characters of pages: labels, declarations, and what browsers make of the bytes."""

from __future__ import annotations

import time

import pytest
import webencodings
from hypothesis import given
from hypothesis import strategies as st

from pipeline.stages.extract.charset import ForbiddenEncodingError, declared_encoding, decode_html

_RUSSIAN = "кот на ковре"


@pytest.mark.parametrize(
    ("data", "header", "text"),
    [
        ("é".encode(), "utf-8", "é"),
        ("é".encode("latin-1"), "iso-8859-1", "é"),
        ("“é”".encode("cp1252"), "iso-8859-1", "“é”"),
        ("Привет".encode("cp1251"), "windows-1251", "Привет"),
        ("日本".encode("shift_jis"), "Shift_JIS", "日本"),
        ("中国".encode("gb18030"), "gb2312", "中国"),
        (b"\xef\xbb\xbf" + "é".encode(), "koi8-r", "é"),
        ("é".encode("utf-16"), None, "é"),
        ("é".encode(), None, "é"),
        ("é".encode("cp1252"), None, "é"),
        ("é".encode(), "rot13", "é"),
        ("é".encode(), "no-such-charset", "é"),
        (b"\xff", "utf-8", "\ufffd"),
        (_RUSSIAN.encode()[:-1], None, _RUSSIAN[:-1] + "\ufffd"),  # cut inside the last character
        ("я я".encode()[:-1] + b"a", None, "Ñ\x8f Ña"),  # broken elsewhere
    ],
)
def test_byte_order_mark_comes_before_header_and_header_before_guess(
    data: bytes, header: str | None, text: str
) -> None:
    assert decode_html(data, header) == text


@pytest.mark.parametrize(
    ("label", "data", "text"),
    [
        ("windows-874", "แมว".encode("cp874"), "แมว"),
        ("iso-8859-8-i", "חתול".encode("iso8859-8"), "חתול"),
        ("logical", "חתול".encode("iso8859-8"), "חתול"),
        ("x-cp1251", _RUSSIAN.encode("cp1251"), _RUSSIAN),
        (" X-CP1250\n", "kočka".encode("cp1250"), "kočka"),
        ("iso88591", "“é”".encode("cp1252"), "“é”"),
        ("ascii", "“é”".encode("cp1252"), "“é”"),
        ("iso-8859-9", "ğ€".encode("cp1254"), "ğ€"),
        ("tis-620", "แมว".encode("cp874"), "แมว"),
        ("windows-949", "고양이".encode("cp949"), "고양이"),
        ("ks_c_5601-1989", "똠".encode("cp949"), "똠"),
        ("x-sjis", "①猫".encode("cp932"), "①猫"),
        ("x-euc-jp", "猫".encode("euc_jp"), "猫"),
        ("euc-jp", b"\xad\xa1\xa1\xc1\xa1\xdd\x8f\xb0\xa1", "①～－丂"),
        ("iso-2022-jp", b'\x1b$B-!$"\x1b(B<', "①あ<"),
        ("gbk", b"\x80\xd6\xd0\xa2\xe3", "€中€"),
        ("gb2312", "镕".encode("gbk"), "镕"),
        ("gb18030", b"\xa6\xd9\x81\x30\x81\x30", "\ufe10\x80"),
        ("big5", b"\xa3\xe1\xa1\x45\xf9\xd6", "€‧碁"),
        ("big5-hkscs", "嘅".encode("big5hkscs"), "嘅"),
        ("x-mac-cyrillic", _RUSSIAN.encode("mac_cyrillic"), _RUSSIAN),
        ("macintosh", "é".encode("mac_roman"), "é"),
        ("koi8-ru", b"\xae\xbe\xd1", "ўЎя"),
        ("windows-1255", b"\xca", "\u05ba"),
        ("windows-1252", bytes([0x81, 0x80, 0x9D]), "\x81€\x9d"),
        ("windows-1253", b"\xaa\xd2\xe1", "\ufffd\ufffdα"),
        ("x-user-defined", b"a\x80\xff", "a\uf780\uf7ff"),
        ("unicode", "é".encode("utf-16-le"), "é"),
        ("unicodefffe", "é".encode("utf-16-be"), "é"),
        ("x-unicode20utf8", "é".encode(), "é"),
    ],
)
def test_labels_mean_what_the_encoding_standard_says(label: str, data: bytes, text: str) -> None:
    assert decode_html(data, label) == text


def test_every_label_of_the_standard_is_read_or_refused() -> None:
    page = '<img src=a alt="b">'
    assert len(webencodings.LABELS) >= 221
    for label, name in webencodings.LABELS.items():
        if name == "replacement":
            with pytest.raises(ForbiddenEncodingError):
                decode_html(page.encode(), label)
        else:
            assert decode_html(page.encode(name if name.startswith("utf-16") else "ascii"), label) == page, label


_ENCODED = _RUSSIAN.encode("koi8-r")


@pytest.mark.parametrize(
    "before",
    [
        b"<meta charset=koi8-r>",
        b"<META CHARSET='KOI8-R'/>",
        b'<meta name=x charset="koi8-r">',
        b'<meta http-equiv=Content-Type content="text/html; charset=koi8-r">',
        b'<meta content="text/html;charset = \'koi8-r\'" http-equiv="content-type">',
        b'<meta http-equiv=content-type content="charset charset=koi8-r">',
        b"<!-- <meta charset=utf-8> --><meta charset=koi8-r>",
        b"<!--><meta charset=koi8-r>",
        b"<?php ?><!doctype html></p x='<meta charset=utf-8>'><meta charset=koi8-r>",
        b"<script>document.write('<meta charset=utf-8>')</script><meta charset=koi8-r>",
        b"<title>the <meta charset=utf-8> tag</title><meta charset=koi8-r>",
        b'<meta name="description" content="learn charset=utf-8 here"><meta charset="koi8-r">',
        b'<meta property="og:x" content="text/html; charset=utf-8"><meta charset="koi8-r">',
        b'<a title="> <meta charset=utf-8>"><meta charset="koi8-r">',
        b"<meta charset=no-such-one><meta charset=koi8-r>",
        b"<meta charset=no-such-one http-equiv=content-type content='charset=utf-8'><meta charset=koi8-r>",
        b"<head><script>" + b"x" * 5000 + b"</script><meta charset=koi8-r>",
        b'<?xml version="1.0" encoding="utf-8"?><meta charset=koi8-r>',
        b'<?xml version="1.0" encoding="koi8-r"?>\n<html>',
        b"<?xml version='1.0' encoding = 'KOI8-R' standalone='yes'?>\n<html>",
    ],
)  # fmt: skip
def test_declarations_count_where_browsers_read_them(before: bytes) -> None:
    assert decode_html(before + _ENCODED, None).endswith(_RUSSIAN)
    assert decode_html(before + _RUSSIAN.encode(), "utf-8").endswith(_RUSSIAN)


@pytest.mark.parametrize(
    "before",
    [
        b"<!-- <meta charset=koi8-r> -->",
        b"<!-- <meta charset=koi8-r>",
        b"<script>'<meta charset=koi8-r>'</script>",
        b"<style><meta charset=koi8-r>",
        b'<meta content="text/html; charset=koi8-r">',
        b'<meta name="description" content="charset=koi8-r">',
        b'<meta http-equiv=refresh content="1; charset=koi8-r">',
        b"<metadata charset=koi8-r>",
        b"</meta charset=koi8-r>",
        b"<meta data-charset=koi8-r>",
        b"<meta charset=koi8-r",
        b"<body>" + b"<p>x</p>" * 200 + b"<meta charset=koi8-r>",
        b"\n<?xml version='1.0' encoding='koi8-r'?>",
        b"<meta charset=utf-16>",
        b"<meta charset=utf-16be>",
        b"<?xml version='1.0' encoding='utf-16'?>",
    ],
)
def test_what_is_no_declaration_for_browsers_is_none(before: bytes) -> None:
    text = decode_html(before + b" " + _RUSSIAN.encode(), None)
    assert text.endswith(_RUSSIAN)


def test_some_declared_encodings_stand_for_others() -> None:
    assert declared_encoding(b"<meta charset=utf-16le>") == "utf-8"
    assert declared_encoding(b"<meta charset=x-user-defined>") == "windows-1252"
    assert declared_encoding("<?xml version='1.0'?>".encode("utf-16-le")) == "utf-16le"
    assert declared_encoding("<?xml version='1.0'?>".encode("utf-16-be")) == "utf-16be"
    assert declared_encoding(b"<meta charset=hz-gb-2312>") == "replacement"


@pytest.mark.parametrize(
    "data",
    [b"<a " + b"='" * 100_000, b'<meta a="' * 50_000, b"<" * 300_000, b"<!--" * 100_000, b"<?xml encoding " * 30_000],
)
def test_no_head_takes_long(data: bytes) -> None:
    before = time.process_time()
    declared_encoding(data)
    assert time.process_time() - before < 2


@given(st.binary(max_size=200), st.sampled_from([None, *sorted({*webencodings.LABELS.values()})]))
def test_any_bytes_are_text_in_any_encoding(data: bytes, label: str | None) -> None:
    try:
        decode_html(data, label).encode("utf-8", "surrogatepass")
    except ForbiddenEncodingError:
        assert label == "replacement"
