"""What a batch of a reinforced data set holds beside pictures and tokens: the names of its fields.

synthetic              int64[B, L]   tokens of a synthetic caption
teacher_image_0 ...    bf16[B, E]    the features that each teacher has of the crop,
teacher_text_0 ...                   of the caption in `tokens`,
teacher_synthetic_0 ...              and of the one in `synthetic`
teacher_scale          f32[B, T]     the teachers' own logit scales, alike in each row
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

__all__ = ["SYNTHETIC", "TEACHER_SCALE", "num_teachers", "teacher_field", "teacher_scales"]

SYNTHETIC = "synthetic"
TEACHER_SCALE = "teacher_scale"


def teacher_field(what: str, teacher: int) -> str:
    """The name of one teacher's features; `what` is image, text or synthetic, `teacher` its number."""
    return f"teacher_{what}_{teacher}"


def teacher_scales(fields: Mapping[str, Tensor]) -> Tensor:
    """float32[B, T]."""
    return fields[TEACHER_SCALE]


def num_teachers(fields: Mapping[str, Tensor]) -> int:
    """T."""
    return int(fields[TEACHER_SCALE].shape[1])
