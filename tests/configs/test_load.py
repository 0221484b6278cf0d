from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest

from configs.load import ConfigError, dump, fingerprint, from_mapping, load, parse_overrides
from configs.options import Example, OneOf


@dataclass(frozen=True, kw_only=True)
class Inner:
    max_pairs: int = 20
    """The most pairs,
    at all."""
    mode: Literal["quota", "none"] = "quota"
    rate: float = 0.5

    def __post_init__(self) -> None:
        if self.max_pairs < 0:
            raise ConfigError("max_pairs must not be negative")


@dataclass(frozen=True, kw_only=True)
class Outer:
    output: str
    """Where to."""
    names: tuple[str, ...] = ()
    sizes: dict[str, int] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)
    limit: int | None = None
    flag: bool = False
    agent: Annotated[str, Example("me/1.0")] = "you/1.0"
    pairs: tuple[str, str] = ("a", "b")
    sections: tuple[Inner, ...] = ()
    modes: tuple[Literal["quota", "none"], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Needing:
    agent: Annotated[str, Example("me/1.0")]


@dataclass(frozen=True, kw_only=True)
class Parent:
    inner: Needing


def test_text_is_a_list_of_one() -> None:
    assert from_mapping(Outer, {"output": "x", "names": "a", "modes": "none"}) == Outer(
        output="x", names=("a",), modes=("none",)
    )
    assert load(Outer, None, ["--output=x", "--names", "a"]) == load(Outer, None, ["--output=x", "--names", "[a]"])
    assert fingerprint(from_mapping(Outer, {"output": "x", "names": "a"})) == fingerprint(
        Outer(output="x", names=("a",))
    )
    with pytest.raises(ConfigError, match=r"modes\[0\]: 'nome' is not one of quota, none; did you mean 'none'?"):
        from_mapping(Outer, {"output": "x", "modes": "nome"})


@pytest.mark.parametrize("mapping", [{}, {"inner": {}}, {"inner": None}])
def test_missing_section_says_which_of_its_options_is_missing(mapping: dict[str, object]) -> None:
    with pytest.raises(
        ConfigError, match=r"'inner.agent' is required and missing; .* --inner.agent; write one like me"
    ):
        from_mapping(Parent, mapping)


def test_file_and_overrides_make_a_config(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("output: x\nnames: [a, b]\ninner: {max_pairs: 3}\n")
    config = load(Outer, path, ["--inner.max_pairs", "7", "--inner.rate=1e-3", "--limit", "5", "--flag", "true"])
    assert config == Outer(output="x", names=("a", "b"), inner=Inner(max_pairs=7, rate=0.001), limit=5, flag=True)


def test_dump_reads_back_to_an_equal_config(tmp_path: Path) -> None:
    config = Outer(output="x", names=("ü",), sizes={"a": 1})
    path = tmp_path / "b.yaml"
    path.write_text(dump(config), encoding="utf-8")
    assert load(Outer, path) == config
    assert fingerprint(load(Outer, path)) == fingerprint(config)
    assert fingerprint(config) != fingerprint(Outer(output="y"))


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"output": "x", "inner": {"max_pair": 1}}, "unknown key 'inner.max_pair'; did you mean 'inner.max_pairs'?"),
        ({"output": "x", "zzz": 1}, "unknown key 'zzz'; valid keys: output, names"),
        ({}, "'output' is required and missing; set it in the file or with --output"),
        ({"output": "x", "inner": {"mode": "quotas"}}, "'quotas' is not one of quota, none; did you mean 'quota'?"),
        ({"output": "x", "inner": {"max_pairs": "many"}}, "inner.max_pairs: expected a whole number, got 'many'"),
        ({"output": "x", "inner": {"max_pairs": True}}, "expected a whole number, got True"),
        ({"output": "x", "names": ""}, "names: expected a list, got ''"),
        ({"output": "x", "names": 3}, "names: expected a list, got 3"),
        ({"output": "x", "pairs": "a"}, "pairs: expected a list, got 'a'"),
        ({"output": "x", "sections": "a"}, "sections: expected a list, got 'a'"),
        ({"output": None}, "output: expected text, got nothing"),
        ({"output": "x", "agent": None}, "agent: expected text, got nothing; write one like me/1.0"),
        ({"output": "x", "flag": 1}, "flag: expected true or false, got 1"),
        ({"output": "x", "inner": 3}, "inner: expected a mapping of options, got 3"),
        ({"output": "x", "inner": {"max_pairs": -1}}, "inner: max_pairs must not be negative"),
    ],
)
def test_mistake_names_place_and_remedy(mapping: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        from_mapping(Outer, mapping)


def test_missing_file_bad_yaml_and_double_keys_are_one_line_each(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    for text, words in (("a: [", "not valid YAML"), ("output: a\noutput: b", "given twice"), ("- a", "mapping")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=words) as caught:
            load(Outer, path)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="cannot read the config"):
        load(Outer, tmp_path / "absent.yaml")


_BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in itertools.pairwise("abcdefghi")
)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (_BOMB.encode(), "more than 100,000 values"),
        (b"output: &x [*x]", "inside what it stands for"),
        (b"output: " + b"[" * 5000 + b"]" * 5000, "more than 50 levels deep"),
        (b"output: " + b"{a: " * 5000 + b"}" * 5000, "more than 50 levels deep"),
        (b"output: x\nnames: [" + "Köln".encode("latin-1") + b"]", "line 2 is not UTF-8"),
        ("output: x".encode("utf-16"), "line 1 is not UTF-8"),
        (b"output: 2026-99-99", "month"),
        (b"output: !!binary x", "not valid YAML"),
        (b"output: \0", "not valid YAML"),
        (b"[a, b]: x", "a key is a list"),
        (b"? {a: 1}\n: x", "a key is a list"),
        (b"output: !!python/object/apply:os.system [true]", "not valid YAML"),
        (b"<<: 3\noutput: x", "not valid YAML"),
    ],
)
def test_hostile_file_is_one_line(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=told) as caught:
        load(Outer, path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_hostile_override_is_one_line() -> None:
    with pytest.raises(ConfigError, match="--names: cannot read the value") as caught:
        parse_overrides(["--names", "[" * 5000])
    assert len(str(caught.value)) < 1000


def test_anchors_and_merges_of_an_honest_file_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("output: &o x\nnames: [*o, *o]\ninner: &i {rate: 1.0}\n")
    assert load(Outer, path) == Outer(output="x", names=("x", "x"), inner=Inner(rate=1.0))


def test_overrides_refuse_stray_words() -> None:
    assert parse_overrides(["--a.b", "[1, 2]", "--c="]) == [("a.b", [1, 2]), ("c", None)]
    for words in (["a"], ["--a"], ["--"]):
        with pytest.raises(ConfigError):
            parse_overrides(words)


_METHODS = {"first": "the first that comes", "random": "one of " + "very " * 40 + "many", "none": ""}


@dataclass(frozen=True, kw_only=True)
class Listed:
    method: Annotated[str, OneOf(_METHODS)] = "first"
    """How to take one."""
    other: Annotated[str, OneOf({"a": "", "b": ""})] | None = None
    methods: tuple[Annotated[str, OneOf(_METHODS)], ...] = ()
    note: Annotated[str, "of somebody else"] = ""


def test_field_takes_the_names_of_a_list_and_no_other() -> None:
    for name in _METHODS:
        assert from_mapping(Listed, {"method": name, "methods": [name]}) == Listed(method=name, methods=(name,))
    assert from_mapping(Listed, {"other": "b", "note": "x"}) == Listed(other="b", note="x")
    assert from_mapping(Listed, {"other": None}) == Listed()
    for mapping, message in (
        ({"method": "randon"}, r"method: 'randon' is not one of first, random, none; did you mean 'random'\?"),
        ({"method": 3}, "method: 3 is not one of first, random, none$"),
        ({"method": ["first"]}, r"method: \['first'\] is not one of"),
        ({"method": None}, "method: None is not one of"),
        ({"other": "c"}, "other: 'c' is not one of a, b"),
        ({"methods": ["first", "last"]}, r"methods\[1\]: 'last' is not one of first"),
    ):
        with pytest.raises(ConfigError, match=message):
            from_mapping(Listed, mapping)


def test_word_that_yaml_reads_as_a_boolean_is_a_name_where_there_is_one() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Config:
        mode: Literal["off", "near"] = "near"
        sign: Literal["yes", "maybe"] = "maybe"

    assert load(Config, None, ["--mode=off", "--sign=yes"]) == Config(mode="off", sign="yes")
    with pytest.raises(ConfigError, match="mode: True is not one of off, near"):
        load(Config, None, ["--mode=on"])
