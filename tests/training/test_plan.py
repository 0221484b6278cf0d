"""`training plan`: what a run will take, without a GPU, without weights and without data."""

from __future__ import annotations

import math
import random
import shutil
import weakref
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from configs.load import ConfigError, from_mapping
from tests.conftest import REPOSITORY
from tests.training.conftest import TINY_VIT, tiny_run
from training.__main__ import main
from training.config import MetaclipConfig, ModelConfig, PlanConfig, TrainConfig
from training.data.shards import find_shards
from training.errors import DataError
from training.learning.memory import needs_of
from training.learning.model import create_model
from training.learning.similarity import sigmoid_loss, softmax_loss
from training.learning.similarity_memory import TILES
from training.plan import plan, query_shares

CONFIGS = REPOSITORY / "configs/train"


@pytest.fixture
def config(tiny_data: Path, tiny_vit: Path, tmp_path: Path) -> TrainConfig:
    run = tiny_run(tmp_path / "run", tiny_data, tiny_vit)
    return from_mapping(TrainConfig, {**run, "model": {"name": str(tiny_vit)}, "samples": None, "epochs": 2})


def kept_in_truth(model: Path, samples: int, *, checkpointing: bool = False) -> int:
    """Bytes of the tensors that autograd really saves in a forward pass over `samples`, weights left out."""
    made = create_model(
        ModelConfig(name=str(model), gradient_checkpointing=checkpointing),
        device=torch.device("cpu"), precision="fp32", init_logit_scale=1.0, init_logit_bias=None, seed=0,
    )  # fmt: skip
    weights = {p.untyped_storage().data_ptr() for p in made.clip.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    made.can_trim = False
    size, vision = int(TINY_VIT["vision_cfg"]["image_size"]), torch.zeros  # type: ignore[index]  # a dict
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = (
            made.encode_image(vision(samples, size, size, 3, dtype=torch.uint8)),
            made.encode_text(torch.ones(samples, 24, dtype=torch.int64)),
        )
    found = sum(t.untyped_storage().nbytes() for pointer, t in kept.items() if pointer not in weights)
    assert len(outputs) == 2
    return found


def test_activations_are_those_that_autograd_keeps(config: TrainConfig, tiny_vit: Path) -> None:
    memory = needs_of(config).memory
    assert memory["activations"] == kept_in_truth(tiny_vit, 32) - kept_in_truth(tiny_vit, 16)
    halves = needs_of(replace(config, micro_batches=2)).memory
    assert halves["activations"] == memory["activations"] // 2


def test_weights_gradients_and_moments_are_counted_as_they_are_kept(config: TrainConfig) -> None:
    one = needs_of(config)
    count = one.parameters
    assert one.trained == count
    assert [one.memory[kind] for kind in ("weights", "gradients", "moments")] == [4 * count, 4 * count, 8 * count]
    assert "weights in bf16" not in one.memory
    mixed = replace(config, precision="bf16", plan=PlanConfig(gpus=4))
    four, sharded = needs_of(mixed), needs_of(replace(mixed, distributed="fsdp"))
    assert four.samples == 4
    assert four.memory["weights in bf16"] > 1.9 * count
    assert sharded.memory["moments"] == 8 * (count // 4)
    assert sharded.memory["weights"] < four.memory["weights"]
    whole = needs_of(replace(mixed, distributed="fsdp", micro_batches=2))
    assert whole.memory["gradients"] == 4 * count  # summed in the last backward pass alone
    # Of 4 pictures and texts, the 16 texts of all, and the gradients; tiles of 4 x 16, 16 texts wide, and their sums.
    assert four.memory["features"] == 4 * 16 * (4 + 4 + 16 + 4 + 16)
    assert four.memory["tiles of the loss"] == 4 * 4 * 4 * 16 + 4 * 16 * 16 + 4 * (4 + 4 + 16)


def test_checkpointing_keeps_the_inputs_of_layers_and_one_layer(config: TrainConfig, tiny_vit: Path) -> None:
    plain = needs_of(config).memory["activations"]
    checkpointed = replace(config, model=replace(config.model, gradient_checkpointing=True))
    kept = kept_in_truth(tiny_vit, 32, checkpointing=True) - kept_in_truth(tiny_vit, 16, checkpointing=True)
    assert kept < needs_of(checkpointed).memory["activations"] < plain


def test_a_locked_tower_keeps_nothing_and_has_no_moments(config: TrainConfig) -> None:
    model = replace(config.model, init_from="nowhere", init_towers="image", lock_image=True)
    locked, whole = needs_of(replace(config, model=model)), needs_of(config)
    assert locked.trained == whole.parameters - whole.of_image
    assert locked.memory["activations"] < whole.memory["activations"]


def test_the_phase_with_the_largest_pictures_counts(config: TrainConfig) -> None:
    phases = [{"begins_at": 0.0, "image_size": 16}, {"begins_at": 0.5, "image_size": 64}, {"begins_at": 0.9}]
    needs = needs_of(replace(config, phases=from_mapping(TrainConfig, {**_plain(config), "phases": phases}).phases))
    assert needs.image_size == 64


def _plain(config: TrainConfig) -> dict[str, Any]:
    return {"output": "x", "data": {"path": "x"}, "model": {"name": config.model.name}, "epochs": 1}


def test_samples_and_steps_are_read_from_the_lists(config: TrainConfig) -> None:
    lines = "\n".join(plan(config))
    assert "samples    103 listed in" in lines
    assert "steps      13, 208 samples seen (2.02 epochs); warm-up 2 steps" in lines
    assert "queries    not known: the Parquet beside the shards has no query_ids" in lines


def test_a_plan_needs_no_data_and_says_what_it_does_not_know(config: TrainConfig, tmp_path: Path) -> None:
    nowhere = replace(config, data=replace(config.data, path=str(tmp_path / "nowhere")))
    lines = "\n".join(plan(nowhere))
    assert f"samples    not known: {tmp_path}/nowhere: no such directory" in lines
    assert "steps      not known: epochs: 2; make the shards, or set --samples N --epochs null" in lines
    assert "queries    not known without the data" in lines
    lines = "\n".join(plan(replace(nowhere, epochs=None, samples=1000)))
    assert "steps      63, 1,008 samples seen; warm-up 2 steps" in lines


def test_what_does_not_fit_is_told_with_a_remedy(config: TrainConfig) -> None:
    def told(**changes: Any) -> str:
        small = PlanConfig(gpu_memory_gb=changes.pop("gb"))
        return list(plan(replace(config, plan=small, **changes)))[-2]

    needs = needs_of(config)
    fixed = needs.total - needs.memory["activations"]
    between = (fixed + 0.5 * needs.memory["activations"]) / 0.9e9
    assert "of" in told(gb=1.0)
    assert told(gb=between) == "  does not fit: set --model.gradient_checkpointing true, or a larger --micro_batches"
    checkpointing = replace(config.model, gradient_checkpointing=True)
    assert told(gb=fixed / 0.899e9, model=checkpointing).endswith("--micro_batches 2, or more GPUs (--plan.gpus)")
    assert told(gb=0.5 * fixed / 1e9) == "  does not fit: set --distributed fsdp, or more GPUs (--plan.gpus)"


def test_mistakes_are_told_before_anything_is_rented(config: TrainConfig) -> None:
    with pytest.raises(ConfigError, match="cannot be shared by 17 ranks"):
        list(plan(replace(config, plan=PlanConfig(gpus=17))))
    with pytest.raises(ConfigError, match="gpus must be at least 1"):
        PlanConfig(gpus=0)
    siglip = ModelConfig(name="ViT-B-16-SigLIP", tokenizer="no/spiece.model")
    lines = list(plan(replace(config, model=siglip)))
    assert lines[2].startswith("           to be mended first: model.tokenizer: no/spiece.model does not exist; give ")


def test_queries_are_counted_as_they_are_drawn(config: TrainConfig, tiny_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    draw, rows = random.Random(0), []
    for path in sorted((data / "shards").glob("*.parquet")):
        table = pq.read_table(path)
        # A head of 100 queries, and a tail of which each sample has one of its own.
        ids = [
            [draw.randrange(100) for _ in range(draw.randrange(3))] + [1000 + len(rows) + i]
            for i in range(table.num_rows)
        ]
        ids = [list(dict.fromkeys(found)) for found in ids]
        rows += ids
        pq.write_table(table.append_column("query_ids", pa.array(ids, pa.list_(pa.int32()))), path)
    found = query_shares(config.data, find_shards(data))
    counts = Counter(query for ids in rows for query in ids)
    head = {query for query, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:100]}
    assert found is not None
    assert (found.samples, found.shards, found.queries) == (103, 3, len(counts))
    assert found.queries_a_sample == pytest.approx(sum(counts.values()) / 103)
    assert found.head_samples == pytest.approx(sum(bool(head & set(ids)) for ids in rows) / 103)
    assert found.head_matches == pytest.approx(sum(counts[query] for query in head) / sum(counts.values()))
    lines = list(plan(replace(config, data=replace(config.data, path=str(data)))))
    assert lines[-2] == (
        f"queries    {len(counts):,} over 103 samples, {found.queries_a_sample:.2f} a sample; the 100 most frequent"
    )


def test_queries_that_are_none_are_told_in_one_line(config: TrainConfig, tiny_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    path = sorted((data / "shards").glob("*.parquet"))[1]
    table = pq.read_table(path)
    for ids in (table["num_bytes"], pa.array([[-1]] * len(table)), pa.array([[None, 1]] * len(table))):
        pq.write_table(table.append_column("query_ids", ids), path)
        with pytest.raises(DataError, match=r"00001\.parquet: its query_ids are no"):
            query_shares(config.data, find_shards(data))


def test_metaclips_draws_are_planned_with(config: TrainConfig, tiny_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    draw, rows = random.Random(1), []
    for path in sorted((data / "shards").glob("*.parquet")):
        table = pq.read_table(path)
        ids = [[0] if draw.random() < 0.7 else [0, 1 + draw.randrange(5)] for _ in range(table.num_rows)]
        rows += ids
        pq.write_table(table.append_column("query_ids", pa.array(ids, pa.list_(pa.int32()))), path)
    chosen = replace(config.data, path=str(data), sampling="metaclip", metaclip=MetaclipConfig(max_pairs_per_query=10))
    counts = Counter(query for ids in rows for query in ids)
    chances = [1 - math.prod(1 - min(1, 10 / counts[query]) for query in ids) for ids in rows]
    found = query_shares(chosen, find_shards(data))
    assert found is not None
    assert found.taken == pytest.approx(sum(chances) / len(rows))
    assert found.queries_a_sample == pytest.approx(
        sum(chance * len(ids) for chance, ids in zip(chances, rows, strict=True)) / sum(chances)
    )
    (steps,) = (line for line in plan(replace(config, data=chosen, samples=None, epochs=2.0)) if "steps" in line[:6])
    assert f"of {found.taken:.1%} of the samples" in steps


def test_the_command_prints_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(CONFIGS / "clip-vit-b-32.yaml"), "--samples", "12800000000", "--epochs", "null"]) == 0
    printed = capsys.readouterr().out
    assert "ViT-B-32-quickgelu: 151,277,313 parameters, image 87.8 M, text 63.4 M" in printed
    assert "390,625, 12,800,000,000 samples seen; warm-up 2,000 steps" in printed
    assert "each GPU   4,096 samples a step" in printed
    assert "does not fit" not in printed
    assert max(map(len, printed.splitlines())) < 140


class Alive(TorchDispatchMode):
    """How many storages of at least `size` bytes there are at a time, at most."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.most = size, 0
        self.held: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, (tuple, list)) else [found]:
            storage = tensor.untyped_storage()
            if storage.nbytes() >= self.size and storage._cdata not in self.held:
                self.held.add(storage._cdata)
                self.most = max(self.most, len(self.held))
                weakref.finalize(storage, self.held.discard, storage._cdata)
        return found


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_as_many_tiles_are_counted_as_are_alive(name: Literal["softmax", "sigmoid"]) -> None:
    tile = 64
    image, text = (torch.randn(4 * tile, 2).requires_grad_() for _ in range(2))
    scale = torch.tensor(1.0, requires_grad=True)
    with Alive(4 * tile * tile) as alive:
        if name == "softmax":
            softmax_loss(image, text, scale, first=0, tile=tile)
        else:
            sigmoid_loss(image, text, scale, None, first=0, tile=tile)
    assert alive.most == TILES[name]
