"""A trained CLIP as a library."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import openwit
from configs.load import from_mapping
from tests.training.conftest import tiny_run
from training.clip import Clip
from training.config import TrainConfig
from training.errors import DataError
from training.train import train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path, tiny_vit: Path) -> Path:
    output = tmp_path_factory.mktemp("clip") / "run"
    train(from_mapping(TrainConfig, tiny_run(output, tiny_data, tiny_vit)))
    return output


@pytest.fixture(scope="module")
def clip(run: Path) -> Clip:
    return openwit.load(run, device="cpu")


def pixels_of(number: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(number).integers(0, 256, (40, 52, 3), np.uint8)


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels_of(number)).save(buffer, "png")
    return buffer.getvalue()


def test_every_form_of_a_picture_has_the_same_features(clip: Clip, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(0))
    forms = [str(path), path, png(0), Image.open(path), pixels_of(0)]
    one_by_one = torch.cat([clip.encode_image(form) for form in forms])
    assert one_by_one.shape == (5, clip.encode_text("a").shape[1])
    assert not one_by_one.requires_grad
    torch.testing.assert_close(one_by_one.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(one_by_one, one_by_one[:1].expand(5, -1))
    torch.testing.assert_close(clip.encode_image(forms), one_by_one)
    assert clip.encode_image([]).shape == (0, one_by_one.shape[1])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1", "I;16", "CMYK"])
def test_a_picture_of_pil_is_what_its_file_is(clip: Clip, mode: str) -> None:
    """Transparency lies on white, whatever colour it hides; 16 bits are scaled; a turned one is turned back."""
    drawn = Image.fromarray(np.dstack([pixels_of(5), pixels_of(6)[:, :, :1]]), "RGBA")
    if mode == "I;16":
        picture = Image.fromarray(pixels_of(7)[:, :, 0].astype(np.uint16) * 257)
    else:
        picture = drawn.convert("RGB" if mode == "CMYK" else "RGBA").convert(mode)
    exif = Image.Exif()
    exif[0x112] = 6
    buffer = io.BytesIO()
    picture.save(buffer, "TIFF" if mode == "CMYK" else "PNG", exif=exif)
    opened = Image.open(io.BytesIO(buffer.getvalue()))
    torch.testing.assert_close(clip.encode_image(opened), clip.encode_image(buffer.getvalue()), atol=1e-3, rtol=0)


def test_a_tensor_of_the_models_size_is_what_a_file_is(clip: Clip) -> None:
    size = clip.image_size
    square = np.random.default_rng(3).integers(0, 256, (size, size, 3), np.uint8)
    as_tensor = torch.from_numpy(square).permute(2, 0, 1)[None] / 255
    torch.testing.assert_close(clip.encode_image(as_tensor), clip.encode_image(square))


def test_similarity_is_the_cosine_and_logits_are_those_of_training(clip: Clip) -> None:
    texts = ["a red circle", "a blue square", "nothing"]
    cosines = clip.similarity([png(0), png(1)], texts)
    expected = clip.encode_image([png(0), png(1)]) @ clip.encode_text(texts).T
    torch.testing.assert_close(cosines, expected)
    torch.testing.assert_close(clip.logits(cosines), expected * clip.module.logit_scale.exp())
    assert clip.logit_bias is None


def test_gradients_flow_to_pictures_and_not_to_frozen_weights(clip: Clip) -> None:
    pictures = torch.rand(2, 3, 50, 30, requires_grad=True)
    loss = -clip.similarity(pictures, "a red circle").sum()
    loss.backward()
    assert pictures.grad is not None
    assert pictures.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in clip.module.parameters())
    # Against differences: the gradient is that of the loss.
    with torch.no_grad():
        step = 1e-2 * pictures.grad / pictures.grad.norm()
        ahead, behind = (-clip.similarity(pictures + sign * step, "a red circle").sum() for sign in (1, -1))
    assert float(ahead - behind) / 2 == pytest.approx(1e-2 * float(pictures.grad.norm()), rel=0.05)


def test_a_trainable_one_learns(run: Path) -> None:
    clip = openwit.load(run, device="cpu", trainable=True)
    optimiser = torch.optim.SGD(clip.module.parameters(), lr=0.05)
    labels = torch.arange(4)
    losses = []
    for _ in range(5):
        logits = clip.logits(clip.similarity([png(n) for n in range(4)], ["one", "two", "three", "four"]))
        loss = torch.nn.functional.cross_entropy(logits, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("pictures", "says"),
    [
        ([b"no picture"], "picture 0: not a whole picture"),
        ([png(0), png(1)[:100]], "picture 1: not a whole picture"),
        ("nowhere.png", "nowhere.png: cannot be read"),
        (np.zeros((8, 8), np.uint8), r"pixels are uint8\[H, W, 3\]; these are uint8\[8, 8\]"),
        (np.zeros((8, 8, 4), np.uint8), r"these are uint8\[8, 8, 4\]"),
        (np.zeros((0, 8, 3), np.uint8), r"these are uint8\[0, 8, 3\]"),
        ([pixels_of(0), None], "picture 1: a NoneType is no path, bytes"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "a tensor of pictures is float"),
        (torch.zeros(3, 8, 8), r"this is torch.float32 \[3, 8, 8\]"),
    ],
)
def test_what_is_no_picture_is_named(clip: Clip, pictures: object, says: str) -> None:
    with pytest.raises(DataError, match=says):
        clip.encode_image(pictures)  # type: ignore[arg-type]
