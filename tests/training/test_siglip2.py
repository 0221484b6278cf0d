"""SigLIP 2: its terms, when they begin, what they leave behind."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from configs.load import ConfigError, from_mapping, load
from tests.conftest import REPOSITORY
from tests.ports import free_port
from tests.training.conftest import tiny_run
from tests.training.ranks_worker import make_batch, make_model
from tests.training.siglip2_worker import OPTIONS, TINY, found_of, make_method_of_test, spoil
from tests.training.test_train import CrashError, assert_same_run, crash, interrupt_at, weights_of
from training.config import LossConfig, MethodConfig, ModelConfig, TrainConfig
from training.data.batches import Batch
from training.distributed import World
from training.errors import ModelError
from training.learning.heads import HEADS
from training.learning.keyed import draws
from training.learning.method import make_method
from training.learning.methods.siglip2.caption_decoder import IGNORED, CaptionDecoder, labels_of
from training.learning.methods.siglip2.siglip2 import Siglip2
from training.learning.methods.siglip2.views import local_views
from training.learning.model import Model, create_model
from training.train import train


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The JSON of a small vision transformer of timm's with texts as SigLIP's."""
    path = tmp_path_factory.mktemp("models") / "openwit-test-tokens.json"
    path.write_text(json.dumps(TINY))
    return path


# --- the terms, as a textbook has them ----------------------------------------------------------------


def plain_terms(method: Siglip2, model: Model, batch: Batch) -> dict[str, Tensor]:
    """Over the whole batch, sample by sample, with every matrix whole."""
    options, clip = method.options, model.clip
    pixels = (batch.images.permute(0, 3, 1, 2).double() - model.mean_C11) / model.std_C11
    image, patches = model.encode_image_and_tokens(batch.images, batch.keys)
    text = model.encode_text(batch.tokens)
    logits = clip.logit_scale.exp() * image @ text.T + clip.logit_bias
    signs = 2 * torch.eye(len(batch), dtype=torch.float64) - 1
    terms = {"contrastive": -F.logsigmoid(signs * logits).sum() / len(batch)}

    parallel = draws(batch.keys, 1, purpose=2)[:, 0] < 0.5
    assert 0 < parallel.sum() < len(batch)
    found = [
        plain_caption(model, batch.tokens[row], patches[row : row + 1], bool(parallel[row]))
        for row in range(len(batch))
    ]
    terms["caption"] = torch.stack([value for value, _ in found]).sum() / sum(count for _, count in found)

    distil, masked, teacher = model.head("distil"), model.head("masked"), model.head("teacher").module
    views = local_views(pixels, batch.keys, count=3, size=16, min_area=0.05, max_area=0.4).unflatten(0, (-1, 3))
    order = draws(batch.keys, 4, purpose=3).argsort(1)
    of_views, of_patches = [], []
    for row in range(len(batch)):
        whole = pixels[row : row + 1]
        with torch.no_grad():
            pooled, patches = teacher(whole, tokens=True, drops=False)
        for view in views[row]:
            part, _ = clip.visual(view[None], tokens=True, drops=False)
            of_views.append(cross_entropy(distil, part[0], pooled[0]) / 3)
        mask = torch.zeros(1, 4, dtype=torch.bool)
        mask[0, order[row, :2]] = True
        token = model.head("mask").token
        _, seen = clip.visual(whole, tokens=True, drops=False, mask_BP=mask, mask_token=token)
        of_patches += [cross_entropy(masked, seen[0, i], patches[0, i]) / 2 for i in order[row, :2]]
    terms["distil"] = options.size_factor * torch.stack(of_views).sum() / len(batch)
    terms["masked"] = options.size_factor * 0.25 * torch.stack(of_patches).sum() / len(batch)
    return terms


