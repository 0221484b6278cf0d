"""BLIP's three losses as a textbook has them, over the whole batch on one device; and its ranks, as a program.

    python -m tests.training.blip_reference FOLDER MODEL.json RANKS PORT

writes FOLDER/found-RANKS.pt: what `steps_of` found for each number of micro-batches.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from training.config import LossConfig, MethodConfig, ModelConfig
from training.data.batch import Batch
from training.distributed import World, distributed
from training.learning.gradient import accumulate_gradient, make_gradients
from training.learning.method import make_method
from training.learning.methods.blip.blip import Blip
from training.learning.methods.blip.hard_pairs import keyed_choice
from training.learning.model import Model, create_model

VOCABULARY = 500
TINY_BLIP = {
    "embed_dim": 16,
    "custom_text": True,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 48, "head_width": 16, "patch_size": 16},
    "text_cfg": {
        "context_length": 24, "vocab_size": VOCABULARY, "width": 32, "heads": 2, "layers": 2, "no_causal_mask": True,
        "pool_type": "first",
    },
}  # fmt: skip
GLOBAL_BATCH = 18
"""Cannot be shared evenly by four ranks, nor cut evenly into four micro-batches by two."""
OPTIONS = {"queue": 29, "momentum": 0.9, "alpha": 0.4, "ramp_samples": 4 * GLOBAL_BATCH}
"""A queue that the second batch goes round, an alpha that has not ended its rise."""
RATE = 0.05
STEPS = 2


class _Tokens:
    """In a tokenizer's place: texts are made as tokens here, few of which are known, so that logits are small."""

    context_length = 24
    sot_token_id, eot_token_id = 498, 499

    def __call__(self, texts: list[str], context_length: int = 0) -> Tensor:
        raise NotImplementedError


def make_model(path: str, method: Blip, **options: Any) -> Model:
    """The test's model in float64."""
    made = create_model(
        ModelConfig(name=path, patch_dropout=0.25, **options),
        device=torch.device("cpu"), precision="fp32", init_logit_scale=method.init_logit_scale, init_logit_bias=None,
        heads=method.heads, seed=3, tokenizer=_Tokens(),
    )  # fmt: skip
    # Wrapped again, so that the normalising constants take the weights' float64.
    return Model(made.clip.double(), name=made.name, device=made.device, precision="fp32", tokenizer=_Tokens())


def make_batch(image_size: int) -> Batch:
    """A global batch of noise and captions of different lengths."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (GLOBAL_BATCH, image_size, image_size, 3), generator=generator, dtype=torch.uint8)
    tokens = torch.zeros(GLOBAL_BATCH, 24, dtype=torch.int64)
    for row in range(GLOBAL_BATCH):
        length = 3 + row % 9
        tokens[row, :length] = torch.randint(1, VOCABULARY, (length,), generator=generator)
    return Batch.of(images=images, tokens=tokens, keys=torch.arange(GLOBAL_BATCH) * 7919 + 1, num_replaced=0)


def make_blip(**options: Any) -> Blip:
    made = make_method(MethodConfig(name="blip", options={**OPTIONS, **options}), LossConfig(chunk_rows=12))
    assert isinstance(made, Blip)
    return made


def parameters_of(model: Model) -> list[torch.nn.Parameter]:
    return [p for p in model.clip.parameters() if p.requires_grad]


def steps_of(path: str, world: World, *, micro_batches: int, **options: Any) -> dict[str, Any]:
    """Two steps of plain descent: of each the terms and the gradient, then what is in the queue and the averages."""
    method = make_blip()
    model = make_model(path, method, **options)
    parameters = parameters_of(model)
    gradients = make_gradients(model.clip, parameters, world)
    batch = make_batch(model.image_size).slice(*world.share(GLOBAL_BATCH))
    found: dict[str, Any] = {"terms": [], "gradients": []}
    for step in range(STEPS):
        terms = accumulate_gradient(
            model, method, batch, gradients, world, global_batch_size=GLOBAL_BATCH, micro_batches=micro_batches
        )
        found["terms"].append({name: float(value) for name, value in terms.items()})
        found["gradients"].append(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]))
        with torch.no_grad():
            for parameter in parameters:
                assert parameter.grad is not None
                parameter -= RATE * parameter.grad
            method.after_step(model, samples_seen=(step + 1) * GLOBAL_BATCH)
    return found | state_of(model)


def state_of(model: Model) -> dict[str, Any]:
    queue, follower = model.head("queue"), model.head("follower")
    return {
        "queue": {name: value.clone() for name, value in queue.state_dict().items()},
        "follower": torch.cat([p.flatten() for p in follower.parameters()]),
    }


def plain_steps(path: str) -> dict[str, Any]:
    """The same by autograd over the whole batch, without any of the trainer's machinery."""
    model = make_model(path, make_blip())
    batch = make_batch(model.image_size)
    clip: Any = model.clip
    heads = {name: model.head(name) for name in ("queue", "follower", "grounding")}
    queue: Any = heads["queue"]
    # BLIP's queue: the pointer's place is written, then it moves on.
    kept, place = {name: getattr(queue, name).clone() for name in ("image", "text")}, 0
    found: dict[str, Any] = {"terms": [], "gradients": []}
    for step in range(STEPS):
        alpha = OPTIONS["alpha"] * step * GLOBAL_BATCH / OPTIONS["ramp_samples"]
        terms, slow = plain_terms(model, batch, kept, alpha)
        for parameter in parameters_of(model):
            parameter.grad = None
        torch.stack(list(terms.values())).sum().backward()
        found["terms"].append({name: float(value.detach()) for name, value in terms.items()})
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters_of(model)]
        found["gradients"].append(torch.cat([grad.flatten() for grad in grads]))
        with torch.no_grad():
            for parameter, grad in zip(parameters_of(model), grads, strict=True):
                parameter -= RATE * grad
            clip.logit_scale.clamp_(math.log(2), math.log(100))
            follower: Any = heads["follower"]
            for slow_one, quick in ((follower.image, clip.visual), (follower.text, clip.text)):
                for old, new in zip(slow_one.parameters(), quick.parameters(), strict=True):
                    old.copy_(OPTIONS["momentum"] * old + (1 - OPTIONS["momentum"]) * new)
        for i in range(GLOBAL_BATCH):
            for name in kept:
                kept[name][place] = slow[name][i]
            place = (place + 1) % len(kept["image"])
    state = state_of(model)
    state["queue"] = {**kept, "place": torch.tensor(place), "samples_seen": torch.tensor(STEPS * GLOBAL_BATCH)}
    return found | state


