"""Personal data in captions: what is found in the libraries' own examples, and what is no personal data."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import phonenumbers
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stdnum import iban, luhn
from stdnum.cn import ric

from configs.load import ConfigError
from pipeline.commands import main
from pipeline.records.schema import MATCHED
from pipeline.stages.privacy.config import PrivacyConfig
from pipeline.stages.privacy.national import ALONE, SAID, NationalNumber, has_national_number
from pipeline.stages.privacy.phones import has_phone
from pipeline.stages.privacy.pii import Privacy, kinds_in, mark_pii
from pipeline.steps import judge_links
from pipeline.steps.step import Stages
from tests.pipeline.loopback_server import LoopbackServer, text
from tests.pipeline.small_run import SmallRun, picture

FOUND = {
    "Write to jane.doe@example.org for prints": ("email",),
    "mailto:jane%40example.org?subject=hello": ("email",),
    "a portrait, JANE@EXAMPLE.COM": ("email",),
    "the garden (jane [at] example [dot] org)": ("email",),
    "photo: jürgen@müller.de, all rights reserved": ("email",),
    "Computer Repair Bellevue Ne 402-505-6600": ("phone",),
    "Call us today at (201) 555-0123": ("phone",),
    "a plumber in London, 020 7946 0958": ("phone",),
    "Tel 02079460958": ("phone",),
    "tel:+1-201-555-0123": ("phone",),
    "https://wa.me/12015550123": ("phone",),
    "a card with the number 4111 1111 1111 1111 on it": ("card",),
    "Visa 4111111111111111": ("card",),
    "Amex 3782 822463 10005": ("card",),
    "IBAN GB82 WEST 1234 5698 7654 32 PLEASE PAY": ("iban",),
    "GB82WEST12345698765432": ("iban",),
    "Social Security No. 536-90-4399": ("national_number",),
    "jane@example.org or +44 20 7946 0958": ("email", "phone"),
}
NOT_FOUND = [
    "Photo taken on 12/18/2011 at 10:30:45",
    "2019-05-12T10:22:33Z, 20190512 102233",
    "the years 1994 1995 1996 2003, and 2015 2016 2017 2018",
    "a screen of 1920x1080, 3840 x 2160 or 2560×1440 pixels",
    "now $1,299.99 (was £1 499 999,00)",
    "ISBN 978-3-16-148410-0, The Trail 9780554282121 and 0748636498",
    "EAN 4006381333931, UPC 036000291452",
    "Stock Photo - Premium Royalty-Free, Code: 600-06382904",
    "Serial # 055588/060688, part 655-12SSCY, SKU 402 22 23580",
    "Upgrade for Dell Inspiron 518 519 530 531 537 540 541 545",
    "the speed of light is 299 792 458 m/s, pi is 3.14159265358979",
    "MLS® # A1010897 - 112 Everoak Drive SW",
    "at 51.5073509, -0.1277583 on the map; 192.168.100.200",
    "logo@2x.png, icon@3x.jpg",
    "dinner with @jane and @john at 8@night",
    "the order 1234 5678 9012 3456 has no issuer, 4111 1111 1111 1112 no right digit",
    "GB82 WEST 1234 5698 7654 33",
    "a code 4111111111111111 that nobody calls a card",
    "536-90-4399 is a part as well as a number",
    "123456782, 943 476 5870, 44051401359, 9434765870",
    "https://example.org/photo/143546559@N02/41155020750/",
]
TEXTS = [*FOUND, *NOT_FOUND]


@pytest.mark.parametrize("caption", FOUND)
def test_what_is_personal_is_found(caption: str) -> None:
    assert kinds_in(caption) == FOUND[caption]


@pytest.mark.parametrize("caption", NOT_FOUND)
def test_other_numbers_are_none(caption: str) -> None:
    assert kinds_in(caption) == ()


def test_example_numbers_of_every_region_are_found() -> None:
    forms = phonenumbers.PhoneNumberFormat
    kinds = (phonenumbers.PhoneNumberType.FIXED_LINE, phonenumbers.PhoneNumberType.MOBILE)
    captions, missed, short = [], [], set()
    for region in phonenumbers.SUPPORTED_REGIONS:
        for number in filter(None, (phonenumbers.example_number_for_type(region, kind) for kind in kinds)):
            written = [phonenumbers.format_number(number, form) for form in (forms.INTERNATIONAL, forms.RFC3966)]
            captions += [f"a shop, {each}." for each in written]
            national = phonenumbers.format_number(number, forms.NATIONAL)
            if sum(map(str.isdigit, national)) < 7:
                short.add(region)  # so short that the expression over the batch passes it by
            elif not has_phone(f"Tel. {national}", (region,)):
                missed.append(national)
    marks = _marks(captions, PrivacyConfig(pii_kinds=("phone",)))
    assert [caption for caption, mark in zip(captions, marks, strict=True) if mark != "phone"] == []
    assert missed == []
    assert len(captions) > 500
    assert len(short) == 20, "as docs/privacy.md says"


def _examples(module: str) -> list[str]:
    """The right numbers in the documentation of a module of stdnum."""
    library = importlib.import_module(f"stdnum.{module}")
    shown = re.findall(r">>> (?:validate|is_valid|compact|format)\('([^']+)'\)", library.__doc__)
    return [number.strip() for number in shown if library.is_valid(number)]


_OF_COMPANIES = {"00743110157", "LV 4000 3521 600", "SV 0614-050707-104-8", "CL 12531909-2", "1-613-584", "10117410"}
"""Written as no person's number is, or without its check digit."""


