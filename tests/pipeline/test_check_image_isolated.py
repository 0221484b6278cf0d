"""IsolatedChecker: a decoder that crashes, hangs or eats memory costs one picture."""

from __future__ import annotations

import csv
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from configs.load import load
from pipeline.errors import EngineError
from pipeline.pages import is_reason
from pipeline.pictures.rejected import Rejected
from pipeline.stages.check_image.check import check_image
from pipeline.stages.check_image.config import ImageConfig, Picture
from pipeline.stages.check_image.isolate import IsolatedChecker
from tests.pipeline.test_check_image import encode, png, scene

ALL = ImageConfig(isolate="all", time_limit_s=10.0)


def bodies() -> list[bytes]:
    forms = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "JPEG2000")
    return [*(encode(scene(60, 40), form) for form in forms), b"no picture", encode(scene(60, 40), "JPEG")[:-50]]


@pytest.mark.parametrize("isolate", ["all", "unsafe", "none"])
def test_isolation_changes_no_result(isolate: Literal["all", "unsafe", "none"]) -> None:
    with IsolatedChecker(replace(ALL, isolate=isolate)) as checker:
        assert checker.check(bodies()) == [check_image(body, ALL) for body in bodies()]
        assert checker.num_restarts == 0


def test_ordinary_jpegs_need_no_process() -> None:
    with IsolatedChecker(ImageConfig()) as checker:
        checker.check([encode(scene(60, 40), "JPEG"), b"no picture", b""])
        assert checker._child is None
        checker.check([encode(scene(60, 40), "PNG")])
        assert checker._child is not None


def test_a_jpeg_of_a_thousand_scans_is_decoded_apart() -> None:
    body = encode(scene(60, 40), "JPEG", progressive=True)
    scan = body.rindex(b"\xff\xda")
    with IsolatedChecker(ImageConfig()) as checker:
        checker.check([body[:-2] + body[scan:-2] * 1000 + b"\xff\xd9"])
        assert checker._child is not None


