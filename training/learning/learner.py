"""What learns: a model for pictures of one size, its optimiser and its gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from training.config import TrainConfig
from training.data.batches import Tokenizer
from training.distributed import World
from training.learning.averaging import Average
from training.learning.checks import check_model
from training.learning.gradient import Gradients, make_gradients
from training.learning.method import Method, make_method
from training.learning.model import Model, create_model, resolve_precision
from training.learning.optimiser import make_optimiser, set_rate, split_by_decay
from training.learning.resizing import carry_over, fit_weights

__all__ = ["Learner", "make_learner"]


@dataclass(frozen=True, kw_only=True)
class Learner:
    """Model, optimiser and gradients, which know each other's parameters."""

    config: TrainConfig
    world: World
    mesh: DeviceMesh | None
    """Over what the weights are cut; None for whole ones."""
    image_size: int | None
    """Side of the pictures; None for the model's own."""
    model: Model
    optimiser: torch.optim.Optimizer
    gradients: Gradients
    method: Method
    average: Average | None
    """Of the weights; None where the config asks for none."""

    def resized(self, image_size: int | None) -> Learner:
        """This one for pictures of another size, with its weights and moments; itself where the size is the same."""
        if image_size == self.image_size:
            return self
        other = make_learner(
            self.config, self.world, mesh=self.mesh, image_size=image_size, tokenizer=self.model.tokenizer
        )
        carry_over(self.model.clip, self.optimiser, other.model.clip, other.optimiser)
        if self.average is not None and other.average is not None:
            other.average.weights = fit_weights(self.average.weights, other.average.weights)
        return other

    def step(self, *, rate: float, norm: Tensor, is_finite: Tensor, samples_seen: int) -> None:
        """Take the step that the gradients of length `norm` ask for, at the learning rate `rate`; the last of
        `samples_seen`.

        Where `is_finite` is false, weights and moments stay as they are. Neither is read: the device decides.
        """
        limit = self.config.optimiser.max_gradient_norm
        if limit is not None:
            self.gradients.scale_((limit / norm).clamp(max=1))
        set_rate(self.optimiser, rate)
        # Fused AdamW's own way to leave out a step, made for torch.amp.GradScaler; LAMB's is the same.
        cast(Any, self.optimiser).found_inf = is_finite.logical_not().float()
        self.optimiser.step()
        with torch.no_grad():
            self.method.after_step(self.model, samples_seen=samples_seen)
        if self.average is not None:
            self.average.follow(steps=samples_seen // self.config.global_batch_size, is_finite=is_finite)

    @contextmanager
    def averaged(self) -> Iterator[Model]:
        """The model with the averaged weights, if there are any, for as long; then with its own."""
        if self.average is None:
            yield self.model
        else:
            with self.average.in_place():
                yield self.model

    @property
    def averages(self) -> dict[str, Tensor] | None:
        """The averaged weights by name; None where there are none."""
        return None if self.average is None else self.average.weights

    @property
    def logit_scale(self) -> float:
        """The learnt scale itself, not its logarithm."""
        return float(cast(Any, self.model.clip).logit_scale.detach().exp())


def make_learner(
    config: TrainConfig,
    world: World,
    *,
    mesh: DeviceMesh | None,
    image_size: int | None,
    tokenizer: Tokenizer | None = None,
) -> Learner:
    """A fresh learner; leaves the random generators as they are. `tokenizer` is made where it is not given.

    Raises ModelError, ConfigError.
    """
    method = make_method(config.method, config.loss)
    gpus = [world.device] if world.device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        model = create_model(
            config.model,
            device=world.device,
            precision=resolve_precision(config.precision, world.device),
            init_logit_scale=method.init_logit_scale,
            init_logit_bias=method.init_logit_bias,
            seed=config.seed,
            image_size=image_size,
            mesh=mesh,
            heads=method.heads,
            inherits=method.inherits,
            synchronise_batch_norm=world.size > 1,
            tokenizer=tokenizer,
        )
    check_model(config, model, world)
    method.check(model)
    optimiser = make_optimiser(model.clip, config.optimiser, sum_=world.sum_)
    decayed, plain = split_by_decay(model.clip)
    gradients = make_gradients(model.clip, [*decayed, *plain], world)
    decay = config.optimiser.ema_decay
    return Learner(
        config=config,
        world=world,
        mesh=mesh,
        image_size=image_size,
        model=model,
        optimiser=optimiser,
        gradients=gradients,
        method=method,
        average=None if decay is None else Average(model.clip, decay),
    )
