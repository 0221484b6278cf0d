"""What is known of a run before its data is looked at, and before a file is written.

    config --> model.name, its JSON --> the tokenizer, at hand and of no more tokens than the tower has places for
           --> the model without weights (the meta device) --> phases, batch normalisation, what its method asks of it
           --> where its weights come from

An index of 400 million samples takes twenty minutes, and a name that is spelt wrong shall not wait for it. What is made
here is thrown away: the model that learns is drawn once the run has its output.
"""

from __future__ import annotations

from configs.load import ConfigError
from training.config import TrainConfig
from training.data.batches import Tokenizer
from training.distributed import World
from training.learning.checks import check_model, check_schedule
from training.learning.initial_weights import check_sources
from training.learning.memory import without_weights
from training.learning.method import Method
from training.learning.model import model_json, register_model
from training.learning.text_tower import check_text_tower
from training.learning.tokenizer import make_tokenizer

__all__ = ["check_before_data"]


def check_before_data(config: TrainConfig, method: Method, world: World) -> Tokenizer:
    """Raise ConfigError or ModelError for what would stop the run, whatever its data; return the model's tokenizer.

    `method` is asked of a model without weights, so that another one has to train.
    """
    if config.samples is not None:  # of epochs the data says how long they are
        check_schedule(config, config.samples)
    name = register_model(config.model.name)
    check_text_tower(name, model_json(name))
    tokenizer = make_tokenizer(name, config.model.tokenizer)

    if config.evaluation.measures and not method.embeds:
        raise ConfigError(
            f"method.name: {config.method.name} has no features to evaluate; leave evaluation.path and "
            "evaluation.sets out"
        )
    model = without_weights(config, method, None, tokenizer)
    model.is_sharded = config.distributed == "fsdp" and world.size > 1
    check_sources(model.clip, config.model, name=name)
    check_model(config, model, world)
    method.check(model)
    return tokenizer
