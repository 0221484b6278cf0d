"""The options of `python -m training caption` and `score-captions`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from configs.load import ConfigError
from training.config import Precision, RayConfig

__all__ = ["CaptionConfig", "ScoreCaptionsConfig"]


@dataclass(frozen=True, kw_only=True)
class CaptionConfig:
    """Who writes captions of which pictures, and how."""

    model: str
    """A run of a method with a decoder (blip, coca), or a CoCa: a run, an export, NAME:FILE of weights, NAME:TAG, or
    hf-hub:ORGANISATION/NAME."""
    data: str
    """A data set, or a directory of tars or pictures. On a disk or in a bucket."""
    to: str | None = None
    """Directory or bucket's URL of the captions; null: DATA/captions/NAME."""
    name: str | None = None
    """NAME of the captions, which `caption_source` tells of a sample that has one; null for the model's name and the
    first 12 digits of its fingerprint."""
    captions: int = 1
    """Captions of each picture."""
    top_p: float = 0.9
    """Nucleus sampling: each token is drawn among the likeliest ones that together have this probability (BLIP, arXiv
    2201.12086, section 4.1: 0.9)."""
    temperature: float = 1.0
    """Divides the logits before; below 1 is more of the same."""
    min_tokens: int = 5
    """A caption does not end before (`caption_coco.yaml` of salesforce/BLIP)."""
    max_tokens: int = 20
    """A caption ends here at the latest (as above); at most what the model's texts hold."""
    seed: int = 0
    """Decides the draws, with the sample's uid."""
    batch_size: int = 64
    """Pictures that go through the model at a time; captions do not hang on it but for rounding."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is some."""
    precision: Precision = "auto"
    """Of the forward pass; auto: bf16 where the hardware has it, else fp32."""
    tokenizer: str | None = None
    """A tokenizer's file, where the model needs one; see the option model.tokenizer of a training run."""
    decode_threads: int | None = None
    """Threads that decode pictures ahead of the model; null for one a core."""
    threads: int | None = None
    """Threads of the model on a CPU; null for torch's own choice."""
    launcher: Literal["torchrun", "ray"] = "torchrun"
    """Who starts several processes: torchrun (or nobody, for one process), or Ray Train, see `ray`."""
    ray: RayConfig = field(default_factory=RayConfig)
    """How many processes Ray starts, and where."""

    def __post_init__(self) -> None:
        for name in ("captions", "batch_size", "max_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must lie above 0, at most 1, got {self.top_p}")
        if self.temperature <= 0:
            raise ConfigError(f"temperature must be positive, got {self.temperature}")
        if not 0 <= self.min_tokens <= self.max_tokens:
            raise ConfigError(f"min_tokens must lie in [0, max_tokens {self.max_tokens}], got {self.min_tokens}")
        _check_threads(self)
        if self.name is not None and (not self.name or "/" in self.name or self.name.startswith(".")):
            raise ConfigError(f"name must be a file name, got {self.name!r}")


@dataclass(frozen=True, kw_only=True)
class ScoreCaptionsConfig:
    """Who judges the captions of a data set, and the texts that it has."""

    captions: str
    """What `caption` wrote: a directory or a bucket's URL."""
    model: str
    """Any CLIP, or a run of method blip: a run, an export, NAME:FILE of weights, NAME:TAG, or
    hf-hub:ORGANISATION/NAME."""
    by: Literal["auto", "cosine", "match"] = "auto"
    """cosine: of the unit features of picture and text, as `score` has it. match: the probability that BLIP's matching
    head gives the pair. auto: match where there is such a head."""
    data: str | None = None
    """The data set; null for the one that the captions were written of, where it was then."""
    to: str | None = None
    """Directory or bucket's URL of the scored captions; null: CAPTIONS-by-JUDGE."""
    batch_size: int = 64
    """Pictures that go through the model at a time."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is some."""
    precision: Precision = "auto"
    """Of the forward pass; auto: bf16 where the hardware has it, else fp32."""
    tokenizer: str | None = None
    """A tokenizer's file, where the model needs one; see the option model.tokenizer of a training run."""
    decode_threads: int | None = None
    """Threads that decode pictures ahead of the model; null for one a core."""
    threads: int | None = None
    """Threads of the model on a CPU; null for torch's own choice."""
    launcher: Literal["torchrun", "ray"] = "torchrun"
    """Who starts several processes: torchrun (or nobody, for one process), or Ray Train, see `ray`."""
    ray: RayConfig = field(default_factory=RayConfig)
    """How many processes Ray starts, and where."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {self.batch_size}")
        _check_threads(self)


def _check_threads(config: CaptionConfig | ScoreCaptionsConfig) -> None:
    for name in ("decode_threads", "threads"):
        if (value := getattr(config, name)) is not None and value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")
