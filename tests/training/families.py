"""Methods that want models of their own, for what is tested of all methods over several processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["TINY_COCA", "families", "model_of"]

TINY_COCA: dict[str, Any] = {
    "embed_dim": 32,
    "custom_text": True,
    "vision_cfg": {
        "image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16, "attentional_pool": True,
        "attn_pooler_heads": 2, "attn_pooler_queries": 5, "output_tokens": True,
    },
    "text_cfg": {
        "context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1, "embed_cls": True,
        "output_tokens": True,
    },
    "multimodal_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}  # fmt: skip

_FAMILIES = {"coca": TINY_COCA}


def model_of(name: str, folder: Path) -> Path:
    """The JSON of the tiny model that the method `name` trains, written to `folder`."""
    path = folder / f"openwit-test-{name}.json"
    path.write_text(json.dumps(_FAMILIES[name]))
    return path


def families(folder: Path) -> dict[str, dict[str, str]]:
    """By name: the method and its model, for ranks_worker."""
    return {name: {"method": name, "model": str(model_of(name, folder))} for name in _FAMILIES}
