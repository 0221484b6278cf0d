"""open_clip's SigLIP, timm's ViT with an attention pool and a text tower that sees all, as transformers' SiglipModel.

Names and shapes as `transformers/models/siglip/modeling_siglip.py` has them, for SigLIP and for the models of SigLIP 2
with pictures of one size. Differences:

    timm, open_clip                     SiglipModel
    attn.qkv [3W, W]                    q_proj, k_proj, v_proj
    attn_pool.latent, .q, .kv           head.probe, head.attention.in_proj_weight [3W, W]
    logit_scale, logit_bias []          [1]
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from training.exports.transformers.towers import (
    Weights,
    activation_of,
    blocks,
    is_a,
    norm_eps,
    refuse,
    square,
    text_tower,
)
from training.learning.model import Model

__all__ = ["is_siglip", "siglip_model"]


def is_siglip(model: Model) -> bool:
    """Whether the image tower is pooled as SigLIP's."""
    return is_a(getattr(getattr(model.clip.visual, "trunk", None), "attn_pool", None), "timm", "AttentionPoolLatent")


def siglip_model(model: Model) -> tuple[dict[str, Any], Weights]:
    """config.json and the weights. Raises ModelError where SiglipModel cannot be this model."""
    vision, weights = _vision(model)
    text, more = _text(model)
    weights |= more
    clip: Any = model.clip
    bias = getattr(clip, "logit_bias", None)
    weights["logit_scale"] = clip.logit_scale.reshape(1)
    weights["logit_bias"] = torch.zeros(1) if bias is None else bias.reshape(1)
    return {
        "architectures": ["SiglipModel"],
        "model_type": "siglip",
        "torch_dtype": "float32",
        "vision_config": {"model_type": "siglip_vision_model", **vision},
        "text_config": {"model_type": "siglip_text_model", **text},
    }, weights


def _vision(model: Model) -> tuple[dict[str, Any], Weights]:
    visual: Any = model.clip.visual
    trunk, pool = visual.trunk, visual.trunk.attn_pool
    if len(visual.head) or not isinstance(trunk.head, nn.Identity):
        refuse(model, "a projection behind the attention pool")
    if getattr(trunk, "num_prefix_tokens", 0) or not isinstance(trunk.norm_pre, nn.Identity):
        refuse(model, "an image tower with a class token or a norm before its blocks")
    if trunk.pos_embed is None or pool.latent.shape[:2] != (1, 1) or pool.pos_embed is not None:
        refuse(model, "an image tower with other positions or several latents")
    if not isinstance(trunk.fc_norm, nn.Identity):
        refuse(model, "a norm behind the pool")
    weights: Weights = {}
    norms = [trunk.norm, pool.norm]
    for number, block in enumerate(trunk.blocks):
        name, attention = f"vision_model.encoder.layers.{number}", block.attn
        own = (block.ls1, block.ls2, attention.q_norm, attention.k_norm, getattr(attention, "norm", nn.Identity()))
        if not all(isinstance(each, nn.Identity) for each in own):
            refuse(model, "blocks with a layer scale, or norms in the attention")
        norms += [block.norm1, block.norm2]
        weights |= _cut(f"{name}.self_attn", attention.qkv.weight.chunk(3), attention.qkv.bias.chunk(3))
        for theirs, ours in (
            ("self_attn.out_proj", attention.proj),
            ("layer_norm1", block.norm1),
            ("layer_norm2", block.norm2),
            ("mlp.fc1", block.mlp.fc1),
            ("mlp.fc2", block.mlp.fc2),
        ):
            weights |= _pair(f"{name}.{theirs}", ours)
    if not isinstance(pool.q_norm, nn.Identity) or not isinstance(pool.k_norm, nn.Identity):
        refuse(model, "norms in the attention pool")
    weights |= {
        **_pair("vision_model.embeddings.patch_embedding", trunk.patch_embed.proj),
        "vision_model.embeddings.position_embedding.weight": trunk.pos_embed[0],
        **_pair("vision_model.post_layernorm", trunk.norm),
        "vision_model.head.probe": pool.latent,
        "vision_model.head.attention.in_proj_weight": torch.cat([pool.q.weight, pool.kv.weight]),
        "vision_model.head.attention.in_proj_bias": torch.cat([pool.q.bias, pool.kv.bias]),
        **_pair("vision_model.head.attention.out_proj", pool.proj),
        **_pair("vision_model.head.layernorm", pool.norm),
        **_pair("vision_model.head.mlp.fc1", pool.mlp.fc1),
        **_pair("vision_model.head.mlp.fc2", pool.mlp.fc2),
    }
    first = trunk.blocks[0]
    act = {activation_of(model, first.mlp.act), activation_of(model, pool.mlp.act)}
    if len(act) > 1 or pool.num_heads != first.attn.num_heads:
        refuse(model, "an attention pool whose heads or activation are not those of the blocks")
    if pool.mlp.fc1.out_features != first.mlp.fc1.out_features:
        refuse(model, "an attention pool of another width than the blocks")
    return {
        "hidden_size": trunk.embed_dim,
        "intermediate_size": first.mlp.fc1.out_features,
        "num_hidden_layers": len(trunk.blocks),
        "num_attention_heads": first.attn.num_heads,
        "hidden_act": act.pop(),
        "attention_dropout": 0.0,
        "layer_norm_eps": norm_eps(model, norms),
        "image_size": square(model, trunk.patch_embed.img_size, "pictures"),
        "patch_size": square(model, trunk.patch_embed.patch_size, "patches"),
        "num_channels": 3,
    }, weights


def _text(model: Model) -> tuple[dict[str, Any], Weights]:
    text = text_tower(model.clip)
    if not is_a(text, "open_clip", "TextTransformer"):
        refuse(model, f"text tower {type(text).__name__}")
    if text.attn_mask is not None or text.pool_type != "last" or text.cls_emb is not None or text.use_pad_mask:
        refuse(model, "a text tower that is causal, masks padding or does not take the last token, as SigLIP's does")
    if not isinstance(text.text_projection, nn.Linear) or text.text_projection.bias is None:
        refuse(model, "a text projection without a bias")
    weights, about = blocks(model, text.transformer, "text_model.encoder")
    layers = [norm for block in text.transformer.resblocks for norm in (block.ln_1, block.ln_2)]
    about["layer_norm_eps"] = norm_eps(model, [text.ln_final, *layers])
    weights |= {
        "text_model.embeddings.token_embedding.weight": text.token_embedding.weight,
        "text_model.embeddings.position_embedding.weight": text.positional_embedding,
        **_pair("text_model.final_layer_norm", text.ln_final),
        **_pair("text_model.head", text.text_projection),
    }
    about |= {
        "vocab_size": text.token_embedding.weight.shape[0],
        "max_position_embeddings": text.positional_embedding.shape[0],
        "projection_size": text.text_projection.out_features,
    }
    return about, weights


def _pair(name: str, module: Any) -> Weights:
    return {f"{name}.weight": module.weight, f"{name}.bias": module.bias}


def _cut(name: str, matrices: tuple[Tensor, ...], biases: tuple[Tensor, ...]) -> Weights:
    parts = zip(("q_proj", "k_proj", "v_proj"), matrices, biases, strict=True)
    return {
        f"{name}.{part}.{kind}": value
        for part, *pair in parts
        for kind, value in zip(("weight", "bias"), pair, strict=True)
    }