def plain_caption(model: Model, tokens: Tensor, patches: Tensor, is_parallel: bool) -> tuple[Tensor, int]:
    """Cross-entropy of one caption, and its tokens."""
    decoder: Any = model.head("decoder")
    length, end = 24, int((tokens != 0).sum())
    shown = torch.cat([torch.tensor([decoder._start]), tokens[:-1]])
    if is_parallel:
        shown = torch.full((length,), decoder._mask)
    x = (decoder.embedding.weight[shown] + decoder.positions)[None]
    hidden = torch.zeros(length, length, dtype=torch.bool) if is_parallel else torch.ones(length, length).triu(1).bool()
    for layer in decoder.layers:
        x = layer(x, decoder.bridge(patches), tgt_mask=hidden)
    logits = decoder.norm(x)[0] @ decoder.words.weight.T + decoder.words.bias
    return F.cross_entropy(logits[:end], tokens[:end], reduction="sum"), end


def cross_entropy(head: Any, student: Tensor, teacher: Tensor) -> Tensor:
    def logits(side: Any, x: Tensor) -> Tensor:
        return F.normalize(side.mlp(x), dim=-1) @ F.normalize(side.prototypes, dim=1).T

    target = ((logits(head.teacher, teacher).detach() - head.centre) / 0.04).softmax(0)
    return F.cross_entropy(logits(head.student, student)[None] / 0.1, target[None])


@pytest.fixture(scope="module")
def reference(tiny: Path) -> tuple[dict[str, float], Tensor]:
    method = make_method_of_test()
    model = make_model(str(tiny), method)
    spoil(model)
    terms = plain_terms(method, model, make_batch(model.image_size))
    torch.stack(list(terms.values())).sum().backward()
    trained = [p for p in model.clip.parameters() if p.requires_grad]
    return {name: float(term.detach()) for name, term in terms.items()}, torch.cat([p.grad.flatten() for p in trained])


