"""Questions about drawn pictures, each a forced choice among captions of which one is right.

    probe      choices  what it asks                                          known of CLIPs from
    colour     6        the colour of one shape                               a control
    shape      4        the shape, of one colour                              a control
    counting   5        how many, one to five                                 Radford et al. 2021; Paiss et al. 2023
    position   2        left or right of, above or below                      Kamath et al. 2023, "What's up"
    binding    2        which of two shapes has which of two colours          Lewis et al. 2022; Yuksekgonul et al. 2023
    digits     10       which digit is written                                Radford et al. 2021, 3.1.5 (MNIST)
    wording    24       colour and shape, in each of nine wordings            Radford et al. 2021, 3.1.4

The controls come first: who does not see the colour of a shape cannot say which shape has it, and a low share in
`binding` says nothing then. In `position` and `binding` all choices have the same words, so that a bag of words scores
what guessing does. All is drawn from (seed, probe, question).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from training.cards.drawing import COLOURS, SHAPES, Thing, draw, draw_digit

__all__ = ["PROBES", "WORDINGS", "Probe", "Question"]

T = TypeVar("T")

_WORDS = ("one", "two", "three", "four", "five")
WORDINGS = (
    "{c}",
    "a {c}",
    "a photo of a {c}",
    "a picture of a {c}",
    "an image of a {c}",
    "a drawing of a {c}",
    "there is a {c} here",
    "this is a {c}.",
    "{c}, simple graphics",
)
"""{c} stands for colour and shape."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A picture, and what may be said of it."""

    picture: npt.NDArray[np.uint8]
    """RGB uint8[SIDE, SIDE, 3]."""
    choices: tuple[str, ...]
    right: int
    """The number of the right one."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One kind of question."""

    says: str
    """What it asks, for a table."""
    choices: int
    """Of how many captions one is right: guessing scores 1 / choices."""
    ask: Callable[[np.random.Generator], Question]


def _colour(draws: np.random.Generator) -> Question:
    thing = _one(draws)
    choices = tuple(f"a {colour} {thing.shape}" for colour in COLOURS)
    return Question(picture=draw([thing], _ground(draws)), choices=choices, right=list(COLOURS).index(thing.colour))


def _shape(draws: np.random.Generator) -> Question:
    thing = _one(draws)
    choices = tuple(f"a {thing.colour} {shape}" for shape in SHAPES)
    return Question(picture=draw([thing], _ground(draws)), choices=choices, right=SHAPES.index(thing.shape))


def _both(draws: np.random.Generator) -> Question:
    thing = _one(draws)
    choices = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
    right = choices.index(f"{thing.colour} {thing.shape}")
    return Question(picture=draw([thing], _ground(draws)), choices=choices, right=right)


def _counting(draws: np.random.Generator) -> Question:
    shape, colour = _any(draws, SHAPES), _any(draws, tuple(COLOURS))
    count = int(draws.integers(1, len(_WORDS) + 1))
    # Cells of three by three, so that none touches another; the size tells nothing of the count.
    cells = draws.permutation(9)[:count]
    radius = draws.uniform(0.07, 0.12)
    things = [
        Thing(
            shape=shape,
            colour=colour,
            x=(cell % 3 + 0.5) / 3 + draws.uniform(-0.03, 0.03),
            y=(cell // 3 + 0.5) / 3 + draws.uniform(-0.03, 0.03),
            radius=radius,
        )
        for cell in map(int, cells)
    ]
    choices = tuple(f"{word} {colour} {shape}{'' if number == 0 else 's'}" for number, word in enumerate(_WORDS))
    return Question(picture=draw(things, _ground(draws)), choices=choices, right=count - 1)


def _position(draws: np.random.Generator) -> Question:
    first, second = _two(draws)
    words = _any(draws, (("to the left of", "to the right of"), ("above", "below")))
    right = int(draws.integers(2))
    near, far = draws.uniform(0.2, 0.3), draws.uniform(0.7, 0.8)
    along = (near, far) if right == 0 else (far, near)
    across = draws.uniform(0.4, 0.6, 2)
    things = []
    for (colour, shape), own, other in zip((first, second), along, across, strict=True):
        x, y = (own, float(other)) if words[0] == "to the left of" else (float(other), own)
        things.append(Thing(shape=shape, colour=colour, x=x, y=y, radius=draws.uniform(0.12, 0.17)))
    told = (f"a {' '.join(first)}", f"a {' '.join(second)}")
    choices = tuple(f"{told[0]} {word} {told[1]}" for word in words)
    return Question(picture=draw(things, _ground(draws)), choices=choices, right=right)


def _binding(draws: np.random.Generator) -> Question:
    (one, a), (two, b) = _two(draws)
    right = int(draws.integers(2))
    places = [(0.27, 0.73), (0.73, 0.27)][int(draws.integers(2))]
    coloured = ((one, a), (two, b)) if right == 0 else ((two, a), (one, b))
    things = [
        Thing(shape=shape, colour=colour, x=x, y=draws.uniform(0.4, 0.6), radius=draws.uniform(0.12, 0.17))
        for (colour, shape), x in zip(coloured, places, strict=True)
    ]
    choices = (f"a {one} {a} and a {two} {b}", f"a {two} {a} and a {one} {b}")
    return Question(picture=draw(things, _ground(draws)), choices=choices, right=right)


def _digits(draws: np.random.Generator) -> Question:
    digit = int(draws.integers(10))
    x, y = draws.uniform(0.4, 0.6, 2)
    picture = draw_digit(
        digit,
        x=float(x),
        y=float(y),
        height=draws.uniform(0.35, 0.6),
        colour=_any(draws, tuple(COLOURS)),
        ground=_ground(draws),
    )
    return Question(picture=picture, choices=tuple(f'the number "{n}"' for n in range(10)), right=digit)


PROBES: Mapping[str, Probe] = {
    "colour": Probe(says="control: the colour of one shape", choices=len(COLOURS), ask=_colour),
    "shape": Probe(says="control: the shape, of one colour", choices=len(SHAPES), ask=_shape),
    "counting": Probe(says="how many, one to five", choices=len(_WORDS), ask=_counting),
    "position": Probe(says="left or right of, above or below", choices=2, ask=_position),
    "binding": Probe(says="which shape has which colour", choices=2, ask=_binding),
    "digits": Probe(says="which digit is written", choices=10, ask=_digits),
    "wording": Probe(says="colour and shape, mean of all wordings", choices=len(COLOURS) * len(SHAPES), ask=_both),
}
"""`wording` is asked in each of WORDINGS; the others say their captions as they are."""


def _one(draws: np.random.Generator) -> Thing:
    x, y = draws.uniform(0.38, 0.62, 2)
    return Thing(
        shape=_any(draws, SHAPES),
        colour=_any(draws, tuple(COLOURS)),
        x=float(x),
        y=float(y),
        radius=draws.uniform(0.18, 0.34),
    )


def _two(draws: np.random.Generator) -> tuple[tuple[str, str], tuple[str, str]]:
    """Two (colour, shape) that share neither."""
    colours, shapes = draws.permutation(list(COLOURS))[:2], draws.permutation(list(SHAPES))[:2]
    return (str(colours[0]), str(shapes[0])), (str(colours[1]), str(shapes[1]))


def _ground(draws: np.random.Generator) -> int:
    return int(draws.integers(225, 256))


def _any(draws: np.random.Generator, values: tuple[T, ...]) -> T:
    return values[int(draws.integers(len(values)))]
