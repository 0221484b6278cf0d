"""What each score is: held to its definition, to torch's own layers, and to all pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from configs.load import ConfigError
from tests.training.feature_sets import directions, uid
from training.errors import ModelError
from training.scores.aesthetic import load_head
from training.scores.config import Keep
from training.scores.cosine import clip_score
from training.scores.duplicates import in_order, nearest_before, stand_ins
from training.scores.k_means import centroids_of, nearest
from training.scores.policy import RuleFeatures, flags_of, rule_score
from training.scores.policy_config import Rule, load_policy

# --- the CLIP score -------------------------------------------------------------------------------


def test_clip_score_is_the_cosine_whatever_the_lengths() -> None:
    image, text = directions(50, 16, 1), directions(50, 16, 2)
    expected = (image.astype(np.float64) * text).sum(axis=1)
    for scale in (1.0, 0.9995, 40.0):  # half precision changes lengths a little
        np.testing.assert_allclose(clip_score(image * np.float32(scale), text), expected, atol=1e-6)
    assert clip_score(image, image).max() <= 1
    assert clip_score(image[7:8], text[7:8])[0] == clip_score(image, text)[7]


def test_clip_score_of_what_has_no_direction_is_no_number() -> None:
    image, text = directions(4, 8), directions(4, 8, 1)
    image[1], text[2], image[3, 0] = 0, np.nan, np.inf
    assert np.isnan(clip_score(image, text)).tolist() == [False, True, True, True]


# --- aesthetic heads ------------------------------------------------------------------------------


def _mlp(width: int, *, relu: bool) -> nn.Sequential:
    """The predictor's layers, as its `simple_inference.py` and `train_predictor.py` put them."""
    widths, dropouts = [width, 1024, 128, 64, 16, 1], [0.2, 0.2, 0.1, None, None]
    layers: list[nn.Module] = []
    for number, dropout in enumerate(dropouts):
        layers.append(nn.Linear(widths[number], widths[number + 1]))
        layers += [nn.ReLU()] if relu and number < 4 else []
        layers += [nn.Dropout(dropout)] if dropout is not None else []
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize("kind", ["linear.pth", "linear.safetensors", "mlp.pth", "relu.pth", "lightning.ckpt"])
def test_head_gives_what_its_own_network_gives(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    network: nn.Module = nn.Linear(24, 1) if "linear" in kind else _mlp(24, relu="relu" in kind)
    state = {name if "linear" in kind else f"layers.{name}": value for name, value in network.state_dict().items()}
    if kind.endswith("safetensors"):
        save_file(state, tmp_path / kind)
    else:
        torch.save({"state_dict": state} if "lightning" in kind else state, tmp_path / kind)
    head, image = load_head(tmp_path / kind), directions(9, 24)
    assert head.width == 24
    expected = network(torch.from_numpy(image))[:, 0].detach().numpy()
    np.testing.assert_allclose(head.score(image * 3), expected, rtol=1e-4, atol=1e-5)


class _Harm:
    """Unpickling it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_what_is_no_head_is_one_line_and_runs_no_code(tmp_path: Path) -> None:
    torch.save({"weight": _Harm(tmp_path / "harm")}, tmp_path / "harm.pth")
    torch.save(nn.Linear(8, 2).state_dict(), tmp_path / "two.pth")
    torch.save({"layers.1.weight": torch.zeros(1, 8), "layers.1.bias": torch.zeros(1)}, tmp_path / "other.pth")
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("weights")
    for name, told in {
        "harm.pth": "cannot be read",
        "two.pth": "do not give one number",
        "other.pth": "known are nn.Linear",
        "list.pth": "holds no weights by name",
        "text.pth": "cannot be read",
        "none.safetensors": "no such file",
    }.items():
        with pytest.raises(ModelError, match=told) as raised:
            load_head(tmp_path / name)
        assert "\n" not in str(raised.value)
    assert not (tmp_path / "harm").exists()


# --- policy ---------------------------------------------------------------------------------------


def test_rule_with_contrast_is_zero_shot_classification() -> None:
    rule = Rule(prompts=("a", "b"), contrast=("c", "d", "e"), threshold=0.5)
    texts, image = directions(5, 16, 3), directions(30, 16, 4)
    shares = torch.softmax(20 * torch.from_numpy(image) @ torch.from_numpy(texts).T, dim=1)
    found = rule_score(RuleFeatures(rule=rule, texts=texts), image, image, 20.0)
    np.testing.assert_allclose(found, shares[:, :2].sum(dim=1).numpy(), atol=1e-6)


def test_rule_without_contrast_is_the_highest_cosine_of_what_it_looks_at() -> None:
    texts, image, text = directions(3, 16, 3), directions(30, 16, 4), directions(30, 16, 5)
    image[4], text[5] = np.nan, np.nan
    image[6] = text[6] = np.nan
    of_image, of_text = (image @ texts.T).max(axis=1), (text @ texts.T).max(axis=1)
    for looks_at, expected in (("image", of_image), ("text", of_text), ("either", np.fmax(of_image, of_text))):
        rule = Rule(prompts=("a", "b", "c"), threshold=0.5, looks_at=looks_at)  # type: ignore[arg-type]  # a Literal's members
        found = rule_score(RuleFeatures(rule=rule, texts=texts), image, text, 20.0)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_flags_name_the_rules_from_the_threshold_on() -> None:
    rules = {"b": Rule(prompts=("x",), threshold=0.5), "a": Rule(prompts=("x",), threshold=0.25)}
    scores = {"b": np.float32([0.5, 0.4999, np.nan]), "a": np.float32([0.3, 0.2, 0.25])}
    assert flags_of(rules, scores) == [["b", "a"], [], ["a"]]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rules: {}", "needs at least one"),
        ("rules: {a: {threshold: 0.2}}", "'rules.a.prompts' is required"),
        ("rules: {a: {prompts: [], threshold: 0.2}}", "give at least one text"),
        ("rules: {a: {prompts: [x]}}", "'rules.a.threshold' is required"),
        ("rules: {a: {prompts: [x], threshold: 2}}", "in \\(-1, 1\\)"),
        ("rules: {a: {prompts: [x], contrast: [y], threshold: 0}}", "above 0 and below 1"),
        ("rules: {a: {prompts: [' '], threshold: 0.2}}", "a prompt is empty"),
        ("rules: {A-b: {prompts: [x], threshold: 0.2}}", "cannot name a column"),
        ("rules: {a: {prompt: [x], threshold: 0.2}}", "did you mean 'rules.a.prompts'"),
    ],
)
def test_mistake_in_a_policy_is_one_line(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "policy.yaml").write_text(text)
    with pytest.raises(ConfigError, match=told) as raised:
        load_policy(str(tmp_path / "policy.yaml"))
    assert "\n" not in str(raised.value)


# --- semantic duplicates --------------------------------------------------------------------------


def _bunches(count: int, width: int = 12) -> np.ndarray:
    """Rows that stand in bunches, near and less near."""
    rows = directions(9, width, 7)[np.arange(count) % 9] + 0.15 * directions(count, width, 8)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def _uids(count: int) -> np.ndarray:
    return np.frombuffer(b"".join(uid(number) for number in range(count)), "V16")


def test_clusters_are_the_nearest_centroids_and_centroids_their_means() -> None:
    rows = torch.from_numpy(_bunches(300))
    centroids = centroids_of(rows, 9, iterations=50, seed=0)
    cluster, cosine = nearest(rows, centroids)
    similarity = rows @ centroids.T
    torch.testing.assert_close(cosine, similarity.max(dim=1).values)
    assert torch.equal(cluster, similarity.argmax(dim=1))
    for number in range(9):
        if (cluster == number).any():
            mean = rows[cluster == number].mean(dim=0)
            torch.testing.assert_close(centroids[number], mean / mean.norm())
    assert torch.equal(centroids, centroids_of(rows, 9, iterations=50, seed=0))
    assert not torch.equal(centroids, centroids_of(rows, 9, iterations=50, seed=1))
    assert len(centroids_of(rows[:4], 9, iterations=5, seed=0)) == 4


@pytest.mark.parametrize("keep", ["hard", "easy", "random"])
@pytest.mark.parametrize("eps", [0.0, 0.02, 0.1, 0.9])
def test_what_goes_is_what_all_pairs_of_the_paper_say(monkeypatch: pytest.MonkeyPatch, keep: Keep, eps: float) -> None:
    monkeypatch.setattr("training.scores.duplicates._TILE_ROWS", 32)
    rows = _bunches(150)
    centre = rows.mean(axis=0)
    order = in_order(rows @ centre, _uids(150), keep, seed=3)
    assert sorted(order) == list(range(150))
    if keep != "random":
        assert (np.diff((rows @ centre)[order]) * (1 if keep == "hard" else -1) >= 0).all()
    # The paper's code: all cosines of the cluster in this order, the upper triangle, the greatest of each column.
    cosines = np.triu(rows[order].astype(np.float64) @ rows[order].T.astype(np.float64), 1)
    cosines[np.tril_indices(150)] = -2
    found = nearest_before(torch.from_numpy(rows[order]))
    np.testing.assert_allclose(found.similarity[1:], cosines.max(axis=0)[1:], atol=1e-6)
    goes = cosines.max(axis=0) > 1 - eps
    stays = stand_ins(found, eps)
    assert ((stays != np.arange(150)) == goes).all()
    assert not goes[stays].any(), "each leads to a row that stays"
    direct = goes & ~goes[found.nearest]
    assert (stays[direct] == cosines.argmax(axis=0)[direct]).all()


def test_a_cluster_of_one_has_nothing_before_it() -> None:
    found = nearest_before(torch.from_numpy(directions(1, 8)))
    assert found.similarity.tolist() == [-1.0]
    assert stand_ins(found, 0.5).tolist() == [0]
