"""Tokenizers of one's own files: SigLIP's way from a sentencepiece model that the test trains."""

from __future__ import annotations

import io
import json
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from configs.load import from_mapping
from tests.training.conftest import TINY_VIT, tiny_run
from tests.training.test_train import losses
from training.config import TrainConfig
from training.errors import ModelError
from training.learning.model import create_model, register_model
from training.learning.tokenizer import SentencePiece, make_tokenizer, num_tokens
from training.train import train

sentencepiece = pytest.importorskip("sentencepiece")

TEXTS = [f"{size} {colour} {shape}" for size in ("a small", "one big") for colour in ("red", "green") for shape in
         ("circle on a grey wall", "square, at the left", "star in the middle", "heart drawing")]  # fmt: skip


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentencepiece model with T5's marks: padding 0, end 1, unknown 2, no beginning."""
    found = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=found, vocab_size=64, hard_vocab_limit=False, minloglevel=2,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("tokenizer") / "spiece.model"
    path.write_bytes(found.getvalue())
    return path


def siglip_json(directory: Path, **text: Any) -> Path:
    """SigLIP's text tower in small: no causal mask, the last token taken."""
    path = directory / f"openwit-test-sigmoid-{'-'.join(text) or 'plain'}.json"
    text = {**TINY_VIT["text_cfg"], "context_length": 12, "no_causal_mask": True, "pool_type": "last", **text}  # type: ignore[dict-item]
    path.write_text(json.dumps({**TINY_VIT, "init_logit_bias": -10, "custom_text": True, "text_cfg": text}))
    return path


def test_texts_end_on_the_end_mark_and_are_filled_up_with_it(pieces: Path) -> None:
    tokenizer = SentencePiece(pieces, context_length=12, pad=None)
    tokens = tokenizer(["A Red_circle!", "a red circle", "red " * 40])
    assert tokens.shape == (3, 12)
    assert torch.equal(tokens[0], tokens[1])  # lower case, no punctuation
    words = sentencepiece.SentencePieceProcessor(model_file=str(pieces)).encode("a red circle")
    assert tokens[0].tolist() == words + [1] * (12 - len(words))
    assert tokens[2, -1] == 1 not in tokens[2, :-1]
    assert tokenizer(["a red circle"], context_length=3).tolist() == [[*words[:2], 1]]
    assert SentencePiece(pieces, context_length=12, pad=0)(["red"])[0, -1] == 0
    again = pickle.loads(pickle.dumps(tokenizer))
    assert torch.equal(again(TEXTS), tokenizer(TEXTS))


def test_siglip_trains_with_a_tokenizer_of_its_own(
    pieces: Path, tiny_data: Path, tmp_path: Path, tiny_vit: Path
) -> None:
    run = tiny_run(tmp_path / "run", tiny_data, siglip_json(tmp_path)) | {"samples": 32, "loss": {"name": "sigmoid"}}
    run["model"] |= {"tokenizer": str(pieces)}
    run["data"] = {**run["data"], "num_workers": 1}
    train(from_mapping(TrainConfig, run))
    found = losses(tmp_path / "run")
    assert len(found) == 2
    run["output"], run["model"] = str(tmp_path / "with-clips"), {**run["model"], "tokenizer": None}
    train(from_mapping(TrainConfig, run))
    assert losses(tmp_path / "with-clips") != found


def test_a_json_may_name_local_files_itself(pieces: Path, tmp_path: Path) -> None:
    name = register_model(str(siglip_json(tmp_path, hf_tokenizer_name=str(pieces.parent))))
    assert isinstance(make_tokenizer(name), SentencePiece)


def test_siglip_models_build_with_files_at_hand(pieces: Path) -> None:
    for name in ("ViT-B-16-SigLIP", "ViT-B-16-SigLIP2"):
        tokenizer = make_tokenizer(name, str(pieces))
        assert tokenizer.context_length == 64
        assert int(tokenizer(["red"])[0, -1]) == (0 if name.endswith("2") else 1)


