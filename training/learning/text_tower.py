"""A text tower of Hugging Face's, such as PubMedBERT, in open_clip's module: told to be at hand before it is built.

    text_cfg.hf_model_name: DIRECTORY --config.json--> open_clip's HFTextEncoder, weights drawn
    model.init_text_from:   DIRECTORY --model.safetensors | pytorch_model.bin--> its transformer; the projection is new

The package transformers reads both. Nothing is looked up on a network: the name is that of a directory.
"""

from __future__ import annotations

import importlib.util
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError
from torch import nn

from pipeline.errors import one_line
from training.errors import ModelError

__all__ = ["check_text_tower", "ignore_padding", "load_text_tower", "vocabulary_of_tower"]

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def check_text_tower(name: str, content: Mapping[str, Any]) -> None:
    """Raise ModelError where `content`, the JSON of model `name`, names a tower of Hugging Face's that is not here."""
    text = content["text_cfg"]
    directory = text.get("hf_model_name")
    if not directory:
        return
    config = _config_of(Path(directory), told=f"{name}: text_cfg.hf_model_name")
    _needs_transformers(f"{name}: its text tower")
    length, places = int(text.get("context_length", 77)), config.get("max_position_embeddings")
    if isinstance(places, int) and length > places:
        raise ModelError(
            f"{name}: has texts of {length} tokens, and the tower in {directory} places for {places}; set "
            f"text_cfg.context_length in the model's JSON to at most {places}"
        )


def vocabulary_of_tower(directory: str) -> int | None:
    """The tokens that the tower in a Hugging Face directory knows, as its config.json says; None where it says nothing,
    or is not here."""
    path = Path(directory)
    if not (path / "config.json").is_file():
        return None
    places = _config_of(path, told="text_cfg.hf_model_name").get("vocab_size")
    return places if isinstance(places, int) else None


def load_text_tower(clip: nn.Module, source: str | Path, *, name: str) -> None:
    """Put the weights of the Hugging Face directory `source` into the text tower of `clip`, which is named `name`.

    What the directory has above the layers (a pooler, a language model's head) is left out; open_clip's projection
    begins anew. Raises ModelError.
    """
    path, told = Path(source), f"model.init_text_from: {source}"
    tower = getattr(getattr(clip, "text", None), "transformer", None)
    config = _config_of(path, told="model.init_text_from")
    if tower is None or not hasattr(tower, "from_pretrained"):
        raise ModelError(
            f"{told} is of Hugging Face's, and the text tower of {name} is open_clip's own; take a model whose JSON "
            "names it as text_cfg.hf_model_name, or --model.init_from for weights of open_clip"
        )
    if not any((path / file).is_file() for file in _WEIGHTS):
        raise ModelError(f"{told} holds no weights; bring {' or '.join(_WEIGHTS)}")
    if (theirs := config.get("model_type")) != (ours := tower.config.model_type):
        raise ModelError(f"{told} is a {theirs}, and the text tower of {name} a {ours}; give a directory of one")
    options = {} if getattr(tower, "pooler", None) is not None else {"add_pooling_layer": False}
    try:
        loaded, report = type(tower).from_pretrained(path, output_loading_info=True, local_files_only=True, **options)
        if missing := sorted(report["missing_keys"]):
            raise KeyError(f"weights that are missing: {', '.join(missing[:4])}")
        tower.load_state_dict(loaded.state_dict())
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, pickle.UnpicklingError, SafetensorError) as error:
        raise ModelError(
            f"{told} does not fit the text tower of {name} ({one_line(error, 300)}); give the directory that its "
            "text_cfg.hf_model_name was made for"
        ) from error


def ignore_padding(clip: nn.Module) -> None:
    """Have a text tower of Hugging Face's run on the meta device, where nothing can be read.

    Its forward pass asks whether any text is padded (transformers' `_ignore_bidirectional_mask_sdpa`), so the mask is
    left out there: shapes and what is kept are the same, but for the mask itself.
    """
    tower = getattr(getattr(clip, "text", None), "transformer", None)
    if isinstance(tower, nn.Module) and hasattr(tower, "from_pretrained"):
        tower.register_forward_pre_hook(lambda _, args, options: (args, _unmasked(options)), with_kwargs=True)


def _unmasked(options: dict[str, Any]) -> dict[str, Any]:
    return {**options, "attention_mask": None}


def _config_of(directory: Path, *, told: str) -> dict[str, Any]:
    """What config.json says there. Raises ModelError."""
    path = directory / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        what = "holds no config.json" if directory.is_dir() else "does not exist"
        raise ModelError(
            f"{told}: {directory} {what}; bring config.json and tokenizer.json of the text tower there, since nothing "
            "is looked up on a network"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{told}: cannot read {path} ({one_line(error)}); copy it again") from error
    if not isinstance(found, dict) or "model_type" not in found:
        raise ModelError(f"{told}: {path} is of no text tower: it has no model_type; copy it again")
    return cast("dict[str, Any]", found)


def _needs_transformers(what: str) -> None:
    if importlib.util.find_spec("transformers") is None:
        raise ModelError(
            f"{what} is made by the package transformers, which is missing; pip install 'openwit[transformers]'"
        )
