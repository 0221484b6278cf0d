"""BiomedCLIP's text tower from a Hugging Face directory on this machine, in the environment that has transformers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.peers.test_peers import run_with
from tests.training.tiny_shards import make_shards

pytestmark = pytest.mark.peers

BERT = """
import json, os
from pathlib import Path
import torch, transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from configs.load import load
from training.config import ModelConfig, TrainConfig

transformers.logging.set_verbosity_error()
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"a the of on with picture background clip art".split(),
         *"red green blue yellow orange purple black white".split(),
         *"circle square triangle star cross ring heart arrow diamond crescent".split()]


def bring(directory, *, words=WORDS, **shape):
    # config.json and tokenizer.json as BERT's authors publish them.
    Path(directory).mkdir(parents=True)
    transformers.BertConfig(vocab_size=len(words), **shape).save_pretrained(directory)
    pieces = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer(lowercase=True)
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = dict(pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")
    transformers.PreTrainedTokenizerFast(tokenizer_object=pieces, **names).save_pretrained(directory)


def made(name, device="cpu", **options):
    from training.learning.model import create_model
    return create_model(ModelConfig(name=name, **options), device=torch.device(device), precision="fp32",
                        init_logit_scale=2.6592, init_logit_bias=None, seed=0)
"""

PUBLISHED = """
# BERT-base's shape (Devlin et al., arXiv 1810.04805, section 3), which PubMedBERT has (Gu et al., arXiv
# 2007.15779): BertConfig's defaults, with 30,522 pieces.
bring("data/pubmedbert", words=[*WORDS, *(f"##{i}" for i in range(30522 - len(WORDS)))])
config = load(TrainConfig, "configs/train/biomedclip-vit-b-16.yaml")
name = "configs/train/models/biomedclip-vit-b-16.json"
with torch.device("meta"):
    model = made(name, "meta")
clip = model.clip
counts = [sum(p.numel() for p in m.parameters()) for m in (clip, clip.visual, clip.text)]
bert = clip.text.transformer.config
# The published open_clip_pytorch_model.bin has 784 MB: 196 M weights of 4 bytes.
assert round(counts[0] * 4 / 1e6) == 784, counts
assert round(counts[1] / 1e6) == 86, counts  # supplement, table 2
assert (bert.num_hidden_layers, bert.hidden_size, bert.num_attention_heads, bert.vocab_size) == (12, 768, 12, 30522)
assert (len(clip.visual.trunk.blocks), clip.visual.trunk.embed_dim) == (12, 768)
assert clip.visual(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 512)
assert clip.encode_text(torch.ones(2, 256, dtype=torch.int64, device="meta")).shape == (2, 512)
assert model.tokenizer(["a red circle"]).shape == (1, 256)
optimiser = config.optimiser  # supplement, table 9
assert (optimiser.name, optimiser.learning_rate, optimiser.weight_decay) == ("adamw", 5e-4, 0.2)
assert (optimiser.beta1, optimiser.beta2, optimiser.eps, optimiser.schedule) == (0.9, 0.98, 1e-6, "cosine")
assert (config.epochs, optimiser.warmup_samples, config.global_batch_size) == (32, 2000 * 4096, 4096)
from training.learning.memory import MARGIN, needs_of
needs = needs_of(config)
assert needs.total <= (1 - MARGIN) * config.plan.gpu_memory_gb * 1e9
print(counts, round(needs.total / 1e9, 1))
"""

TINY = """
from dataclasses import replace
from safetensors.torch import load_file, save_file
from training.train import train

bring("bert", hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
      max_position_embeddings=256, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
transformers.BertForMaskedLM(transformers.BertConfig.from_pretrained("bert")).save_pretrained("bert")  # and a head
content = json.loads(Path("configs/train/models/openwit-sample-bert.json").read_text())
content["text_cfg"] = dict(context_length=256, hf_model_name="bert", hf_tokenizer_name="bert", hf_proj_type="mlp",
                           hf_pooler_type="cls_last_hidden_state_pooler")
Path("tiny-bert.json").write_text(json.dumps(content))

# The tower begins with what masked language modelling left; the projection begins anew.
drawn, model = made("tiny-bert.json"), made("tiny-bert.json", init_text_from="bert")
theirs = {k.removeprefix("bert."): v for k, v in load_file("bert/model.safetensors").items() if k.startswith("bert.")}
ours = model.clip.text.transformer.state_dict()
assert all(torch.equal(ours[k], v) for k, v in theirs.items() if k in ours)
assert set(ours) - set(theirs) <= {"embeddings.position_ids"}
assert torch.equal(model.clip.text.proj[0].weight, drawn.clip.text.proj[0].weight)
tokens = model.tokenizer(["a red circle", "the blue star on a background"])
assert tokens.shape == (2, 256) and tokens[0, :6].tolist() == [2, WORDS.index("a"), WORDS.index("red"),
                                                               WORDS.index("circle"), 3, 0]
with model.evaluating():  # what is padding is not looked at
    torch.testing.assert_close(model.encode_text(tokens[:, :40]), model.encode_text(tokens), atol=1e-6, rtol=1e-5)

# Four steps, and the same over micro-batches and with activations that are computed again; the model of the run.
config = load(TrainConfig, "configs/train/biomedclip-small.yaml")
config = replace(
    config, output="run", epochs=None, samples=64, global_batch_size=16, device="cpu", precision="fp32", threads=1,
    log=replace(config.log, every_steps=1), data=replace(config.data, path="tiny", num_workers=0),
    evaluation=replace(config.evaluation, path=None), model=ModelConfig(name="tiny-bert.json", init_text_from="bert"),
)
assert train(config).progress.samples_seen == 64
from training.learning.pretrained import load_model
again = load_model("run")
saved = load_file("run/checkpoints/000000000064/model.safetensors")["text.proj.0.weight"]
assert torch.equal(again.clip.text.proj[0].weight, saved)
def losses(output):
    return [line["loss"] for line in map(json.loads, open(f"{output}/log.jsonl")) if "loss" in line]


again = replace(config, output="again", model=replace(config.model, gradient_checkpointing=True))
for other in (replace(config, output="two", micro_batches=2), again):
    assert train(other).progress.samples_seen == 64
    torch.testing.assert_close(torch.tensor(losses(other.output)), torch.tensor(losses("run")), rtol=1e-4, atol=0)
assert len(losses("run")) == 4

# What does not fit is one line.
from training.errors import ModelError
for source, told in (("nowhere", "does not exist"), ("empty", "holds no weights"), ("wide", "does not fit the text")):
    if source == "empty":
        bring("empty", hidden_size=32)
    if source == "wide":
        bring("wide", hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
        transformers.BertModel(transformers.BertConfig.from_pretrained("wide")).save_pretrained("wide")
    try:
        made("tiny-bert.json", init_text_from=source)
    except ModelError as error:
        assert told in str(error) and "\\n" not in str(error), error
    else:
        raise AssertionError(source)
print("done")
"""


def run(code: str, directory: Path) -> str:
    (directory / "configs").symlink_to(REPOSITORY / "configs")
    return run_with("transformers", BERT + code, directory, with_ours=True)


def test_biomedclip_has_its_published_size_and_schedule(tmp_path: Path) -> None:
    run(PUBLISHED, tmp_path)


def test_a_small_bert_is_trained_from_a_directory(tmp_path: Path) -> None:
    make_shards(tmp_path / "tiny", counts=(40, 40))
    assert run(TINY, tmp_path).splitlines()[-1] == "done"
