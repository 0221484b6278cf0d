"""open_clip's CLIP of a ViT and a causal text tower, as transformers' CLIPModel.

Names and shapes as `transformers/models/clip/modeling_clip.py` has them; they are those of 4.x and 5.x. Differences:

    open_clip                           CLIPModel
    visual.proj [W, D]                  visual_projection.weight [D, W]
    attn.in_proj_weight [3W, W]         q_proj, k_proj, v_proj
    text pooled at the largest token    pooled at the first `eos_token_id`
    logit_bias (sigmoid loss)           none
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from training.exports.transformers.towers import (
    Weights,
    blocks,
    is_a,
    norm_eps,
    refuse,
    square,
    text_tower,
)
from training.learning.model import Model

__all__ = ["clip_model"]


def clip_model(model: Model) -> tuple[dict[str, Any], Weights]:
    """config.json and the weights. Raises ModelError where CLIPModel cannot be this model."""
    vision, weights = _vision(model)
    text, more = _text(model)
    weights |= more
    clip: Any = model.clip
    weights["logit_scale"] = clip.logit_scale.reshape(())
    size = weights["visual_projection.weight"].shape[0]
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": size,
        "logit_scale_init_value": clip.logit_scale.item(),
        "torch_dtype": "float32",
        "vision_config": {"model_type": "clip_vision_model", "projection_dim": size, **vision},
        "text_config": {"model_type": "clip_text_model", "projection_dim": size, **text},
    }, weights


def _vision(model: Model) -> tuple[dict[str, Any], Weights]:
    visual: Any = model.clip.visual
    if not is_a(visual, "open_clip", "VisionTransformer"):
        trunk = getattr(visual, "trunk", visual)
        refuse(model, f"image tower {type(trunk).__name__}, where CLIPModel has open_clip's own ViT")
    if visual.attn_pool is not None or visual.pool_type != "tok":
        refuse(model, "an image tower that does not take its class token")
    weights, about = blocks(model, visual.transformer, "vision_model.encoder")
    norms = {"pre_layrnorm": visual.ln_pre, "post_layernorm": visual.ln_post}  # theirs is spelt so
    layers = [norm for block in visual.transformer.resblocks for norm in (block.ln_1, block.ln_2)]
    about["layer_norm_eps"] = norm_eps(model, [*norms.values(), *layers])
    for name, norm in norms.items():
        weights |= {f"vision_model.{name}.weight": norm.weight, f"vision_model.{name}.bias": norm.bias}
    weights |= {
        "vision_model.embeddings.class_embedding": visual.class_embedding,
        "vision_model.embeddings.patch_embedding.weight": visual.conv1.weight,
        "vision_model.embeddings.position_embedding.weight": visual.positional_embedding,
        "visual_projection.weight": visual.proj.T,
    }
    about |= {
        "image_size": square(model, visual.image_size, "pictures"),
        "patch_size": square(model, visual.patch_size, "patches"),
        "num_channels": 3,
    }
    return about, weights


def _text(model: Model) -> tuple[dict[str, Any], Weights]:
    text = text_tower(model.clip)
    ends: Any = getattr(model.tokenizer, "eot_token_id", None)
    pool = getattr(text, "text_pool_type", None) or getattr(text, "pool_type", "")
    if not hasattr(text, "token_embedding") or not hasattr(text, "transformer"):
        refuse(model, f"text tower {type(text).__name__}")
    if getattr(text, "attn_mask", None) is None or pool not in ("argmax", "eos"):
        refuse(model, "a text tower that is not causal, or does not take the end mark")
    if getattr(text, "cls_emb", None) is not None:
        refuse(model, "a text tower with a class token")
    if ends is None:
        refuse(model, "a tokenizer that is not CLIP's")
    weights, about = blocks(model, text.transformer, "text_model.encoder")
    layers = [norm for block in text.transformer.resblocks for norm in (block.ln_1, block.ln_2)]
    about["layer_norm_eps"] = norm_eps(model, [text.ln_final, *layers])
    vocabulary, _ = text.token_embedding.weight.shape
    weights |= {
        "text_model.embeddings.token_embedding.weight": text.token_embedding.weight,
        "text_model.embeddings.position_embedding.weight": text.positional_embedding,
        "text_model.final_layer_norm.weight": text.ln_final.weight,
        "text_model.final_layer_norm.bias": text.ln_final.bias,
        "text_projection.weight": _projection(model, text),
    }
    about |= {
        "vocab_size": vocabulary,
        "max_position_embeddings": text.positional_embedding.shape[0],
        "bos_token_id": model.tokenizer.sot_token_id,  # type: ignore[attr-defined]  # CLIP's has both
        "eos_token_id": ends,
        "pad_token_id": ends,
    }
    return about, weights


def _projection(model: Model, text: Any) -> Tensor:
    projection = text.text_projection
    if projection is None:
        return torch.eye(text.ln_final.weight.shape[0])
    if isinstance(projection, nn.Linear):
        if getattr(projection, "bias", None) is not None:
            refuse(model, "a text projection with a bias")
        return projection.weight
    return cast(Tensor, projection.T)
