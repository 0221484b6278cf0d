"""The shipped recipes against what their systems published, and their small twins on pictures that the test makes.

Each figure stands beside where it was read:

- CLIP: Radford et al., arXiv 2103.00020, section 2.5 and tables 18 (common), 19 (ResNets), 20 (ViTs).
- OpenCLIP: trained_models_info.csv of LAION-AI/scaling-laws-openclip, the models of Cherti et al., arXiv 2212.07143.
- MetaCLIP: Xu et al., arXiv 2309.16671: CLIP's model and training; t in section 3.
- SigLIP: Zhai et al., arXiv 2303.15343, and for the schedule Tschannen et al., arXiv 2502.14786, section 2.1.
- FLIP: configs/default.py, configs/cfg_flip_large.py and README.md of facebookresearch/flip (arXiv 2212.00794).
- LiT: proj/image_text/lit_coco.py and README_lit.md of google-research/big_vision (arXiv 2111.07991); 196 M parameters
  in model_cards/lit.md of google-research/vision_transformer.
- ALIGN: Jia et al., arXiv 2102.05918, section 5; EfficientNet-L2 has 480 M parameters (Xie et al., arXiv 1911.04252,
  table 7), of which 5.5 M are its classifier; BERT-large 340 M (Devlin et al., arXiv 1810.04805, section 3).
- DataComp: scale_configs.py of mlfoundations/datacomp (arXiv 2304.14108).
- CLIPA: clipa_torch/scripts/exp/gpu/vit_b16/i50_t16_{pretrain,finetune}.sh of UCSC-VLAA/CLIPA (arXiv 2305.07017).
- EVA-CLIP: the scripts in EVA-CLIP/README.md of baaivision/EVA (arXiv 2303.15389).
- DFN: the model cards of apple/DFN2B-CLIP-ViT-{B-16,L-14} and apple/DFN5B-CLIP-ViT-H-14{,-378} (samples seen), and
  DataComp's scale xlarge for the rest; the network that filters: Fang et al., arXiv 2309.17425, section 4.
- MetaCLIP 2: Chuang et al., arXiv 2507.22062, section 3.4 and table 6; 1,858,783,745 parameters: Keras Hub's
  presets.
- Millions of parameters of both towers: docs/model_profile.csv of open_clip. Whole numbers: OpenAI's released models.
"""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch.distributed.run import parse_args as parse_torchrun

from configs.load import ConfigError, from_mapping, load, to_mapping
from tests.conftest import REPOSITORY
from tests.training.pieces import make_pieces
from tests.training.test_train import losses
from tests.training.tiny_shards import make_evaluation, make_shards
from training.__main__ import main
from training.config import LossConfig, MethodConfig, PlanConfig, TrainConfig, learns, total_samples
from training.learning.memory import MARGIN, needs_of
from training.learning.method import make_method
from training.learning.model import create_model, register_model
from training.train import train

