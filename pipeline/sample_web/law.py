"""By which law a sample web deals out classes and texts: nearly even, for lessons and tests, or as the web does.

even   every class has pictures enough, nearly all English texts match the query list
web    classes and words follow steep Zipf laws, half of the English texts match nothing, some tell of another
       picture: the published statistics in miniature (MetaCLIP, arXiv 2309.16671, section 3)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline.sample_web import phrases, web_phrases
from pipeline.sample_web.dice import Dice
from pipeline.sample_web.scene import Scene
from pipeline.sample_web.vocabulary import COLOURS, OBJECT_COUNTS, SHAPES, Statistics

__all__ = ["LAWS", "Law"]

Class = tuple[str, str]
"""(colour, thing)"""

_FLOOR_SHARE = 0.68
"""Even: the share of the good captions that is dealt evenly to the evaluated classes; the rest follows a Zipf law."""
_COLOUR_EXPONENT, _THING_EXPONENT = 1.3, 1.6
"""Web: of the Zipf laws of colours and of things."""


@dataclass(frozen=True, kw_only=True)
class Law:
    """What differs between the statistics; all else of a sample web is the same."""

    counts: Mapping[str, int]
    """Links (pictures, where it says so) of each sort among 6,000."""
    weights: Mapping[Class, float]
    """Evaluated class -> its share of the good pictures, in label order."""
    objects: Mapping[str, int]
    """Things beside the evaluated classes, and how many pictures show each among 6,000 links."""
    draw_colour: Callable[[Dice], str]
    draw_thing: Callable[[Dice], str]
    """Of a picture that is no plain good one."""
    caption: Callable[[Dice, Scene], str]
    general: Callable[[Dice, int], str]
    """The n-th text that says little about its picture."""
    names: tuple[str, ...] = ()
    """Proper names of which the encyclopedia tells, too."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the evaluated classes, in label order."""
        return tuple(" ".join(name) for name in self.weights)

    def draw(self, dice: Dice) -> Class:
        """The class of a picture that is no plain good one."""
        colour = self.draw_colour(dice)
        return colour, self.draw_thing(dice)

    def spread(self, count: int) -> dict[Class, int]:
        """How many of `count` good pictures each evaluated class gets (largest remainders)."""
        total = sum(self.weights.values())
        exact = {label: count * weight / total for label, weight in self.weights.items()}
        shares = {label: int(number) for label, number in exact.items()}
        by_remainder = sorted(exact, key=lambda label: (shares[label] - exact[label], label))
        for label in by_remainder[: count - sum(shares.values())]:
            shares[label] += 1
        return shares


def _even_weights() -> dict[Class, float]:
    zipf = {
        (colour, shape): 1 / ((i + 1) * (j + 1)) for j, shape in enumerate(SHAPES) for i, colour in enumerate(COLOURS)
    }
    total = sum(zipf.values())
    even = _FLOOR_SHARE / len(zipf)
    return {label: even + (1 - _FLOOR_SHARE) * weight / total for label, weight in zipf.items()}


def _things() -> list[str]:
    """Shapes and objects by turns, so that neither head nor tail holds one sort alone."""
    objects, shapes = list(OBJECT_COUNTS), list(SHAPES)
    mixed = []
    for i in range(len(objects) + len(shapes)):
        mixed.append(shapes.pop(0) if i % 3 == 0 and shapes else objects.pop(0))
    return mixed


_EVEN_COLOURS = [(colour, 1 / (i + 1)) for i, colour in enumerate(COLOURS)]
_EVEN_SHAPES = [(shape, 1 / (i + 1)) for i, shape in enumerate(SHAPES)]
_WEB_COLOURS = [(colour, (i + 1) ** -_COLOUR_EXPONENT) for i, colour in enumerate(COLOURS)]
_WEB_THINGS = [(thing, (i + 1) ** -_THING_EXPONENT) for i, thing in enumerate(_things())]


_COUNTS = {
    "duplicates": 120,
    "copies": 25,  # pictures that stand under several URLs
    "general": 60,
    "near_duplicates": 36,  # pictures with re-encoded or resized versions
    "second_captions": 36,
    "odd_urls": 60,
    "foreign": 480,
    "unmatched": 40,
    "unmatched_pictures": 0,  # the same with pictures of their own
    "wrong": 0,  # captions of other pictures
    "data_urls": 20,
    "other_schemes": 18,
    "bad_urls": 4,
    "opt_out_pages": 30,
    "lazy": 40,
    "srcset": 40,
    "picture": 30,
}

_EVEN = Law(
    counts=_COUNTS,
    weights=_even_weights(),
    objects=OBJECT_COUNTS,
    draw_colour=lambda dice: dice.weighted(_EVEN_COLOURS),
    draw_thing=lambda dice: dice.weighted(_EVEN_SHAPES),
    caption=phrases.caption,
    general=lambda dice, i: phrases.GENERAL_CAPTIONS[i % len(phrases.GENERAL_CAPTIONS)],
)

_WEB = Law(
    counts={**_COUNTS, "unmatched_pictures": 2250, "wrong": 150, "general": 800, "duplicates": 240},
    weights={(colour, thing): a * b for thing, b in _WEB_THINGS for colour, a in _WEB_COLOURS},
    objects={},
    draw_colour=lambda dice: dice.weighted(_WEB_COLOURS),
    draw_thing=lambda dice: dice.weighted(_WEB_THINGS),
    caption=web_phrases.web_caption,
    general=lambda dice, i: web_phrases.general_text(dice),
    names=web_phrases.NAMES,
)

LAWS: dict[Statistics, Law] = {"even": _EVEN, "web": _WEB}
