"""Each heavy library has its room, and light modules stay light."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

import configs
import openwit
import pipeline
import query_list
import training

HEAVY = ("torch", "ray", "duckdb", "open_clip", "numba", "cv2", "PIL")


@pytest.mark.parametrize(
    "module", ["pipeline.records.schema", "pipeline.records.identity", "pipeline.storage.atomic", "configs.load"]
)
def test_light_module_loads_no_heavy_library(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def _modules() -> list[str]:
    names = []
    for package in (configs, openwit, pipeline, query_list, training):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("__main__"):
                names.append(found.name)
    return names


@pytest.mark.parametrize("name", _modules())
def test_public_names_are_listed_and_exist(name: str) -> None:
    module = importlib.import_module(name)
    if not hasattr(module, "__all__"):
        public = [key for key, value in vars(module).items() if _is_own(value, name) and not key.startswith("_")]
        assert not public, f"{name} has public names but no __all__"
        return
    for key in module.__all__:
        assert hasattr(module, key), f"{name}.__all__ names {key}, which is not there"
    own = {key for key, value in vars(module).items() if _is_own(value, name) and not key.startswith("_")}
    assert own <= set(module.__all__), f"{name}: public but not in __all__: {sorted(own - set(module.__all__))}"


def _is_own(value: object, module: str) -> bool:
    return callable(value) and getattr(value, "__module__", None) == module
