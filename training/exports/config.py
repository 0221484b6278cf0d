"""The options of `export`, read without torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from configs.load import ConfigError

__all__ = ["ExportConfig", "Form"]

Form = Literal["open_clip", "transformers", "onnx"]


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What to export, and where to."""

    source: str
    """CONFIG.yaml of a run, or a MODEL: a run, an export, NAME:FILE, NAME:TAG, hf-hub:ORGANISATION/NAME."""
    to: Form = "open_clip"
    """open_clip: local-dir: of open_clip. transformers: CLIPModel or SiglipModel. onnx: a file for each tower."""
    directory: str | None = None
    """Where to, a directory or its URL in a bucket; null for RUN/export, RUN/export-transformers, RUN/export-onnx."""
    push: str | None = None
    """Send it to this model repository, ORGANISATION/NAME, of Hugging Face's hub; with HF_HUB_OFFLINE=0."""
    private: bool = True
    """Whether a repository that `push` makes is private; one that exists stays as it is."""
    tokenizer: str | None = None
    """The model's tokenizer where it is not its own: see --model.tokenizer of a run."""

    def __post_init__(self) -> None:
        # As huggingface_hub's validate_repo_id has it, with the organisation, which is not guessed here.
        if self.push is not None and not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]{0,95}", self.push):
            raise ConfigError(f"push: {self.push!r} is no ORGANISATION/NAME")
