"""What the sample web's pictures can show: shapes, colours, objects and their names."""

from __future__ import annotations

from typing import Literal

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "CONCEPT_WORDS",
    "COUNT_WORDS",
    "EVALUATED_CLASSES",
    "OBJECT_COUNTS",
    "PATTERNS",
    "PLACES",
    "PLURALS",
    "SHAPES",
    "Place",
    "Size",
    "Statistics",
]

Colour = tuple[int, int, int]
Place = Literal["middle", "left", "right", "top", "bottom"]
Statistics = Literal["even", "web"]
"""How classes and texts are dealt out; `law.py` says how."""
Size = Literal["small", "middling", "large"]  # captions leave the middling one unnamed

COLOURS: dict[str, Colour] = {
    "red": (214, 36, 36),
    "blue": (36, 72, 216),
    "green": (28, 150, 60),
    "yellow": (248, 214, 24),
    "orange": (248, 132, 12),
    "purple": (132, 44, 176),
    "black": (18, 18, 20),
    "white": (250, 250, 250),
}
"""The colours of things, most frequent first; sRGB."""

BACKGROUNDS: dict[str, Colour] = {
    "gray": (142, 146, 150),
    "pink": (246, 178, 198),
    "beige": (226, 208, 172),
    "brown": (118, 82, 54),
    "turquoise": (92, 204, 200),
    "navy": (24, 32, 88),
    "lilac": (204, 180, 230),
    "olive": (122, 126, 62),
}
"""The colours of backgrounds; none is a class colour, so that a caption's colours stay distinct."""

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "diamond", "crescent", "arrow")
"""The evaluated shapes, most frequent first."""

OBJECT_COUNTS: dict[str, int] = {
    "house": 80,
    "tree": 62,
    "flower": 50,
    "boat": 42,
    "car": 36,
    "fish": 28,
    "balloon": 24,
    "umbrella": 20,
    "mushroom": 17,
    "kite": 14,
    "cup": 12,
    "apple": 10,
    "flag": 8,
    "cloud": 7,
    "candle": 6,
    "rocket": 5,
    "snowman": 4,
    "butterfly": 4,
    "ladder": 3,
    "envelope": 3,
    "key": 2,
    "lighthouse": 2,
    "windmill": 1,
    "anchor": 1,
}
"""Simple objects and how many pictures show each among 6,000 links: the long tail."""

PLURALS = {
    "cross": "crosses",
    "butterfly": "butterflies",
    "fish": "fish",
    "snowman": "snowmen",
}
"""Irregular plurals; all others take an s."""

PATTERNS = ("striped", "dotted")
"""Fillings beside the plain one."""

PLACES: tuple[Place, ...] = ("left", "right", "top", "bottom")
"""Where a thing sits when it is not in the middle."""

COUNT_WORDS = {2: "two", 3: "three", 4: "four"}

EVALUATED_CLASSES: tuple[str, ...] = tuple(f"{colour} {shape}" for shape in SHAPES for colour in COLOURS)
"""The classes of the evaluation set, in label order."""

CONCEPT_WORDS: frozenset[str] = frozenset(
    word
    for name in (*COLOURS, *SHAPES, *OBJECT_COUNTS)
    for word in ((name,) if name in COLOURS else (name, PLURALS.get(name, f"{name}s")))
)
"""Every word of which one stands in each caption that must match the query list."""
