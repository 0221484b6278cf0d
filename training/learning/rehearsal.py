"""A step of a method from outside the trainer, on tensors without content: are its losses told in full?

What only a step can show, such as a loss that nothing is divided by, is found here before the data is looked at.
"""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from configs.load import ConfigError
from training.config import TrainConfig
from training.data.batches import Batch
from training.distributed import World
from training.learning.method import Method, make_method
from training.learning.model import Model
from training.learning.terms import check_counts, check_loss, check_sums

__all__ = ["rehearse_method"]

_SAMPLES = 4


def rehearse_method(config: TrainConfig, model: Model) -> None:
    """Raise ConfigError where the losses of the config's method are not told in full (`terms.py`).

    `model` is on the meta device, and of no use afterwards. A method that asks for columns is not tried, since of these
    nothing is known, nor what goes by the content of tensors: the first step tells such mistakes (`gradient.py`).
    """
    method = make_method(config.method, config.loss)  # one of its own: what it keeps of this step is forgotten
    if method.fields or method.needs_reinforcements:
        return
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake = Model(
            model.clip.to_empty(device="cpu"),
            name=model.name, device=torch.device("cpu"), precision=model.precision, tokenizer=model.tokenizer,
        )  # fmt: skip
        fake.image_is_locked, fake.reads_tokens = model.image_is_locked, False
        try:
            _step(fake, method)
        except ConfigError:
            raise
        except Exception:  # noqa: BLE001 - code that no tensor without content can pass is not wrong for that
            pass


def _step(model: Model, method: Method) -> None:
    """As `accumulate_gradient`, without a gradient."""
    size, length = model.image_size, model.tokenizer.context_length
    batch = Batch.of(
        images=torch.empty(_SAMPLES, size, size, 3, dtype=torch.uint8),
        tokens=torch.zeros(_SAMPLES, length, dtype=torch.int64),
        keys=torch.zeros(_SAMPLES, dtype=torch.int64),
    )
    counts = method.counts(batch)
    check_counts(method, counts)
    output = method.forward(model, batch)
    check_sums(method, forward=output.sums, second={}, counts=counts)
    rows = {name: row.detach().requires_grad_() for name, row in output.rows.items()}
    coupled = method.coupled(model, rows, method.constants(model, batch), world=World(), total=_SAMPLES)
    second = method.second(model, batch, output, coupled.found)
    check_sums(method, forward=output.sums, second=second, counts=counts)
    check_loss(method, coupled.terms, output.sums, second)
