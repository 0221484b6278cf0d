"""What a CPU can show of how the trainer will do on GPUs: nothing waits, nothing is kept, flash attention may run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from configs.load import load
from tests.training import siglip2_worker
from tests.training.blip_reference import TINY_BLIP
from tests.training.conftest import TINY_VIT
from tests.training.families import TINY_COCA
from tests.training.qformer_worker import SHAPE
from tests.training.waits import META, Wait, a_step, on_meta, waiting
from training.config import TrainConfig
from training.data.batch import Batch
from training.data.taught import SYNTHETIC, TEACHER_SCALE, teacher_field
from training.distributed import World
from training.errors import NonFiniteError
from training.learning.gradient import accumulate_gradient
from training.learning.learner import Learner, make_learner
from training.learning.method import METHODS
from training.learning.methods.blip2.causal_decoder import CausalDecoder, DecoderShape, save_decoder
from training.learning.methods.blip2.picking import pick_rows
from training.learning.model import register_model
from training.learning.sharding import mesh_of
from training.run.throughput import Window

STATES = {
    "contrastive": (TINY_VIT, ["--model.patch_dropout", "0.5"]),
    "coca": (TINY_COCA, []),
    "siglip2": (
        siglip2_worker.TINY,
        ["--loss.name", "sigmoid", *(f"--method.options.{name}={of}" for name, of in siglip2_worker.OPTIONS.items())],
    ),
    "blip": (TINY_BLIP | {"text_cfg": TINY_BLIP["text_cfg"] | {"vocab_size": 49408}}, ["--method.options.queue", "29"]),
    "qformer": (TINY_VIT, [*(f"--method.options.{name}={of}" for name, of in SHAPE.items())]),
    "qformer_lm": (TINY_VIT, [*(f"--method.options.{name}={of}" for name, of in SHAPE.items())]),
    "distillation": (TINY_VIT, ["--method.options.weight", "0.5", "--method.options.teacher_scales", "[70, 60]"]),
}
"""Of each method the model, and what the config says beside it."""


def steps(*quick: tuple[str, str]) -> list[Any]:
    """Each method by each optimiser; all but `quick` ones are slow."""
    return [
        pytest.param(method, optimiser, marks=[] if (method, optimiser) in quick else pytest.mark.slow)
        for method in METHODS
        for optimiser in ("adamw", "lamb")
    ]


WAITED_FOR: dict[str, set[Wait]] = {
    # How many texts it judges with a picture is what the pictures were drawn for: sizes that the host must know.
    "blip": {("copy", "blip.py:_asked")},
}
"""What a step of a method waits for on a GPU; docs/training.md says it, too."""
ON_A_CPU_ALONE: set[Wait] = {
    ("nonzero", "first_stage.py:forward"),
    ("nonzero", "second_stage.py:forward"),
    ("nonzero", "caption_decoder.py:forward"),
    ("nonzero", "gradient.py:accumulate_gradient"),  # backwards of the one before
    ("nonzero", "batch.py:text_length"),
    ("_local_scalar_dense", "batch.py:text_length"),
}
"""What is looked up in a text where that is at hand; on a GPU all places are computed."""


def learner_of(model: Path, *words: str, world: World | None = None, sharded: bool = False) -> Learner:
    config = load(
        TrainConfig,
        None,
        ["--output", "unused", "--data.path", "unused", "--samples", "8", "--global_batch_size", "8",
         "--model.name", str(model), "--precision", "fp32", *words],
    )  # fmt: skip
    world = world or World()
    return make_learner(config, world, mesh=mesh_of(world) if sharded else None, image_size=None)


def batch_of(learner: Learner, size: int = 8) -> Batch:
    side = learner.model.image_size
    tokens = torch.zeros(size, 24, dtype=torch.int64)
    tokens[:, 0], tokens[:, 1] = torch.arange(1, size + 1), 49407
    images = torch.randint(0, 256, (size, side, side, 3), dtype=torch.uint8)
    return Batch.of(images=images, tokens=tokens, keys=torch.arange(size))


def gradient_norm(learner: Learner, batch: Batch, *, micro_batches: int = 1) -> Tensor:
    accumulate_gradient(
        learner.model, learner.method, batch, learner.gradients, learner.world,
        global_batch_size=len(batch), micro_batches=micro_batches,
    )  # fmt: skip
    return learner.gradients.norm()


def learner_for(method: str, optimiser: str, folder: Path, *, world: World | None = None) -> Learner:
    """One that learns by `method`, with all that a step may have; over `world`, sharded."""
    content, words = STATES[method]
    path = folder / f"openwit-test-waits-{sorted(METHODS).index(method)}.json"  # a name that means no tokenizer
    path.write_text(json.dumps(content))
    words = [*words, "--method.name", method, "--optimiser.name", optimiser, "--optimiser.ema_decay", "0.9"]
    if method.startswith("qformer"):
        tower = open_clip.create_model(register_model(str(path))).visual
        save_file(tower.state_dict(), folder / "tower.safetensors")
        words += ["--model.init_image_from", str(folder / "tower.safetensors"), "--model.lock_image", "true"]
    if method == "qformer_lm":
        shape = DecoderShape(vocab_size=49408, context_length=30, end=49407, width=12, heads=2, layers=1)
        save_decoder(CausalDecoder(shape), folder / "decoder")
        words += [f"--method.options.language_model={folder / 'decoder'}", "--method.options.language_model_width=12"]
    return learner_of(path, "--optimiser.max_gradient_norm", "0.1", *words, world=world, sharded=world is not None)


def batch_for(learner: Learner) -> Batch:
    """With what distillation learns from."""
    batch = batch_of(learner)
    size = len(batch)
    taught = {
        teacher_field(what, teacher): torch.randn(size, 8).bfloat16()
        for what in ("image", "text", SYNTHETIC)
        for teacher in (0, 1)
    }
    return batch.having({SYNTHETIC: batch.tokens, TEACHER_SCALE: torch.full((size, 2), 100.0), **taught})


@pytest.mark.parametrize("micro_batches", [pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize(
    ("method", "optimiser"), steps(("contrastive", "lamb"), *((name, "adamw") for name in METHODS))
)
def test_a_step_on_a_gpu_waits_for_nothing_but_what_is_said(
    method: str, optimiser: str, micro_batches: int, tmp_path: Path
) -> None:
    learner = learner_for(method, optimiser, tmp_path)
    batch = batch_for(learner).to(META)
    learner = on_meta(learner)
    with waiting() as found:
        a_step(learner, batch, micro_batches=micro_batches)
    assert found == WAITED_FOR.get(method, set())


@pytest.mark.slow
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_step_of_a_tower_with_batch_normalisation_waits_for_nothing(micro_batches: int, tiny_resnet: Path) -> None:
    learner = learner_of(tiny_resnet)
    batch = batch_of(learner).to(META)
    learner = on_meta(learner)
    with waiting() as found:
        a_step(learner, batch, micro_batches=micro_batches)
    assert not found


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")  # of a tower that gives its tokens as well
@pytest.mark.parametrize(("method", "optimiser"), steps(("contrastive", "lamb")))
def test_a_step_of_sharded_weights_waits_for_nothing_more(
    method: str, optimiser: str, tmp_path: Path, alone: World
) -> None:
    if method == "blip":
        pytest.skip("it refuses them")
    learner = learner_for(method, optimiser, tmp_path, world=alone)
    batch = batch_for(learner)
    a_step(learner, batch)  # FSDP2 sets itself up in the first
    with waiting(whole_host=True) as found:
        a_step(learner, batch, micro_batches=2)
    assert found - ON_A_CPU_ALONE == WAITED_FOR.get(method, set())


def test_rows_of_other_ranks_are_asked_for_by_one_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "all_to_all_single", lambda *_: None)
    own, numbers = torch.empty(2, 3, 5, device=META), torch.empty(4, dtype=torch.int64, device=META)
    with waiting() as found:
        pick_rows(own, numbers, World(rank=1, size=2), total=4)
    assert found == {("copy", "picking.py:pick_rows")}


def test_what_would_be_waited_for_is_found() -> None:
    x_43, on_host = torch.empty(4, 3, device=META), torch.zeros(2, dtype=torch.int64)
    asked: dict[str, Callable[[], object]] = {
        "_local_scalar_dense": lambda: x_43.sum().item(),
        "nonzero": lambda: x_43.nonzero(),
        "copy": lambda: x_43.tolist(),
        "copy of an index": lambda: x_43[on_host],
        "tensor of numbers": lambda: x_43[[0, 2]],
    }
    for what, ask in asked.items():
        with waiting() as found:
            ask()
        assert found == {(what, "torch")}
    for copy in (lambda: torch.tensor(3.0, device=META), lambda: x_43.new_tensor([1.0])):
        with waiting() as found:
            copy()
        assert found == {("tensor of numbers", "torch")}
    with waiting() as found:
        on_host.to(META, non_blocking=True)
        torch.full((), 3.0, device=META)
        x_43[:, 0] = 1
    assert not found


def test_a_step_that_is_not_finite_changes_neither_weights_nor_moments(tiny_vit: Path) -> None:
    learner = learner_of(tiny_vit, "--optimiser.max_gradient_norm", "0.1")
    batch = batch_of(learner)
    state: list[dict[str, Tensor]] = []
    for poison in (False, True):
        norm = gradient_norm(learner, batch)
        if poison:
            next(learner.model.clip.parameters()).grad.fill_(torch.nan)  # type: ignore[union-attr]  # it has one
            norm = learner.gradients.norm()
        learner.step(rate=1e-3, norm=norm, is_finite=torch.isfinite(norm), samples_seen=8)
        moments = {
            f"{number}.{name}": value.clone()
            for number, entries in learner.optimiser.state_dict()["state"].items()
            for name, value in entries.items()
        }
        state.append({name: value.clone() for name, value in learner.model.clip.state_dict().items()} | moments)
    assert all(torch.equal(state[0][name], state[1][name]) for name in state[0])


def test_too_many_skipped_in_a_row_end_the_run_and_others_do_not() -> None:
    window = Window(max_skipped_in_a_row=2)

    def add(*, is_finite: bool) -> None:
        value = torch.tensor(1.0 if is_finite else torch.nan)
        window.add(terms={"a": value}, norm=value, is_finite=torch.tensor(is_finite), name="step 7", samples=1)

    for is_finite in (False, False, True, False, False):
        add(is_finite=is_finite)
    assert (window.num_skipped(), window.num_skipped()) == (4, 0)
    with pytest.raises(NonFiniteError, match="step 7: loss nan"):
        add(is_finite=False)


def test_causal_towers_give_attention_a_flag_and_no_mask(tiny_vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = learner_of(tiny_vit)
    real = F.scaled_dot_product_attention
    calls: list[tuple[bool, bool]] = []

    def watched(*arguments: Any, **options: Any) -> Tensor:
        mask = arguments[3] if len(arguments) > 3 else options.get("attn_mask")
        causal = arguments[5] if len(arguments) > 5 else options.get("is_causal", False)
        calls.append((mask is None, bool(causal)))
        return real(*arguments, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    batch = batch_of(learner)
    learner.model.encode_text(batch.tokens)
    assert calls
    assert set(calls) == {(True, True)}
    calls.clear()
    learner.model.encode_image(batch.images)
    assert set(calls) == {(True, False)}


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[World]:
    """A group of one."""
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        yield World()
    finally:
        dist.destroy_process_group()


def test_sharded_bf16_weights_do_not_outlive_the_forward_pass(tiny_vit: Path, alone: World) -> None:
    learner = learner_of(tiny_vit, "--precision", "bf16", world=alone, sharded=True)
    batch = batch_of(learner, size=2)
    sizes = {p.numel() for p in learner.model.clip.parameters() if p.ndim == 2}
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = learner.method.forward(learner.model, batch)
    kept = {id(t): t for t in saved if t.numel() in sizes and t.requires_grad}
    whole = sum(t.numel() for t in kept.values() if t.untyped_storage().nbytes())
    total = sum(p.numel() for p in learner.model.clip.parameters())
    print(f"{whole:,} of {total:,} weights are kept whole")
    assert whole < 0.2 * total
    assert {rows.dtype for rows in output.rows.values()} == {torch.float32}


def test_pixels_are_normalised_in_compiled_code_where_sharded_layers_are(
    tiny_vit: Path, alone: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []

    def compile_(function: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        compiled.append(function.__name__)
        return function

    monkeypatch.setattr(torch, "compile", compile_)
    learner_of(tiny_vit, "--model.compile", "true", world=alone, sharded=True)
    assert compiled.count("_normalised") == 1