CONFIGS = REPOSITORY / "configs/train"
RECIPES = REPOSITORY / "docs/recipes.md"
SMALL = (
    "clip-small", "openclip-small", "metaclip-small", "siglip-small", "flip-small", "lit-small", "clipa-small",
    "eva-clip-small", "align-small", "siglip2-small", "biomedclip-small", "domain-small", "dfn-small",
    "metaclip-worldwide-small",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Published:
    """A system's own figures."""

    millions: tuple[float, float]
    """Parameters of the image tower, and of all else."""
    within: float = 0.011
    """How near they are: each is rounded by itself."""
    parameters: int | None = None
    image_size: int = 224
    context: int = 77
    embed: int = 512
    image: tuple[int, int]
    """Layers and width of the image tower; blocks and width of its output for RN50."""
    text: tuple[int, int]
    data: int | None = None
    """Pairs of the set, where the length is given in epochs."""
    batch: int = 32_768
    seen: int
    rate: float
    warmup_steps: float = 2000
    decay: float = 0.2
    beta2: float = 0.98
    eps: float = 1e-6
    clip_norm: float | None = None
    optimiser: str = "adamw"
    schedule: str = "cosine"
    smoothing: float = 0
    """Of the labels."""
    towers: tuple[float | None, float | None] = (None, None)
    """Rates of the image tower and the text tower."""
    layer_decay: tuple[float, float] = (1, 1)
    """Of the two."""
    dropped: float = 0
    """Share of the patches."""
    trained_at: int | None = None
    """Side of the pictures, where it is another than the model's."""
    inception: bool = False
    loss: str = "softmax"
    temperature: float = 0.07
    bias: float | None = None
    most_scale: float | None = 100
    quick_gelu: bool = True


VIRTUAL = 1_281_167
"""Samples of FLIP's epochs, and of CLIPA's: ImageNet's."""
FLIP = {  # the image tower is open_clip's ViT-L-16 (304.09 M); the text tower has BERT's 30,522 tokens and one more
    "millions": (304.09, 109.11), "context": 32, "embed": 768, "image": (24, 1024), "text": (12, 768), "batch": 65_536,
    "warmup_steps": 20 * VIRTUAL / 65_536, "beta2": 0.95, "eps": 1e-8, "quick_gelu": False,
}  # fmt: skip
CLIPA = {  # open_clip's ViT-B-16 (86.19, 63.43) with 61 places of 512 fewer in its texts
    "millions": (86.19, 63.40), "context": 16, "image": (12, 768), "text": (12, 512), "beta2": 0.95,
    "quick_gelu": False,
}  # fmt: skip
DATACOMP_B32 = {
    "millions": (87.85, 63.43), "parameters": 151_277_313, "image": (12, 768), "text": (12, 512), "batch": 4_096,
    "rate": 5e-4, "warmup_steps": 500, "quick_gelu": False,
}  # fmt: skip
EVA = {  # params.py there has these betas for models whose name lacks "vit"
    "rate": 5e-4, "decay": 0.05, "beta2": 0.999, "eps": 1e-8, "clip_norm": 5.0, "optimiser": "lamb",
    "quick_gelu": False,
}  # fmt: skip

DFN = {"batch": 90_112, "rate": 1e-3, "warmup_steps": 10_000, "beta2": 0.95}
VIT_H = {"embed": 1024, "image": (32, 1280), "text": (24, 1024)}

WIT = 400_000_000
"""Pairs of CLIP's set (section 2.2), and of MetaCLIP's smaller one."""
CLIP_B = {"image": (12, 768), "text": (12, 512), "data": WIT, "seen": 32 * WIT, "rate": 5e-4}  # tables 18 and 20
CLIP_L = {"embed": 768, "image": (24, 1024), "text": (12, 768), "data": WIT}  # table 20
CLIP_RN = {"data": WIT, "seen": 32 * WIT, "beta2": 0.999, "eps": 1e-8}  # tables 18 and 19
OPENCLIP = {"rate": 1e-3, "quick_gelu": False}

PUBLISHED = {
    "clip-vit-b-32": Published(millions=(87.85, 63.43), parameters=151_277_313, **CLIP_B),  # type: ignore[arg-type]
    "clip-vit-b-16": Published(millions=(86.19, 63.43), parameters=149_620_737, **CLIP_B),  # type: ignore[arg-type]
    "clip-vit-l-14": Published(
        millions=(303.97, 123.65), parameters=427_616_513, seen=32 * WIT, rate=4e-4, **CLIP_L,  # type: ignore[arg-type]
    ),
    "clip-vit-l-14-336": Published(  # section 2.5: "for one additional epoch"; table 20: 2e-5
        millions=(304.29, 123.65), image_size=336, seen=WIT, rate=2e-5, **CLIP_L,  # type: ignore[arg-type]
    ),
    "clip-rn50": Published(  # table 19: blocks (3, 4, 6, 3), width 2048; table 18: beta2 and eps of ResNets
        millions=(38.32, 63.69), parameters=102_007_137, embed=1024, image=(3 + 4 + 6 + 3, 2048), text=(12, 512),
        data=WIT, seen=32 * WIT, rate=5e-4, beta2=0.999, eps=1e-8,
    ),
    "clip-rn101": Published(
        millions=(56.26, 63.43), parameters=119_688_033, embed=512, image=(3 + 4 + 23 + 3, 2048), text=(12, 512),
        rate=5e-4, **CLIP_RN,  # type: ignore[arg-type]
    ),
    "clip-rn50x4": Published(
        millions=(87.14, 91.16), parameters=178_300_601, image_size=288, embed=640, image=(4 + 6 + 10 + 6, 2560),
        text=(12, 640), rate=5e-4, **CLIP_RN,  # type: ignore[arg-type]
    ),
    "clip-rn50x16": Published(
        millions=(167.33, 123.65), parameters=290_979_217, image_size=384, embed=768, image=(6 + 8 + 18 + 8, 3072),
        text=(12, 768), rate=4e-4, **CLIP_RN,  # type: ignore[arg-type]
    ),
    "clip-rn50x64": Published(
        millions=(420.38, 202.88), parameters=623_258_305, image_size=448, embed=1024, image=(3 + 15 + 36 + 10, 4096),
        text=(12, 1024), rate=3.6e-4, **CLIP_RN,  # type: ignore[arg-type]
    ),
    "openclip-vit-b-32-3b": Published(  # Model-B-32_Data-2B_Samples-3B_lr-1e-3_bs-88k
        millions=(87.85, 63.43), image=(12, 768), text=(12, 512),
        batch=344 * 256, seen=12 * 213_334_440, warmup_steps=10_000, **OPENCLIP,  # type: ignore[arg-type]
    ),
    "openclip-vit-b-32-34b": Published(  # Model-B-32_Data-2B_Samples-34B_lr-1e-3_bs-79k
        millions=(87.85, 63.43), image=(12, 768), text=(12, 512),
        batch=824 * 96, seen=256 * 135_646_078, warmup_steps=2_000, **OPENCLIP,  # type: ignore[arg-type]
    ),
    "openclip-vit-b-16-13b": Published(  # Model-B-16_Data-2B_Samples-13B_lr-1e-3_bs-88k
        millions=(86.19, 63.43), image=(12, 768), text=(12, 512),
        batch=176 * 512, seen=65 * 200_532_718, warmup_steps=10_000, **OPENCLIP,  # type: ignore[arg-type]
    ),
    "openclip-vit-l-14-34b": Published(  # laion2b_s32b_b82k
        millions=(303.97, 123.65), embed=768, image=(24, 1024), text=(12, 768),
        batch=384 * 224, seen=160 * 200_000_000, warmup_steps=10_000, inception=True, **OPENCLIP,  # type: ignore[arg-type]
    ),
    "metaclip-vit-b-32-400m": Published(millions=(87.85, 63.43), parameters=151_277_313, **CLIP_B),  # type: ignore[arg-type]
    "metaclip-vit-b-32-2.5b": Published(  # the same training budget
        millions=(87.85, 63.43), parameters=151_277_313, **{**CLIP_B, "data": None},  # type: ignore[arg-type]
    ),
    "siglip-vit-b-16": Published(  # arXiv 2502.14786, section 2.1; temperature and bias 2303.15343, section 3.2
        millions=(92.88, 110.27), context=64, embed=768, image=(12, 768), text=(12, 768), quick_gelu=False,
        seen=40_000_000_000, rate=1e-3, warmup_steps=20_000, decay=1e-4, beta2=0.95, eps=1e-8, clip_norm=1.0,
        loss="sigmoid", temperature=0.1, bias=-10, most_scale=None, inception=True,
    ),
    "siglip2-vit-b-16": Published(  # arXiv 2502.14786, section 2.1; towers as ViT-B-16-SigLIP-256 (92.93 and 110.27)
        millions=(92.93, 110.27 + 0.768e-3 * (256_000 - 32_000)), image_size=256, context=64, embed=768,  # Gemma's
        image=(12, 768), text=(12, 768), quick_gelu=False, seen=40_000_000_000, rate=1e-3, warmup_steps=20_000,
        decay=1e-4, beta2=0.95, eps=1e-8, clip_norm=1.0, loss="sigmoid", temperature=0.1, bias=-10, most_scale=None,
        inception=True,
    ),
    "flip-vit-l-16": Published(
        seen=10_000 * VIRTUAL, rate=4e-6 * 65_536 / 256, dropped=0.5, **FLIP,  # type: ignore[arg-type]
    ),
    "flip-vit-l-16-tune": Published(seen=100 * VIRTUAL, rate=4e-8 * 65_536 / 256, **FLIP),  # type: ignore[arg-type]
    "lit-vit-b-16": Published(  # BERT-base has places for 512 tokens and a pooler besides: 1.0 M
        millions=(85.80, 110.2), within=1.2, context=16, embed=768, image=(12, 768), text=(12, 768), batch=16_384,
        seen=60_000 * 16_384, rate=1e-3, warmup_steps=1_800, decay=0.01, beta2=0.999, eps=1e-8, clip_norm=1.0,
        temperature=0.1, most_scale=None, inception=True, quick_gelu=False,
    ),
    "clipa-vit-b-16": Published(
        batch=8 * 8_192, data=400_000_000, seen=6 * 400_000_000, rate=2.048e-3, warmup_steps=782, trained_at=112,
        **CLIPA,  # type: ignore[arg-type]
    ),
    "clipa-vit-b-16-tune": Published(
        batch=8 * 1_024, seen=131_072_000, rate=2.56e-5, warmup_steps=3_072, **CLIPA,  # type: ignore[arg-type]
    ),
    "align-l2": Published(
        millions=(474.5, 340), within=6, image_size=289, context=64, embed=5504, image=(88, 5504), text=(24, 1024),
        batch=1_024 * 16, seen=1_210_000 * 16_384, rate=1e-3, warmup_steps=10_000, decay=1e-5, beta2=0.999,
        optimiser="lamb", schedule="linear", smoothing=0.1, temperature=1.0, most_scale=None, quick_gelu=False,
    ),
    "datacomp-small": Published(seen=12_800_000, **DATACOMP_B32),  # type: ignore[arg-type]
    "datacomp-medium": Published(seen=128_000_000, **DATACOMP_B32),  # type: ignore[arg-type]
    "datacomp-large": Published(
        millions=(86.19, 63.43), parameters=149_620_737, image=(12, 768), text=(12, 512), batch=8_192, rate=5e-4,
        seen=1_280_000_000, warmup_steps=500, quick_gelu=False,
    ),
    "datacomp-xlarge": Published(
        millions=(303.97, 123.65), parameters=427_616_513, embed=768, image=(24, 1024), text=(12, 768), batch=90_112,
        rate=1e-3, seen=12_800_000_000, warmup_steps=10_000, beta2=0.95, quick_gelu=False,
    ),
    "dfn-vit-b-32": Published(
        millions=(87.85, 63.43), parameters=151_277_313, image=(12, 768), text=(12, 512), batch=16_384, rate=5e-4,
        seen=5_120_000_000,
    ),
    "dfn-vit-b-16": Published(
        millions=(86.19, 63.43), parameters=149_620_737, image=(12, 768), text=(12, 512), seen=12_800_000_000, **DFN,  # type: ignore[arg-type]
    ),
    "dfn-vit-l-14": Published(
        millions=(303.97, 123.65), parameters=427_616_513, embed=768, image=(24, 1024), text=(12, 768),
        seen=12_800_000_000, **DFN,  # type: ignore[arg-type]
    ),
    "dfn-vit-h-14": Published(
        millions=(632.08, 354.03), parameters=986_109_441, seen=39_000_000_000, **VIT_H, **DFN,  # type: ignore[arg-type]
    ),
    "dfn-vit-h-14-378": Published(
        millions=(632.68, 354.03), image_size=378, seen=5_000_000_000, **VIT_H, **{**DFN, "rate": 1e-4},  # type: ignore[arg-type]
    ),
    "metaclip-vit-h-14-worldwide": Published(
        millions=(632.08, 1226.70), parameters=1_858_783_745, batch=75_366, seen=29_000_000_000, rate=4e-4, **VIT_H,  # type: ignore[arg-type]
    ),
    "eva-clip-vit-b-16": Published(
        millions=(86.26, 63.43), image=(12, 768), text=(12, 512), batch=64 * 2_048, seen=200 * 40_000_000,
        towers=(2e-4, 2e-5), layer_decay=(0.75, 0.75), **EVA,  # type: ignore[arg-type]
    ),
    "eva-clip-vit-g-14-plus": Published(
        millions=(1012.59, 354.03), embed=1024, image=(40, 1408), text=(24, 1024), batch=112 * 1_024,
        seen=11_000_000_000, towers=(4e-4, 4e-5), layer_decay=(0.85, 0.75), dropped=0.5, **EVA,  # type: ignore[arg-type]
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


ELSEWHERE = {
    "tests/peers/test_text_tower.py": ("biomedclip-vit-b-16",),  # made by transformers
    "tests/training/test_mobileclip.py": ("mobileclip-s2", "mobileclip2-b", "mobileclip-small"),
    "tests/training/test_coca_recipes.py": ("coca-vit-b-32", "coca-vit-l-14", "coca-small"),
    "tests/training/test_blip_recipes.py": ("blip-vit-b-16", "blip-small"),
    "tests/training/test_qformer_recipes.py": (
        "blip2-vit-g-14-stage1",
        "blip2-vit-g-14-stage2",
        "blip2-small",
        "blip2-small-stage2",
    ),
}
"""Files that hold further configs to what was published."""


def test_every_config_is_a_recipe() -> None:
    found = {path.stem for path in CONFIGS.glob("*.yaml")}
    own = {"sample", "experiment", "experiment-pictures"}  # no system's
    assert found == {*PUBLISHED, *SMALL, *own, *(stem for stems in ELSEWHERE.values() for stem in stems)}
    text = RECIPES.read_text()
    assert not [stem for stem in found - own if f"{stem}.yaml" not in text]


@pytest.mark.parametrize("stem", PUBLISHED)
def test_settings_are_the_published_ones(stem: str) -> None:
    published, config = PUBLISHED[stem], load(TrainConfig, CONFIGS / f"{stem}.yaml")
    optimiser, method = config.optimiser, make_method(config.method, config.loss)
    assert config.global_batch_size == published.batch
    assert total_samples(config, published.data or 0) == -(-published.seen // published.batch) * published.batch
    assert optimiser.warmup_samples == pytest.approx(published.warmup_steps * published.batch, abs=1e-3)
    assert (optimiser.learning_rate, optimiser.weight_decay) == (pytest.approx(published.rate), published.decay)
    assert (optimiser.name, optimiser.schedule) == (published.optimiser, published.schedule)
    assert config.loss.label_smoothing == published.smoothing
    assert (optimiser.image_learning_rate, optimiser.text_learning_rate) == published.towers
    assert (optimiser.image_layer_decay, optimiser.text_layer_decay) == published.layer_decay
    assert config.model.patch_dropout == published.dropped
    assert [phase.image_size for phase in config.phases] == ([published.trained_at] if published.trained_at else [])
    assert (optimiser.beta1, optimiser.beta2, optimiser.eps) == (0.9, published.beta2, published.eps)
    assert (optimiser.final_learning_rate, optimiser.max_gradient_norm) == (0, published.clip_norm)
    assert (config.loss.name, config.loss.init_temperature) == (published.loss, published.temperature)
    assert method.init_logit_bias == published.bias
    assert published.most_scale in (None, config.loss.max_logit_scale)
    assert config.model.normalisation == ("inception" if published.inception else "clip")
    head = (CONFIGS / f"{stem}.yaml").read_text()
    assert f"# For {config.plan.gpus} x GPU of {config.plan.gpu_memory_gb:g} GB (python -m training plan" in head


LARGE = {
    "align-l2", "eva-clip-vit-g-14-plus", "clip-rn50x16", "clip-rn50x64", "dfn-vit-b-32", "dfn-vit-b-16",
    "dfn-vit-l-14", "dfn-vit-h-14", "dfn-vit-h-14-378", "metaclip-vit-h-14-worldwide",
}  # fmt: skip
"""Whose modules take seconds to make, even without weights; with the models of DataComp, which others have, too."""


@pytest.mark.parametrize(
    "stem",
    [
        pytest.param(stem, marks=pytest.mark.slow if stem in LARGE or stem.startswith("datacomp") else ())
        for stem in PUBLISHED
    ],
)
def test_model_has_its_published_size_and_shapes(stem: str) -> None:
    published, config = PUBLISHED[stem], load(TrainConfig, CONFIGS / f"{stem}.yaml")
    name = register_model(config.model.name)
    assert bool(open_clip.get_model_config(name).get("quick_gelu")) == published.quick_gelu
    with torch.device("meta"):
        clip: Any = open_clip.create_model(name, device="meta", pretrained_text=False)
    counts = [sum(p.numel() for p in module.parameters()) for module in (clip, clip.visual)]
    millions = [round(count / 1e6, 2) for count in (counts[1], counts[0] - counts[1])]
    assert millions == pytest.approx(published.millions, abs=published.within)
    assert published.parameters in (None, counts[0])
    visual, text = clip.visual, getattr(clip, "text", clip)
    if hasattr(visual, "layer1"):
        layers = [visual.layer1, visual.layer2, visual.layer3, visual.layer4]
        image = sum(map(len, layers)), layers[-1][-1].bn3.num_features
    elif hasattr(visual, "trunk") and hasattr(
        visual.trunk, "conv_stem"
    ):  # EfficientNet: blocks and width of its output
        image = sum(map(len, visual.trunk.blocks)), visual.trunk.num_features
    elif hasattr(visual, "trunk"):
        image = len(visual.trunk.blocks), visual.trunk.embed_dim
    else:
        image = len(visual.transformer.resblocks), visual.conv1.out_channels
    assert image == published.image
    assert (len(text.transformer.resblocks), text.token_embedding.embedding_dim) == published.text
    size = published.image_size
    assert clip.visual(torch.empty(2, 3, size, size, device="meta")).shape == (2, published.embed)
    tokens = torch.zeros(2, published.context, dtype=torch.int64, device="meta")
    assert clip.encode_text(tokens).shape == (2, published.embed)


@pytest.mark.parametrize(
    "stem",
    [pytest.param(stem, marks=() if stem == "siglip-vit-b-16" else pytest.mark.slow) for stem in PUBLISHED],
)
def test_a_run_fits_on_the_gpus_that_its_config_names(stem: str) -> None:
    config = load(TrainConfig, CONFIGS / f"{stem}.yaml")
    assert needs_of(config).total <= (1 - MARGIN) * config.plan.gpu_memory_gb * 1e9


SLOW_LEARNERS = {"clipa-small", "eva-clip-small"}
"""ViTs, at 10 to 11 % on the sample (docs/recipes.md)."""


# --- the small twins --------------------------------------------------------------------------------


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """a.b.c -> value."""
    if not isinstance(value, dict):
        return {name: value}
    return {
        key: leaf for part, inner in value.items() for key, leaf in flat(inner, f"{name}.{part}".strip(".")).items()
    }


def differences(stem: str) -> dict[str, Any]:
    """What the config `stem` has otherwise than clip-small."""
    base, other = (flat(to_mapping(load(TrainConfig, CONFIGS / f"{name}.yaml"))) for name in ("clip-small", stem))
    return {name: value for name, value in other.items() if value != base.get(name) and name != "output"}


def test_small_twins_differ_where_the_systems_do() -> None:
    models = "configs/train/models/openwit-sample"
    assert differences("metaclip-small") == {"data.path": "data/sample-metaclip"}
    assert differences("dfn-small") == {
        "data.path": "data/sample-dfn",
        "epochs": None,
        "samples": 6 * 3284 // 128 * 128 + 128,
    }
    assert differences("metaclip-worldwide-small") == {
        "model.name": f"{models}-worldwide.json",
        "model.tokenizer": "data/spiece.model",
    }
    assert differences("openclip-small") == {
        "model.name": f"{models}.json",
        "global_batch_size": 256,
        "optimiser.learning_rate": 4e-3,
    }
    assert differences("siglip-small") == {
        "model.name": f"{models}-sigmoid.json",
        "loss.name": "sigmoid",
        "loss.init_temperature": 0.1,
        "loss.max_logit_scale": 1000.0,
        "loss.init_bias": pytest.approx(-math.log(64 - 1), abs=0.005),
        "global_batch_size": 64,
        "optimiser.weight_decay": 1e-4,
        "optimiser.beta2": 0.95,
    }
    vit = {"data.augment.min_crop_area": 0.4, "model.name": f"{models}-vit.json", "optimiser.beta2": 0.95}
    phases = differences("clipa-small")["phases"]
    assert [(phase["begins_at"], phase["image_size"], phase["context_length"]) for phase in phases] == [
        (0.0, 32, 12), (0.9, None, None),
    ]  # fmt: skip
    assert differences("clipa-small") == {**vit, "phases": phases}
    flip = differences("flip-small")
    assert [(phase["begins_at"], phase["patch_dropout"]) for phase in flip.pop("phases")] == [(0.9, 0.0)]
    assert flip == {
        "data.augment.min_crop_area": 0.5,
        "model.name": f"{models}-flip.json",
        "model.patch_dropout": 0.5,
        "optimiser.beta2": 0.95,
    }
    assert differences("lit-small") == {
        "model.name": f"{models}-lit.json",
        "model.init_from": "runs/clip-small",
        "model.init_towers": "image",
        "model.lock_image": True,
        "loss.init_temperature": 0.1,
        "optimiser.weight_decay": 0.01,
    }
    assert differences("eva-clip-small") == {
        "model.name": f"{models}-eva.json",
        "model.patch_dropout": 0.25,
        "optimiser.name": "lamb",
        "optimiser.learning_rate": 1e-2,
        "optimiser.image_layer_decay": 0.9,
        "optimiser.text_layer_decay": 0.9,
        "optimiser.weight_decay": 0.05,
        "optimiser.max_gradient_norm": 5.0,
    }
    assert differences("align-small") == {
        "data.path": "data/sample-align",
        "data.augment.min_crop_area": 0.7,
        "data.augment.max_crop_aspect": 1.0,
        "model.name": f"{models}-lit.json",
        "loss.label_smoothing": 0.1,
        "optimiser.name": "lamb",
        "optimiser.learning_rate": 1e-2,
        "optimiser.schedule": "linear",
        "optimiser.weight_decay": 1e-5,
        "optimiser.beta2": 0.999,
    }
    described = {
        part: open_clip.factory.json.loads(Path(f"{models}{part}.json").read_text())
        for part in ("", "-quickgelu", "-sigmoid")
    }
    assert described["-quickgelu"] == {**described[""], "quick_gelu": True}
    sigmoid = described["-sigmoid"]
    assert sigmoid["vision_cfg"] == described[""]["vision_cfg"]
    assert {k: sigmoid["text_cfg"][k] for k in ("width", "layers", "heads", "vocab_size")} == {
        k: described[""]["text_cfg"][k] for k in ("width", "layers", "heads", "vocab_size")
    }


def test_sigmoids_bias_is_the_papers_unless_it_is_given() -> None:
    def bias(**loss: Any) -> float | None:
        return make_method(MethodConfig(), from_mapping(LossConfig, loss)).init_logit_bias

    assert bias(name="sigmoid") == -10
    assert bias(name="sigmoid", init_bias=-4.14) == -4.14
    assert bias(name="softmax") is None
    with pytest.raises(ConfigError, match="init_bias is of the sigmoid loss, and name is softmax"):
        bias(init_bias=-4.14)
    config = load(TrainConfig, CONFIGS / "siglip-small.yaml")
    other = replace(config, loss=replace(config.loss, init_bias=None))
    assert learns(config) != learns(other)


def small(stem: str, output: Path, data: Path, **changes: Any) -> TrainConfig:
    """The config `stem` over `data`, evaluated nowhere; what it starts from is a tower that is made here, untrained."""
    config = load(TrainConfig, CONFIGS / f"{stem}.yaml")
    if config.model.init_from is not None:
        first = load(TrainConfig, CONFIGS / f"{Path(config.model.init_from).name}.yaml")
        weights = create_model(
            first.model,
            device=torch.device("cpu"),
            precision="fp32",
            init_logit_scale=2.0,
            init_logit_bias=None,
            seed=0,
        ).clip.state_dict()
        path = output.parent / "first.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(dict(weights), path)
        changes["model"] = replace(config.model, init_from=str(path))
    if config.model.tokenizer is not None:
        changes["model"] = replace(config.model, tokenizer=str(make_pieces(output.parent / "spiece.model")))
    return replace(
        config,
        output=str(output), data=replace(config.data, path=str(data), num_workers=0), device="cpu", precision="fp32",
        threads=1, evaluation=replace(config.evaluation, path=None), **changes,
    )  # fmt: skip


@pytest.mark.parametrize("stem", SMALL)
def test_small_twin_takes_two_steps(stem: str, tiny_data: Path, tmp_path: Path) -> None:
    log = replace(load(TrainConfig, CONFIGS / f"{stem}.yaml").log, every_steps=1, tensorboard=False)
    result = train(small(stem, tmp_path / "run", tiny_data, global_batch_size=16, epochs=None, samples=32, log=log))
    assert result.progress.samples_seen == 32
    found = losses(tmp_path / "run")
    assert len(found) == 2
    assert all(0 < loss < 20 for _, loss in found)  # of words alone ln 49,408


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("stem", SMALL)
def test_small_twin_learns(stem: str, tmp_path: Path) -> None:
    """On shapes in colours as the sample has them; chance is 1 of 80."""
    make_shards(tmp_path / "data", counts=(800, 800, 800, 884))
    make_evaluation(tmp_path / "evaluation", per_class=2)
    config = small(stem, tmp_path / "run", tmp_path / "data")
    result = train(replace(config, evaluation=replace(config.evaluation, path=str(tmp_path / "evaluation"))))
    top1 = next(metric.value for metric in result.metrics if metric.name == "zeroshot_top1")
    assert top1 > (4 if stem in SLOW_LEARNERS else 8) / 80


# --- docs/recipes.md --------------------------------------------------------------------------------


def commands() -> list[list[str]]:
    """The words of every command in the docs, behind `python -m`."""
    lines = re.findall(r"^    (?:HF_HUB_OFFLINE=0 )?(?:torchrun .*|python) -m (.*)$", RECIPES.read_text(), re.MULTILINE)
    found = [shlex.split(line.partition("  #")[0]) for line in lines]
    return [words for words in found if words[1] != "caption"]  # which takes a model, not a config


def test_every_command_of_the_docs_names_a_config_that_takes_its_options() -> None:
    from pipeline.config import WitConfig

    kinds = set()
    for module, verb, path, *words in commands():
        load(TrainConfig if module == "training" else WitConfig, path, words)
        kinds.add((module, verb))
    assert kinds == {("training", "run"), ("training", "plan"), ("training", "export"), ("pipeline", "run")}


def pages() -> list[Path]:
    """What people copy commands from; not what tells of earlier ones."""
    return [REPOSITORY / "README.md", *sorted(path for path in RECIPES.parent.glob("*.md") if path.name != "log.md")]


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_every_command_starts_as_many_processes_as_its_config_names_gpus(page: Path) -> None:
    """A process a GPU, on machines of eight; a twin, which names none, takes one process."""
    lines = re.findall(
        r"^(?:    )?(?:[A-Z_]+=\S+ )?(torchrun .*?|python) -m training run (configs/train/\S+\.yaml)(.*)$",
        page.read_text(), re.MULTILINE,
    )  # fmt: skip
    for program, path, rest in lines:
        words = [] if rest.lstrip().startswith("[") else shlex.split(rest.partition("  #")[0])
        config = load(TrainConfig, path, words)
        processes = 1
        if program != "python":
            found = parse_torchrun([*shlex.split(program)[1:], "-m", "training"])
            machines, each = int(found.nnodes.partition(":")[0]), int(found.nproc_per_node)
            assert each <= 8, program
            assert machines == 1 or each == 8, program
            processes = machines * each
        assert processes == config.plan.gpus, f"{page.name}: {path} is for {config.plan.gpus} GPUs: {program}"
        assert config.global_batch_size >= processes
    if page == RECIPES:
        assert len(lines) > 40


def test_where_machines_meet_is_said_as_torchrun_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "export PET_RDZV_BACKEND=c10d PET_RDZV_ENDPOINT=HOST:PORT"
    for page in (RECIPES, RECIPES.with_name("training.md")):
        assert said in page.read_text()
    for word in said.split()[1:]:
        name, _, value = word.partition("=")
        monkeypatch.setenv(name, value)
    found = parse_torchrun(["--nnodes", "4", "--nproc-per-node", "8", "-m", "training"])
    assert (found.rdzv_backend, found.rdzv_endpoint, found.nnodes) == ("c10d", "HOST:PORT", "4")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_says_for_which_machine_it_is(path: Path) -> None:
    config = load(TrainConfig, path)
    head = " ".join(re.match(r"(?:#.*\n)+", path.read_text())[0].replace("\n#", "").split())  # type: ignore[index]
    gpus = f"For {config.plan.gpus} x GPU of {config.plan.gpu_memory_gb:g} GB (python -m training plan"
    assert gpus in head or (config.plan == PlanConfig() and re.search(r"For (a|two) CPU cores?[,.]", head)), head


def test_the_docs_table_of_plans_has_what_the_configs_name() -> None:
    rows = re.findall(
        r"^\| ([a-z0-9.-]+)(?:,[^|]*)? \| (\d+) \| ([\d,]+) \| [\d.]+ \|$", RECIPES.read_text(), re.MULTILINE
    )
    assert len(rows) > 35
    for stem, gpus, samples in rows:
        config = load(TrainConfig, CONFIGS / f"{stem}.yaml")
        assert config.plan.gpus == int(gpus), stem
        assert math.ceil(config.global_batch_size / config.plan.gpus) == int(samples.replace(",", "")), stem


def test_align_keeps_pairs_by_frequency_and_size_alone() -> None:
    """Section 3 of ALIGN's paper; and the same on the sample, but for the sizes of its small pictures."""
    from pipeline.config import WitConfig

    config = load(WitConfig, "configs/shards/align.yaml")
    assert (config.filters.min_side, config.filters.max_aspect_ratio) == (201, 3)  # "larger than 200"
    assert config.dedup.frequent_tokens == 100_000_000
    of_docs = [load(WitConfig, path, words) for module, _, path, *words in commands() if module == "pipeline"]
    on_the_sample = [each for each in of_docs if each.output == "data/sample-align"]
    assert len(on_the_sample) == 1
    for each in (config, *on_the_sample):
        assert (each.dedup.max_urls_per_caption, each.dedup.max_captions_per_url, each.dedup.by) == (10, 1000, "pair")
        assert (each.clean.min_words, each.clean.max_words) == (3, 20)
        assert each.dedup.frequent_tokens is not None
        assert (each.texts.keep_unmatched, each.balance.mode) == (True, "none")


def test_metaclip_sets_are_made_with_its_own_t() -> None:
    from pipeline.config import WitConfig

    made = {}
    for module, _, path, *words in commands():
        if module == "pipeline":
            config = load(WitConfig, path, words)
            made[config.output] = config.balance.mode, config.balance.max_pairs_per_query
    made = {output: of for output, of in made.items() if of[0] == "metaclip"}
    assert made == {
        "data/sample-metaclip": ("metaclip", 20),
        "data/metaclip-400m": ("metaclip", 20_000),  # arXiv 2309.16671, section 3
        "data/metaclip-2.5b": ("metaclip", 170_000),
    }
    for stem in ("metaclip-small", "metaclip-vit-b-32-400m", "metaclip-vit-b-32-2.5b"):
        assert load(TrainConfig, CONFIGS / f"{stem}.yaml").data.path in made


def test_budgets_of_the_docs_are_the_published_ones() -> None:
    """gpus, local_bs, epochs, samples_per_epoch, lr, warmup of trained_models_info.csv, for LAION-2B."""
    rows = {
        ("B/32", "3 B"): (344, 256, 12, 213_334_440, "1e-3", 10_000),
        ("B/32", "13 B"): (128, 256, 65, 200_000_000, "5e-4", 2_000),
        ("B/32", "34 B"): (824, 96, 256, 135_646_078, "1e-3", 2_000),
        ("B/16", "3 B"): (344, 256, 12, 213_334_440, "1e-3", 10_000),
        ("B/16", "13 B"): (176, 512, 65, 200_532_718, "1e-3", 10_000),
        ("B/16", "34 B"): (344, 256, 171, 200_092_953, "1e-3", 10_000),
        ("L/14", "3 B"): (396, 224, 12, 213_334_440, "1e-3", 10_000),
        ("L/14", "13 B"): (1024, 84, 64, 200_000_000, "1e-3", 10_000),
        ("L/14", "34 B"): (384, 224, 160, 200_000_000, "1e-3", 10_000),
    }
    text = RECIPES.read_text()
    for (model, budget), (gpus, local, epochs, each, rate, warmup) in rows.items():
        line = f"| {model} | {budget} | {epochs * each:,} | {gpus * local:,} | {rate} | {warmup:,} |"
        assert line in text, line


def test_the_plan_of_the_docs_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """The one that is shown in full."""
    text = RECIPES.read_text()
    shown = re.search(r"^    (python -m training plan .*siglip-small.*)\n((?:    .*\n)+)", text, re.MULTILINE)
    assert shown is not None
    assert main([*shlex.split(shown[1])[3:], "--data.path", "nowhere"]) == 0
    printed = [
        line for line in capsys.readouterr().out.splitlines() if not line.startswith(("samples", "steps", "quer"))
    ]
    expected = [line[4:] for line in shown[2].splitlines()]
    assert [line for line in printed if line not in expected] == []


def test_the_tokenizer_of_the_docs_is_trained_and_taken(tmp_path: Path, tiny_data: Path) -> None:
    pytest.importorskip("sentencepiece")
    code = re.search(r"```python\n(.*?)```", RECIPES.read_text(), re.DOTALL)
    assert code is not None
    text = code[1].replace("data/sample/", f"{tiny_data}/").replace("data/spiece.model", str(tmp_path / "spiece.model"))
    exec(compile(text, "recipes.md", "exec"), {})
    config = small("siglip-small", tmp_path / "run", tiny_data, global_batch_size=16, epochs=None, samples=16)
    result = train(replace(config, model=replace(config.model, tokenizer=str(tmp_path / "spiece.model"))))
    assert result.progress.samples_seen == 16
