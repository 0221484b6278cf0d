"""Averaging areas: against the definition, and how its compiled loops are kept."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.compiled import store
from pipeline.stages.check_image import area

_WITHOUT_NUMBA = """
import sys
import numpy as np
import pipeline.stages.check_image
from pipeline.stages.check_image.area import shrink
assert shrink(np.full((9, 7), 200, np.uint8), (3, 2)).tolist() == [[200] * 3] * 2
assert "numba" not in sys.modules
"""


def _weights(length: int, new_length: int) -> npt.NDArray[np.float64]:
    """float64[new_length, length]: how much of each source pixel lies in each new one; rows sum to 1."""
    step = Fraction(length, new_length)
    shares = [
        [max(Fraction(0), min(i + 1, (k + 1) * step) - max(i, k * step)) / step for i in range(length)]
        for k in range(new_length)
    ]
    return np.array(shares, np.float64)


@given(st.data())
def test_every_pixel_is_the_mean_of_its_area(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    size = data.draw(st.integers(1, width)), data.draw(st.integers(1, height))
    channels = data.draw(st.sampled_from([(), (3,)]))
    random = np.random.default_rng(data.draw(st.integers(0, 1000)))
    pixels = random.integers(0, 256, (height, width, *channels), np.uint8)
    if data.draw(st.booleans()):
        pixels = pixels[:, ::-1]  # as pictures are that were turned
    exact = np.einsum("yh,xw,hw...->yx...", _weights(height, size[1]), _weights(width, size[0]), pixels)
    got = area.shrink(pixels, size)
    assert got.shape == (size[1], size[0], *channels)
    assert np.abs(got - exact).max() <= 0.5 + 1e-3


def test_a_process_that_finds_the_compiled_loops_does_without_numba() -> None:
    area.prepare()
    done = subprocess.run([sys.executable, "-c", _WITHOUT_NUMBA], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the module now looks for its loops, and keeps them; there are none yet."""
    shutil.copy(Path(area.__file__).with_name("area_kernel.py"), tmp_path)
    monkeypatch.setattr(area, "__file__", str(tmp_path / "area.py"))
    monkeypatch.setattr(store, "SHIPPED", tmp_path / "shipped")  # nothing came along
    monkeypatch.setattr(area, "_load_shrink", area._load_shrink.__wrapped__)
    return tmp_path / "__pycache__"


def test_loops_that_cannot_be_kept_are_compiled_each_time(elsewhere: Path) -> None:
    expected = area.shrink(PIXELS, (17, 12))
    shutil.rmtree(elsewhere)
    elsewhere.touch()  # no directory, so nothing can be kept there
    assert (area.shrink(PIXELS, (17, 12)) == expected).all()


@pytest.mark.parametrize("damage", [lambda code: code[:-1000], lambda code: code[:-1] + b"\1", lambda code: b""])
def test_damaged_loops_are_compiled_anew(elsewhere: Path, damage: Callable[[bytes], bytes]) -> None:
    expected = area.shrink(PIXELS, (17, 12))
    (kept,) = elsewhere.iterdir()
    kept.write_bytes(damage(kept.read_bytes()))
    assert (area.shrink(PIXELS, (17, 12)) == expected).all()
    assert list(elsewhere.iterdir()) == [kept]
    checksum, code = kept.read_bytes()[:32], kept.read_bytes()[32:]
    assert hashlib.sha256(code).digest() == checksum, "a whole one stands there again"
