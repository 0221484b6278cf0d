"""Captions as open_clip's own `CoCa.generate` writes them, in the environment that `make peers` made.

Its ways all want the package transformers with BeamSearchScorer, which version 5 left out. Here a name stands for it
that nothing calls: with the likest token alone to draw from (top_k of 1) no beams are searched.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import open_clip
import pytest
import torch

from tests.peers.test_peers import run_with
from tests.training.families import model_of
from training.learning.pretrained import load_model
from training.learning.writing import write

pytestmark = pytest.mark.peers

CODE = """
import json, torch, transformers
transformers.BeamSearchScorer = None
import open_clip
assert open_clip.coca_model._has_transformers
open_clip.add_model_config("openwit-test-coca.json")
clip = open_clip.create_model("openwit-test-coca").eval()
clip.load_state_dict(torch.load("coca.pt"))
pixels = torch.load("pixels.pt")
tokens = clip.generate(pixels, generation_type="top_k", top_k=1, seq_len=9, min_seq_len=4)
print(json.dumps(tokens.tolist()))
"""


def test_greedy_captions_are_those_of_open_clip(tmp_path: Path) -> None:
    path = model_of("coca", tmp_path)
    open_clip.add_model_config(path)
    logging.getLogger().setLevel(logging.ERROR)
    torch.manual_seed(0)
    clip = open_clip.create_model("openwit-test-coca").eval()
    torch.nn.init.normal_(clip.text_decoder.text_projection, std=0.2)
    with torch.no_grad():
        clip.text_decoder.text_projection[:, 49407] *= 3  # so that captions end
    torch.save(clip.state_dict(), tmp_path / "coca.pt")
    model = load_model(f"{path}:{tmp_path / 'coca.pt'}", device="cpu", precision="fp32")
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (6, 32, 32, 3), dtype=torch.uint8, generator=generator)
    torch.save(model.pixels(images), tmp_path / "pixels.pt")
    told = json.loads(run_with("transformers", CODE, tmp_path).splitlines()[-1])
    decode = open_clip.SimpleTokenizer().decode
    theirs = [decode([token for token in row if token not in (49406, 49407, 0)]) for row in told]
    assert len({len(text.split()) for text in theirs}) > 1
    assert write(model, images, least_tokens=4, most_tokens=9) == [" ".join(text.split()) for text in theirs]
