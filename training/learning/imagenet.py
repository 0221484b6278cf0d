"""ImageNet's class names and prompt templates as CLIP was measured with, from open_clip; WordNet numbers from timm.

open_clip has OpenAI's lists (`zero_shot_metadata.py`): the curated names and the 80 templates of their notebook
`Prompt_Engineering_for_ImageNet`. The names stand in the order of the sorted WordNet numbers, which timm lists.
"""

from __future__ import annotations

from functools import cache

__all__ = ["imagenet_names", "imagenet_templates"]


@cache
def imagenet_names() -> dict[str, str]:
    """WordNet number (n01440764) -> name, of the 1,000 classes, in their order."""
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
    from timm.data.imagenet_info import ImageNetInfo

    numbers = ImageNetInfo("imagenet-1k").label_names()  # type: ignore[no-untyped-call]  # timm has no types here
    return dict(zip(numbers, IMAGENET_CLASSNAMES, strict=True))


@cache
def imagenet_templates() -> tuple[str, ...]:
    """The 80 templates, {c} in the place of the class."""
    from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES

    return tuple(template("{c}") for template in OPENAI_IMAGENET_TEMPLATES)
