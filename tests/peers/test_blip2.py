"""BLIP-2 beside transformers: its Q-Former says what ours says, and its language models are read, in the environment
that `make peers` made."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.peers.test_peers import run_with

pytestmark = pytest.mark.peers

QFORMER = """
import torch
from transformers import Blip2QFormerConfig
from transformers.models.blip_2.modeling_blip_2 import Blip2QFormerModel
from training.learning.methods.blip2.qformer import QFormer

torch.manual_seed(0)
ours = QFormer(queries=3, width=24, layers=4, heads=2, cross_every=2, picture_width=10, embed_dim=8, vocab_size=30,
               context_length=7).double()
for parameter in ours.parameters():
    torch.nn.init.normal_(parameter, std=0.3)
theirs = Blip2QFormerModel(Blip2QFormerConfig(
    hidden_size=24, num_hidden_layers=4, num_attention_heads=2, intermediate_size=96, cross_attention_frequency=2,
    encoder_hidden_size=10, use_qformer_text_input=True, vocab_size=31, max_position_embeddings=7,
)).double().eval()

def attention(target, source, norm):
    if source.in_proj_weight is None:
        weights = source.q_proj_weight, source.k_proj_weight, source.v_proj_weight
    else:
        weights = source.in_proj_weight.chunk(3)
    for part, weight, bias in zip(("query", "key", "value"), weights, source.in_proj_bias.chunk(3)):
        module = getattr(target.attention, part)
        module.weight.copy_(weight)
        module.bias.copy_(bias)
    target.output.dense.load_state_dict(source.out_proj.state_dict())
    target.output.LayerNorm.load_state_dict(norm.state_dict())

def feed(inner, outer, source):
    inner.dense.load_state_dict(source.inner.state_dict())
    outer.dense.load_state_dict(source.outer.state_dict())
    outer.LayerNorm.load_state_dict(source.norm.state_dict())

with torch.no_grad():
    theirs.layernorm.load_state_dict(ours.input_norm.state_dict())
    for target, source in zip(theirs.encoder.layer, ours.layers):
        attention(target.attention, source.attention, source.attention_norm)
        if source.look is not None:
            attention(target.crossattention, source.look, source.look_norm)
        feed(target.intermediate, target.output, source.of_texts)
        feed(target.intermediate_query, target.output_query, source.of_queries)
    picture = torch.randn(2, 5, 10, dtype=torch.float64)
    words = torch.tensor([[28, 4, 9, 29, 0], [28, 3, 29, 0, 0]])
    is_text = words != 0
    seen, queries = ours.picture_norm(picture), ours.queries.expand(2, -1, -1)
    said = theirs(query_embeds=queries, encoder_hidden_states=seen).last_hidden_state
    torch.testing.assert_close(ours("outputs", picture)[0], said)
    inputs = torch.cat([queries, ours.words(words) + ours.positions[:5]], dim=1)
    mask = torch.cat([torch.ones(2, 3, dtype=torch.bool), is_text], dim=1)
    said = theirs(query_embeds=inputs, query_length=3, attention_mask=mask.long(), encoder_hidden_states=seen)
    logits = ours.matching(said.last_hidden_state[:, :3]).mean(1)
    torch.testing.assert_close(ours("pairs", picture, words, is_text)[0], logits)
    said = theirs(query_embeds=inputs[:, 3:], query_length=0, attention_mask=is_text.long()).last_hidden_state
    feature = torch.nn.functional.normalize(ours.text_projection(said[:, 0]), dim=-1)
    torch.testing.assert_close(ours("texts", None, words, is_text)[0], feature)
print("alike")
"""

LANGUAGE_MODELS = """
import torch
from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM
from training.learning.methods.blip2.language_model import load_language_model

torch.manual_seed(0)
made = {
    "opt": OPTForCausalLM(OPTConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, ffn_dim=32,
        num_attention_heads=2, max_position_embeddings=20, word_embed_proj_dim=16, eos_token_id=2)),
    "gpt2": GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=20, eos_token_id=49,
        bos_token_id=49)),
}
tokens = torch.randint(3, 49, (2, 6))
for name, module in made.items():
    module.eval().save_pretrained(name)
    found = load_language_model(name, device=torch.device("cpu"))
    assert (found.width, found.vocab_size, found.end, found.context_length) == (16, 50, module.config.eos_token_id, 20)
    inputs = found.inputs_of(tokens).requires_grad_()
    logits = found.logits(inputs)
    torch.testing.assert_close(logits, module(input_ids=tokens).logits)
    logits[:, 3].sum().backward()
    assert inputs.grad[:, :4].abs().sum() > 0 and not inputs.grad[:, 4:].any()
    assert not any(parameter.requires_grad for parameter in found._module.parameters())
    assert load_language_model(name, device=torch.device("cpu"), dtype=torch.bfloat16).dtype == torch.bfloat16
print("read")
"""

DAMAGED = """
import pathlib
import torch
from training.errors import ModelError
from training.learning.methods.blip2.language_model import load_language_model

pathlib.Path("bert").mkdir()
pathlib.Path("bert/config.json").write_text('{"model_type": "no-such-model"}')
try:
    load_language_model("bert", device=torch.device("cpu"))
except ModelError as error:
    print(error)
"""


def test_the_qformer_is_transformers(tmp_path: Path) -> None:
    assert run_with("transformers", QFORMER, tmp_path, with_ours=True).split() == ["alike"]


def test_causal_language_models_are_read(tmp_path: Path) -> None:
    assert run_with("transformers", LANGUAGE_MODELS, tmp_path, with_ours=True).split()[-1] == "read"


def test_what_is_no_language_model_is_one_line(tmp_path: Path) -> None:
    told = run_with("transformers", DAMAGED, tmp_path, with_ours=True).strip()
    assert "is no causal language model that transformers reads" in told
    assert "\n" not in told
