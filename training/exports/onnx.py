"""Each tower as ONNX, for onnxruntime and others.

    image.onnx   images uint8[B, S, S, 3], RGB --> features float32[B, D], unit; normalisation is inside
    text.onnx    tokens int64[B, L]            --> features float32[B, D], unit
    openwit_export.json                        what is done to pictures, L, logit_scale, logit_bias, fingerprint

B is free, S and L are not. Pictures come as bytes of colour, so that mean and deviation cannot be forgotten or taken
twice. `logit_scale` (and `logit_bias`) stand in both files' metadata: logits are scale * image @ text.T + bias.

Written by torch's exporter (torch.onnx.export(dynamo=True)), of weights in float32, and compared with torch by
onnxruntime at several B before anything is in its place.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import one_line
from pipeline.storage.place import Place
from training.errors import ModelError, TrainingError
from training.exports.directory import MARK, facts_of, write_directory, write_json
from training.learning.model import Model

__all__ = ["check_onnx_installed", "export_onnx"]

_OPSET = 18
_BATCHES = (1, 2, 5)
"""At which the files are compared with torch."""
_TOLERANCE = 1e-4
"""Of single features, whose vectors have length 1."""


def check_onnx_installed() -> None:
    """Raises TrainingError where a package of the extra `onnx` is missing."""
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise TrainingError(f"ONNX is not installed here ({', '.join(missing)} missing); pip install 'openwit[onnx]'")


def export_onnx(model: Model, directory: str | Place) -> tuple[Place, float]:
    """Write both towers to `directory`; (where, the largest difference of a feature from torch's).

    `model` is in float32 on the CPU. Raises ModelError where a tower cannot be written or says something else, and
    TrainingError, OutputError.
    """
    check_onnx_installed()
    length, side = int(model.tokenizer.context_length), model.image_size
    clip = cast(Any, model.clip)
    bias = getattr(clip, "logit_bias", None)
    numbers = {"logit_scale": clip.logit_scale.exp().item(), "logit_bias": 0.0 if bias is None else bias.item()}
    facts = facts_of(model, "onnx", context_length=length, **numbers)
    metadata = {name: str(facts[name]) for name in ("model", "model_fingerprint", *numbers)}
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (max(_BATCHES), side, side, 3), dtype=torch.uint8, generator=generator)
    texts = ["", "a red circle", "two words", "a photo of a dog in the park", "7" * length]
    tokens = model.tokenizer(texts, length)
    worst: list[float] = []

    def fill(here: Path) -> None:
        for name, tower, given, called in (
            ("image", _Images(model), pictures, "images"),
            ("text", _Texts(model), tokens, "tokens"),
        ):
            path = here / f"{name}.onnx"
            _write(tower, given[:2], called, path, f"{model.name}: its {name} tower", metadata)
            worst.append(_difference(path, tower, given, called, f"{model.name}: its {name} tower"))
        write_json(here / MARK, {**facts, "largest_difference": max(worst)})

    with model.evaluating():
        return write_directory(directory, fill), max(worst)


class _Images(nn.Module):
    """The image tower, from bytes to unit features."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.visual = cast(nn.Module, model.clip.visual)
        self.mean_C11, self.std_C11 = nn.Buffer(model.mean_C11), nn.Buffer(model.std_C11)

    def forward(self, images_BHWC: Tensor) -> Tensor:
        """As Model.encode_image."""
        images_BCHW = images_BHWC.permute(0, 3, 1, 2).to(torch.float32)
        found = self.visual((images_BCHW - self.mean_C11) / self.std_C11)
        return F.normalize(found[0] if isinstance(found, tuple) else found, dim=-1)  # CoCa gives tokens, too


class _Texts(nn.Module):
    """The text tower, from all L tokens to unit features."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.clip = model.clip

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """As Model.encode_text, which cuts tokens off by what they are: ONNX has one shape."""
        return cast(Tensor, self.clip.encode_text(tokens_BL, normalize=True))  # type: ignore[operator]  # open_clip's have it


def _write(tower: nn.Module, given: Tensor, called: str, path: Path, who: str, metadata: dict[str, str]) -> None:
    try:
        with _quiet():
            program: Any = torch.onnx.export(
                tower.eval(),
                (given,),
                dynamo=True,
                input_names=[called],
                output_names=["features"],
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
                opset_version=_OPSET,
                verbose=False,
            )
            program.model.metadata_props.update(metadata)
            program.save(str(path))
    except Exception as error:  # the exporter raises what the towers' operators make it raise
        raise ModelError(
            f"{who} cannot be written as ONNX ({type(error).__name__}: {one_line(error, 200)}); take --to open_clip"
        ) from error


def _difference(path: Path, tower: nn.Module, given: Tensor, called: str, who: str) -> float:
    """The largest difference of a feature between onnxruntime and torch. Raises ModelError where it is no rounding."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # warnings are of its own rewriting
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch in _BATCHES:
        (found,) = session.run(None, {called: given[:batch].numpy()})
        expected = tower(given[:batch]).numpy()
        difference = float(np.abs(found - expected).max()) if found.shape == expected.shape else math.inf
        worst = max(worst, difference)
        if not difference <= _TOLERANCE:
            raise ModelError(
                f"{who} as ONNX says something else than torch ({difference:.2g} at a batch of {batch}, allowed "
                f"{_TOLERANCE}); take --to open_clip"
            )
    return worst


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter prints, and without torch's fast path, which is one operator for a layer."""
    before, level = torch.backends.mha.get_fastpath_enabled(), logging.root.level
    torch.backends.mha.set_fastpath_enabled(False)
    logging.root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
        logging.root.setLevel(level)
