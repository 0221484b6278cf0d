"""What `export --to transformers` wrote, as transformers itself reads it, in the environment that `make peers` made."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sentencepiece import SentencePieceTrainer

from tests.conftest import REPOSITORY
from tests.peers.test_peers import run_with
from tests.training.conftest import TINY_VIT
from tests.training.test_exports import TINY_SIGLIP, made
from training.exports.transformers.directory import export_transformers
from training.learning.features import prepare
from training.learning.model import Model
from training.learning.tokenizer import SentencePiece

pytestmark = pytest.mark.peers

TEXTS = [
    "a red circle",
    "Two Words, it's 1999!",
    "",
    "hello!!! world... #tag @me",
    "naïve café — 猫 🐈",
    "don't we'll they've",
    "a very long text " * 20,
]
CODE = """
import json, sys
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoProcessor, AutoTokenizer

spec = json.load(open("spec.json"))
model = AutoModel.from_pretrained("out").eval()
tokenizer = AutoTokenizer.from_pretrained("out")
processor = AutoImageProcessor.from_pretrained("out")
given = torch.load("given.pt")
with torch.no_grad():
    found = model(input_ids=given["tokens"], pixel_values=given["pixels"])
pixels = processor(images=Image.open("picture.png"), return_tensors="pt")["pixel_values"]
tokens = tokenizer(spec["texts"], padding="max_length", truncation=True, max_length=spec["length"])["input_ids"]
both = AutoProcessor.from_pretrained("out")
assert both(text=["a"], images=Image.open("picture.png"), return_tensors="pt")["pixel_values"].shape == pixels.shape
result = {"images": found.image_embeds, "texts": found.text_embeds, "logits": found.logits_per_image, "pixels": pixels}
torch.save(result, "found.pt")
print(json.dumps({"class": type(model).__name__, "tokenizer": type(tokenizer).__name__, "tokens": tokens}))
"""


def agree(model: Model, root: Path) -> dict[str, Any]:
    """Holds transformers' model to ours; what it says of tokens."""
    export_transformers(model, root / "out")
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    smooth = Image.fromarray(pixels).resize((60, 45), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    smooth.save(buffer, "png")
    (root / "picture.png").write_bytes(buffer.getvalue())
    picture = prepare(buffer.getvalue(), model)
    assert picture is not None
    images = torch.from_numpy(np.stack([picture, picture[::-1], picture[:, ::-1]]))
    normalised = (images.permute(0, 3, 1, 2).float() - model.mean_C11) / model.std_C11
    tokens = model.tokenizer(TEXTS, model.tokenizer.context_length)
    torch.save({"tokens": tokens, "pixels": normalised}, root / "given.pt")
    spec = {"texts": TEXTS, "length": model.tokenizer.context_length}
    (root / "spec.json").write_text(json.dumps(spec))
    answer: dict[str, Any] = json.loads(run_with("transformers", CODE, root).splitlines()[-1])
    found = torch.load(root / "found.pt")
    clip: Any = model.clip
    with model.evaluating():
        ours = {"images": model.encode_image(images), "texts": model.encode_text(tokens)}
        bias = getattr(clip, "logit_bias", None)
        ours["logits"] = clip.logit_scale.exp() * ours["images"] @ ours["texts"].T + (0 if bias is None else bias)
    for name, expected in ours.items():
        torch.testing.assert_close(found[name], expected, atol=1e-5, rtol=1e-5, msg=name)
    # Its resize is torch's, ours and open_clip's Pillow's: a level or two of 255.
    assert (found["pixels"][0] - normalised[0]).abs().max() < 0.05
    return {**answer, "ours": tokens.tolist()}


@pytest.mark.parametrize(
    "content",
    [
        TINY_VIT,
        TINY_VIT | {"quick_gelu": True},
        TINY_VIT | {"custom_text": True},
        TINY_VIT | {"vision_cfg": {**TINY_VIT["vision_cfg"], "mlp_ratio": 3.0, "head_width": 8, "patch_size": 8}},
    ],
    ids=["gelu", "quickgelu", "custom-text", "other-sizes"],
)
def test_clip_model_says_the_same(content: Mapping[str, Any], tmp_path: Path) -> None:
    answer = agree(made(tmp_path, "clip", content), tmp_path)
    assert answer["class"] == "CLIPModel"
    end = 49407
    for theirs, ours in zip(answer["tokens"], answer["ours"], strict=True):
        length = ours.index(end) + 1
        assert theirs[:length] == ours[:length]
        assert set(theirs[length:]) <= {end}
        assert set(ours[length:]) <= {0}


def test_siglip_model_says_the_same(tmp_path: Path) -> None:
    model = made(tmp_path, "pooled", TINY_SIGLIP, bias=-10.0)
    words = ["a red circle in a blue square", "two words it is 1999", "hello world tag me", "they have we will do not"]
    with (tmp_path / "spiece.model").open("wb") as file:
        SentencePieceTrainer.train(
            sentence_iterator=iter(words * 20),
            model_writer=file,
            vocab_size=60,
            hard_vocab_limit=False,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            minloglevel=2,
        )
    model.tokenizer = SentencePiece(tmp_path / "spiece.model", context_length=16, pad=None)
    answer = agree(model, tmp_path)
    assert answer["class"] == "SiglipModel"
    assert answer["tokens"] == answer["ours"]


def test_version_on_the_page_is_the_one_that_runs_here() -> None:
    page = (REPOSITORY / "docs/export.md").read_text(encoding="utf-8")
    (pin,) = re.findall(r"^transformers==(.*)", (REPOSITORY / "tests/peers/transformers.txt").read_text(), re.MULTILINE)
    assert f"transformers {pin}" in page
