"""One detector over one picture: RGB --smaller, if it is large--> cv2.FaceDetectorYN --> boxes in its shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from training.errors import ModelError

__all__ = ["Detector", "share_of"]

Floats = npt.NDArray[np.float32]
_SCORE = 14
"""Column of a row of cv2's answer: x, y, width, height, five places of two numbers, score."""
_MOST = 5000


class Detector:
    """A model file, opened."""

    def __init__(self, file: str, *, min_score: float, overlap: float, longest_side: int) -> None:
        """Raises ModelError where there is no such file, or it is no detector of the form."""
        if not Path(file).is_file():
            raise ModelError(f"{file}: no such file; give the ONNX file of a face detector in YuNet's form")
        self._longest_side = longest_side
        cv2.setNumThreads(1)  # a task has one core; its neighbours have theirs
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
        try:
            self._detector = cv2.FaceDetectorYN.create(file, "", (320, 320), min_score, overlap, _MOST)
            self.find(np.zeros((64, 64, 3), np.uint8))
        except cv2.error as error:
            raise ModelError(
                f"{file}: cv2.FaceDetectorYN cannot use it ({error.err or 'no ONNX of that form'}); it must give cls, "
                "obj, bbox and kps for the strides 8, 16 and 32, as YuNet does"
            ) from error

    def find(self, pixels: npt.NDArray[np.uint8]) -> Floats:
        """float32[n, 5] from RGB uint8[h, w, 3]: x, y, width, height in shares of the picture, and score; the best
        first."""
        height, width = pixels.shape[:2]
        scale = min(1.0, self._longest_side / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = pixels if scale == 1.0 else cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        self._detector.setInputSize(size)
        faces: Any = self._detector.detect(cv2.cvtColor(np.ascontiguousarray(small), cv2.COLOR_RGB2BGR))[1]
        if faces is None:
            return np.empty((0, 5), np.float32)
        found = np.concatenate([faces[:, :4] / np.array([*size, *size], np.float32), faces[:, _SCORE:]], axis=1)
        return np.asarray(found[np.argsort(-found[:, 4], kind="stable")], np.float32)


def share_of(boxes: Floats) -> float:
    """The share of the picture that lies in boxes; where they overlap, once for each."""
    edges = np.clip(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:4]], axis=1), 0.0, 1.0)
    return min(1.0, float(((edges[:, 2] - edges[:, 0]) * (edges[:, 3] - edges[:, 1])).sum()))
