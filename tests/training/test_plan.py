"""`training plan`: what a run will take, without a GPU, without weights and without data."""

from __future__ import annotations

import math
import random
import shutil
import weakref
from collections import Counter
from collections.abc import Callable
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
from training.config import (
    ConceptConfig,
    DataConfig,
    DataSet,
    MetaclipConfig,
    MethodConfig,
    ModelConfig,
    PlanConfig,
    TrainConfig,
)
from training.data.sampling.foreseen import Foreseen, foresee
from training.data.shards import find_shards
from training.errors import DataError
from training.learning.memory import Needs, needs_of
from training.learning.model import create_model
from training.learning.similarity import sigmoid_loss, softmax_loss
from training.learning.similarity_memory import TILES
from training.plan import plan
from training.train import train

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


Lists = list[list[int]]


@pytest.fixture
def few_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of what takes long to count, where the plan of the data is looked at."""
    needs = Needs(
        model_name="any", image_size=32, context_length=8, parameters=1, of_image=1, of_decoder=0, of_text=0, trained=1,
        tokenizer_problem="", can_be_cut=True, samples=1, micro_batches=1, memory={"weights": 4},
    )  # fmt: skip
    monkeypatch.setattr("training.plan.needs_of", lambda config: needs)


def with_queries(source: Path, data: Path, *, of: Callable[[int], list[int]]) -> Lists:
    """Copy shards to `data`, sample i with the queries `of(i)`; those of all samples."""
    shutil.copytree(source, data)
    rows: Lists = []
    for path in sorted((data / "shards").glob("*.parquet")):
        table = pq.read_table(path)
        ids = [of(len(rows) + i) for i in range(table.num_rows)]
        rows += ids
        pq.write_table(table.append_column("query_ids", pa.array(ids, pa.list_(pa.int32()))), path)
    return rows


def foreseen(data: DataConfig, *, batch: int = 16) -> Foreseen:
    found = foresee(data, [find_shards(path) for path in data.paths], seed=0, global_batch_size=batch)
    assert found is not None
    return found


def expected(weights: list[float], sets: list[Lists]) -> tuple[int, float, float, float]:
    """(queries, of them a sample, the share of the samples with one of the 100 most frequent, of the matches of these)
    where each set's samples come with `weights`, one after the other."""
    counts: Counter[tuple[int, int]] = Counter()
    rows = [[(number, query) for query in ids] for number, lists in enumerate(sets) for ids in lists]
    for weight, ids in zip(weights, rows, strict=True):
        for query in ids:
            counts[query] += weight  # type: ignore[assignment]  # a Counter of floats
    head = {query for query, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:100]}
    holds = sum(weight for weight, ids in zip(weights, rows, strict=True) if head & set(ids))
    matches = sum(counts.values())
    in_head = sum(counts[query] for query in head)
    return len(counts), matches / sum(weights), holds / sum(weights), in_head / matches


def told(found: Foreseen) -> tuple[int, float, float, float]:
    of = found.distribution
    assert of is not None
    return of.queries, of.queries_a_sample, of.with_head, of.head_share


def heads_and_tails(seed: int) -> Callable[[int], list[int]]:
    """A head of 100 queries, and a tail of which each sample has one of its own."""
    draw = random.Random(seed)
    return lambda i: list(dict.fromkeys([*(draw.randrange(100) for _ in range(draw.randrange(3))), 1000 + i]))


@pytest.mark.usefixtures("few_needs")
def test_queries_are_counted_as_they_are_drawn(config: TrainConfig, tiny_data: Path, tmp_path: Path) -> None:
    rows = with_queries(tiny_data, tmp_path / "data", of=heads_and_tails(0))
    data = replace(config.data, path=str(tmp_path / "data"))
    found = foreseen(data)
    assert (found.samples, found.shards, found.is_exact) == (103, 3, True)
    queries, a_sample, holds, in_head = expected([1.0] * 103, [rows])
    assert told(found) == (queries, *(pytest.approx(each) for each in (a_sample, holds, in_head)))
    assert list(plan(replace(config, data=data)))[-2:] == [
        f"queries    {queries:,} over 103 samples, {a_sample:.2f} a sample; the 100 most frequent",
        f"           are in {holds:.1%} of the samples drawn and make {in_head:.1%} of the matches",
    ]


def metaclips_chances(lists: Lists, limit: int) -> list[float]:
    counts = Counter(query for ids in lists for query in ids)
    return [1 - math.prod(1 - min(1, limit / counts[query]) for query in ids) for ids in lists]


