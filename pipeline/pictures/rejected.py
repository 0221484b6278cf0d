"""Why a body is no picture that anybody can use."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Rejected"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejected:
    """Why a body is not decoded or not stored: a word of `pipeline.records.reasons`, stage check_image."""

    reason: str
    detail: str | None = None
