"""Aesthetic heads: small networks, trained by others on a CLIP's features, that say how much people like a picture.

    FILE.pth, .pt, .safetensors --layers by the names of their weights--> Head --unit features--> a number a picture

Three kinds are known by what their weights are called:

weight, bias                 LAION's aesthetic-predictor, nn.Linear(D, 1): sa_0_4_vit_l_14_linear.pth and its like
layers.0, 2, 4, 6, 7         improved-aesthetic-predictor's MLP without activations: sac+logos+ava1-l14-linearMSE.pth
layers.0, 3, 6, 9, 11        the same with ReLU between: ava+logos-l14-reluMSE.pth

All of them were trained on features of length 1 (their README, `simple_inference.py`), of the CLIP that their file's
name tells. Dropout does nothing outside training.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from pipeline.errors import one_line
from training.errors import ModelError
from training.scores.cosine import Floats, unit_rows

__all__ = ["Head", "load_head"]

_PLAIN, _RELU = (0, 2, 4, 6, 7), (0, 3, 6, 9, 11)
_LAYER = re.compile(r"layers\.(\d+)\.(weight|bias)")
_KNOWN = (
    "known are nn.Linear (weight, bias) and the MLP of improved-aesthetic-predictor (layers.0, 2, 4, 6, 7 or, with "
    "ReLU, layers.0, 3, 6, 9, 11)"
)


@dataclass(frozen=True, kw_only=True)
class Head:
    """Linear layers one behind the other, the last of which gives one number."""

    layers: tuple[tuple[Floats, Floats], ...]
    """(float32[out, in], float32[out]) each."""
    relu: bool = False
    """Whether there is one between layers."""

    @property
    def width(self) -> int:
        """Of the features that it takes."""
        return int(self.layers[0][0].shape[1])

    def score(self, image_ND: Floats) -> Floats:
        """float32[N] for features of any length; NaN where a picture's have none."""
        rows = unit_rows(image_ND)
        for number, (weight, bias) in enumerate(self.layers):
            if number and self.relu:
                rows = np.maximum(rows, 0)
            rows = rows @ weight.T + bias
        return np.ascontiguousarray(rows[:, 0])


def load_head(file: str | Path) -> Head:
    """The head in `file`; no code that is in it is run. Raises ModelError for a file that holds none."""
    path = Path(file)
    try:
        with warnings.catch_warnings():
            # torch says of foreign pickles that it may refuse them; when it does, that is an error of its own.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            safe = path.suffix == ".safetensors"
            state = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except (
        *(OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, EOFError),
        *(pickle.UnpicklingError, zipfile.BadZipFile, SafetensorError),
    ) as error:
        told = "no such file" if isinstance(error, FileNotFoundError) else one_line(error)
        raise ModelError(f"aesthetic.head: {path}: cannot be read ({told}); give a file of weights") from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):  # as Lightning saves it
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelError(f"aesthetic.head: {path}: holds no weights by name; {_KNOWN}")
    return _head(state, path)


def _head(state: Mapping[str, Any], path: Path) -> Head:
    weights = {name: value.float().numpy() for name, value in state.items()}
    if weights.keys() == {"weight", "bias"}:
        weights = {f"layers.0.{name}": value for name, value in weights.items()}
    numbers = tuple(sorted({int(match[1]) for name in weights if (match := _LAYER.fullmatch(name))}))
    expected = {f"layers.{number}.{kind}" for number in numbers for kind in ("weight", "bias")}
    if numbers not in ((0,), _PLAIN, _RELU) or weights.keys() != expected:
        raise ModelError(f"aesthetic.head: {path}: holds {', '.join(sorted(weights)[:4])} ...; {_KNOWN}")
    layers = tuple((weights[f"layers.{number}.weight"], weights[f"layers.{number}.bias"]) for number in numbers)
    shapes = [weight.shape for weight, _ in layers]
    fits = all(len(shape) == 2 for shape in shapes) and all(
        bias.shape == (shape[0],) for shape, (_, bias) in zip(shapes, layers, strict=True)
    )
    if not fits or shapes[-1][0] != 1 or any(before[0] != after[1] for before, after in pairwise(shapes)):
        raise ModelError(f"aesthetic.head: {path}: its layers {shapes} do not give one number; {_KNOWN}")
    return Head(layers=layers, relu=numbers == _RELU)
