"""The whole directory: config.json, model.safetensors, preprocessor_config.json, the tokenizer's files, our mark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pipeline.storage.place import Place
from training.exports.directory import MARK, facts_of, preprocessing_of, write_directory, write_json
from training.exports.transformers.clip import clip_model
from training.exports.transformers.siglip import is_siglip, siglip_model
from training.exports.transformers.tokens import write_tokenizer
from training.exports.transformers.towers import refuse
from training.learning.conv_stem import refuse_conv_stem
from training.learning.model import Model

__all__ = ["export_transformers"]

_FILTERS = {"bilinear": 2, "bicubic": 3}
"""Pillow's numbers, which are transformers' `resample`."""


def export_transformers(model: Model, directory: str | Place) -> tuple[Place, list[str]]:
    """Write it to `directory`; (where, what a user must know, a line each). Raises ModelError, OutputError."""
    refuse_conv_stem(model.clip.state_dict(), reader="transformers")
    config, weights = (siglip_model if is_siglip(model) else clip_model)(model)
    processor = _processor(model)
    told: list[str] = []
    bias = getattr(model.clip, "logit_bias", None)
    if bias is not None and "logit_bias" not in weights:
        told.append(
            f"its bias {bias.item():.4g} has no place in CLIPModel: logits lack it, and for probabilities of single "
            "pairs take sigmoid(logits + bias)"
        )

    def fill(here: Path) -> None:
        whole = {name: value.detach().to("cpu", torch.float32).contiguous().clone() for name, value in weights.items()}
        save_file(whole, here / "model.safetensors", metadata={"format": "pt"})
        write_json(here / "config.json", config)
        write_json(here / "preprocessor_config.json", processor)
        write_tokenizer(model, here)
        more = {} if bias is None else {"logit_bias": bias.item()}
        write_json(here / MARK, facts_of(model, "transformers", **more))

    return write_directory(directory, fill), told


def _processor(model: Model) -> dict[str, Any]:
    """preprocessor_config.json. Raises ModelError where transformers has no such processor."""
    about = preprocessing_of(model)
    size, square = about["size"], {"height": about["size"], "width": about["size"]}
    if about["interpolation"] not in _FILTERS:
        refuse(model, f"pictures resized by {about['interpolation']}")
    common = {
        "do_resize": True,
        "resample": _FILTERS[about["interpolation"]],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": about["mean"],
        "image_std": about["std"],
        "do_convert_rgb": True,
    }
    if about["resize_mode"] == "squash":
        return {"image_processor_type": "SiglipImageProcessor", **common, "size": square}
    if about["resize_mode"] != "shortest":
        refuse(model, f"pictures made square by {about['resize_mode']}")
    crop = {"do_center_crop": True, "crop_size": square, "size": {"shortest_edge": size}}
    return {"image_processor_type": "CLIPImageProcessor", **common, **crop}
