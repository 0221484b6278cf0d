"""Zero-shot accuracy class by class, of one process."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np

from training.config import EvaluationConfig
from training.evaluation.evaluate import class_embeddings
from training.evaluation.examples import EvaluationSet
from training.learning.features import image_features, prepare
from training.learning.model import Model

__all__ = ["accuracy_by_class"]


def accuracy_by_class(model: Model, config: EvaluationConfig) -> dict[str, tuple[int, int]]:
    """Class name -> (examples whose best class it was, examples), of the set at `config.path`.

    Raises EvaluationError.
    """
    assert config.path is not None
    data = EvaluationSet(config.path)
    with model.evaluating():
        class_CD = class_embeddings(model, data.classes, data.templates, batch_size=config.batch_size)
    right, examples = np.zeros(len(data.classes), np.int64), np.zeros(len(data.classes), np.int64)
    labelled = ((example.image, example.label) for example in data.examples() if example.label is not None)
    with ThreadPoolExecutor(2) as pool:
        while batch := list(islice(labelled, config.batch_size)):
            pixels = [made for made in pool.map(lambda pair: prepare(pair[0], model), batch) if made is not None]
            found = (image_features(model, np.stack(pixels)) @ class_CD.T).argmax(dim=1).cpu().numpy()
            labels = np.array([label for _, label in batch])
            np.add.at(examples, labels, 1)
            np.add.at(right, labels[found == labels], 1)
    return {name: (int(right[n]), int(examples[n])) for n, name in enumerate(data.classes) if examples[n]}
