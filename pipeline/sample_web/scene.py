"""A picture's content: drawn from dice, rendered by `render.py`, told in words by `phrases.py`."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.sample_web.dice import Dice
from pipeline.sample_web.vocabulary import (
    BACKGROUNDS,
    COLOURS,
    COUNT_WORDS,
    PATTERNS,
    PLACES,
    SHAPES,
    Place,
    Size,
)

__all__ = ["Scene", "make_scene"]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What one picture shows. `key` seeds the rendering's jitter and noise."""

    key: str
    thing: str
    """A shape or an object."""
    colour: str
    count: int
    pattern: str
    """plain, striped or dotted."""
    size: Size
    place: Place
    background: str
    width: int
    """Pixels."""
    height: int

    @property
    def label(self) -> str:
        """The class name: colour and thing."""
        return f"{self.colour} {self.thing}"


def make_scene(seed: int, key: str, colour: str, thing: str) -> Scene:
    """Draw the rest of a picture whose class is given."""
    dice = Dice(seed, "scene", key)
    count = dice.weighted([(1, 0.82), (2, 0.1), (3, 0.06), (4, 0.02)])
    size: Size = "middling"
    place: Place = "middle"
    if count == 1:
        size = dice.weighted([("small", 0.15), ("middling", 0.5), ("large", 0.35)])
        if size != "large" and dice.chance(0.3):
            place = dice.choice(PLACES)
    short = dice.weighted([(96, 0.2), (112, 0.2), (128, 0.45), (160, 0.1), (224, 0.03), (320, 0.02)])
    long = int(short * dice.weighted([(1.0, 0.6), (1.25, 0.25), (1.5, 0.15)]))
    # Where there are several things, the longer side gives them room next to each other.
    wide = dice.chance(0.7) or count > 1
    pattern = dice.choice(PATTERNS) if thing in SHAPES and dice.chance(0.14) else "plain"
    return Scene(
        key=key,
        thing=thing,
        colour=colour,
        count=count if count in COUNT_WORDS or count == 1 else 1,
        pattern=pattern,
        size=size,
        place=place,
        background=_background(dice, colour),
        width=long if wide else short,
        height=short if wide else long,
    )


def _background(dice: Dice, colour: str) -> str:
    """A background that the colour stands out from."""
    red, green, blue = COLOURS[colour]
    fitting = [name for name, (r, g, b) in BACKGROUNDS.items() if abs(red - r) + abs(green - g) + abs(blue - b) > 200]
    return dice.choice(fitting)
