"""The places that a tower needs for tokens of Hugging Face, in the environment that has transformers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.peers.test_peers import run_with

pytestmark = pytest.mark.peers

CODE = """
import json
from pathlib import Path
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from tests.training.conftest import TINY_VIT
from training.errors import ModelError
from training.learning.model import register_model
from training.learning.tokenizer import make_tokenizer, num_tokens

words = ["<unk>", "a", "red", "dog", "cat", "big"]

def bring(directory, *, kind, special):
    if kind == "words":
        made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    elif kind == "gaps":  # as files have it from which words were taken
        made = Tokenizer(models.WordLevel({word: 3 * number for number, word in enumerate(words)}, unk_token="<unk>"))
    elif kind == "unigram":
        made = Tokenizer(models.Unigram([(word, -1.0) for word in words], unk_id=0))
    else:
        made = Tokenizer(models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    found = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")
    found.add_special_tokens(special)
    found.save_pretrained(directory)
    return found

for kind in ("words", "gaps", "unigram", "pieces"):
    for special in ({"pad_token": "<unk>"}, {"pad_token": "[PAD]"}, {"pad_token": "[PAD]", "eos_token": "[END]"},
                    {"pad_token": "[PAD]", "additional_special_tokens": ["<one>", "<two>"]}):
        directory = f"{kind}-{'-'.join([*special])}-{len(special['pad_token'])}"
        there = bring(directory, kind=kind, special=special)
        needed = 1 + max(there.get_vocab().values())
        for places in (needed - 1, needed):
            path = Path(f"openwit-test-{directory}-{places}.json")
            text = {**TINY_VIT["text_cfg"], "context_length": 12, "vocab_size": places}
            path.write_text(json.dumps({**TINY_VIT, "text_cfg": text}))
            try:
                made = make_tokenizer(register_model(str(path)), directory)
            except ModelError as error:
                assert places < needed and f"knows {needed} tokens" in str(error), error
            else:
                assert places == needed == num_tokens(made), (directory, places, needed, num_tokens(made))

# One that cannot fill up its texts is told.
bring("without", kind="words", special={"eos_token": "[END]"})
try:
    make_tokenizer(register_model(str(path)), "without")
except ModelError as error:
    assert "name its pad_token in tokenizer_config.json" in str(error), error
else:
    raise AssertionError("taken")
print("done")
"""


def test_added_tokens_and_gaps_are_counted(tmp_path: Path) -> None:
    assert run_with("transformers", CODE, tmp_path, with_ours=True).splitlines()[-1] == "done"