def check(found: dict[int, tuple[dict[str, float], Tensor, list[Tensor]]], reference: Any, centres: Any) -> None:
    terms, gradient = reference
    assert set(found) == {1, 2, 4}
    for these, this, moved in found.values():
        assert these == {name: pytest.approx(value, rel=1e-11) for name, value in terms.items()}
        torch.testing.assert_close(this, gradient, rtol=1e-8, atol=1e-11)
        for one, other in zip(moved, centres, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.fixture(scope="module")
def centres(tiny: Path) -> list[Tensor]:
    """Where a step over the whole batch moves them: a tenth of the way to the teacher's mean logits."""
    model = make_model(str(tiny), make_method_of_test())
    spoil(model)
    batch = make_batch(model.image_size)
    pixels = (batch.images.permute(0, 3, 1, 2).double() - model.mean_C11) / model.std_C11
    with torch.no_grad():
        pooled, patches = model.head("teacher").module(pixels, tokens=True, drops=False)
        order = draws(batch.keys, 4, purpose=3).argsort(1)[:, :2]
        masked = torch.cat([patches[row, order[row]] for row in range(len(batch))])
        moved = []
        for name, rows in (("distil", pooled), ("masked", masked)):
            head: Any = model.head(name)
            mean = (F.normalize(head.teacher.mlp(rows), dim=1) @ F.normalize(head.teacher.prototypes, dim=1).T).mean(0)
            moved.append(0.9 * head.centre + 0.1 * mean)
    return moved


def test_gradient_with_micro_batches_equals_full_batch_gradient(
    tiny: Path, reference: Any, centres: list[Tensor]
) -> None:
    check(found_of(str(tiny), World(), sharded=False), reference, centres)


def ranks(tiny: Path, folder: Path, count: int) -> dict[str, Any]:
    """What `count` processes found, which meet on loopback."""
    port = str(free_port())
    environment = {
        **os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(count),
    }  # fmt: skip
    words = [sys.executable, "-m", "tests.training.siglip2_worker", str(tiny), str(folder / "found.pt")]
    started = [
        subprocess.Popen(
            words, cwd=REPOSITORY, env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(count)
    ]  # fmt: skip
    said = [process.communicate(timeout=600)[0] for process in started]
    assert not any(process.returncode for process in started), said
    found: dict[str, Any] = torch.load(folder / "found.pt")
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("count", [2, 4])
def test_gradient_over_ranks_equals_single_process_gradient(
    count: int, tiny: Path, reference: Any, centres: list[Tensor], tmp_path: Path
) -> None:
    found = ranks(tiny, tmp_path, count)
    assert set(found) == {"whole", "sharded"}
    for of_kind in found.values():
        check(of_kind, reference, centres)


# --- when they begin --------------------------------------------------------------------------------

BEGINS = {"name": "siglip2", "options": {**OPTIONS, "begins_at": 0.55, "ramp": 0.2, "momentum": 0.5}}


@pytest.fixture(scope="module")
def trained(tiny: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A finished run of ten steps, in the sixth of which nothing is late yet, and in the seventh all is."""
    run = tiny_run(tmp_path_factory.mktemp("siglip2") / "run", tiny_data, tiny)
    run |= {"method": BEGINS, "loss": {"name": "sigmoid"}, "micro_batches": 2}
    config = from_mapping(TrainConfig, run)
    train(config)
    return config


@pytest.mark.parametrize("step", [pytest.param(5, marks=pytest.mark.slow), 6])
def test_resumed_run_is_the_same_across_the_start_of_the_late_losses(
    step: int, trained: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(trained, output=str(tmp_path / "run"))
    with monkeypatch.context() as patch:
        interrupt_at(patch, step, crash)
        with pytest.raises(CrashError):
            train(config)
    weights = weights_of(config.output)
    head = f"{HEADS}.teacher.module."
    theirs = {name.removeprefix(head): value for name, value in weights.items() if name.startswith(head)}
    is_student = [torch.equal(value, weights[f"visual.{name}"]) for name, value in theirs.items()]
    assert all(is_student) if step == 6 else not all(is_student)
    train(config)
    assert_same_run(config.output, trained.output)


def test_late_losses_are_none_before_they_begin_and_rise(trained: TrainConfig) -> None:
    lines = [json.loads(line) for line in (Path(trained.output) / "log.jsonl").read_text().splitlines()]
    late = [line["loss_distil"] for line in lines]
    assert late[:6] == [0.0] * 6
    assert 0 < late[6] < late[7]
    assert lines[-1]["loss_caption"] < lines[0]["loss_caption"] == pytest.approx(math.log(49408), rel=1e-3)
    head = weights_of(trained.output)
    assert head[f"{HEADS}.distil.centre"].abs().sum() > 0


def test_nothing_late_is_computed_before(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = make_method_of_test()
    model = make_model(str(tiny), method)
    before = {name: value.clone() for name, value in model.clip.state_dict().items()}
    monkeypatch.setattr(Siglip2, "_late", lambda *_: pytest.fail("computed"))
    method.before_step(model, samples_seen=70, total=100)
    output = method.forward(model, make_batch(model.image_size))
    assert {name: float(value.detach()) > 0 for name, value in output.sums.items()} == {
        "caption": True, "distil": False, "masked": False,
    }  # fmt: skip
    method.after_step(model, samples_seen=79)
    after = model.clip.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items() if name.startswith(HEADS))


def test_late_losses_rise_in_a_line(tiny: Path) -> None:
    method = make_method_of_test(begins_at=0.5, ramp=0.2)
    model = make_model(str(tiny), method)
    found = []
    for samples_seen in (50, 55, 70, 99):
        method.before_step(model, samples_seen=samples_seen, total=100)
        with torch.no_grad():
            found.append(method.forward(model, make_batch(model.image_size)).sums)
    for name in ("distil", "masked"):
        whole = float(found[3][name])
        assert [float(sums[name]) for sums in found] == pytest.approx([0, whole / 4, whole, whole])


# --- what it is made of -----------------------------------------------------------------------------


def test_tokens_pool_to_the_features_of_the_tower_as_it_is(tiny: Path) -> None:
    model = make_model(str(tiny), make_method_of_test(), patch_dropout=0.5)
    batch = make_batch(model.image_size)
    features, tokens = model.encode_image_and_tokens(batch.images, batch.keys)
    assert tokens.shape == (len(batch), 2, 64)
    # timm interpolates positions in float32.
    torch.testing.assert_close(features, model.encode_image(batch.images, batch.keys), rtol=1e-5, atol=1e-6)


def test_views_are_those_parts_of_the_picture() -> None:
    """On a ramp, which bilinear filters leave as it is."""
    ramp = torch.arange(64, dtype=torch.float64) + 0.5
    picture = torch.stack([ramp.expand(64, 64), ramp[:, None].expand(64, 64), torch.zeros(64, 64)])
    keys = torch.arange(40) * 7919 + 1
    pictures = picture.expand(40, -1, -1, -1).double()
    views = local_views(pictures, keys, count=2, size=12, min_area=0.05, max_area=0.4)
    assert views.shape == (80, 3, 12, 12)
    inner = views[:, :, 3:9, 3:9]
    across = (inner[:, 0, 0, 5] - inner[:, 0, 0, 0]) / 5 * 12
    down = (inner[:, 1, 5, 0] - inner[:, 1, 0, 0]) / 5 * 12
    area = across * down / 64**2
    assert 0.049 < float(area.min()) < 0.1
    assert 0.35 < float(area.max()) < 0.401
    assert 3 / 4 - 1e-6 <= float((across / down).min()) < float((across / down).max()) <= 4 / 3 + 1e-6
    alone = local_views(pictures[7:8], keys[7:8], count=2, size=12, min_area=0.05, max_area=0.4)
    torch.testing.assert_close(views[14:16], alone)


def test_draws_are_uniform_and_apart() -> None:
    keys = torch.arange(500) * 7919 + 1
    one, other = (draws(keys, 8, purpose=purpose) for purpose in (1, 2))
    assert float(one.mean()) == pytest.approx(0.5, abs=0.02)
    assert 0 <= float(one.min()) < float(one.max()) < 1
    assert abs(float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])) < 0.05
    torch.testing.assert_close(draws(keys[3:4], 8, purpose=1)[0], one[3], rtol=0, atol=0)


def test_labels_end_where_the_caption_does() -> None:
    nothing = IGNORED
    zeros = torch.tensor([[5, 6, 1, 0, 0], [5, 6, 7, 8, 1]])
    assert labels_of(zeros).tolist() == [[5, 6, 1, nothing, nothing], [5, 6, 7, 8, 1]]
    ends = torch.tensor([[5, 6, 1, 1, 1], [5, 6, 7, 8, 1]])  # SigLIP fills up with the end mark
    assert labels_of(ends).tolist() == [[5, 6, 1, nothing, nothing], [5, 6, 7, 8, 1]]


def test_captions_are_written_from_left_to_right_or_all_at_once() -> None:
    torch.manual_seed(2)
    decoder = CaptionDecoder(vocabulary=20, context_length=6, width=16, heads=2, layers=2, image_width=8).double()
    torch.nn.init.normal_(decoder.words.weight)
    picture = torch.randn(1, 3, 8, dtype=torch.float64)

    def of_token(tokens: list[int], asked: int, *, is_parallel: bool) -> float:
        """Of the token at `asked`: what a caption that ends there costs, less what the one before it does."""
        costs = []
        for last in (asked + 1, asked):
            labels = torch.tensor([[*tokens[:last], *[IGNORED] * (6 - last)]])
            costs.append(float(decoder(picture, labels, torch.tensor([is_parallel])).detach()))
        return costs[0] - costs[1]

    one, other = [3, 4, 5, 6, 7, 1], [9, 8, 5, 2, 2, 1]
    assert of_token(one, 2, is_parallel=True) == pytest.approx(of_token(other, 2, is_parallel=True))
    assert of_token(one, 2, is_parallel=False) != pytest.approx(of_token(other, 2, is_parallel=False))
    later = [3, 4, 5, 2, 2, 1]
    whole = decoder(picture, torch.tensor([[3, 4, 5, *[IGNORED] * 3]]), torch.tensor([False]))
    assert float(whole.detach()) == pytest.approx(sum(of_token(later, i, is_parallel=False) for i in range(3)))


def test_published_heads_have_their_sizes() -> None:
    """Section 2.2: the text tower's shape with half of its layers; 2.3: the image tower once more."""
    config = load(TrainConfig, REPOSITORY / "configs/train/siglip2-vit-b-16.yaml")
    method = make_method(config.method, config.loss)
    with torch.device("meta"):
        clip: Any = open_clip.create_model("ViT-B-16-SigLIP2-256", device="meta", pretrained_text=False)
        heads: Any = method.heads(clip)
    assert len(heads["decoder"].layers) == 6
    assert heads["decoder"].words.weight.shape == (256_000, 768)
    # 16 matrices of 768 x 768 a layer; words twice, with a start and a mask; places; and gains and biases.
    matrices = 6 * 16 * 768**2 + (256_000 + 256_002 + 64) * 768
    found = sum(p.numel() for p in heads["decoder"].parameters())
    assert found == matrices + (6 * 3 + 2) * 768 + 256_000
    assert sum(p.numel() for p in heads["teacher"].parameters()) == sum(p.numel() for p in clip.visual.parameters())
    assert heads["distil"].student.prototypes.shape == heads["masked"].student.prototypes.shape == (65_536, 256)
    options = method.options
    assert (options.caption_weight, options.distil_weight, options.masked_weight, options.size_factor) == (
        1,
        1,
        0.25,
        0.25,
    )
    assert (options.parallel, options.begins_at, options.views, options.masked) == (0.5, 0.8, 8, 0.5)


# --- in one line, before training -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "options", "says"),
    [
        ({"name": "softmax"}, {}, "goes with the sigmoid loss"),
        ({"name": "sigmoid"}, {"begins_at": 1.5}, r"begins_at must lie in \[0, 1\]"),
        ({"name": "sigmoid"}, {"min_view_area": 0.5}, "min_view_area must not exceed max_view_area"),
        ({"name": "sigmoid"}, {"decoder_layers": 0}, "decoder_layers must be at least 1"),
        ({"name": "sigmoid"}, {"vews": 2}, "did you mean 'views'"),
    ],
)
def test_a_mistake_in_the_options_is_one_line(loss: dict[str, Any], options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        make_method(MethodConfig(name="siglip2", options=options), from_mapping(LossConfig, loss))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("part", "changes", "says"),
    [
        ("vision_cfg", {"timm_model_name": "test_efficientnet_gn", "timm_pool": "", "timm_proj": "linear"}, "is none"),
        pytest.param(
            "vision_cfg",
            {"timm_model_name": "naflexvit_base_patch16_siglip", "timm_pool": ""},
            "NaFlex",
            marks=pytest.mark.slow,  # its model is one of full size
        ),
    ],
)
def test_a_tower_without_patches_of_one_size_is_refused(
    part: str, changes: dict[str, Any], says: str, tmp_path: Path
) -> None:
    path = tmp_path / f"openwit-test-{says.split()[-1].lower()}.json"  # "siglip" in it asks for SigLIP's tokenizer
    path.write_text(json.dumps({**TINY, part: {**TINY[part], **changes}}))
    with pytest.raises(ModelError, match=says) as caught:
        made(path, make_method_of_test())
    assert "\n" not in str(caught.value)


def test_views_of_no_whole_patches_and_a_locked_tower_are_refused(tiny: Path) -> None:
    with pytest.raises(ConfigError, match="view_size 20 is no multiple of the 16 pixels of a patch"):
        made(tiny, make_method_of_test(view_size=20))
    method = make_method_of_test()
    model = made(tiny, method)
    model.image_is_locked = True
    with pytest.raises(ConfigError, match=r"model\.lock_image: siglip2 trains the image tower"):
        method.before_step(model, samples_seen=0, total=100)


def made(path: Path, method: Siglip2) -> Model:
    return create_model(
        ModelConfig(name=str(path)), device=torch.device("meta"), precision="fp32", seed=0, heads=method.heads,
        init_logit_scale=method.init_logit_scale, init_logit_bias=method.init_logit_bias,
    )  # fmt: skip
