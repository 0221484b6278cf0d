"""Image towers with batch normalisation under micro-batches, held to the whole batch in one plain computation."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip.timm_model import TimmModel
from torch import Tensor, fx, nn

import training.learning.batch_norm.tower as batch_norm
from configs.load import from_mapping
from tests.training.conftest import TINY_RESNET, TINY_VIT, run_ranks, stop_run, tiny_run
from tests.training.own_method import Everything, plain_loss
from tests.training.ranks_worker import GLOBAL_BATCH, METHODS, Found, make_batch, make_model
from training.config import MethodConfig, ModelConfig, PlanConfig, TrainConfig
from training.distributed import World
from training.errors import ModelError
from training.learning.batch_norm.graph import Segment, input_of, trace
from training.learning.checks import check_model
from training.learning.gradient import accumulate_gradient, make_gradients
from training.learning.memory import needs_of
from training.learning.method import make_method
from training.learning.model import Model, create_model
from training.train import train

METHOD = METHODS["everything"]
ROOMS = {
    "what there is room for": batch_norm.room_for,
    "nothing": lambda segments, sizes: [segment.enough(()) for segment in segments],
    "everything": lambda segments, sizes: [segment.enough(map(input_of, segment.norms)) for segment in segments],
}
"""What a segment keeps while it is computed: how often layers are computed again, and nothing else."""


def timm_json(path: Path, name: str, size: int = 32) -> Path:
    vision = {"image_size": size, "timm_model_name": name, "timm_pool": "avg", "timm_proj": "linear"}
    path.write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": TINY_VIT["text_cfg"]}))
    return path


def make(path: Path) -> Model:
    model = make_model(str(path), METHOD, patch_dropout=0.0)
    model.train()
    return model


def trained(model: Model) -> list[nn.Parameter]:
    return [parameter for parameter in model.clip.parameters() if parameter.requires_grad]


def whole(path: Path) -> tuple[float, Tensor, dict[str, Tensor]]:
    """Loss, gradient and state after it, by plain autograd over the full batch."""
    assert isinstance(METHOD, Everything)
    model = make(path)
    value = torch.stack(list(plain_loss(METHOD, model, make_batch(model.image_size)).values())).sum()
    value.backward()
    gradient = torch.cat([p.grad.flatten() for p in trained(model) if p.grad is not None])
    return float(value.detach()), gradient, dict(model.clip.state_dict())


def cut(path: Path, micro_batches: int) -> tuple[float, Tensor, dict[str, Tensor]]:
    """The same as the trainer has it."""
    model = make(path)
    gradients = make_gradients(model.clip, trained(model), World())
    terms = accumulate_gradient(
        model, METHOD, make_batch(model.image_size), gradients, World(),
        global_batch_size=GLOBAL_BATCH, micro_batches=micro_batches,
    )  # fmt: skip
    gradient = torch.cat([p.grad.flatten() for p in trained(model) if p.grad is not None])
    return float(sum(terms.values())), gradient, dict(model.clip.state_dict())


def check(path: Path, micro_batches: int, expected: tuple[float, Tensor, dict[str, Tensor]]) -> None:
    value, gradient, state = cut(path, micro_batches)
    assert value == pytest.approx(expected[0], rel=1e-12)
    torch.testing.assert_close(gradient, expected[1], rtol=1e-9, atol=1e-11)
    for name, tensor in expected[2].items():  # running statistics follow once, to the same values
        torch.testing.assert_close(state[name], tensor, rtol=1e-12, atol=1e-14, msg=name)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a stem, bottlenecks that change the width, and one that does not."""
    path = tmp_path_factory.mktemp("models") / "openwit-test-bottlenecks.json"
    path.write_text(json.dumps(TINY_RESNET | {"vision_cfg": TINY_RESNET["vision_cfg"] | {"layers": [2, 1, 1, 1]}}))
    return path


