"""A teacher that follows the student, and how far the student's view of a part is from the teacher's of the whole.

    features --MLP--> unit vectors --prototypes--> softmax (teacher: less its centre, sharper) --> cross-entropy

DINO's head and loss (arXiv 2104.14294; `vision_transformer.py` and `main_dino.py` of facebookresearch/dino), which
SILC (arXiv 2310.13355) takes over: three layers, 256 numbers of unit length, prototypes of unit length.

The logits of 65,536 prototypes are never whole: they are made, and made again in the backward pass, for some rows at a
time.

Shapes: N rows, V views of each, W = width of what is compared, Z = the vectors' width, K prototypes.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import is_fake
from torch.utils.checkpoint import checkpoint

from training.learning.sharding import part_of

__all__ = ["MaskToken", "Matched", "SelfDistillation", "Still", "follow"]

_STUDENT_TEMPERATURE = 0.1
_TEACHER_TEMPERATURE = 0.04
_CENTRE_MOMENTUM = 0.9
"""DINO's, section 3.2 and `main_dino.py`."""
_PIECE = 2**26
"""Logits that are there at a time: 256 MB in float32."""


class Still(nn.Module):
    """A module that is not trained, and says the same in training as in evaluation."""

    def __init__(self, module: nn.Module) -> None:
        """Of a copy of `module`."""
        super().__init__()
        self.module = copy.deepcopy(module).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Still:
        """Stays in evaluation mode."""
        super().train(False)
        return self

    def forward(self, *arguments: Tensor, **options: object) -> object:
        """The module's, without a graph."""
        with torch.no_grad():
            return self.module(*arguments, **options)


class MaskToken(nn.Module):
    """What stands in the place of a patch that the student does not see."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.empty(width))
        nn.init.trunc_normal_(self.token, std=0.02)

    def forward(self) -> Tensor:
        """[W]."""
        return self.token.clone()  # of sharded weights the whole one is gone when this ends


class Matched(NamedTuple):
    """What a `SelfDistillation` found."""

    loss: Tensor
    """Cross-entropy, summed over rows and views (scalar)."""
    centre: Tensor
    """[K]: the teacher's logits, summed over rows; without a graph."""


class SelfDistillation(nn.Module):
    """The student's head, the teacher's and its centre."""

    def __init__(self, width: int, *, prototypes: int, hidden: int, bottleneck: int) -> None:
        super().__init__()
        self.student = _Head(width, prototypes=prototypes, hidden=hidden, bottleneck=bottleneck)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.register_buffer("centre", torch.zeros(prototypes))
        self.centre: Tensor

    def forward(self, student_NVW: Tensor, teacher_NW: Tensor) -> Matched:
        """How far the student's V rows are from the teacher's one."""
        with torch.no_grad():
            teacher_NZ, theirs_KZ = self.teacher(teacher_NW), self.teacher.directions()
            centre_K = (theirs_KZ @ teacher_NZ.sum(0)).to(self.centre.dtype)
        student_NVZ, ours_KZ = self.student(student_NVW), self.student.directions()
        rows = max(1, _PIECE // (len(ours_KZ) * (student_NVZ.shape[1] + 1)))
        if is_fake(teacher_NZ):  # a plan counts what is kept, which is the same of one piece
            rows = len(teacher_NZ)
        value = student_NVZ.new_zeros((), dtype=torch.promote_types(student_NVZ.dtype, torch.float32))
        for first in range(0, len(teacher_NZ), rows):
            piece = student_NVZ[first : first + rows], teacher_NZ[first : first + rows], ours_KZ, theirs_KZ
            value = value + checkpoint(self._of_piece, *piece, use_reentrant=False, preserve_rng_state=False)
        return Matched(value, centre_K)

    def _of_piece(self, student_nVZ: Tensor, teacher_nZ: Tensor, ours_KZ: Tensor, theirs_KZ: Tensor) -> Tensor:
        wide = self.centre.dtype
        target_nK = (((teacher_nZ @ theirs_KZ.T).to(wide) - self.centre) / _TEACHER_TEMPERATURE).softmax(1)
        log_nVK = ((student_nVZ @ ours_KZ.T).to(wide) / _STUDENT_TEMPERATURE).log_softmax(2)
        return -(target_nK * log_nVK.sum(1)).sum()

    def move_centre(self, mean_K: Tensor) -> None:
        """Follow the teacher's mean logits over the whole batch; stays where they are not finite."""
        moved_K = self.centre.lerp(mean_K.to(self.centre), 1 - _CENTRE_MOMENTUM)
        self.centre.copy_(torch.where(mean_K.isfinite().all(), moved_K, self.centre))


class _Head(nn.Module):
    """Three layers to unit vectors, and the directions they are compared with."""

    def __init__(self, width: int, *, prototypes: int, hidden: int, bottleneck: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.prototypes = nn.Parameter(torch.randn(prototypes, bottleneck))

    def forward(self, x: Tensor) -> Tensor:
        """[.., Z] of [.., W]."""
        return F.normalize(self.mlp(x), dim=-1)

    def directions(self) -> Tensor:
        """[K, Z], of unit length."""
        return F.normalize(self.prototypes, dim=1)


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Have the teacher's weights keep this share of themselves, and take the rest from the student's; 0 copies them."""
    for theirs, ours in zip(teacher.parameters(), student.parameters(), strict=True):
        part_of(theirs).lerp_(part_of(ours), 1 - momentum)