def test_a_directory_of_tokenizer_json_is_read_by_transformers(
    tmp_path: Path, pieces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match=r"is read by the package transformers; pip install 'openwit\[transformers\]'"):
        make_tokenizer("ViT-B-16-SigLIP", str(tmp_path))
    (tmp_path / "spiece.model").write_bytes(pieces.read_bytes())
    assert isinstance(make_tokenizer("ViT-B-16-SigLIP", str(tmp_path)), SentencePiece)

    class Auto:
        vocab_size = 9

        @classmethod
        def from_pretrained(cls, path: str, **options: Any) -> Auto:
            assert path == str(tmp_path)
            return cls()

    monkeypatch.setitem(sys.modules, "transformers", type(sys)("transformers"))
    monkeypatch.setattr(sys.modules["transformers"], "AutoTokenizer", Auto, raising=False)
    assert make_tokenizer("ViT-B-16-SigLIP", str(tmp_path)).tokenizer.vocab_size == 9  # type: ignore[attr-defined]  # open_clip's


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path, pieces: path / "nowhere", r"nowhere does not exist; give a sentencepiece model"),
        (lambda path, pieces: path, "holds neither tokenizer.json nor spiece.model"),
        (lambda path, pieces: _written(path / "damaged.model", b"no model"), "not a sentencepiece model"),
    ],
)
def test_files_that_are_no_tokenizer_are_told_in_one_line(make: Any, told: str, pieces: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=rf"^model\.tokenizer: .*{told}|{told}") as caught:
        make_tokenizer("ViT-B-16-SigLIP", str(make(tmp_path, pieces)))
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_told_with_its_extra(pieces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ModelError, match=r"is missing; pip install 'openwit\[siglip\]'"):
        make_tokenizer("ViT-B-16-SigLIP", str(pieces))


def test_more_tokens_than_the_tower_has_places_for_are_refused(pieces: Path, tmp_path: Path) -> None:
    name = register_model(str(siglip_json(tmp_path, vocab_size=20)))
    with pytest.raises(ModelError, match=r"knows \d+ tokens and its text tower 20; set text_cfg\.vocab_size"):
        make_tokenizer(name, str(pieces))


class Words:
    """A tokenizer of Hugging Face's, as far as open_clip asks: words by number, two of them added later."""

    words: ClassVar[dict[str, int]] = {"a": 0, "red": 1, "dog": 2, "[PAD]": 3}
    added: ClassVar[dict[str, int]] = {"[PAD]": 3}
    vocab_size = 3

    @classmethod
    def from_pretrained(cls, path: str, **options: Any) -> Words:
        return cls()

    def get_vocab(self) -> dict[str, int]:
        return {**self.words, **self.added}

    def get_added_vocab(self) -> dict[str, int]:
        return dict(self.added)

    def batch_encode_plus(self, texts: list[str], *, max_length: int, **options: Any) -> Any:
        rows = [[self.get_vocab()[word] for word in text.split() if word in self.get_vocab()] for text in texts]
        filled = [[*row, *[self.words["[PAD]"]] * max_length][:max_length] for row in rows]
        return SimpleNamespace(input_ids=torch.tensor(filled))

    __call__ = batch_encode_plus


@pytest.mark.parametrize(
    ("added", "clean", "tokens"),
    [
        ({"[PAD]": 3}, "whitespace", 4),  # vocab_size says 3
        ({"[PAD]": 3, "[END]": 9}, "whitespace", 10),  # numbers have a gap
        ({"[PAD]": 3, "<extra_id_0>": 9}, "canonicalize", 4),  # no text has it once it is cleaned
    ],
)
def test_what_was_added_to_a_tokenizer_needs_places_too(
    added: dict[str, int], clean: str, tokens: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "transformers", type(sys)("transformers"))
    monkeypatch.setattr(sys.modules["transformers"], "AutoTokenizer", Words, raising=False)
    monkeypatch.setattr(Words, "added", added)
    for places in (tokens - 1, tokens):
        path = tmp_path / f"openwit-test-{clean}-{places}-{tokens}.json"
        text = {"context_length": 12, "vocab_size": places, "tokenizer_kwargs": {"clean": clean}}
        path.write_text(json.dumps({**TINY_VIT, "text_cfg": {**TINY_VIT["text_cfg"], **text}}))  # type: ignore[dict-item]
        name = register_model(str(path))
        if places == tokens:
            assert num_tokens(make_tokenizer(name, str(tmp_path))) == tokens
            continue
        with pytest.raises(ModelError, match=rf"knows {tokens} tokens and its text tower {places}; set text_cfg\.voc"):
            make_tokenizer(name, str(tmp_path))


def test_pieces_for_a_tower_that_numbers_them_otherwise_are_refused(pieces: Path) -> None:
    with pytest.raises(ModelError, match=r"has a tower of transformers; give a directory with its tokenizer\.json"):
        make_tokenizer("xlm-roberta-base-ViT-B-32", str(pieces))


def test_pixels_are_brought_to_what_the_config_says(tiny_vit: Path) -> None:
    from training.config import ModelConfig

    found = {}
    for normalisation in ("clip", "inception"):
        config = ModelConfig(name=str(tiny_vit), normalisation=normalisation)  # type: ignore[arg-type]  # a Literal
        model = create_model(
            config, device=torch.device("cpu"), precision="fp32", init_logit_scale=1.0, init_logit_bias=None, seed=0
        )
        found[normalisation] = model.mean_C11.flatten().tolist()
    assert found["inception"] == [127.5] * 3
    assert found["clip"] == pytest.approx([122.77, 116.75, 104.09], abs=0.01)


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