@pytest.mark.slow
def test_gradient_and_statistics_are_those_of_the_whole_batch(resnet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = whole(resnet)
    for room, micro_batches in zip(ROOMS.values(), (4, 2, 4), strict=True):
        monkeypatch.setattr(batch_norm, "room_for", room)
        check(resnet, micro_batches, expected)


@pytest.mark.slow
@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize(
    "name", ["test_efficientnet", "test_byobnet", "resnet18", "fastvit_t8", "mobilenetv4_conv_small_050"]
)
def test_timms_towers_have_the_gradient_of_the_whole_batch(
    name: str, room: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = timm_json(tmp_path / f"openwit-{name}.json", name, 64)
    monkeypatch.setattr(batch_norm, "room_for", ROOMS[room])
    expected = whole(path)
    for micro_batches in (2, 4):
        check(path, micro_batches, expected)


def test_bf16_differs_by_rounding_alone(tiny_resnet: Path) -> None:
    found = []
    for micro_batches in (1, 2):
        options = {"init_logit_scale": 1.0, "init_logit_bias": None, "seed": 0, "device": torch.device("cpu")}
        model = create_model(ModelConfig(name=str(tiny_resnet)), precision="bf16", **options)
        gradients = make_gradients(model.clip, trained(model), World())
        terms = accumulate_gradient(
            model, METHODS["softmax"], make_batch(model.image_size), gradients, World(),
            global_batch_size=GLOBAL_BATCH, micro_batches=micro_batches,
        )  # fmt: skip
        found.append((float(terms["contrastive"]), float(gradients.norm())))
    assert found[1] == pytest.approx(found[0], rel=0.05)


def test_an_efficientnet_has_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    path = timm_json(tmp_path / "openwit-efficientnet.json", "test_efficientnet")
    check(path, 2, whole(path))


def test_all_ranks_keep_the_same(tiny_resnet: Path) -> None:
    """Where values are equally large, too: what is found anew, in other places of the memory, is found alike."""
    options = {"init_logit_scale": 1.0, "init_logit_bias": None, "seed": 0, "device": torch.device("cpu")}
    model = create_model(ModelConfig(name=str(tiny_resnet)), precision="fp32", **options)
    towers = [batch_norm.Tower(model) for _ in range(8)]
    images = make_batch(model.image_size).images
    found = [[{str(node) for node in kept} for kept in tower.kept(model, images)] for tower in towers]
    assert all(each == found[0] for each in found)
    assert any(found[0])


@pytest.mark.slow
def test_two_ranks_have_the_gradient_of_one_whole_batch(two_ranks_of_others: Path, tiny_resnet: Path) -> None:
    check_ranks(two_ranks_of_others, tiny_resnet)


@pytest.mark.slow
def test_four_ranks_have_the_gradient_of_one_whole_batch(tmp_path: Path, tiny_vit: Path, tiny_resnet: Path) -> None:
    run_ranks({"folder": str(tmp_path), "model": str(tiny_vit), "resnet": str(tiny_resnet)}, 4)
    check_ranks(tmp_path, tiny_resnet)


def check_ranks(folder: Path, path: Path) -> None:
    found = {key: Found(**facts) for key, facts in torch.load(folder / "resnet.pt").items()}
    assert {micro_batches for _, micro_batches in found} == {1, 2, 4}
    value, expected, _ = whole(path)
    for this in found.values():
        assert this.loss == pytest.approx(value, rel=1e-12)
        torch.testing.assert_close(this.gradient, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_a_run_in_micro_batches_learns_the_same_and_goes_on_with_the_same_bits(
    tiny_data: Path, tiny_resnet: Path, tmp_path: Path
) -> None:
    def run(name: str, **changes: Any) -> dict[str, Any]:
        made = tiny_run(tmp_path / name, tiny_data, tiny_resnet) | {"samples": 64, **changes}
        return made | {"model": {"name": str(tiny_resnet), "gradient_checkpointing": True}}

    def ends(name: str) -> tuple[bytes, list[float]]:
        (weights,) = sorted((tmp_path / name).glob("checkpoints/*64*/model.safetensors"))
        lines = map(json.loads, (tmp_path / name / "log.jsonl").read_text().splitlines())
        return weights.read_bytes(), [line["loss"] for line in lines if "loss" in line]

    train(from_mapping(TrainConfig, run("whole")))
    train(from_mapping(TrainConfig, run("cut", micro_batches=2)))
    stop_run(run("stopped", micro_batches=2), step=3)
    train(from_mapping(TrainConfig, run("stopped", micro_batches=2)))
    assert ends("cut")[1] == pytest.approx(ends("whole")[1], rel=1e-3)
    assert ends("stopped")[0] == ends("cut")[0]


def test_what_crosses_between_segments_is_one_value_and_blocks_are_segments() -> None:
    for name, blocks in (("test_efficientnet", 5), ("test_byobnet", 4)):
        segments = trace(TimmModel(name, 16, 32), name=name)
        assert len(segments) == blocks + 2
        for before, after in pairwise(segments):
            assert before.result is after.source
            others = {argument for node in after.nodes for argument in node.all_input_nodes} - set(after.nodes)
            assert {node for node in others if node.op != "get_attr"} == {after.source}


class Fork(nn.Module):
    """A layer that both of two kept values are made of, and a first call that writes into what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.left, self.right = nn.BatchNorm2d(3), nn.BatchNorm2d(3, affine=False), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.relu_())
        left, right = x * 2, x.sin()
        return (self.left(left) + self.right(right)).mean((2, 3))


def test_a_layer_between_two_kept_values_is_kept_itself() -> None:
    (segment,) = trace(Fork(), name="fork")
    first, left, right = map(input_of, segment.norms)
    assert segment.enough([left, right]) == {first, left, right}
    assert segment.enough([left]) == {first, left}
    assert segment.enough([]) == frozenset()


@pytest.mark.parametrize("kept", [False, True])
def test_layers_without_gains_and_calls_that_write_are_exact(kept: bool) -> None:
    torch.manual_seed(0)
    module = Fork().double()
    (segment,) = trace(module, name="fork")
    found = segment.enough(map(input_of, segment.norms) if kept else ())
    bounds = batch_norm.Cut([(0, 3), (3, 5)], World(), lambda: torch.autocast("cpu", enabled=False))
    x = torch.randn(5, 3, 4, 4, dtype=torch.float64)
    sources = [x.clone().requires_grad_() for _ in range(2)]
    weights = torch.randn(5, 3, dtype=torch.float64)
    plain = torch.autograd.grad((module(sources[0] + 0) * weights).sum(), [sources[0], *module.parameters()])
    made = batch_norm.segment_of_batch(segment, bounds, found, sources[1])
    again = torch.autograd.grad((made * weights).sum(), [sources[1], *module.parameters()])
    torch.testing.assert_close(again, plain, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(sources[1].detach(), x, rtol=0, atol=0)


class Turned(Everything):
    """Shows the tower other pictures than the batch's."""

    def forward(self, model: Model, batch: Any, **options: Any) -> Any:
        return super().forward(model, batch.having({"image": batch.images.flip(0)}), **options)


class Direct(Everything):
    """Calls the tower by itself."""

    def forward(self, model: Model, batch: Any, **options: Any) -> Any:
        model.clip.visual(model.pixels(batch.images))
        return super().forward(model, batch, **options)


@pytest.mark.parametrize(
    ("name", "line"), [("Turned", "other pictures than the batch's own"), ("Direct", "would see a micro-batch")]
)
def test_what_would_see_a_micro_batch_is_refused(name: str, line: str, resnet: Path) -> None:
    method = make_method(
        MethodConfig(name=f"{__name__}:{name}"), from_mapping(TrainConfig, tiny_run(resnet, resnet, resnet)).loss
    )
    model = make(resnet)
    gradients = make_gradients(model.clip, trained(model), World())
    with pytest.raises(ModelError, match=line):
        accumulate_gradient(
            model, method, make_batch(model.image_size), gradients, World(),
            global_batch_size=GLOBAL_BATCH, micro_batches=2,
        )  # fmt: skip
    assert model.pictures is None
    model.encode_image(make_batch(model.image_size).images)  # as ever


def test_towers_that_cannot_be_cut_are_refused_before_training(tiny_data: Path, resnet: Path, tmp_path: Path) -> None:
    config = from_mapping(TrainConfig, tiny_run(tmp_path, tiny_data, resnet) | {"micro_batches": 2})
    model = make(resnet)
    check_model(config, model, World())
    with pytest.raises(ModelError, match="over whole weights only; set --distributed ddp"):
        check_model(replace(config, distributed="fsdp"), model, World(size=2))
    model.clip.add_module("extra", nn.BatchNorm1d(3))
    with pytest.raises(ModelError, match="in extra, outside the image tower"):
        check_model(config, model, World())
    drawn = make(timm_json(tmp_path / "openwit-drawn.json", "test_efficientnet"))
    check_model(config, drawn, World())
    drawn.clip.visual.trunk.blocks[2][0].aa = nn.Dropout(0.1)
    with pytest.raises(ModelError, match=r"draw anew .*trunk.blocks.2.0.aa.*; set it to 0"):
        check_model(config, drawn, World())


def test_layers_of_timm_keep_their_activations_over_ranks(tmp_path: Path) -> None:
    from timm.layers import SyncBatchNormAct

    path = timm_json(tmp_path / "openwit-efficientnet.json", "test_efficientnet")
    model = create_model(
        ModelConfig(name=str(path)), device=torch.device("cpu"), precision="fp32", init_logit_scale=1.0,
        init_logit_bias=None, seed=0, synchronise_batch_norm=True,
    )  # fmt: skip
    layer = model.clip.visual.trunk.bn1
    assert isinstance(layer, SyncBatchNormAct)
    assert float(layer.eval()(torch.randn(2, layer.num_features, 3, 3)).detach().min()) > -1  # SiLU is above -0.28


@pytest.mark.slow
def test_the_plan_counts_the_pictures_of_all_micro_batches(tiny_data: Path, tiny_resnet: Path, tmp_path: Path) -> None:
    run = tiny_run(tmp_path, tiny_data, tiny_resnet) | {"global_batch_size": 4096, "samples": 8192}
    run["model"] = {"name": str(tiny_resnet), "gradient_checkpointing": True}
    config = from_mapping(TrainConfig, run)
    found = {n: needs_of(replace(config, micro_batches=n)).memory["activations"] for n in (1, 2, 8)}
    assert found[1] > found[2] > found[8]
    half = needs_of(replace(config, micro_batches=8, plan=PlanConfig(gpus=2))).memory["activations"]
    assert half == pytest.approx(found[8] / 2, rel=0.1)


def test_room_is_what_later_segments_will_have_freed(resnet: Path) -> None:
    model = make(resnet)
    tower = batch_norm.Tower(model)
    sizes: dict[fx.Node, int] = batch_norm._sizes(tower.segments, model, make_batch(model.image_size).images[:1])
    found = batch_norm.room_for(tower.segments, sizes)
    assert found[0]
    assert not found[-1]
    kept_anyway = sum(sizes[segment.source] for segment in tower.segments) + sizes[tower.segments[-1].result]
    segment: Segment
    for i, (segment, kept) in enumerate(zip(tower.segments, found, strict=True)):
        held = sum(sizes[before.source] for before in tower.segments[: i + 1])
        if kept:
            both = sizes[segment.source] + sizes[segment.result]
            assert held + both + 2 * sum(sizes[value] for value in kept) <= batch_norm.ROOM * kept_anyway
