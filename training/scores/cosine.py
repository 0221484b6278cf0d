"""The CLIP score: how well a text fits its picture."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["Floats", "clip_score", "unit_rows"]

Floats = npt.NDArray[np.float32]


def unit_rows(rows_ND: Floats) -> Floats:
    """float32[N, D], each row of length 1; NaN where a row has no direction: it is zero, or not finite.

    Features that were stored in half precision are off by up to 0.05 %, which a cosine should not be.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        lengths_N = np.sqrt(np.einsum("nd,nd->n", rows_ND, rows_ND, dtype=np.float64))
    usable = np.isfinite(lengths_N) & (lengths_N > 0)
    return np.asarray(rows_ND / np.where(usable, lengths_N, np.nan)[:, None], np.float32)


def clip_score(image_ND: Floats, text_ND: Floats) -> Floats:
    """float32[N]: the cosine of each picture's and its text's features, in [-1, 1]; NaN where one has no direction.

    It is what LAION publishes as `similarity`, what DataComp filters by (arXiv 2304.14108, section 4), and what a data
    filtering network gives when it is a CLIP (arXiv 2309.17425, section 4). CLIPScore is 2.5 * max(cosine, 0)
    (arXiv 2104.08718, equation 1): it puts pairs in the same order, and all below 0 together.
    """
    # Row by row, so that a row's score is the same whatever stands beside it.
    products_N = np.einsum("nd,nd->n", unit_rows(image_ND), unit_rows(text_ND), dtype=np.float64)
    return np.asarray(np.clip(products_N, -1, 1), np.float32)
