"""A run's model card, in Hugging Face's form: README.md with a YAML header, filled from what was measured.

Sections whose facts are not at hand say so, and by which command they are measured; nothing is guessed. The licence is
the user's to say: neither a run nor its data names one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from pipeline.storage.place import Place, place_of
from training.cards.curves import curves_svg
from training.cards.facts import DataFacts, RunFacts, facts_of_run
from training.exports.config import Form
from training.run.directory import write_whole

__all__ = ["CURVES", "card_of_run", "card_of_source", "write_card"]

CURVES = "curves.svg"
_LIBRARIES: Mapping[Form, str] = {"open_clip": "open_clip", "transformers": "transformers", "onnx": "onnx"}
_USE: Mapping[Form, str] = {
    "open_clip": """import open_clip

model, _, preprocess = open_clip.create_model_and_transforms("local-dir:{where}")
tokenizer = open_clip.get_tokenizer("local-dir:{where}")""",
    "transformers": """from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("{where}")
processor = AutoProcessor.from_pretrained("{where}")""",
    "onnx": """import onnxruntime

image = onnxruntime.InferenceSession("{where}/image.onnx")  # images uint8[B, S, S, 3] -> features
text = onnxruntime.InferenceSession("{where}/text.onnx")  # tokens int64[B, L] -> features""",
}
_NOT_MEASURED = "Not measured."
_OPTIONS = (
    *("model.name", "epochs", "samples", "global_batch_size", "seed", "precision", "loss.name", "method.name"),
    *("optimiser.learning_rate", "optimiser.warmup_samples", "optimiser.weight_decay", "data.sampling"),
)


def write_card(run: str, to: str | None) -> Place:
    """Write the card of a run, and its curves beside it; where. Raises CheckpointError, OSError, PipelineError."""
    target = place_of(to) if to else place_of(run) / "README.md"
    for name, text in card_of_run(run).items():
        write_whole(target if name == "README.md" else target.parent / name, text.encode())
    return target


def card_of_run(run: str | Place, *, form: Form = "open_clip") -> dict[str, str]:
    """README.md, and curves.svg where there are curves: file name -> text. Raises CheckpointError."""
    facts = facts_of_run(run)
    curves = curves_svg(facts.log)
    files = {"README.md": _card(facts, form, has_curves=curves is not None)}
    return files if curves is None else files | {CURVES: curves}


def card_of_source(source: str, *, form: Form) -> dict[str, str]:
    """The same for whatever was exported: of a model that is no run, what is known is little."""
    if not source.startswith(("hf-hub:", "local-dir:")) and (place_of(source) / "config.yaml").is_file():
        return card_of_run(source, form=form)
    header = _header(form, source, results=[])
    body = [f"# {source}", f"Exported by Openwit, for {_LIBRARIES[form]}, from `{source}`.", _use(form)]
    body += ["## Evaluation", f"{_NOT_MEASURED} Neither are its data, training and limits known here."]
    return {"README.md": "\n\n".join([header, *body]) + "\n"}


def _card(facts: RunFacts, form: Form, *, has_curves: bool) -> str:
    name = facts.root.name or "model"
    seen = facts.log[-1]["samples_seen"] if facts.log else None
    told = "an unknown number of" if seen is None else f"{seen:,}"
    parts = [
        _header(form, name, _results(facts)),
        f"# {name}",
        f"A CLIP model, `{facts.config.model.name}`, trained by Openwit on {told} samples. This card holds what was "
        "measured; what was not is said to be so.",
        _use(form),
        "## Training data",
        *(part for data in facts.data for part in _data(data)),
        "## Training",
        _table(("option", "value"), [(f"`{key}`", f"`{_option(facts.config, key)}`") for key in _OPTIONS]),
        f"![Curves]({CURVES})" if has_curves else f"Curves: {_NOT_MEASURED.lower()} There is no log.jsonl.",
        f"<details><summary>The whole config</summary>\n\n```yaml\n{facts.config_yaml.strip()}\n```\n\n</details>",
        "## Evaluation",
        *_evaluation(facts),
        "## Limits",
        *_limits(facts, seen),
        "## What is not known",
        _unknown(facts),
    ]
    return "\n\n".join(parts) + "\n"


def _header(form: Form, name: str, results: Sequence[Mapping[str, Any]]) -> str:
    content: dict[str, Any] = {
        "library_name": _LIBRARIES[form],
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["clip", "openwit"],
    }
    if results:
        content["model-index"] = [{"name": name, "results": list(results)}]
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    return f"---\n# license: yours to say; neither the run nor its data names one\n{text}---"


def _use(form: Form) -> str:
    return f"## Use\n\n```python\n{_USE[form].format(where='DIRECTORY')}\n```"


