"""`export CONFIG.yaml|MODEL`: a model for others, in the form that they read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from configs.load import ConfigError
from pipeline.storage.place import Place, place_of
from pipeline.terminal.printable import say
from training.commands.installed import check_installed
from training.commands.words import is_config, last_checkpoint, options_with_places, train_config
from training.config import TrainConfig
from training.errors import ModelError
from training.exports.config import ExportConfig

__all__ = ["NEEDED", "OPTIONS", "run"]

OPTIONS = ExportConfig
NEEDED = ("source", "to", "directory", "push")

_OWN = ("to", "directory", "push", "private")
"""Options that stand beside those of a training config."""


def run(words: Sequence[str]) -> int:
    """The exit status. Raises ConfigError, TrainingError, PipelineError."""
    if words and not words[0].startswith("--") and not is_config(words[0]):
        _of_model(options_with_places(ExportConfig, words, ["source"]))
    else:
        _of_config(words)
    return 0


def _of_config(words: Sequence[str]) -> None:
    """The last checkpoint of the run of a config."""
    own, rest = _apart(words)
    config = train_config(rest)
    asked = options_with_places(ExportConfig, [config.output, *own], ["source"])
    check_installed()
    _check(asked)
    with last_checkpoint(config.output):  # told before torch is loaded
        pass
    _check_towers(config)
    if asked.to != "open_clip":
        _export(asked, config.output, tokenizer=config.model.tokenizer)
        return
    with last_checkpoint(config.output) as last:
        from training.exports.open_clip import export

        target = export(
            last,
            model=config.model.name,
            directory=asked.directory or place_of(config.output) / "export",
            normalisation=config.model.normalisation,
        )
    _tell(asked, target)
    _push(asked, target)


def _of_model(asked: ExportConfig) -> None:
    check_installed()
    _check(asked)
    _export(asked, asked.source, tokenizer=asked.tokenizer)


def _check(asked: ExportConfig) -> None:
    """What stops before work."""
    if asked.push is not None:
        from training.exports.hub import check_may_push

        check_may_push()
    if asked.to == "onnx":
        from training.exports.onnx import check_onnx_installed

        check_onnx_installed()


def _check_towers(config: TrainConfig) -> None:
    """Raise ModelError where the towers, which an export has, are not what the run learns."""
    from training.learning.method import make_method

    if (reason := make_method(config.method, config.loss).not_in_towers) is not None:
        raise ModelError(f"{config.output}: {reason}; an export would not have them")


def _export(asked: ExportConfig, source: str, *, tokenizer: str | None) -> None:
    target = _target(asked)
    from training.learning.pretrained import load_model

    model = load_model(source, device="cpu", precision="fp32", tokenizer=tokenizer)
    told: list[str] = []
    if asked.to == "transformers":
        from training.exports.transformers.directory import export_transformers

        target, told = export_transformers(model, target)
    elif asked.to == "onnx":
        from training.exports.onnx import export_onnx

        target, difference = export_onnx(model, target)
        told.append(f"in onnxruntime no feature is further than {difference:.1g} from torch's")
    else:
        from training.exports.open_clip import export_model

        target = export_model(model, target)
    _tell(asked, target)
    for line in told:
        say(line)
    _push(asked, target)


def _target(asked: ExportConfig) -> Place:
    """Where to. Raises ConfigError where the user must say it."""
    if asked.directory is not None:
        return place_of(asked.directory)
    source = place_of(asked.source) if not asked.source.startswith(("hf-hub:", "local-dir:")) else None
    if source is None or not (source / "config.yaml").is_file():
        raise ConfigError(f"{asked.source} is no run, in which an export would stand; give --directory DIRECTORY")
    return source / ("export" if asked.to == "open_clip" else f"export-{asked.to}")


def _tell(asked: ExportConfig, target: Place) -> None:
    where = str(target) if isinstance(target, Path) else "A COPY OF IT ON A DISK"
    use = {
        "open_clip": f"open_clip.create_model_and_transforms('local-dir:{where}')",
        "transformers": f"transformers.AutoModel.from_pretrained('{where}')",
        "onnx": f"onnxruntime.InferenceSession('{where}/image.onnx'), and text.onnx",
    }[asked.to]
    say(f"wrote {target}: {use}")


def _push(asked: ExportConfig, target: Place) -> None:
    if asked.push is None:
        return
    from training.cards.card import card_of_source
    from training.exports.hub import push

    card = card_of_source(asked.source, form=asked.to, repository=asked.push)
    say(f"pushed {push(target, asked.push, private=asked.private, texts=card)}")


def _apart(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """(those of the export, those of the training config)."""
    own: list[str] = []
    rest: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        name, equals, _ = word.removeprefix("--").partition("=")
        into = own if word.startswith("--") and name in _OWN else rest
        into.append(word)
        if word.startswith("--") and not equals and left:
            into.append(left.pop(0))
    return own, rest
