from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from configs.load import ConfigError, describe, dump, fingerprint, from_mapping, load, parse_overrides


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
        ({"output": "x", "names": "a"}, "names: expected a list, got 'a'"),
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


def test_overrides_refuse_stray_words() -> None:
    assert parse_overrides(["--a.b", "[1, 2]", "--c="]) == [("a.b", [1, 2]), ("c", None)]
    for words in (["a"], ["--a"], ["--"]):
        with pytest.raises(ConfigError):
            parse_overrides(words)


def test_help_shows_every_option_with_its_documentation() -> None:
    text = describe(Outer)
    assert "--output  str  (required)\n      Where to." in text
    assert "--inner.max_pairs  int  [20]\n      The most pairs, at all." in text
    assert "--inner.mode  quota | none" in text
