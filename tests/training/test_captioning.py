"""The captions' cross-entropy, in pieces, against torch's over the whole."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from training.learning import captioning
from training.learning.captioning import caption_sum, caption_tokens

_IGNORE = 0


def _drawn(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits = 6 * torch.randn(4, 7, 33, generator=generator, dtype=torch.float64)
    labels = torch.randint(1, 33, (4, 7), generator=generator)
    labels[0, 3:] = labels[2] = _IGNORE
    return logits.to(dtype).requires_grad_(), labels


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("piece", [1, 33 * 5, 2**23])
def test_sum_and_gradient_equal_torchs_over_the_whole(
    monkeypatch: pytest.MonkeyPatch, piece: int, label_smoothing: float
) -> None:
    monkeypatch.setattr(captioning, "_PIECE", piece)
    logits, labels = _drawn()
    value = caption_sum(logits, labels, ignore=_IGNORE, label_smoothing=label_smoothing)
    (gradient,) = torch.autograd.grad(value / 3, logits)
    expected = F.cross_entropy(
        logits.flatten(0, 1),
        labels.flatten(),
        ignore_index=_IGNORE,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    (of_torch,) = torch.autograd.grad(expected / 3, logits)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, of_torch, rtol=1e-10, atol=1e-14)


def test_logits_in_bf16_are_summed_in_float32() -> None:
    logits, labels = _drawn(torch.bfloat16)
    value = caption_sum(logits, labels, ignore=_IGNORE)
    (gradient,) = torch.autograd.grad(value, logits)
    whole = logits.detach().float().requires_grad_()
    expected = F.cross_entropy(whole.flatten(0, 1), labels.flatten(), ignore_index=_IGNORE, reduction="sum")
    (of_torch,) = torch.autograd.grad(expected, whole)
    assert value.dtype == torch.float32
    assert gradient.dtype == torch.bfloat16
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, of_torch.bfloat16())


def test_label_to_ignore_may_lie_outside_the_vocabulary() -> None:
    logits, labels = _drawn()
    elsewhere = labels.masked_fill(labels == _IGNORE, -100)
    torch.testing.assert_close(caption_sum(logits, elsewhere, ignore=-100), caption_sum(logits, labels, ignore=_IGNORE))


def test_captions_without_a_token_add_nothing() -> None:
    logits, labels = _drawn()
    nothing = torch.full_like(labels, _IGNORE)
    value = caption_sum(logits, nothing, ignore=_IGNORE)
    (gradient,) = torch.autograd.grad(value, logits)
    assert value == 0
    assert not gradient.any()
    assert caption_tokens(nothing, ignore=_IGNORE) == 0
    assert caption_tokens(labels, ignore=_IGNORE) == (labels != _IGNORE).sum()


def test_no_copy_of_the_logits_is_made_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what autograd keeps, nothing is as large as the logits but the logits."""
    monkeypatch.setattr(captioning, "_PIECE", 33)
    logits, labels = _drawn(torch.bfloat16)
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        caption_sum(logits, labels, ignore=_IGNORE)
    assert [t.dtype for t in kept if t.numel() == logits.numel()] == [torch.bfloat16]