@pytest.mark.parametrize("number", [*SAID, *ALONE], ids=lambda each: "+".join(each.modules))
def test_documented_examples_of_national_numbers_are_found(number: NationalNumber) -> None:
    found = 0
    for example in (example for module in number.modules for example in _examples(module)):
        if number.words and example not in _OF_COMPANIES:
            for word in number.words.split("|"):
                caption = f"my {word}: {example}"
                assert has_national_number(caption), caption
                assert _marks([caption]) == ["national_number"] or "phone" in _marks([caption])[0]
            assert not has_national_number(f"the part {example}") or re.fullmatch(_alone(), example)
        found += re.fullmatch(number.form, example, re.IGNORECASE) is not None
    assert found or number.modules in {("gr.amka",), ("mu.nid",)}


def _alone() -> str:
    return "|".join(each.form for each in ALONE)


@pytest.mark.parametrize("number", ALONE, ids=lambda each: "+".join(each.modules))
def test_numbers_that_stand_alone_have_the_right_digits(number: NationalNumber) -> None:
    right = [e for module in number.modules for e in _examples(module) if re.fullmatch(number.form, e)]
    assert right
    for example in right:
        assert has_national_number(f"a letter to {example}")
        last = example[-1]
        others = [chr(c) for c in range(ord("0"), ord("9") + 1)] if last.isdigit() else ["A", "B", "C"]
        wrong = [example[:-1] + other for other in others if other != last]
        assert sum(has_national_number(f"a letter to {each}") for each in wrong) <= 1


def test_documented_examples_of_ibans_are_found() -> None:
    pages = [iban, *(importlib.import_module(f"stdnum.{country}.iban") for country in ("be", "es", "me", "no"))]
    shown = {number for page in pages for number in re.findall(r"\('([A-Z]{2}[^']+)'\)", page.__doc__)}
    right = sorted(number for number in shown if iban.is_valid(number))
    assert len(right) >= 8
    for number in right:
        assert kinds_in(f"pay to {number} AT ONCE", PrivacyConfig(pii_kinds=("iban",))) == ("iban",)


def test_cards_of_every_issuer_are_found() -> None:
    begun = ["400000000000000", "510000000000000", "222100000000000", "272000000000000", "601100000000000"]
    begun += ["650000000000000", "352800000000000", "620000000000000", "34000000000000", "3600000000000"]
    for start in begun:
        number = start + luhn.calc_check_digit(start)
        assert kinds_in(f"credit card {number}") == ("card",), number
        assert kinds_in(f"the number {number}") == ()


def test_of_a_number_that_a_library_chokes_on_nothing_is_said() -> None:
    with pytest.raises(KeyError):  # else the guard in national.py can go
        ric.is_valid("359523199101010074")
    assert not has_national_number("a code 359523199101010074")


_pieces = st.sampled_from([*(word for caption in TEXTS for word in caption.split()), "+", "(", "00", "12", "x"])


@settings(max_examples=40)
@given(st.lists(st.sampled_from(TEXTS) | st.lists(_pieces, max_size=8).map(" ".join), min_size=1, max_size=8))
def test_expressions_over_the_batch_find_what_the_definition_finds(captions: list[str]) -> None:
    assert _marks(captions) == [",".join(kinds_in(caption)) for caption in captions]


def _marks(captions: list[str], config: PrivacyConfig | None = None) -> list[str | None]:
    marks: list[str | None] = mark_pii(_batch(captions), config or PrivacyConfig()).kept["pii"].to_pylist()
    return marks


def _batch(captions: list[str]) -> pa.RecordBatch:
    count = len(captions)
    columns = {"uid": pa.array([bytes(16)] * count, pa.binary(16)), "source": pa.array(["a"] * count)}
    columns |= {"record": pa.array(range(count), pa.int64()), "link": pa.array([0] * count, pa.int32())}
    return pa.RecordBatch.from_pydict(columns | {"caption": pa.array(captions, pa.string())})


