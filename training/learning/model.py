"""open_clip models for training: made by name or from a JSON file, fed with uint8 images and trimmed text.

Shapes: B samples, C channels, H = W = image size, L = tokens, D = embedding width.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import numpy as np
import numpy.typing as npt
import open_clip
import torch
import torch.nn.functional as F
from open_clip.transformer import text_global_pool
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from configs.presets import shipped
from pipeline.errors import one_line
from training.config import ModelConfig, Precision
from training.data.batch import trim
from training.data.batches import Tokenizer
from training.errors import ModelError
from training.learning.batch_norm.graph import has_batch_norm
from training.learning.checkpointing import set_checkpointing
from training.learning.conv_stem import put_conv_stem
from training.learning.decoder import draw_unset
from training.learning.heads import HEADS
from training.learning.initial_weights import load_heads, load_image_tower, load_weights
from training.learning.patch_dropout import KeyedPatchDropout, drop_patches
from training.learning.sharding import layers_of, shard_module
from training.learning.text_tower import check_text_tower, ignore_padding, load_text_tower
from training.learning.tokenizer import make_tokenizer

if TYPE_CHECKING:
    from training.learning.batch_norm.tower import Tower

__all__ = [
    "Captioner",
    "Embedder",
    "FoundPictures",
    "Model",
    "create_model",
    "lock_image_tower",
    "model_json",
    "own_image_size",
    "preprocess_json",
    "register_model",
    "resolve_precision",
    "unit",
]


_Encoded = tuple[Tensor, Tensor | None]
"""Unit features, and tokens for a decoder."""

_STATISTICS = {
    "clip": (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD),
    "inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""Mean and deviation of each channel, of pixels in [0, 1]."""


def register_model(name: str) -> str:
    """Make `name` known to open_clip and return open_clip's name for it.

    A path ending in .json is registered under its stem; below `configs/` it may be one that this project brings along.
    Raises ModelError for a missing or malformed file, for an unknown name (with near ones), and for a file that would
    hide a model of open_clip.
    """
    if name.endswith(".json"):
        path = shipped(name)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"{name}: cannot read the model's JSON ({one_line(error)})") from error
        missing = {"embed_dim", "vision_cfg", "text_cfg"} - set(content)
        if missing:
            raise ModelError(f"{name}: not an open_clip model: {', '.join(sorted(missing))} missing")
        known = open_clip.get_model_config(path.stem)
        if known is not None and known != content:
            raise ModelError(f"{name}: open_clip has another model named {path.stem!r}; rename the file")
        open_clip.add_model_config(path)
        return path.stem
    if open_clip.get_model_config(name) is None:
        import difflib

        near = difflib.get_close_matches(name, open_clip.list_models(), 3)
        hint = f"did you mean {' or '.join(near)}?" if near else "or give the path of a model JSON"
        raise ModelError(f"model.name: open_clip has no model {name!r}; {hint}")
    return name


def model_json(name: str) -> dict[str, Any]:
    """The model's description, as in open_clip's model JSON."""
    return cast("dict[str, Any]", open_clip.get_model_config(register_model(name)))


def preprocess_json(image_size: int, normalisation: Literal["clip", "inception"] = "clip") -> dict[str, Any]:
    """What open_clip shall do to pictures before it shows them to a model of this trainer (see ModelConfig)."""
    mean, deviation = _STATISTICS[normalisation]
    return {
        "size": image_size,
        "mean": list(mean),
        "std": list(deviation),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }


def own_image_size(name: str) -> int:
    """Side of the pictures that the model names, in pixels."""
    size = model_json(name)["vision_cfg"].get("image_size", 224)
    return int(size[0] if isinstance(size, (list, tuple)) else size)


def resolve_precision(precision: Precision, device: torch.device) -> Literal["fp32", "bf16"]:
    """`auto` made definite: bf16 where the hardware multiplies it natively, else fp32.

    On a CPU that is AVX-512 BF16 or AMX; without them bf16 is emulated and slower than fp32.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if native else "fp32"


class FoundPictures(Protocol):
    """Those of a batch whose features were found at once (`batch_norm/`)."""

    def features(self, images_BHWC: Tensor) -> Tensor:
        """Unit features [B, D] of some of them, uint8[B, H, W, C]."""


class Embedder(Protocol):
    """How a model embeds whose features are not its towers'."""

    def encode_image(self, images_BHWC: Tensor) -> Tensor:
        """Unit features of uint8[B, H, W, C]: [B, D], or [B, Q, D] of Q queries, of which the likest counts."""

    def encode_text(self, tokens_BL: Tensor) -> Tensor:
        """Unit features [B, D] of int64[B, L]."""