@pytest.mark.parametrize("shares", [None, (3, 1)])
@pytest.mark.parametrize("sampling", ["uniform", "metaclip"])
def test_the_sets_of_a_mixture_have_queries_and_weights_of_their_own(
    sampling: Literal["uniform", "metaclip"], shares: tuple[int, int] | None, tiny_data: Path, tmp_path: Path
) -> None:
    """Their ids are places in two lists, and a query's count is that of its own set."""
    draw = random.Random(1)
    sets = [
        with_queries(tiny_data, tmp_path / "one", of=lambda i: [0, 1 + draw.randrange(150)]),
        with_queries(tiny_data, tmp_path / "other", of=lambda i: [0, 1 + draw.randrange(50)] if i % 3 else [0]),
    ]
    weights = [None, None] if shares is None else shares
    mixture = tuple(
        DataSet(path=str(tmp_path / name), weight=w) for name, w in zip(("one", "other"), weights, strict=True)
    )
    data = DataConfig(mixture=mixture, sampling=sampling, metaclip=MetaclipConfig(max_pairs_per_query=10))
    chances = [metaclips_chances(lists, 10) if sampling == "metaclip" else [1.0] * len(lists) for lists in sets]
    parts = [1.0, 1.0] if shares is None else [w / sum(of) for w, of in zip(shares, chances, strict=True)]
    often = [part * chance for part, of in zip(parts, chances, strict=True) for chance in of]
    found = foreseen(data)
    queries, *rest = expected(often, sets)
    assert told(found) == (queries, *(pytest.approx(each, rel=1e-6) for each in rest))
    kept = [sum(of) / len(of) for of in chances]
    if shares is not None:
        assert found.taken == pytest.approx(1 / (3 / 4 / kept[0] + 1 / 4 / kept[1]))


@pytest.mark.usefixtures("few_needs")
def test_concept_is_told_as_its_batches_have_it(config: TrainConfig, tiny_data: Path, tmp_path: Path) -> None:
    rows = with_queries(tiny_data, tmp_path / "data", of=lambda i: [i % 2, *([100 + i] if i % 9 == 0 else [])])
    data = replace(
        config.data, path=str(tmp_path / "data"), sampling="concept", concept=ConceptConfig(super_batch=4)
    )  # fmt: skip
    found = foreseen(data)
    assert found.taken == 1 / 4
    assert found.distribution is not None
    assert found.distribution.queries_a_sample > 1.2 * sum(map(len, rows)) / len(rows)
    lines = list(plan(replace(config, data=data)))
    assert any("of 25.0% of the samples" in line for line in lines)
    assert f"{found.distribution.queries_a_sample:.2f} a sample" in lines[-2]


@pytest.mark.usefixtures("few_needs")
def test_a_large_set_is_looked_at_in_part_and_the_plan_says_so(
    config: TrainConfig, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = with_queries(tiny_data, tmp_path / "data", of=lambda i: [0, 1 + i])
    data = replace(config.data, path=str(tmp_path / "data"), sampling="metaclip")
    data = replace(data, metaclip=MetaclipConfig(max_pairs_per_query=50))
    monkeypatch.setattr("training.data.sampling.foreseen._MOST_SHARDS", 2)
    rare = replace(data, metaclip=MetaclipConfig(max_pairs_per_query=1))
    part = foreseen(rare)
    assert (part.shards, part.is_exact) == (2, False)
    assert part.samples < len(rows) == 103
    # A query of one sample there counts as many as the whole set would have of its kind.
    assert part.taken == pytest.approx(1 - (1 - 1 / 103) * (1 - 1 / round(103 / part.samples)), rel=1e-2)
    assert " in 2 of 3 shards, an estimate, " in list(plan(replace(config, data=data)))[-2]
    # A super-batch that the part lacks, and the set has, is no mistake.
    concept = replace(data, sampling="concept", concept=ConceptConfig(super_batch=6))
    assert foreseen(concept).is_exact


def test_queries_that_are_none_are_told_in_one_line(config: TrainConfig, tiny_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    paths = sorted((data / "shards").glob("*.parquet"))
    tables = [pq.read_table(path) for path in paths]
    for wrong in (
        lambda t: t["num_bytes"],
        lambda t: pa.array([[-1]] * len(t)),
        lambda t: pa.array([[None, 1]] * len(t)),
    ):
        for path, table in zip(paths, tables, strict=True):
            pq.write_table(table.append_column("query_ids", wrong(table)), path)
        with pytest.raises(DataError, match=r"00000\.parquet: its query_ids are no"):
            foreseen(replace(config.data, path=str(data)))


@pytest.mark.usefixtures("few_needs")
@pytest.mark.parametrize("case", ["balanced", "no query_ids", "super-batch", "column"])
def test_what_a_run_refuses_of_its_data_a_plan_refuses_in_the_same_words(
    case: str, config: TrainConfig, tiny_data: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    if case == "no query_ids":
        shutil.copytree(tiny_data, data)
    else:
        with_queries(tiny_data, data, of=lambda i: [0, 1 + i % 7])
    (data / "shards" / "config.yaml").write_text("balance: {mode: quota}")
    chosen = replace(config.data, path=str(data), sampling="concept" if case == "super-batch" else "metaclip")
    if case != "balanced":
        (data / "shards" / "config.yaml").unlink()
    wrong = replace(config, data=replace(chosen, concept=ConceptConfig(super_batch=50)))
    if case == "column":
        method = MethodConfig(name="tests.training.test_method:Weighted")
        wrong = replace(config, data=replace(config.data, path=str(data)), method=method)
    with pytest.raises(DataError) as of_run:
        train(wrong)
    with pytest.raises(DataError) as of_plan:
        list(plan(wrong))
    assert str(of_plan.value) == str(of_run.value)
    words = {"balanced": "balanced already", "super-batch": "super_batch 50", "column": "no column"}
    assert words.get(case, "no Parquet with query_ids") in str(of_plan.value)


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