def test_captions_are_marked_turned_away_or_left_alone() -> None:
    captions = list(FOUND)
    assert _marks([*captions, "a dog"]) == [*map(",".join, FOUND.values()), ""]
    assert _marks(captions, PrivacyConfig(pii="off")) == [None] * len(captions)
    only = PrivacyConfig(pii="reject", pii_kinds=("email", "iban"))
    outcome = mark_pii(_batch([*captions, "a dog"]), only)
    expected = [kind for kinds in FOUND.values() for kind in kinds if kind in ("email", "iban")]
    assert outcome.rejected["reason"].to_pylist() == expected
    assert set(outcome.rejected["detail"].to_pylist()) == {None}, "the ledger repeats no personal data"
    assert set(outcome.kept["pii"].to_pylist()) == {""}
    assert outcome.num_in == outcome.kept.num_rows + outcome.rejected.num_rows
    assert set(expected) <= set(Privacy.reasons)
    assert _marks([]) == []


def test_default_has_no_part_in_a_key_and_everything_else_has() -> None:
    keys = [
        Stages((Privacy(config=PrivacyConfig(**options)),)).key_parts()
        for options in (
            {},
            {"pii": "off"},
            {"pii": "reject"},
            {"pii_kinds": ("email",)},
            {"phone_regions": ("FR",)},
        )
    ]
    assert keys[0] == []
    assert len({repr(key) for key in keys}) == len(keys)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pii_kinds": ()}, "pii_kinds is empty"),
        ({"pii_kinds": ("email", "email")}, "twice"),
        ({"phone_regions": ("us",)}, "two capital letters"),
    ],
)
def test_config_that_cannot_work_is_refused(options: dict[str, tuple[str, ...]], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        PrivacyConfig(**options)  # type: ignore[arg-type]  # as a YAML file gives them


def test_region_without_a_phone_plan_is_refused() -> None:
    with pytest.raises(ConfigError, match="QQ is no country"):
        Privacy(config=PrivacyConfig(phone_regions=("US", "QQ"))).check()


PATHS = [f"/{i}" for i in range(4)]


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer({path: text(picture(i)) for i, path in enumerate([*PATHS, "/new"])}) as server:
        yield server


def test_set_of_before_there_was_the_column_is_resumed_and_extended(
    tmp_path: Path, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = SmallRun.make(tmp_path, server, PATHS)
    with monkeypatch.context() as earlier:
        earlier.setattr(judge_links, "MATCHED", pa.schema([field for field in MATCHED if field.name != "pii"]))
        assert small.run() == 0
    assert "pii" not in pq.read_schema(next((small.output / "work" / "texts").glob("*.matched.parquet"))).names
    for step in ("exchange", "dedup", "balance", "schedule", "fetched", "final_balance"):
        for record in (small.output / "work" / step / "done").iterdir():
            record.unlink()  # as of a run that was stopped after `texts`
    (record,) = (small.output / "work" / "texts" / "done").iterdir()
    read = record.stat().st_mtime_ns
    asked = len(server.requests)
    assert small.run() == 0
    assert record.stat().st_mtime_ns == read
    assert len(server.requests) == asked
    rows = [{"url": server.url("/new"), "alt": "a red boat on the lake, jane@example.org"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "more.parquet")
    assert small.run("--extend", "--sources", f"[{tmp_path}/links.parquet, {tmp_path}/more.parquet]") == 0
    assert len(server.requests) == asked + 1
    marks = {
        row["url"].rpartition("/")[2]: row["pii"]
        for file in (small.output / "shards").glob("*.parquet")
        for row in pq.read_table(file).to_pylist()
    }
    assert marks == dict.fromkeys("0123") | {"new": "email"}


def test_run_that_rejects_says_so_in_its_ledger(tmp_path: Path, server: LoopbackServer) -> None:
    small = SmallRun.make(tmp_path, server, PATHS)
    rows = pq.read_table(tmp_path / "links.parquet").to_pylist()
    rows[1] |= {"alt": "an old dog, call +44 20 7946 0958"}
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "links.parquet")
    assert small.run("--privacy.pii", "reject") == 0
    assert small.samples() == ["/0", "/2", "/3"]
    assert '"phone": 1' in (small.output / "ledger.json").read_text()
    docs = (Path(__file__).parents[2] / "docs" / "privacy.md").read_text(encoding="utf-8")
    for command in re.findall(r"```bash\nopenwit (.+)\n```", docs):
        words = [{"OUT": str(small.output), "CLEAN": str(tmp_path / "clean")}.get(w, w) for w in shlex.split(command)]
        assert main(words) == 0
    assert len(pq.read_table(tmp_path / "clean" / "shards" / "00000.parquet")) == 3
