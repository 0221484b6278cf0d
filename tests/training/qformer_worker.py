"""BLIP-2's terms and gradients, as the trainer has them and as a textbook has them, in this process or over ranks.

    python -m tests.training.qformer_worker FOLDER RANKS      (MASTER_ADDR, MASTER_PORT set)

Rank 0 writes {stage}-whole.pt and {stage}-sharded.pt: {micro-batches: (terms, gradient)}.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.training.conftest import TINY_VIT
from tests.training.ranks_worker import GLOBAL_BATCH, make_batch
from training.config import LossConfig, MethodConfig, ModelConfig
from training.data.batches import Batch
from training.distributed import World, distributed
from training.learning.gradient import accumulate_gradient, make_gradients
from training.learning.method import Method, make_method
from training.learning.methods.blip2.causal_decoder import CausalDecoder, DecoderShape, save_decoder
from training.learning.methods.blip2.first_stage import is_text
from training.learning.methods.blip2.locked_tokens import locked_tokens
from training.learning.methods.blip2.query_similarity import _luck
from training.learning.model import Model, create_model
from training.learning.sharding import is_sharded, mesh_of

WORDS = 40
MODEL = {
    **TINY_VIT,
    "custom_text": True,
    "text_cfg": {"context_length": 24, "vocab_size": WORDS, "width": 16, "heads": 2, "layers": 1},
}
SHAPE = {"queries": 3, "width": 24, "layers": 3, "heads": 2}
TERMS = ("contrast", "captions", "matching")
Found = dict[int, tuple[dict[str, float], Tensor]]


class Letters:
    """A tokenizer of few tokens, marked as CLIP's are."""

    context_length = 24
    vocab_size = WORDS
    sot_token_id, eot_token_id = WORDS - 2, WORDS - 1

    def __call__(self, texts: list[str], context_length: int = 24) -> Tensor:
        tokens_NL = torch.zeros(len(texts), context_length, dtype=torch.int64)
        for row, text in enumerate(texts):
            letters = [1 + ord(letter) % (WORDS - 4) for letter in text][: context_length - 2]
            tokens = [self.sot_token_id, *letters, self.eot_token_id]
            tokens_NL[row, : len(tokens)] = torch.tensor(tokens)
        return tokens_NL

    def decode(self, tokens: list[int]) -> str:
        return " ".join(map(str, tokens))


def few_words() -> Batch:
    """`make_batch`, in the letters' tokens."""
    batch = make_batch(32)
    texts = ["abcdefghijkl"[: 1 + (7 * row) % 11] for row in range(GLOBAL_BATCH)]
    return batch.having({"tokens": Letters()(texts)})


def stage1() -> Method:
    """Small, with tiles that no size divides."""
    config = MethodConfig(name="qformer", options={**SHAPE, "embed_dim": 8})
    return make_method(config, LossConfig(chunk_rows=7, label_smoothing=0.1))


def stage2(folder: Path) -> Method:
    """The same shape, told to a language model that is written to `folder`."""
    torch.manual_seed(6)
    shape = DecoderShape(vocab_size=WORDS, context_length=30, end=WORDS - 1, width=12, heads=2, layers=2)
    save_decoder(CausalDecoder(shape), folder / "decoder")
    options = {**SHAPE, "language_model": str(folder / "decoder"), "language_model_width": 12}
    return make_method(MethodConfig(name="qformer_lm", options=options), LossConfig())


def locked_model(folder: Path, method: Method, *, locked: bool = True) -> Model:
    """In float64, with weights that say something; what the method asks of it is not checked yet."""
    path = folder / "openwit-test-letters.json"
    path.write_text(json.dumps(MODEL))
    made = create_model(
        ModelConfig(name=str(path)),
        tokenizer=Letters(),
        device=torch.device("cpu"),
        precision="fp32",
        init_logit_scale=method.init_logit_scale,
        init_logit_bias=None,
        heads=method.heads,
        seed=3,
    )
    clip: Any = made.clip.double()
    if locked:
        clip.lock_image_tower(freeze_bn_stats=True)
    torch.manual_seed(4)
    with torch.no_grad():
        for name, parameter in clip.named_parameters():
            if parameter.ndim and "heads_of_method" in name:
                parameter += 0.1 * torch.randn_like(parameter)
    return Model(clip, name=made.name, device=made.device, precision="fp32", tokenizer=made.tokenizer)


def in_bf16(model: Model) -> Model:
    """The same weights in float32, of which bf16 copies are multiplied."""
    return Model(model.clip.float(), name=model.name, device=model.device, precision="bf16", tokenizer=model.tokenizer)


def trained(model: Model) -> list[torch.nn.Parameter]:
    return [p for p in model.clip.parameters() if p.requires_grad]


