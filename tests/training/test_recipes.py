"""The shipped recipes against what their systems published, and their small twins on pictures that the test makes.

Each figure stands beside where it was read:

- CLIP: Radford et al., arXiv 2103.00020, section 2.5 and tables 18 (common), 19 (ResNets), 20 (ViTs).
- OpenCLIP: trained_models_info.csv of LAION-AI/scaling-laws-openclip, the models of Cherti et al., arXiv 2212.07143.
- MetaCLIP: Xu et al., arXiv 2309.16671: CLIP's model and training; t in section 3.
- SigLIP: Zhai et al., arXiv 2303.15343, and for the schedule Tschannen et al., arXiv 2502.14786, section 2.1.
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

from configs.load import ConfigError, from_mapping, load, to_mapping
from tests.conftest import REPOSITORY
from tests.training.test_train import losses
from tests.training.tiny_shards import make_evaluation, make_shards
from training.__main__ import main
from training.config import LossConfig, MethodConfig, TrainConfig, learns, total_samples
from training.learning.memory import MARGIN, needs_of
from training.learning.method import make_method
from training.train import train

CONFIGS = REPOSITORY / "configs/train"
RECIPES = REPOSITORY / "docs/recipes.md"
SMALL = ("clip-small", "openclip-small", "metaclip-small", "siglip-small")


@dataclass(frozen=True, kw_only=True)
class Published:
    """A system's own figures."""

    millions: tuple[float, float]
    """Parameters of the image tower, and of all else."""
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
    warmup_steps: int = 2000
    decay: float = 0.2
    beta2: float = 0.98
    eps: float = 1e-6
    clip_norm: float | None = None
    loss: str = "softmax"
    temperature: float = 0.07
    bias: float | None = None
    most_scale: float | None = 100
    quick_gelu: bool = True


WIT = 400_000_000
"""Pairs of CLIP's set (section 2.2), and of MetaCLIP's smaller one."""
CLIP_B = {"image": (12, 768), "text": (12, 512), "data": WIT, "seen": 32 * WIT, "rate": 5e-4}  # tables 18 and 20
CLIP_L = {"embed": 768, "image": (24, 1024), "text": (12, 768), "data": WIT}  # table 20
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
        batch=384 * 224, seen=160 * 200_000_000, warmup_steps=10_000, **OPENCLIP,  # type: ignore[arg-type]
    ),
    "metaclip-vit-b-32-400m": Published(millions=(87.85, 63.43), parameters=151_277_313, **CLIP_B),  # type: ignore[arg-type]
    "metaclip-vit-b-32-2.5b": Published(  # the same training budget
        millions=(87.85, 63.43), parameters=151_277_313, **{**CLIP_B, "data": None},  # type: ignore[arg-type]
    ),
    "siglip-vit-b-16": Published(  # arXiv 2502.14786, section 2.1; temperature and bias 2303.15343, section 3.2
        millions=(92.88, 110.27), context=64, embed=768, image=(12, 768), text=(12, 768), quick_gelu=False,
        seen=40_000_000_000, rate=1e-3, warmup_steps=20_000, decay=1e-4, beta2=0.95, eps=1e-8, clip_norm=1.0,
        loss="sigmoid", temperature=0.1, bias=-10, most_scale=None,
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


def test_every_config_is_a_recipe() -> None:
    found = {path.stem for path in CONFIGS.glob("*.yaml")}
    own = {"sample", "experiment"}  # no system's
    assert found == {*PUBLISHED, *SMALL, *own}
    text = RECIPES.read_text()
    assert not [stem for stem in found - own if f"{stem}.yaml" not in text]


@pytest.mark.parametrize("stem", PUBLISHED)
def test_settings_are_the_published_ones(stem: str) -> None:
    published, config = PUBLISHED[stem], load(TrainConfig, CONFIGS / f"{stem}.yaml")
    optimiser, method = config.optimiser, make_method(config.method, config.loss)
    assert config.global_batch_size == published.batch
    assert total_samples(config, published.data or 0) == -(-published.seen // published.batch) * published.batch
    assert optimiser.warmup_samples == published.warmup_steps * published.batch
    assert (optimiser.learning_rate, optimiser.weight_decay) == (published.rate, published.decay)
    assert (optimiser.beta1, optimiser.beta2, optimiser.eps) == (0.9, published.beta2, published.eps)
    assert (optimiser.final_learning_rate, optimiser.max_gradient_norm) == (0, published.clip_norm)
    assert (config.loss.name, config.loss.init_temperature) == (published.loss, published.temperature)
    assert method.init_logit_bias == published.bias
    assert published.most_scale in (None, config.loss.max_logit_scale)
    assert config.model.normalisation == (
        "inception" if stem in ("siglip-vit-b-16", "openclip-vit-l-14-34b") else "clip"
    )
    head = (CONFIGS / f"{stem}.yaml").read_text()
    assert f"# For {config.plan.gpus} x GPU of {config.plan.gpu_memory_gb:g} GB (python -m training plan" in head


@pytest.mark.parametrize("stem", PUBLISHED)
def test_model_has_its_published_size_and_shapes(stem: str) -> None:
    published, config = PUBLISHED[stem], load(TrainConfig, CONFIGS / f"{stem}.yaml")
    name = config.model.name
    assert bool(open_clip.get_model_config(name).get("quick_gelu")) == published.quick_gelu
    with torch.device("meta"):
        clip: Any = open_clip.create_model(name, device="meta", pretrained_text=False)
    counts = [sum(p.numel() for p in module.parameters()) for module in (clip, clip.visual)]
    millions = [round(count / 1e6, 2) for count in (counts[1], counts[0] - counts[1])]
    assert millions == pytest.approx(published.millions, abs=0.011)  # they round each tower by itself
    assert published.parameters in (None, counts[0])
    visual, text = clip.visual, getattr(clip, "text", clip)
    if hasattr(visual, "layer1"):
        layers = [visual.layer1, visual.layer2, visual.layer3, visual.layer4]
        image = sum(map(len, layers)), layers[-1][-1].bn3.num_features
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
    """The config `stem` over `data`, evaluated nowhere."""
    config = load(TrainConfig, CONFIGS / f"{stem}.yaml")
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
    assert all(0 < loss < 12 for _, loss in found)


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
    assert top1 > 8 / 80


# --- docs/recipes.md --------------------------------------------------------------------------------


def commands() -> list[list[str]]:
    """The words of every command in the docs, behind `python -m`."""
    lines = re.findall(r"^    (?:HF_HUB_OFFLINE=0 )?(?:torchrun .*|python) -m (.*)$", RECIPES.read_text(), re.MULTILINE)
    return [shlex.split(line.partition("  #")[0]) for line in lines]


def test_every_command_of_the_docs_names_a_config_that_takes_its_options() -> None:
    from pipeline.config import WitConfig

    kinds = set()
    for module, verb, path, *words in commands():
        load(TrainConfig if module == "training" else WitConfig, path, words)
        kinds.add((module, verb))
    assert kinds == {("training", "run"), ("training", "plan"), ("training", "export"), ("pipeline", "run")}


def test_metaclip_sets_are_made_with_its_own_t() -> None:
    from pipeline.config import WitConfig

    made = {}
    for module, _, path, *words in commands():
        if module == "pipeline":
            config = load(WitConfig, path, words)
            made[config.output] = config.balance.mode, config.balance.max_pairs_per_query
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
