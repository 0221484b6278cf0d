"""CLIP_benchmark gives our figures, on the same weights and the same pictures; `datasets` saves what we read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.conftest import REPOSITORY
from tests.peers.test_peers import run_with
from tests.training.conftest import TINY_VIT
from tests.training.tiny_shards import CLASSES, make_evaluation
from training.commands import main
from training.config import ModelConfig
from training.evaluation.sets.open import open_set
from training.evaluation.sets.survey import survey
from training.evaluation.sets.write import write_tars
from training.learning.model import create_model

pytestmark = pytest.mark.peers
NAMES = CLASSES[:8]
SHARED = REPOSITORY.parent / "shared" / "data" / "classify"

THEIRS = """
import json
import open_clip
from torch.utils.data import DataLoader
from clip_benchmark.datasets.builder import build_dataset
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval

open_clip.add_model_config("openwit-test-vit.json")
model, _, transform = open_clip.create_model_and_transforms("openwit-test-vit", pretrained="weights.pt")
model.eval()
tokenizer = open_clip.get_tokenizer("openwit-test-vit")
figures = {}
for task, root in TASKS:
    data = build_dataset("wds/set", root=root, transform=transform, split="test", download=False, task=task)
    loader = DataLoader(data.batched(24), batch_size=None)
    if task == "zeroshot_retrieval":
        figures |= zeroshot_retrieval.evaluate(model, loader, tokenizer, "cpu", amp=False, recall_k_list=[1, 5, 10])
    else:
        figures |= zeroshot_classification.evaluate(
            model, loader, tokenizer, data.classes, data.templates, "cpu", amp=False
        )
print(json.dumps(figures))
"""
NAMED = {
    "acc1": "zeroshot_top1",
    "acc5": "zeroshot_top5",
    "mean_per_class_recall": "zeroshot_mean_per_class",
    **{f"image_retrieval_recall@{k}": f"text_to_image_recall_at_{k}" for k in (1, 5, 10)},
    **{f"text_retrieval_recall@{k}": f"image_to_text_recall_at_{k}" for k in (1, 5, 10)},
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a model and its weights."""
    (tmp_path / "openwit-test-vit.json").write_text(json.dumps(TINY_VIT))
    model = create_model(
        ModelConfig(name=str(tmp_path / "openwit-test-vit.json")),
        device=torch.device("cpu"),
        precision="fp32",
        init_logit_scale=2.66,
        init_logit_bias=None,
        seed=0,
    )
    torch.save(model.clip.state_dict(), tmp_path / "weights.pt")
    return tmp_path


def ours(place: Path) -> dict[str, float]:
    weights = f"{place / 'openwit-test-vit.json'}:{place / 'weights.pt'}"
    command = ["evaluate", weights, "--sets", f"[{place / 'set'}]", "--to", str(place / "results")]
    assert main([*command, "--precision", "fp32"]) == 0
    (pair,) = json.loads((place / "results" / "results.json").read_text())["pairs"]
    return {name: metric["value"] for name, metric in pair["metrics"].items()}


def theirs(place: Path, *tasks: tuple[str, str]) -> dict[str, float]:
    code = THEIRS.replace("TASKS", repr(list(tasks)))
    return dict(json.loads(run_with("clip_benchmark", code, place).splitlines()[-1]))


def test_clip_benchmark_gives_the_same_figures(place: Path) -> None:
    make_evaluation(place / "set", per_class=3, size=40, classes=NAMES)
    shutil.copytree(place / "set", place / "captions")
    (place / "captions" / "dataset_type.txt").write_text("retrieval\n")
    found = theirs(place, ("zeroshot_classification", "set"), ("zeroshot_retrieval", "captions"))
    expected = ours(place)
    assert set(found) == set(NAMED)
    for name, value in found.items():
        assert value == pytest.approx(expected[NAMED[name]], abs=1e-6), name


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the project's shared ImageNet sample")
def test_clip_benchmark_gives_the_same_figures_on_real_photographs(place: Path) -> None:
    write_tars(open_set(SHARED / "labels.tsv"), place / "set", examples_per_tar=50)
    found = theirs(place, ("zeroshot_classification", "set"))
    expected = ours(place)
    for name, value in found.items():
        # Their decoder of JPEG is Pillow's, ours libjpeg-turbo's own: a level here and there.
        assert value == pytest.approx(expected[NAMED[name]], abs=1 / 118), name


def test_what_datasets_saves_is_read(tmp_path: Path) -> None:
    make_evaluation(tmp_path / "set", per_class=2, size=24, classes=NAMES[:3])
    code = f"""
import glob, json
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
import io, tarfile
rows = []
for path in sorted(glob.glob("set/test/*.tar")):
    with tarfile.open(path) as tar:
        members = {{member.name: tar.extractfile(member).read() for member in tar}}
    for key in dict.fromkeys(name[:-4] for name in members):
        captions = members[f"{{key}}.txt"].decode().splitlines()
        image = {{"bytes": members[f"{{key}}.jpg"], "path": None}}
        rows.append({{"image": image, "label": int(members[f"{{key}}.cls"]), "caption": captions}})
features = Features({{"image": Image(), "label": ClassLabel(names={NAMES[:3]!r}), "caption": List(Value("string"))}})
data = Dataset.from_list(rows[::-1], features=features).select(range(len(rows) - 1, -1, -1))  # an index mapping
DatasetDict(train=data, test=data).save_to_disk("saved", num_shards={{"train": 1, "test": 2}})
data.to_parquet("test.parquet")
"""
    run_with("datasets", code, tmp_path)
    for name in ("classnames.txt", "zeroshot_classification_templates.txt"):
        (tmp_path / "set" / name).rename(tmp_path / name)
        shutil.copy(tmp_path / name, tmp_path / "set" / name)
        shutil.copy(tmp_path / name, tmp_path / "saved" / name)
    expected = survey(open_set(tmp_path / "set"), train=False)
    assert survey(open_set(tmp_path / "saved"), train=False) == expected
    assert survey(open_set(tmp_path / "test.parquet"), train=False) == expected
    assert survey(open_set(tmp_path / "saved"), train=True).train == expected.examples
