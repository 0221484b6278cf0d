"""Links of the docs lead somewhere, the site has every page, what leads out of the repository has the form of a URL."""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

import pytest
import yaml

import openwit
from tests.conftest import REPOSITORY

PAGES = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((REPOSITORY / "docs").rglob("*.md")),
]
_FENCED = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]+`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FOR_EXAMPLE = ("example.org", "example.com", "example.net", ".example", "localhost", "127.0.0.1", "HOST", "HEAD")


def _prose(page: Path) -> str:
    return _FENCED.sub("", page.read_text(encoding="utf-8"))


def _anchors(page: Path) -> set[str]:
    """What headings are called, as GitHub and the site derive it."""
    found: Counter[str] = Counter()
    anchors = set()
    for heading in re.findall(r"^#+ (.+?)\s*$", _prose(page), re.MULTILINE):
        name = re.sub(r"[^\w -]", "", _LINK.sub("]", heading).lower()).replace(" ", "-")
        anchors.add(f"{name}-{found[name]}" if found[name] else name)
        found[name] += 1
    return anchors


def _links(page: Path) -> list[str]:
    return [link for link in _LINK.findall(_CODE.sub("", _prose(page))) if "://" not in link]


def _ids(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=_ids)
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    for link in _links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_file(), link
        assert target.is_relative_to(REPOSITORY), link
        if anchor:
            assert anchor in _anchors(target), f"{link}: {target.name} has {sorted(_anchors(target))}"


def test_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One\n# One\n## `two` (of 3)\n[a](b.md#c) `[d](e.md)`\n```\n# no\n[f](g.md)\n```\n[h](https://i.example)\n"
    )
    assert _links(page) == ["b.md#c"]
    assert _anchors(page) == {"one", "one-1", "two-of-3"}


@pytest.mark.parametrize("page", PAGES, ids=_ids)
def test_urls_are_of_the_form_of_urls(page: Path) -> None:
    """They cannot be asked for here: https, and a host with a dot. Words in `code` tell of URLs of every kind."""
    for url in re.findall(r"https?://[^\s<>\"'|)]+", _CODE.sub("", page.read_text(encoding="utf-8"))):
        if any(word in url for word in _FOR_EXAMPLE):
            continue
        parts = urlsplit(url)
        assert parts.scheme == "https", url
        assert re.fullmatch(r"[a-z0-9.-]+\.[a-z]{2,}", parts.netloc), url


# --- the site --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site() -> ModuleType:
    """docs/site.py, which stands in no package."""
    spec = importlib.util.spec_from_file_location("site_of_the_docs", REPOSITORY / "docs" / "site.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _Yaml(yaml.SafeLoader):
    """What zensical reads of mkdocs.yml: the tag for a function as well."""


_Yaml.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)


def _named(entry: object) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    parts = entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else []
    return [name for part in parts for name in _named(part)]


def test_site_has_every_page_once_and_its_links_lead_somewhere(site: ModuleType, tmp_path: Path) -> None:
    site.lay_out(tmp_path)
    config = yaml.load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"), _Yaml)
    pages = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.md")}
    assert Counter(_named(config["nav"])) == Counter(pages)
    assert len(pages) == len(PAGES) + 2  # the licence, the notebook
    for page in pages:
        for link in _links(tmp_path / page):
            target = (tmp_path / page).parent / link.partition("#")[0]
            assert link.startswith("#") or target.exists(), f"{page}: {link}"


def test_site_asks_other_hosts_for_nothing() -> None:
    config = yaml.load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"), _Yaml)
    assert config["theme"]["font"] is False
    assert not {"extra_javascript", "extra_css", "repo_url"} & config.keys()


def test_names_in_python_has_every_public_name() -> None:
    told = re.findall(r"^::: (\S+)$", (REPOSITORY / "docs/api.md").read_text(encoding="utf-8"), re.MULTILINE)
    rooms = {f"{getattr(openwit, name).__module__}.{name}" for name in openwit.__all__}
    assert {name for name in told if not name.startswith("training.learning.")} == rooms