def gradients_of(folder: Path, method: Method, world: World, *, sharded: bool = False, half: bool = False) -> Found:
    """Terms and gradient for each number of micro-batches."""
    model = locked_model(folder, method)
    if half:
        model = in_bf16(model)
    if sharded:
        model.shard(mesh_of(world))
    method.check(model)
    gradients = make_gradients(model.clip, trained(model), world)
    batch = few_words().slice(*world.share(GLOBAL_BATCH))
    if world.rank:  # as a rank has it whose texts are shorter
        batch = batch.having({"tokens": batch.tokens[:, :15]})
    found: Found = {}
    for micro_batches in (1, 2, 4):
        terms = accumulate_gradient(
            model, method, batch, gradients, world, global_batch_size=GLOBAL_BATCH, micro_batches=micro_batches
        )
        flat = [p.grad.full_tensor() if is_sharded(p) else p.grad for p in trained(model)]
        values = {name: float(value) for name, value in terms.items()}
        found[micro_batches] = values, torch.cat([gradient.flatten() for gradient in flat]).clone()
    return found


def negatives_of(logits_NN: Tensor, keys_N: Tensor) -> tuple[Tensor, Tensor]:
    """(text of each picture, picture of each text), from whole matrices."""
    drawn = []
    for direction in (0, 1):
        weights = logits_NN.softmax(1 - direction) + 1e-4
        luck = weights.log() + _luck(keys_N, keys_N, direction)
        luck = luck.masked_fill(torch.eye(len(luck), dtype=torch.bool), -torch.inf)
        drawn.append(luck.argmax(1 - direction))
    return drawn[0], drawn[1]


def plain_terms(model: Model, batch: Batch) -> Mapping[str, Tensor]:
    """The paper's three losses of the first stage over the whole batch."""
    qformer, words = model.head("qformer"), batch.tokens
    seen, real = locked_tokens(model, batch.images), is_text(words)
    (image_NQD,), (text_ND,) = qformer("queries", seen), qformer("texts", None, words, real)
    scale = model.clip.logit_scale.exp()
    logits_NN = scale * torch.einsum("nqd,md->nmq", image_NQD, text_ND).amax(2)
    own = torch.arange(len(batch))
    contrast = sum(F.cross_entropy(each, own, label_smoothing=0.1) for each in (logits_NN, logits_NN.T)) / 2
    _, said = qformer("captions", seen, words, real)
    asked = words[:, 1:].masked_fill(~real[:, 1:], -100)
    captions = F.cross_entropy(said[:, :-1].flatten(0, 1), asked.flatten(), ignore_index=-100)
    text_N, image_N = negatives_of(logits_NN.detach(), batch.keys)
    pairs = [(own, own), (image_N, own), (own, text_N)]
    judged = torch.cat([qformer("pairs", seen[i], words[t], real[t])[0] for i, t in pairs])
    is_pair = torch.cat([torch.ones(len(batch)), torch.zeros(2 * len(batch))]).long()
    return {"contrast": contrast, "captions": captions, "matching": F.cross_entropy(judged, is_pair)}


def plain_captions(model: Model, batch: Batch, decoder: CausalDecoder) -> Mapping[str, Tensor]:
    """The loss of the second stage, caption by caption."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for number, tokens in enumerate(batch.tokens):
        (queries,) = model.head("qformer")("outputs", locked_tokens(model, batch.images[number : number + 1]))
        words = tokens[: int(tokens.argmax()) + 1]  # the end mark is the largest
        inputs = torch.cat([model.head("projection")(queries), decoder.words(words[None])], dim=1)
        said = decoder(inputs)[0, queries.shape[1] : -1]
        total = total + F.cross_entropy(said, words[1:], reduction="sum")
        count += len(words) - 1
    return {"captions": total / count}


def plain_gradient(model: Model, terms: Mapping[str, Tensor]) -> tuple[dict[str, float], Tensor]:
    """Values, and the gradient of their sum by all that is trained."""
    torch.stack(list(terms.values())).sum().backward()
    flat = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained(model)]
    return {name: float(value.detach()) for name, value in terms.items()}, torch.cat([each.flatten() for each in flat])


def start_rank(rank: int, ranks: int, folder: Path) -> None:
    """As torchrun would start it."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    torch.set_num_threads(1)
    with distributed(device="cpu", timeout_s=120) as world:
        own = folder / str(rank)
        own.mkdir()
        for stage, method in ((1, stage1()), (2, stage2(own))):
            for name, sharded in (("whole", False), ("sharded", True)):
                found = gradients_of(own, method, world, sharded=sharded)
                if world.is_first:
                    torch.save(found, folder / f"{stage}-{name}.pt")


if __name__ == "__main__":
    folder, ranks = Path(sys.argv[1]), int(sys.argv[2])
    started = [
        multiprocessing.get_context("fork").Process(target=start_rank, args=(rank, ranks, folder))
        for rank in range(ranks)
    ]
    for each in started:
        each.start()
    for each in started:
        each.join()
    sys.exit(any(each.exitcode for each in started))
