"""Numbers are held to what is said beside their types, wherever a config is made."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.bounds import LARGEST, Bounds, mistake_in
from configs.help import describe
from configs.load import ConfigError, check_bounds, from_mapping, load
from configs.schema import json_schema
from tests.configs.numbers import Number, assert_bounds_are_held, config_classes, name_of, numbers_of


@dataclass(frozen=True, kw_only=True)
class Inner:
    share: Annotated[float, Bounds(above=0, most=1)] = 0.5
    scales: tuple[Annotated[float, Bounds(above=0)], ...] = ()
    weights: dict[str, Annotated[int, Bounds(least=0)]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, kw_only=True)
class OfOthers:
    """Without a check of its own, as a method's options from another package may be."""

    rows: Annotated[int, Bounds(least=1)]
    bias: Annotated[float, Bounds()] | None = None
    momentum: Annotated[float, Bounds(least=0, below=1)] = 0.9
    plain: float = 0.0
    inner: Inner = field(default_factory=Inner)


@pytest.mark.parametrize(
    ("mapping", "says"),
    [
        ({"rows": 0}, "file: rows must be at least 1, got 0$"),
        ({"rows": -1}, "file: rows must be at least 1, got -1$"),
        ({"rows": LARGEST + 1}, r"file: rows must lie within 10\^18 of 0, got 1000000000000000001$"),
        ({"rows": 1, "momentum": 1.0}, r"momentum must lie in \[0, 1\), got 1.0; the default is 0.9$"),
        ({"rows": 1, "momentum": -0.1}, r"momentum must lie in \[0, 1\)"),
        ({"rows": 1, "bias": ".nan"}, "bias: expected a"),
        ({"rows": 1, "bias": math.nan}, "bias: expected a finite number, got nan"),
        ({"rows": 1, "bias": -math.inf}, "bias: expected a finite number, got -inf"),
        ({"rows": 1, "plain": math.inf}, "plain: expected a finite number, got inf"),
        ({"rows": 1, "plain": 10**400}, "plain: expected a number, got 1000"),
        ({"rows": 1, "inner": {"share": 0}}, r"inner: share must lie in \(0, 1\], got 0.0; the default is 0.5$"),
        ({"rows": 1, "inner": {"scales": [1, 0]}}, "inner: scales must be positive, got 0.0"),
        ({"rows": 1, "inner": {"weights": {"a": 1, "b": -1}}}, "inner: weights must not be negative, got -1"),
    ],
)
def test_a_number_out_of_bounds_is_one_line_with_key_value_and_bound(mapping: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        from_mapping(OfOthers, mapping, where="file")
    assert "\n" not in str(caught.value)


def test_on_the_command_line_as_in_a_file() -> None:
    with pytest.raises(ConfigError, match="bias: expected a finite number, got nan"):
        load(OfOthers, None, ["--rows", "1", "--bias", ".nan"])
    with pytest.raises(ConfigError, match="inner: share must lie in"):
        load(OfOthers, None, ["--rows", "1", "--inner.share", "1.5"])
    assert load(OfOthers, None, ["--rows", "1", "--bias", "-4.14"]).bias == -4.14


def test_a_class_that_checks_itself_is_checked_wherever_it_is_made() -> None:
    with pytest.raises(ConfigError, match="share must lie"):
        Inner(share=math.nan)
    with pytest.raises(ConfigError, match="share must lie"):
        replace(Inner(), share=-1.0)


def test_null_is_told_where_it_is_an_answer() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Maybe:
        limit: Any = None

    Maybe.__annotations__["limit"] = Annotated[int, Bounds(least=1)] | None
    assert mistake_in(Maybe(limit=None)) is None
    assert mistake_in(Maybe(limit=0)) == "limit must be at least 1, or be null, got 0; the default is null"


@given(
    low=st.floats(-1e6, 1e6),
    width=st.floats(0.001, 1e6),
    at=st.floats(-2, 3),
    closed=st.tuples(st.booleans(), st.booleans()),
)
def test_bounds_hold_what_lies_between_them(low: float, width: float, at: float, closed: tuple[bool, bool]) -> None:
    high, value = low + width, low + at * width
    bounds = Bounds(
        least=low if closed[0] else None,
        above=None if closed[0] else low,
        most=high if closed[1] else None,
        below=None if closed[1] else high,
    )
    assert bounds.hold(value) == (low < value < high or (closed[0] and value == low) or (closed[1] and value == high))
    assert (bounds.hold(low), bounds.hold(high)) == closed
    assert not any(map(bounds.hold, (math.nan, math.inf, -math.inf)))


@pytest.mark.parametrize(
    ("bounds", "says"),
    [
        (Bounds(), "be a finite number"),
        (Bounds(least=0), "not be negative"),
        (Bounds(least=2), "be at least 2"),
        (Bounds(above=0), "be positive"),
        (Bounds(above=1), "be more than 1"),
        (Bounds(most=3), "be at most 3"),
        (Bounds(below=3), "be less than 3"),
        (Bounds(least=0, most=1), "lie in [0, 1]"),
        (Bounds(above=0, below=1), "lie in (0, 1)"),
        (Bounds(above=0, most=1e6), "lie in (0, 1000000.0]"),
    ],
)
def test_bounds_are_told_in_words(bounds: Bounds, says: str) -> None:
    assert str(bounds) == says


def test_help_tells_the_bounds() -> None:
    page = describe(OfOthers)
    for line in ("--rows  int >= 1  (required)", "--momentum  float in [0, 1)  [0.9]", "--bias  float | null  [null]"):
        assert line in page
    assert "--inner.scales  [float > 0, ...]  [[]]" in page


def test_editors_are_told_the_bounds() -> None:
    definitions = json_schema(OfOthers, title="")
    assert definitions["properties"]["rows"] == {"type": "integer", "minimum": 1}
    assert definitions["properties"]["momentum"]["exclusiveMaximum"] == 1
    assert definitions["$defs"]["Inner"]["properties"]["share"]["exclusiveMinimum"] == 0
    assert definitions["$defs"]["Inner"]["properties"]["scales"]["items"] == {"type": "number", "exclusiveMinimum": 0}


IN_THE_PIPELINE = [
    number
    for number in numbers_of([*config_classes("pipeline"), *config_classes("query_list")])
    if number[0].__name__ not in ("Picture", "Pdq")  # what is said of one picture, beside the config that says how
]


@pytest.mark.parametrize("number", IN_THE_PIPELINE, ids=name_of)
def test_every_number_of_a_data_set_has_bounds_that_are_held(number: Number) -> None:
    """Those of a training are in tests/training/test_configs.py."""
    assert_bounds_are_held(number)
