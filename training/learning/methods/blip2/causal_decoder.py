"""A small language model of open_clip's transformer, in a directory of its own: for those without transformers.

    DIRECTORY/decoder.json        its shape, and its last token
    DIRECTORY/model.safetensors   its weights

It is GPT's kind: learnt positions, a causal mask, words and logits by one matrix. docs/recipes.md trains one.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from open_clip.transformer import Transformer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from configs.load import ConfigError, from_mapping
from pipeline.errors import one_line
from training.errors import ModelError

__all__ = ["SHAPE_FILE", "CausalDecoder", "DecoderShape", "load_decoder", "save_decoder"]

SHAPE_FILE = "decoder.json"
_WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class DecoderShape:
    """What decoder.json says."""

    vocab_size: int
    context_length: int
    """The longest sequence, with what is put before a text."""
    end: int
    """The token behind a text."""
    width: int = 128
    heads: int = 4
    layers: int = 4


class CausalDecoder(nn.Module):
    """See above."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.shape = shape
        self.words = nn.Embedding(shape.vocab_size, shape.width)
        self.positions = nn.Parameter(torch.empty(shape.context_length, shape.width))
        self.transformer = Transformer(width=shape.width, layers=shape.layers, heads=shape.heads)
        self.norm = nn.LayerNorm(shape.width)
        nn.init.normal_(self.words.weight, std=0.02)  # GPT-2's
        nn.init.normal_(self.positions, std=0.01)  # CLIP's, of its text tower

    def forward(self, inputs_BSW: Tensor, asked_M: Tensor | None = None) -> Tensor:
        """Logits [B, S, V] of the token behind each of S, of which a word's input is `self.words` of it; or of those
        alone that stand at `asked_M` of the B x S, [M, V]."""
        length = inputs_BSW.shape[1]
        ahead_SS = torch.full((length, length), -torch.inf, dtype=inputs_BSW.dtype, device=inputs_BSW.device).triu(1)
        x_BSW = self.transformer(inputs_BSW + self.positions[:length], attn_mask=ahead_SS)
        x = self.norm(x_BSW if asked_M is None else x_BSW.flatten(0, 1)[asked_M])
        return F.linear(x, self.words.weight)


def save_decoder(decoder: CausalDecoder, directory: Path) -> None:
    """Write `directory`, which is made when missing."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file(dict(decoder.state_dict()), directory / _WEIGHTS_FILE, metadata={"format": "pt"})
    (directory / SHAPE_FILE).write_text(f"{json.dumps(asdict(decoder.shape), indent=1)}\n", encoding="utf-8")


def load_decoder(directory: Path) -> CausalDecoder:
    """What `save_decoder` wrote, on the CPU. Raises ModelError."""
    try:
        content = json.loads((directory / SHAPE_FILE).read_text(encoding="utf-8"))
        decoder = CausalDecoder(from_mapping(DecoderShape, content))
        decoder.load_state_dict(load_file(directory / _WEIGHTS_FILE))
    except (OSError, ValueError, RuntimeError, AssertionError, ConfigError, SafetensorError) as error:
        raise ModelError(f"{directory}: not a whole decoder ({one_line(error, 200)}); make it again") from error
    return decoder