def kill_when_busy(checker: IsolatedChecker) -> threading.Thread:
    """Stop the child, so that it cannot answer; then kill it while the parent waits."""
    assert checker._child is not None
    process = checker._child.pid
    os.kill(process, signal.SIGSTOP)

    def kill() -> None:
        time.sleep(0.2)
        os.kill(process, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def test_a_crash_costs_one_picture() -> None:
    body = encode(scene(60, 40), "PNG")
    with IsolatedChecker(ALL) as checker:
        checker.check([body])
        thread = kill_when_busy(checker)
        results = checker.check([body, body, body])
        thread.join()
        assert results[0] == Rejected(reason="crashed_decoder", detail="the decoder's process died")
        assert all(isinstance(result, Picture) for result in results[1:])
        assert checker.num_restarts == 1


def test_a_hang_costs_one_picture_and_its_time_limit() -> None:
    body = encode(scene(60, 40), "PNG")
    with IsolatedChecker(replace(ALL, time_limit_s=1.0)) as checker:
        checker.check([body])
        assert checker._child is not None
        os.kill(checker._child.pid, signal.SIGSTOP)
        results = checker.check([body, body])
        assert results[0] == Rejected(reason="crashed_decoder", detail="not decoded after 1 s")
        assert isinstance(results[1], Picture)


def test_too_much_memory_costs_one_picture() -> None:
    size = 6000
    body = png(size, size, kind=6, data=bytes((1 + 4 * size) * size))  # 140 KB of file, 144 MB of pixels
    assert len(body) < 200_000
    with IsolatedChecker(replace(ALL, memory_limit_mib=100)) as checker:
        results = checker.check([body, encode(scene(60, 40), "PNG")])
    assert isinstance(results[0], Rejected)
    assert results[0].reason == "crashed_decoder"
    assert isinstance(results[1], Picture)


def test_the_child_ends_with_its_context() -> None:
    with IsolatedChecker(ALL) as checker:
        checker.check([encode(scene(60, 40), "PNG")])
        child = checker._child
        assert child is not None
        assert child.poll() is None
    assert child.poll() is not None


def test_the_child_ends_with_its_parent() -> None:
    """A parent that is killed closes the pipe; the child reads its end."""
    child = subprocess.Popen(
        [sys.executable, "-m", "pipeline.stages.check_image.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with child:
        assert child.stdin is not None
        child.stdin.close()
        assert child.wait(60) == 0


def test_a_child_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with IsolatedChecker(ALL) as checker, pytest.raises(EngineError, match="isolate"):
        checker.check([b"x"])


def test_the_config_survives_the_way_to_the_child() -> None:
    config = load(ImageConfig, None, ["--exif_tags=[all]", "--isolate=all", "--resize_mode=border", "--image_size=50"])
    with IsolatedChecker(config) as checker:
        [result] = checker.check([encode(scene(60, 40), "PNG")])
    assert isinstance(result, Picture)
    assert (result.width, result.height) == (50, 50)


# --- bombs: the header alone must decide --------------------------------------------------------

MEASURE = """
import resource, sys
from pipeline.stages.check_image.check import check_image
from pipeline.stages.check_image.config import ImageConfig
check_image(open(sys.argv[1], "rb").read(), ImageConfig())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[2:]:
    result = check_image(open(path, "rb").read(), ImageConfig())
    print(type(result).__name__, getattr(result, "reason", ""))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def bombs() -> dict[str, bytes]:
    huge = 20_000
    row = bytes(1 + huge // 8)
    found = {
        "png": png(huge, huge, depth=1, kind=0, data=row * huge),
        "png_rgba": png(huge, huge, kind=6, data=bytes(1000)),
        "gif": b"GIF89a" + huge.to_bytes(2, "little") * 2 + bytes(20),
        "bmp": encode(Image.new("1", (huge, huge)), "BMP")[:1000],
        "webp": b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\x10\0\0\0" + (16382).to_bytes(3, "little") * 2 + b"VP8L\0\0\0\0",
        "tiff": encode(Image.new("1", (huge, huge)), "TIFF", compression="group4"),
    }
    jpeg = bytearray(encode(np.zeros((16, 16), np.uint8), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = huge.to_bytes(2, "big") * 2
    found["jpeg"] = bytes(jpeg)
    return found


def test_bombs_cost_less_than_50_mb(tmp_path: Path) -> None:
    (tmp_path / "small.png").write_bytes(encode(scene(60, 40), "PNG"))
    paths = [tmp_path / "small.png"]
    for name, body in bombs().items():
        paths.append(tmp_path / name)
        paths[-1].write_bytes(body)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, paths)], capture_output=True, text=True, check=True, timeout=120
    )
    *verdicts, growth_kb = done.stdout.split("\n")[:-1]
    assert verdicts == ["Rejected too_many_pixels"] * len(bombs())
    assert int(growth_kb) < 50_000


# --- the corpus of decoder tests ----------------------------------------------------------------

DECODED = {"JPEG", "MPO", "PNG", "GIF", "WEBP", "AVIF", "TIFF", "BMP", "JPEG2000"}
DEBATABLE = {
    # Pillow decodes these with a remark or without one; libjpeg finds stray bytes within them
    "pillow/hopper_bad_exif.jpg",
    "pillow/jpeg_ff00_header.jpg",
    "pillow/photoshop-200dpi-broken.jpg",
}
KEPT_WITHOUT_PILLOW = {"pillow/png_decompression_dos.png"}  # its bomb is a text, which is not unpacked


def test_every_nasty_file_is_kept_or_rejected_for_a_sensible_reason(shared_data: Path) -> None:
    folder = shared_data / "nasty"
    with (folder / "manifest.tsv").open(encoding="utf-8", newline="") as lines:
        manifest = {row["file"]: row for row in csv.DictReader(lines, delimiter="\t")}
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.tsv")
    assert len(files) > 500
    with IsolatedChecker(replace(ALL, isolate="unsafe")) as checker:
        results = dict(zip(files, checker.check([path.read_bytes() for path in files]), strict=True))
        assert checker.num_restarts == 0
    reasons = Counter(result.reason for result in results.values() if isinstance(result, Rejected))
    assert all(is_reason("check_image", reason) for reason in reasons)
    assert reasons["crashed_decoder"] == 0
    for path, result in results.items():
        name = str(path.relative_to(folder))
        row: dict[str, Any] = manifest.get(name, {})
        if isinstance(result, Picture):
            assert row.get("ok") == "1" or name in KEPT_WITHOUT_PILLOW, name
            with Image.open(io.BytesIO(result.encoded)) as image:
                assert image.size == (result.width, result.height)
        elif row.get("ok") == "1" and row["fmt"] in DECODED and name not in DEBATABLE:
            assert result.reason in ("too_many_pixels", "unsupported_format"), (name, result)


def test_real_photographs_are_all_kept_and_scaled_decoding_is_near_exact(shared_data: Path) -> None:
    files = sorted((shared_data / "classify" / "imagenet_sample").glob("*.JPEG"))
    small = ImageConfig(image_size=100)
    differences = []
    for path in files:
        body = path.read_bytes()
        exact, fast = (check_image(body, replace(small, scaled_decoding=mode)) for mode in ("exact", "fast"))
        assert isinstance(exact, Picture)
        assert isinstance(fast, Picture)
        assert (exact.phash ^ fast.phash).bit_count() <= 6
        a, b = (np.asarray(Image.open(io.BytesIO(each.encoded))).astype(float) for each in (exact, fast))
        differences.append(np.abs(a - b).mean())
    assert np.mean(differences) < 3


def test_decoder_is_not_handed_the_keys_of_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "AZURE_STORAGE_ACCOUNT_KEY", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.setenv(name, "a-marker")
    with IsolatedChecker(ImageConfig()) as checker:
        checker.check([encode(scene(64, 48), "PNG")])
        assert checker._child is not None
        environment = Path(f"/proc/{checker._child.pid}/environ").read_bytes()
    assert b"PYTHONPATH=" in environment
    assert b"a-marker" not in environment
