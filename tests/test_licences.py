"""Every lock has a hash for every file, and docs/licences.md a line for every package of the lock of all."""

from __future__ import annotations

import importlib.util
import re
from types import ModuleType

import pytest

from tests.conftest import REPOSITORY

LOCK = (REPOSITORY / "requirements-dev.lock").read_text(encoding="utf-8")
PAGE = (REPOSITORY / "docs" / "licences.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def licences() -> ModuleType:
    spec = importlib.util.spec_from_file_location("licences", REPOSITORY / "docs" / "licences.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("lock", sorted(path.name for path in REPOSITORY.glob("requirements*.lock")))
def test_every_locked_package_is_pinned_with_hashes_and_nothing_else_is_in_the_lock(lock: str) -> None:
    text = (REPOSITORY / lock).read_text(encoding="utf-8")
    entries = re.split(r"\n(?! )", text.strip())
    for entry in entries:
        head, *hashes = re.split(r" \\\n", entry)
        assert re.fullmatch(r"[a-z0-9.-]+==[0-9a-z.!+]+( ; .+)?", head), head
        assert hashes, head
        assert all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}", line) for line in hashes), head
    assert "://" not in text


def test_every_package_that_the_project_asks_for_is_locked(licences: ModuleType) -> None:
    import tomllib

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)]
    names = {re.split(r"[\[>=<;]", line)[0].strip().lower().replace("_", "-") for line in asked} - {"openwit"}
    # What open_clip would import each time stays out of the environment that tests run in: tests/peers has it.
    assert names - {"transformers"} <= set(licences.locked(LOCK))
    assert "transformers" in licences.locked((REPOSITORY / "tests/peers/transformers.txt").read_text())


def test_licences_page_names_every_locked_package_with_the_licence_it_states(licences: ModuleType) -> None:
    stated = dict(re.findall(r"^\| ([a-z0-9.-]+) \| (.+?) \|$", PAGE, re.MULTILINE))
    for name in licences.locked(LOCK):
        assert name in stated, f"{name}: not on the page; run `make licences`"
        found = licences.licence_of(name)
        assert found is None or stated[name] in (found, "not installed here"), (
            f"{name}: another licence; run `make licences`"
        )
    assert "lid.176.ftz" in PAGE