def plain_terms(
    model: Model, batch: Batch, kept: dict[str, Tensor], alpha: float
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """({term: value}, the followers' features)."""
    clip: Any = model.clip
    grounding, follower = (model.head(name) for name in ("grounding", "follower"))
    number, text = len(batch), clip.text
    pixels = (batch.images.permute(0, 3, 1, 2).double() - model.mean_C11) / model.std_C11
    clip.visual.patch_dropout.keys_B = batch.keys
    tokens = clip.visual.ln_post(clip.visual.transformer(clip.visual._embeds(pixels)))
    image = F.normalize(tokens[:, 0] @ clip.visual.proj, dim=1)
    said = F.normalize(text(batch.tokens), dim=1)
    with torch.no_grad():
        slow_image = F.normalize(follower.get_submodule("image")(pixels), dim=1)
        slow_text = F.normalize(follower.get_submodule("text")(batch.tokens), dim=1)
    scale = clip.logit_scale.exp()
    every_text, every_image = torch.cat([slow_text, kept["text"]]), torch.cat([slow_image, kept["image"]])
    by_image, by_text = scale * image @ every_text.T, scale * said @ every_image.T
    contrast = torch.zeros(())
    for logits, slow, every in ((by_image, slow_image, every_text), (by_text, slow_text, every_image)):
        with torch.no_grad():
            target = alpha * (scale * slow @ every.T).softmax(1)
            target = target + (1 - alpha) * torch.eye(number, len(every), dtype=torch.float64)
        contrast = contrast + F.cross_entropy(logits, target) / 2

    match = torch.zeros(())
    for salt, logits in ((1, by_image), (2, by_text)):
        weights = (logits[:, :number].detach().softmax(1) + 1e-4) * (1 - torch.eye(number))
        drawn = keyed_choice(weights, batch.keys, salt=salt)
        for i, j in enumerate(drawn.tolist()):
            assert i != j
            words, picture = (batch.tokens[j], tokens[i]) if salt == 1 else (batch.tokens[i], tokens[j])
            match = match - grounding.match(grounding.encode(text, words[None], picture[None])).log_softmax(1)[0, 0]
    for i in range(number):
        seen = grounding.encode(text, batch.tokens[i : i + 1], tokens[i : i + 1])
        match = match - grounding.match(seen).log_softmax(1)[0, 1]

    labels = batch.tokens[:, 1:].masked_fill(batch.tokens[:, 1:] == 0, -100)
    logits = grounding.decode(text, batch.tokens[:, :-1], tokens)
    language = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, label_smoothing=0.1)
    terms = {"contrast": contrast, "match": match / (3 * number), "language": language}
    return terms, {"image": slow_image, "text": slow_text}


def _rank(rank: int, ranks: int, port: int, folder: str, model: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with distributed(device="cpu", timeout_s=120) as world:
        found = {micro: steps_of(model, world, micro_batches=micro) for micro in (1, 2, 4)}
        if world.is_first:
            torch.save(found, Path(folder) / f"found-{ranks}.pt")


if __name__ == "__main__":
    where, described, how_many, at = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    fork = multiprocessing.get_context("fork").Process
    started = [fork(target=_rank, args=(n, how_many, at, where, described)) for n in range(how_many)]
    for one in started:
        one.start()
    for one in started:
        one.join()
    sys.exit(any(one.exitcode for one in started))
