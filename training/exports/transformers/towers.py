"""What both kinds of model share: open_clip's blocks by transformers' names, and what a tower is made of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn, cast

from torch import Tensor, nn

from training.errors import ModelError
from training.learning.model import Model

__all__ = ["Weights", "activation_of", "blocks", "is_a", "norm_eps", "refuse", "square", "text_tower"]

Weights = dict[str, Tensor]


def refuse(model: Model, why: str) -> NoReturn:
    """Raise ModelError: transformers has no such model."""
    raise ModelError(
        f"{model.name}: transformers has no model of this kind ({why}); take --to onnx, or --to open_clip, which its "
        "users load by open_clip"
    )


def is_a(module: object, package: str, name: str) -> bool:
    """Whether `module` is of the class `name` of open_clip or timm; by name, since they may not be imported here."""
    return any(cls.__name__ == name and cls.__module__.partition(".")[0] == package for cls in type(module).__mro__)


def text_tower(clip: nn.Module) -> Any:
    """The text tower: a module of its own, or the parts of open_clip.CLIP itself."""
    return getattr(clip, "text", clip)


def activation_of(model: Model, module: nn.Module) -> str:
    """transformers' name (ACT2FN) of an activation."""
    if is_a(module, "open_clip", "QuickGELU"):
        return "quick_gelu"
    if isinstance(module, nn.GELU):
        return {"none": "gelu", "tanh": "gelu_pytorch_tanh"}[module.approximate]
    if is_a(module, "timm", "GELUTanh"):
        return "gelu_pytorch_tanh"
    if is_a(module, "timm", "GELU"):
        return "gelu"
    refuse(model, f"activation {type(module).__name__}")


def norm_eps(model: Model, norms: Iterable[nn.Module]) -> float:
    """The one epsilon of a tower's layer norms, of which its config has one."""
    found = set()
    for norm in norms:
        if not isinstance(norm, nn.LayerNorm) or norm.weight is None or norm.bias is None:
            refuse(model, f"{type(norm).__name__} in place of a layer norm")
        found.add(float(norm.eps))
    if len(found) > 1:
        refuse(model, f"layer norms of several epsilons {sorted(found)}")
    return found.pop()


def square(model: Model, size: Any, what: str) -> int:
    """The side of a square."""
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    if height != width:
        refuse(model, f"{what} of {height} x {width}")
    return int(height)


def blocks(model: Model, transformer: Any, prefix: str) -> tuple[Weights, dict[str, Any]]:
    """The weights of open_clip's Transformer below `prefix`, and what a config says of it."""
    weights: Weights = {}
    found = list(transformer.resblocks)
    for number, block in enumerate(found):
        if not is_a(block, "open_clip", "ResidualAttentionBlock") or not isinstance(block.attn, nn.MultiheadAttention):
            refuse(model, f"blocks of {type(block).__name__} with {type(block.attn).__name__}")
        if not isinstance(block.ls_1, nn.Identity) or not isinstance(block.ls_2, nn.Identity):
            refuse(model, "blocks with a layer scale")
        name = f"{prefix}.layers.{number}"
        attention = block.attn
        for part, weight, bias in zip(
            ("q_proj", "k_proj", "v_proj"),
            cast(Tensor, attention.in_proj_weight).chunk(3),
            cast(Tensor, attention.in_proj_bias).chunk(3),
            strict=True,
        ):
            weights |= {f"{name}.self_attn.{part}.weight": weight, f"{name}.self_attn.{part}.bias": bias}
        for theirs, ours in (
            ("self_attn.out_proj", attention.out_proj),
            ("layer_norm1", block.ln_1),
            ("layer_norm2", block.ln_2),
            ("mlp.fc1", block.mlp.c_fc),
            ("mlp.fc2", block.mlp.c_proj),
        ):
            weights |= {f"{name}.{theirs}.weight": ours.weight, f"{name}.{theirs}.bias": ours.bias}
    first = found[0]
    return weights, {
        "hidden_size": first.attn.embed_dim,
        "intermediate_size": first.mlp.c_fc.out_features,
        "num_hidden_layers": len(found),
        "num_attention_heads": first.attn.num_heads,
        "hidden_act": activation_of(model, first.mlp.gelu),
        "attention_dropout": 0.0,
    }