class Captioner(Protocol):
    """How a model writes captions."""

    @property
    def beside(self) -> str:
        """Hexadecimal digits over the weights beside the model's by which it writes; "" where there are none."""

    def captions(self, images_BHWC: npt.NDArray[np.uint8], keys: Sequence[int]) -> list[list[str]]:
        """Of each picture, RGB uint8[B, S, S, 3] as the model wants them, its captions. `keys`: int64 of each, by which
        what is drawn is drawn."""


class Model:
    """An open_clip model with what the loop needs around it.

    `clip` is open_clip's module, whose state dict is the checkpoint; this wrapper holds no parameters.
    """

    def __init__(
        self,
        clip: nn.Module,
        *,
        name: str,
        device: torch.device,
        precision: Literal["fp32", "bf16"],
        tokenizer: Tokenizer | None = None,
    ) -> None:
        """Wrap `clip`, which is on `device`; `tokenizer` is made where it is not given. Raises ModelError."""
        self.clip = clip
        self.name = name
        self.device = device
        self.precision = precision
        self.tokenizer = tokenizer or make_tokenizer(name)
        visual = cast(Any, clip).visual
        size = visual.image_size
        self.image_size = int(size[0] if isinstance(size, (tuple, list)) else size)
        mean = getattr(visual, "image_mean", None) or open_clip.OPENAI_DATASET_MEAN
        std = getattr(visual, "image_std", None) or open_clip.OPENAI_DATASET_STD
        dtype = next(clip.parameters()).dtype
        about = getattr(visual, "preprocess_cfg", None) or {}
        self.resize_mode = str(about.get("resize_mode", "shortest"))
        self.interpolation = str(about.get("interpolation", "bicubic"))
        self.fill_color = int(about.get("fill_color", 0))
        self.mean_C11 = torch.tensor(mean, device=device, dtype=dtype).view(3, 1, 1) * 255
        self.std_C11 = torch.tensor(std, device=device, dtype=dtype).view(3, 1, 1) * 255
        text = getattr(clip, "text", clip)
        # A causal tower that pools at the end-of-text token never looks at what follows it; one with a token of its own
        # behind the text (CoCa) does.
        pools = getattr(text, "text_pool_type", getattr(text, "pool_type", ""))
        is_causal = getattr(text, "attn_mask", None) is not None and getattr(text, "cls_emb", None) is None
        self.can_trim = is_causal and pools in ("argmax", "eos")
        self.has_decoder = isinstance(clip, open_clip.CoCa)
        self.reads_tokens = device.type == "cpu"
        """Whether what tokens say may decide shapes: on a GPU they would have to be waited for."""
        self.is_sharded = False
        self.embedder: Embedder | None = None
        """In the towers' stead, set by a method that needs one."""
        self.captioner: Captioner | None = None
        """Set by a method that writes captions."""
        self.image_is_locked = not any(p.requires_grad for p in visual.parameters())
        self.pictures: FoundPictures | None = None
        """Where `encode_image` takes features from, while a batch's are found at once."""
        self.cut_tower: Tower | None = None
        """The image tower as `batch_norm/` cuts it, once it was asked to."""
        self._dropouts = [m for m in clip.modules() if isinstance(m, KeyedPatchDropout)]
        self._normalise: Callable[[Tensor], Tensor] = self._normalised
        self._image_features: Callable[[Tensor], _Encoded] = self._features_of_images
        self._text_features: Callable[[Tensor], _Encoded] = self._features_of_text
        self._caption_logits: Callable[[Tensor, Tensor], Tensor] = self._logits_of_captions

    def head(self, name: str) -> nn.Module:
        """One of the method's heads."""
        return cast(nn.ModuleDict, getattr(self.clip, HEADS))[name]

    def set_patch_dropout(self, share: float) -> None:
        """The share of the patches that are left out from now on; the model was made with some dropout."""
        for dropout in self._dropouts:
            dropout.share = share

    def train(self) -> None:
        """Training mode; a locked image tower stays in evaluation mode, so that it says the same every time."""
        self.clip.train()
        if self.image_is_locked:
            cast(nn.Module, self.clip.visual).eval()

    def compile(self) -> None:
        """Compile both towers (see ModelConfig.compile)."""
        self._image_features = torch.compile(self._image_features)
        self._text_features = torch.compile(self._text_features, dynamic=True)
        if self.has_decoder:
            self._caption_logits = torch.compile(self._caption_logits, dynamic=True)

    def shard(self, mesh: DeviceMesh, *, compile_layers: bool = False) -> None:
        """Cut the weights over the ranks of `mesh` and move them to its device (see `sharding.py`).

        `compile_layers`: instead of `compile`, which would take the gathering of the weights into the compiled code.
        """
        if compile_layers:
            self._normalise = torch.compile(self._normalise)  # which `compile` has with the tower
            of_images = set(layers_of(cast(nn.Module, self.clip.visual)))
            for layer in layers_of(self.clip):
                layer.compile(dynamic=None if layer in of_images else True)
        self.is_sharded = True
        half = torch.bfloat16 if self.precision == "bf16" else None
        forwards: dict[str, Callable[..., Any]] = {
            "image_features": self._features_of_images,
            "text_features": self._features_of_text,
        }
        if self.has_decoder:
            forwards["caption_logits"] = self._logits_of_captions
        forwards = shard_module(self.clip, mesh, forwards, heads=HEADS, compute_dtype=half)
        self._image_features, self._text_features = forwards["image_features"], forwards["text_features"]
        self._caption_logits = forwards.get("caption_logits", self._caption_logits)

    def encode_image(self, images_BHWC: Tensor, keys_B: Tensor | None = None) -> Tensor:
        """Unit features [B, D] of uint8[B, H, W, C], at least float32; with an `embedder` those that it makes. `keys_B`
        seed the patch dropout."""
        if self.embedder is not None:
            return self.embedder.encode_image(images_BHWC)
        if self.pictures is not None:
            return self.pictures.features(images_BHWC)
        return self.encode_image_tokens(images_BHWC, keys_B)[0]

    def encode_text(self, tokens_BL: Tensor) -> Tensor:
        """Unit features [B, D] of tokens int64[B, L], L at most the context length, at least float32."""
        if self.embedder is not None:
            return self.embedder.encode_text(tokens_BL)
        return self.encode_text_tokens(tokens_BL)[0]

    def encode_image_tokens(self, images_BHWC: Tensor, keys_B: Tensor | None = None) -> _Encoded:
        """`encode_image`, and of a model with a decoder what that looks at, [B, P, W]; of others None."""
        for dropout in self._dropouts:
            dropout.keys_B = keys_B
        with self.autocast(), torch.set_grad_enabled(torch.is_grad_enabled() and not self.image_is_locked):
            return self._image_features(images_BHWC)

    def encode_text_tokens(self, tokens_BL: Tensor) -> _Encoded:
        """`encode_text`, and of a model with a decoder what that goes on from, [B, L, W]; of others None."""
        if self.can_trim and self.reads_tokens:
            tokens_BL = trim(tokens_BL)
        with self.autocast():
            return self._text_features(tokens_BL)

    def encode_image_and_tokens(self, images_BHWC: Tensor, keys_B: Tensor) -> tuple[Tensor, Tensor]:
        """Unit features [B, D], and the tokens that they were pooled from, [B, P, W], of uint8[B, H, W, C]; of a tower
        that `give_tokens` has prepared. `keys_B` seed the patch dropout."""
        for dropout in self._dropouts:
            dropout.keys_B = keys_B
        with self.autocast():
            features_BD, tokens_BPW = cast(Any, self.clip).visual(self.pixels(images_BHWC), tokens=True)
        return unit(features_BD), tokens_BPW

    def caption_logits(self, image_tokens_BPW: Tensor, text_tokens_BTW: Tensor) -> Tensor:
        """The decoder's logits [B, T, V] of the token behind each of T, which may be fewer than the text has."""
        with self.autocast():
            return self._caption_logits(image_tokens_BPW, text_tokens_BTW)

    def pixels(self, images_BHWC: Tensor) -> Tensor:
        """[B, C, H, W], as the image tower takes them, of uint8[B, H, W, C]."""
        return self._normalise(images_BHWC)

    def _normalised(self, images_BHWC: Tensor) -> Tensor:
        # NHWC memory seen as NCHW is channels-last, which is what convolutions want on every device.
        images_BCHW = images_BHWC.permute(0, 3, 1, 2).to(self.mean_C11.dtype)
        return (images_BCHW - self.mean_C11) / self.std_C11

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode without gradients, training mode afterwards if it was on."""
        was_training = self.clip.training
        self.clip.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            if was_training:
                self.train()

    def autocast(self) -> torch.autocast:
        """What towers and heads are computed in, for methods that call them by themselves."""
        # Sharded weights are gathered as bf16 already: autocast would keep copies of its own until the backward pass.
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.precision == "bf16" and not self.is_sharded
        )

    # What is compiled, from uint8 pixels and tokens to unit features and what a decoder wants.

    def _features_of_images(self, images_BHWC: Tensor) -> _Encoded:
        images_BCHW = self.pixels(images_BHWC)
        clip = cast(Any, self.clip)
        features_BD, tokens_BPW = clip.visual(images_BCHW) if self.has_decoder else (clip.visual(images_BCHW), None)
        return unit(features_BD), tokens_BPW

    def _features_of_text(self, tokens_BL: Tensor) -> _Encoded:
        if self.has_decoder:
            features_BD, text_tokens_BLW = cast(Any, self.clip).text(tokens_BL)
            return unit(features_BD), text_tokens_BLW
        return unit(self._text_tower(tokens_BL)), None

    def _logits_of_captions(self, image_tokens_BPW: Tensor, text_tokens_BTW: Tensor) -> Tensor:
        return cast(Tensor, cast(Any, self.clip).text_decoder(image_tokens_BPW, text_tokens_BTW))

    def _text_tower(self, tokens_BL: Tensor) -> Tensor:
        if not isinstance(self.clip, open_clip.CLIP):
            return cast(Tensor, self.clip.encode_text(tokens_BL))  # type: ignore[operator]  # open_clip's towers have it
        # open_clip.CLIP.encode_text wants exactly context_length tokens; the same steps, for fewer.
        clip = cast(Any, self.clip)
        length = tokens_BL.shape[1]
        x_BLW = clip.token_embedding(tokens_BL) + clip.positional_embedding[:length]
        mask = None if clip.attn_mask is None else clip.attn_mask[:length, :length]
        x_BLW = clip.ln_final(clip.transformer(x_BLW, attn_mask=mask))
        x_BW = text_global_pool(x_BLW, tokens_BL, clip.text_pool_type, eos_token_id=clip.text_eos_id)
        if clip.text_projection is None:
            return cast(Tensor, x_BW)
        if isinstance(clip.text_projection, nn.Linear):
            return cast(Tensor, clip.text_projection(x_BW))
        return cast(Tensor, x_BW @ clip.text_projection)


def create_model(
    config: ModelConfig,
    *,
    device: torch.device,
    precision: Literal["fp32", "bf16"],
    init_logit_scale: float,
    init_logit_bias: float | None,
    seed: int,
    image_size: int | None = None,
    mesh: DeviceMesh | None = None,
    heads: Callable[[nn.Module], Mapping[str, nn.Module]] = lambda _: {},
    inherits: Sequence[str] = (),
    synchronise_batch_norm: bool = False,
    tokenizer: Tokenizer | None = None,
    preprocess: Mapping[str, Any] | None = None,
) -> Model:
    """The model of `config`, on `device`, in training mode, weights drawn from `seed`.

    With `mesh` its weights are cut over the ranks there. `synchronise_batch_norm`: over all ranks, where it has some.

    `image_size` is the side of its pictures, None for the one that the model names. `heads` are what a method adds, of
    which those that it `inherits` begin as `model.init_from` has them.
    `tokenizer` is made where it is not given. `preprocess`: what to do to pictures, by open_clip's names (mean, std,
    interpolation, resize_mode), before what `config` says. On the meta device nothing is drawn.

    `init_logit_scale` is the logarithm of the initial scale, `init_logit_bias` the sigmoid loss's bias
    (None: the model has none). Raises ModelError.
    """
    name = register_model(config.name)
    check_text_tower(name, model_json(name))
    tokenizer = tokenizer or make_tokenizer(
        name, config.tokenizer
    )  # first: it may say at once what takes minutes to build and then fails
    mean, deviation = _STATISTICS[config.normalisation]
    overrides: dict[str, Any] = {"init_logit_scale": init_logit_scale}
    overrides["force_preprocess_cfg"] = {"mean": mean, "std": deviation, **(preprocess or {})}
    if image_size is not None:
        overrides["force_image_size"] = image_size
    if init_logit_bias is not None:
        overrides["init_logit_bias"] = init_logit_bias
    torch.manual_seed(seed)
    # open_clip warns on the root logger that weights are random; here they are meant to be.
    quiet = logging.getLogger()
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        where = device if device.type == "meta" else "cpu"
        clip = open_clip.create_model(name, device=where, pretrained_text=False, output_dict=True, **overrides)
    except (RuntimeError, TypeError, ValueError, AssertionError, OSError) as error:
        raise ModelError(f"{config.name}: open_clip cannot build it: {one_line(error, 300)}") from error
    finally:
        quiet.setLevel(level)
    draw_unset(clip)
    if config.conv_stem:
        put_conv_stem(cast(nn.Module, clip.visual), config.conv_stem, name=name)
    if config.init_from is not None:
        load_weights(clip, config.init_from, towers=config.init_towers, name=name, positions=config.init_text_positions)
    if config.init_image_from is not None:
        load_image_tower(clip, config.init_image_from, name=name)
    if config.init_text_from is not None:
        load_text_tower(clip, config.init_text_from, name=name)
    if device.type == "meta":
        ignore_padding(clip)
    _tell_causal(getattr(clip, "text", clip))
    if isinstance(clip, open_clip.CoCa):
        _tell_causal(clip.text_decoder)
    if own := heads(clip):
        clip.add_module(HEADS, nn.ModuleDict(own))
    if config.init_from is not None and inherits:
        load_heads(clip, config.init_from, inherits, name=name)
    if config.lock_image:
        lock_image_tower(clip, config, name=name)
    if config.patch_dropout:
        drop_patches(clip.visual, config.patch_dropout, name=name)
    if config.gradient_checkpointing:
        set_checkpointing(clip, True)
    if synchronise_batch_norm and has_batch_norm(clip):
        # torch's own would lose the activations of timm's layers
        clip = convert_sync_batchnorm(clip)  # type: ignore[no-untyped-call]  # timm's
    if mesh is None:
        clip.to(device)
    model = Model(clip, name=name, device=device, precision=precision, tokenizer=tokenizer)
    if mesh is not None:
        model.shard(mesh, compile_layers=config.compile)
    model.train()
    if config.compile and mesh is None:
        model.compile()
    return model


def lock_image_tower(clip: nn.Module, config: ModelConfig, *, name: str) -> None:
    """Leave the image tower of `clip`, which is named `name`, as it is, but for its last layer groups. Raises
    ModelError."""
    try:
        cast(Any, clip).lock_image_tower(unlocked_groups=config.unlocked_image_groups, freeze_bn_stats=True)
    except (AssertionError, AttributeError, RuntimeError, TypeError) as error:
        raise ModelError(f"model.lock_image: {name} cannot be locked so ({one_line(error, 300)})") from error


class _CausalAttention(nn.MultiheadAttention):
    """torch's attention, which says that a mask of [L, L] is the causal one.

    torch then passes a flag in its stead. Flash attention takes no mask (aten's sdp_utils.cpp,
    `check_for_attn_mask`), so with one a slower kernel runs.
    """

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *arguments: Any, **options: Any) -> Any:
        """As torch's."""
        mask = options.get("attn_mask")
        options["is_causal"] = mask is not None and mask.ndim == 2
        return super().forward(query, key, value, *arguments, **options)


def _tell_causal(text: nn.Module) -> None:
    """Have the layers of a causal text tower, or of a decoder, know that they are."""
    mask_LL = getattr(text, "attn_mask", None)
    if not isinstance(mask_LL, Tensor) or mask_LL.is_meta or mask_LL.ndim != 2:
        return
    ahead_LL = torch.ones_like(mask_LL, dtype=torch.bool).triu(1)
    if torch.equal(mask_LL == -torch.inf, ahead_LL) and not mask_LL.masked_fill(ahead_LL, 0).any():
        for layer in cast(nn.Module, getattr(text, "transformer", text)).modules():
            if type(layer) is nn.MultiheadAttention:
                layer.__class__ = _CausalAttention


def unit(features_BD: Tensor) -> Tensor:
    """[B, D] of length 1, at least float32."""
    if features_BD.dtype in (torch.bfloat16, torch.float16):
        features_BD = features_BD.float()
    return F.normalize(features_BD, dim=-1)