def _results(facts: RunFacts) -> list[Mapping[str, Any]]:
    """Of metrics.json, as Hugging Face's model-index wants them."""
    figures = _figures(facts.metrics)
    if not figures:
        return []
    kinds = {
        "zeroshot": "zero-shot-image-classification",
        "linear_probe": "image-classification",
        "": "image-text-retrieval",
    }
    dataset = place_of(facts.config.evaluation.path or "evaluation").name
    found: list[Mapping[str, Any]] = []
    told: set[str] = set()
    for prefix, kind in kinds.items():
        own = [entry for entry in figures if entry[0] not in told and entry[0].startswith(prefix)]
        told |= {name for name, *_ in own}
        metrics = [{"type": name, "name": name.replace("_", " "), "value": round(value, 6)} for name, value, _ in own]
        if metrics:
            about = {"task": {"type": kind}, "dataset": {"name": dataset, "type": "custom"}}
            found.append({**about, "metrics": metrics})
    return found


def _figures(metrics: Mapping[str, Any] | None) -> list[tuple[str, float, float | None]]:
    """(name, value, chance) of each."""
    entries = metrics.get("metrics") if metrics else None
    if not isinstance(entries, Mapping):
        return []
    return [
        (name, float(entry["value"]), entry.get("chance"))
        for name, entry in entries.items()
        if isinstance(entry, Mapping) and isinstance(entry.get("value"), (int, float))
    ]


def _evaluation(facts: RunFacts) -> list[str]:
    figures = _figures(facts.metrics)
    if not figures:
        return [f"{_NOT_MEASURED} `python -m training evaluate CONFIG.yaml --evaluation.path SET` does."]
    rows = [(name.replace("_", " "), _share(value), _share(chance)) for name, value, chance in figures]
    seen = facts.metrics.get("samples_seen") if facts.metrics else None
    after = "" if seen is None else f", after {seen:,} samples"
    return [f"On `{facts.config.evaluation.path}`{after}:", _table(("metric", "result", "chance"), rows)]


def _limits(facts: RunFacts, seen: int | None) -> list[str]:
    limits = facts.limits
    if not limits or not limits.get("probes"):
        return [f"{_NOT_MEASURED} `python -m training limits {facts.root}` does."]
    rows = [
        (each["name"], each["says"], _share(each["right"]), f"{_share(each['low'])} to {_share(each['high'])}",
         _share(each["chance"]))
        for each in limits["probes"]
    ]  # fmt: skip
    parts = [
        f"On {limits['probes'][0]['questions']} generated pictures for each probe (seed {limits['seed']}): the right "
        "one of several captions. Pictures are plain shapes and digits; where the controls are low, so is what the "
        "others tell.",
        _table(("probe", "what it asks", "right", "95 %", "chance"), rows),
    ]
    if limits.get("wordings"):
        worst, best = (pick(limits["wordings"], key=lambda each: each["right"]) for pick in (min, max))
        parts.append(
            f"By wording alone the same question is answered right from {_share(worst['right'])} "
            f"(`{worst['name']}`) to {_share(best['right'])} (`{best['name']}`)."
        )
    measured = limits.get("samples_seen")
    if measured is not None and seen is not None and measured != seen:
        parts.append(f"Measured after {measured:,} samples, not on the last checkpoint.")
    return parts


def _data(data: DataFacts) -> Iterable[str]:
    yield f"`{data.path}`"
    if data.ledger is None and data.manifest is None:
        yield f"{_NOT_MEASURED} The set is not at hand here, or was not made by Openwit."
        return
    if data.manifest is not None and "samples" in data.manifest:
        yield f"{data.manifest['samples']:,} samples, fingerprint `{data.manifest.get('fingerprint', 'none')}`."
    if data.ledger is not None:
        rows = []
        for line in data.ledger:
            lost = sorted(line["rejected"].items(), key=lambda entry: (-entry[1], entry[0]))
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in lost[:4])
            more = f" and {len(lost) - 4} more" if len(lost) > 4 else ""
            rows.append((line["stage"], line["unit"], f"{line['rows_in']:,}", f"{line['kept']:,}", reasons + more))
        yield _table(("stage", "unit", "in", "kept", "why not"), rows)
    balance = (data.config or {}).get("balance")
    if isinstance(balance, Mapping):
        told = ", ".join(f"`{key}: {value}`" for key, value in balance.items() if value is not None)
        yield f"Balance over the queries that captions match: {told}."


def _unknown(facts: RunFacts) -> str:
    lines = [
        "Bias: not measured; a probe on drawn pictures has no people in it, and Openwit has no other (docs/export.md).",
        "Licences of the pictures: the ledger says what opted out; nothing here says what is allowed.",
    ]
    listed = [(data.config or {}).get("decontaminate") for data in facts.data]
    if not any(listed):
        lines.append(
            "Overlap of training and evaluation pictures: not measured; `decontaminate` of a data set removes it."
        )
    skipped = [line.get("steps_skipped") for line in facts.log if line.get("steps_skipped")]
    if skipped:
        lines.append(f"Steps left out since loss or gradient was not finite: {skipped[-1]:,}.")
    return "\n".join(f"- {line}" for line in lines)


def _option(config: Any, dotted: str) -> Any:
    for name in dotted.split("."):
        config = getattr(config, name)
    return config


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1%}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
