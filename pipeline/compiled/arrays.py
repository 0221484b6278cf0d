"""What kernels only read looks alike to them, wherever it comes from."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["read_only"]


def read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A read-only view in C order: a kernel compiles once more for arrays that may be written, and mapped or shared
    ones may not."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view
