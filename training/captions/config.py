"""The options of `python -m training caption` and `score-captions`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from configs.bounds import Bounds
from configs.load import ConfigError, check_bounds
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
    captions: Annotated[int, Bounds(least=1)] = 1
    """Captions of each picture."""
    top_p: Annotated[float, Bounds(above=0, most=1)] = 0.9
    """Nucleus sampling: each token is drawn among the likeliest ones that together have this probability (BLIP, arXiv
    2201.12086, section 4.1: 0.9)."""
    temperature: Annotated[float, Bounds(above=0)] = 1.0
    """Divides the logits before; below 1 is more of the same."""
    min_tokens: Annotated[int, Bounds(least=0)] = 5
    """A caption does not end before (`caption_coco.yaml` of salesforce/BLIP)."""
    max_tokens: Annotated[int, Bounds(least=1)] = 20
    """A caption ends here at the latest (as above); at most what the model's texts hold."""
    seed: Annotated[int, Bounds()] = 0
    """Decides the draws, with the sample's uid."""
    batch_size: Annotated[int, Bounds(least=1)] = 64
    """Pictures that go through the model at a time; captions do not hang on it but for rounding."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is some."""
    precision: Precision = "auto"
    """Of the forward pass; auto: bf16 where the hardware has it, else fp32."""
    tokenizer: str | None = None
    """A tokenizer's file, where the model needs one; see the option model.tokenizer of a training run."""
    decode_threads: Annotated[int, Bounds(least=1, most=4096)] | None = None
    """Threads that decode pictures ahead of the model; null for one a core."""
    threads: Annotated[int, Bounds(least=1, most=4096)] | None = None
    """Threads of the model on a CPU; null for torch's own choice."""
    launcher: Literal["torchrun", "ray"] = "torchrun"
    """Who starts several processes: torchrun (or nobody, for one process), or Ray Train, see `ray`."""
    ray: RayConfig = field(default_factory=RayConfig)
    """How many processes Ray starts, and where."""

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.min_tokens > self.max_tokens:
            raise ConfigError(f"min_tokens must lie in [0, max_tokens {self.max_tokens}], got {self.min_tokens}")
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
    batch_size: Annotated[int, Bounds(least=1)] = 64
    """Pictures that go through the model at a time."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is some."""
    precision: Precision = "auto"
    """Of the forward pass; auto: bf16 where the hardware has it, else fp32."""
    tokenizer: str | None = None
    """A tokenizer's file, where the model needs one; see the option model.tokenizer of a training run."""
    decode_threads: Annotated[int, Bounds(least=1, most=4096)] | None = None
    """Threads that decode pictures ahead of the model; null for one a core."""
    threads: Annotated[int, Bounds(least=1, most=4096)] | None = None
    """Threads of the model on a CPU; null for torch's own choice."""
    launcher: Literal["torchrun", "ray"] = "torchrun"
    """Who starts several processes: torchrun (or nobody, for one process), or Ray Train, see `ray`."""
    ray: RayConfig = field(default_factory=RayConfig)
    """How many processes Ray starts, and where."""

    def __post_init__(self) -> None:
        check_bounds(self)
