"""The commands of `python -m training`: the one list. Importing it loads nothing but the standard library."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["COMMANDS", "Command"]


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command, and where it is."""

    name: str
    usage: str
    """What comes behind the name, before the options."""
    says: str
    """What it does: a line, and more lines for its own page."""
    module: str
    """Which has its options (`OPTIONS`, a config class), those that everyone needs (`NEEDED`), and `run(words)`."""


COMMANDS: tuple[Command, ...] = (
    Command(
        name="run",
        usage="CONFIG.yaml [--seeds N]",
        says="Train, or go on from the last checkpoint; then evaluate.\nWith --seeds: N trainings, mean and spread.",
        module="training.commands.train",
    ),
    Command(
        name="plan",
        usage="CONFIG.yaml",
        says="Say what the run will take: memory by kind, samples, steps, queries.\nNeeds no GPU and no data.",
        module="training.commands.plan",
    ),
    Command(
        name="evaluate",
        usage="MODEL... --sets '[DIR]'",
        says="Measure models on evaluation sets: one table, and files in --to DIR.\n"
        "With CONFIG.yaml, the run's last checkpoint on --evaluation.path.",
        module="training.commands.evaluate",
    ),
    Command(
        name="evaluation-set",
        usage="SET --to DIR",
        says="Write an evaluation set of any form as tars in CLIP_benchmark's.",
        module="training.commands.evaluation_set",
    ),
    Command(
        name="export",
        usage="CONFIG.yaml|MODEL",
        says="Write a model for open_clip (RUN/export, local-dir:RUN/export);\n--to transformers or onnx for others.",
        module="training.commands.export",
    ),
    Command(
        name="card",
        usage="RUN",
        says="Write the model card, RUN/README.md, from what was measured.",
        module="training.commands.card",
    ),
    Command(
        name="limits",
        usage="MODEL",
        says="Measure counting, places, binding, digits and wording on\ndrawn pictures.",
        module="training.commands.limits",
    ),
    Command(
        name="experiment",
        usage="CONFIG.yaml",
        says="Train the same on differently made data, with several seeds, and compare.",
        module="training.commands.experiment",
    ),
    Command(
        name="embed",
        usage="MODEL DATA",
        says="Features of a data set, folder or list, by uid, to DATA/features.\nGoes on where it was stopped.",
        module="training.commands.embed",
    ),
    Command(
        name="caption",
        usage="MODEL DATA",
        says="Captions of a data set's pictures, by uid, to DATA/captions.\nGoes on where it was stopped.",
        module="training.commands.caption",
    ),
    Command(
        name="score-captions",
        usage="CAPTIONS MODEL",
        says="How well texts and captions fit their pictures, for `subset`.\nGoes on where it was stopped.",
        module="training.commands.score_captions",
    ),
    Command(
        name="reinforce",
        usage="DATA TEACHER...",
        says="What teachers say of a data set's augmentations and captions, by uid,\n"
        "for method distillation. Says first what it takes.\nGoes on where it was stopped.",
        module="training.commands.reinforce",
    ),
    Command(
        name="faces",
        usage="MODEL_FILE DATA",
        says="Boxes of faces by uid, for `subset` and filters, to DATA.faces.parquet.\nGoes on where it was stopped.",
        module="training.commands.faces",
    ),
    Command(
        name="index",
        usage="FEATURES",
        says="An index of features, to FEATURES/index, for `search`.",
        module="training.commands.index",
    ),
    Command(
        name="search",
        usage='INDEX "WORDS"|--image FILE',
        says="The samples that are nearest to words or to a picture.\n--where chooses, --to FILE.html shows.",
        module="training.commands.search",
    ),
    Command(
        name="score",
        usage="FEATURES...",
        says="Score each sample by its features: a Parquet by uid,\nfor `pipeline` to filter and to subset by.",
        module="training.commands.score",
    ),
)
