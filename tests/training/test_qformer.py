"""BLIP-2: both stages' gradients are those of the whole batch, and who sees whom in the Q-Former is the paper's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from configs.load import ConfigError
from tests.conftest import REPOSITORY
from tests.ports import free_port
from tests.training import qformer_worker as worker
from training.config import LossConfig, MethodConfig
from training.distributed import World
from training.errors import ModelError
from training.evaluation.metrics import likeness, retrieval
from training.learning.method import make_method
from training.learning.methods.blip2.causal_decoder import load_decoder
from training.learning.methods.blip2.first_stage import is_text
from training.learning.methods.blip2.query_similarity import hard_negatives, norms_of

Plain = tuple[dict[str, float], Tensor]


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> list[Plain]:
    """Of each stage, terms and gradient by plain autograd over the whole batch."""
    folder, batch = tmp_path_factory.mktemp("plain"), worker.few_words()
    first, second = (worker.locked_model(folder, method) for method in (worker.stage1(), worker.stage2(folder)))
    decoder = load_decoder(folder / "decoder").double().requires_grad_(False)
    return [
        worker.plain_gradient(first, worker.plain_terms(first, batch)),
        worker.plain_gradient(second, worker.plain_captions(second, batch, decoder)),
    ]


def agree(found: worker.Found, reference: Plain) -> None:
    assert set(found) == {1, 2, 4}
    for terms, gradient in found.values():
        assert terms == pytest.approx(reference[0], rel=1e-11)
        assert gradient.abs().sum() > 0
        torch.testing.assert_close(gradient, reference[1], rtol=1e-8, atol=1e-12)


def test_micro_batches_have_the_gradient_of_the_whole_batch(tmp_path: Path, references: list[Plain]) -> None:
    for method, reference in zip((worker.stage1(), worker.stage2(tmp_path)), references, strict=True):
        agree(worker.gradients_of(tmp_path, method, World()), reference)


def test_bf16_is_near(tmp_path: Path, references: list[Plain]) -> None:
    for method, (values, gradient) in zip((worker.stage1(), worker.stage2(tmp_path)), references, strict=True):
        for terms, found in worker.gradients_of(tmp_path, method, World(), half=True).values():
            near = {name: value for name, value in values.items() if name != "matching"}  # on other negatives, perhaps
            assert {name: terms[name] for name in near} == pytest.approx(near, rel=0.03)
            assert torch.isfinite(found).all()
            assert torch.nn.functional.cosine_similarity(found.double(), gradient, dim=0) > 0.9


@pytest.mark.timeout(600)  # processes that start on a busy machine
@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_have_the_gradient_of_the_whole_batch(ranks: int, references: list[Plain], tmp_path: Path) -> None:
    run_worker(tmp_path, ranks)
    for stage, reference in enumerate(references, 1):
        for name in ("whole", "sharded"):
            agree(torch.load(tmp_path / f"{stage}-{name}.pt"), reference)


def run_worker(folder: Path, ranks: int) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "tests.training.qformer_worker", str(folder), str(ranks)],
        cwd=REPOSITORY,
        env={
            **os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr


# --- who sees whom ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Tensor, Tensor]:
    """A Q-Former, tokens of two pictures, and two texts."""
    model = worker.locked_model(tmp_path_factory.mktemp("seen"), worker.stage1())
    torch.manual_seed(0)
    return model.head("qformer"), torch.randn(2, 5, 32, dtype=torch.float64), worker.Letters()(["abcd", "xyz"])[:, :8]


def test_queries_see_no_text_but_for_pairs(seen: tuple[Any, Tensor, Tensor]) -> None:
    qformer, picture, words = seen
    (alone,), (with_text, _) = qformer("queries", picture), qformer("captions", picture, words, is_text(words))
    torch.testing.assert_close(with_text, alone, rtol=0, atol=1e-13)
    (pair,), (other,) = (qformer("pairs", picture, each, is_text(each)) for each in (words, words.flip(0)))
    assert not torch.allclose(pair, other)


def test_a_caption_sees_queries_and_the_past(seen: tuple[Any, Tensor, Tensor]) -> None:
    qformer, picture, words = seen
    changed = words.clone()
    changed[:, 3] = 7
    said, others, elsewhere = (
        qformer("captions", where, what, is_text(what))[1]
        for where, what in ((picture, words), (picture, changed), (picture.flip(0), words))
    )
    torch.testing.assert_close(others[:, :3], said[:, :3], rtol=0, atol=1e-13)
    assert not torch.allclose(others[:, 3], said[:, 3])
    assert not torch.allclose(elsewhere[:, 1], said[:, 1])


def test_padding_and_what_else_is_in_the_batch_change_nothing(seen: tuple[Any, Tensor, Tensor]) -> None:
    qformer, picture, words = seen
    longer = torch.cat([words, words.new_zeros(2, 9)], dim=1)
    for task, shown in (("texts", None), ("pairs", picture)):
        both = qformer(task, shown, words, is_text(words))[0]
        one = None if shown is None else shown[1:]
        torch.testing.assert_close(qformer(task, shown, longer, is_text(longer))[0], both, rtol=0, atol=1e-13)
        torch.testing.assert_close(qformer(task, one, words[1:], is_text(words[1:]))[0], both[1:], rtol=0, atol=1e-13)


def test_a_word_with_paddings_number_is_a_word() -> None:
    tokens = torch.tensor([[38, 0, 5, 39, 0, 0], [0, 0, 0, 0, 0, 0]])
    assert is_text(tokens).int().tolist() == [[1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0]]


# --- negatives, evaluation --------------------------------------------------------------------------


def test_negatives_are_drawn_as_likely_as_they_look() -> None:
    torch.manual_seed(1)
    image = torch.nn.functional.normalize(torch.randn(6, 2, 4, dtype=torch.float64), dim=2)
    text = torch.nn.functional.normalize(torch.randn(6, 4, dtype=torch.float64), dim=1)
    scale, times = torch.tensor(3.0, dtype=torch.float64), 500
    norms = norms_of(image, text, scale, tile=5, world=World())
    found = torch.zeros(2, 6, 6, dtype=torch.float64)
    for epoch in range(times):
        keys = torch.arange(6) * 104729 + epoch * 1299721
        drawn = hard_negatives(image, text, scale, norms, keys, first=0, tile=5, world=World())
        for direction, numbers in enumerate(drawn):
            found[direction, torch.arange(6), numbers] += 1 / times
    logits = scale * torch.einsum("nqd,md->nmq", image, text).amax(2)
    for direction, each in enumerate((logits, logits.T)):
        weights = (each.softmax(1) + 1e-4).masked_fill(torch.eye(6, dtype=torch.bool), 0)
        torch.testing.assert_close(found[direction], weights / weights.sum(1, keepdim=True), rtol=0, atol=0.09)
        assert found[direction].diagonal().sum() == 0


def test_the_likest_query_counts_in_retrieval() -> None:
    text = torch.eye(3)
    image = torch.stack([torch.stack([-text[i], text[i]]) for i in range(3)])
    torch.testing.assert_close(likeness(image, text), torch.eye(3))
    torch.testing.assert_close(likeness(text, image), torch.eye(3))
    assert {metric.value for metric in retrieval(image, text, torch.arange(3))} == {1.0}


# --- what is refused --------------------------------------------------------------------------------


def test_a_tower_that_learns_is_refused(tmp_path: Path) -> None:
    for method in (worker.stage1(), worker.stage2(tmp_path)):
        with pytest.raises(ModelError, match=r"stays as it is; set --model\.lock_image true"):
            method.check(worker.locked_model(tmp_path, method, locked=False))


def test_a_tower_without_tokens_is_refused() -> None:
    clip = torch.nn.Module()
    clip.visual = torch.nn.Linear(2, 2)
    with pytest.raises(ModelError, match="says nothing between its layers"):
        worker.stage1().heads(clip)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"language_model": "/no/such"}, "/no/such does not exist; give a directory with a causal language model"),
        ({"language_model_width": 13}, "takes inputs of width 12; set method.options.language_model_width"),
        ({"queries": 8}, "reads 30 tokens, and 8 queries with a text of 24 are 32"),
    ],
)
def test_a_language_model_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    options = {**vars(worker.stage2(tmp_path).options), **changes}
    method = make_method(MethodConfig(name="qformer_lm", options=options), LossConfig())
    with pytest.raises(ModelError) as caught:
        method.check(worker.locked_model(tmp_path, method))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_of_more_words_is_refused(tmp_path: Path) -> None:
    method = worker.stage2(tmp_path)
    model = worker.locked_model(tmp_path, method)
    model.tokenizer.vocab_size = 41  # type: ignore[attr-defined]  # of this one
    with pytest.raises(ModelError, match=r"knows 40 tokens, and texts come in 41; set --model\.tokenizer"):
        method.check(model)


def test_transformers_that_is_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "transformers", None)
    options = {**worker.SHAPE, "language_model": str(tmp_path), "language_model_width": 12}
    method = make_method(MethodConfig(name="qformer_lm", options=options), LossConfig())
    with pytest.raises(ModelError, match=r"is read by the package transformers; pip install 'openwit\[transformers\]'"):
        method.check(worker.locked_model(tmp_path, method))


@pytest.mark.parametrize(
    ("options", "loss", "says"),
    [
        ({"heads": 5}, {}, "width 768 cannot be shared by 5 heads"),
        ({"layers": 0}, {}, "layers must be at least 1"),
        ({}, {"name": "sigmoid"}, "by a softmax of features in fp32"),
    ],
)
def test_a_mistake_in_the_options_is_one_line(options: dict[str, Any], loss: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make_method(MethodConfig(name="qformer", options=options), LossConfig(**loss))
