"""English alt texts as most of the web writes them: a few words, seldom a sentence, and half of the time no query.

    scene -> "red circle" -> frame ("red circle picture") -> sometimes a rare word ("near the lighthouse")

The generic words of the frames are the heads of the query list, the rare words its tail.
"""

from __future__ import annotations

from pipeline.sample_web.dice import Dice
from pipeline.sample_web.encyclopedia_words import COMPOUND_LEMMAS, JOBS, MATERIALS, MORE_NOUNS, PLACES
from pipeline.sample_web.phrases import UNMATCHED_CAPTIONS, caption, plural
from pipeline.sample_web.scene import Scene

__all__ = ["NAMES", "general_text", "unmatched_text", "web_caption"]

_FRAMES = (
    ("{p}", 0.3),
    ("{p} picture", 0.18),
    ("picture of {ap}", 0.1),
    ("{ap}", 0.05),
    ("{p} image", 0.1),
    ("drawing of {ap}", 0.08),
    ("new {p} picture", 0.09),
    ("new {p} drawing", 0.05),
    ("{p} on {background}", 0.02),
    ("{p} and more", 0.02),
    ("this is {ap}", 0.01),
)
"""{p} the noun phrase, {ap} the same with its article or number."""

_GENERAL = (
    ("new picture of the day", 0.3),
    ("new image behind this picture", 0.15),
    ("our new picture", 0.1),
    ("picture", 0.1),
    ("drawing of the day", 0.1),
    ("new drawing of the day", 0.1),
    ("image of the day", 0.1),
    ("new photo from the album", 0.05),
)

_LONG_SHARE = 0.01
_CAPITAL_SHARE = 0.05
_RARE_SHARE = 0.13
"""Of the captions that end with a rare word."""

_SYLLABLES = ("bel", "cor", "dal", "fen", "gar", "hol", "kes", "lan", "mar", "nor", "pel", "ros", "tam", "vel", "wes")
_ENDS = ("by", "ford", "ham", "ley", "mere", "stead", "ton", "wick")


def _names() -> tuple[str, ...]:
    """Names of places that there are not."""
    made = [f"{first}{second}{end}" for first in _SYLLABLES for second in _SYLLABLES for end in _ENDS]
    return tuple(name.capitalize() for name in Dice(0, "names").shuffled(made)[:_NUM_NAMES])


_NUM_NAMES = 1000
NAMES = _names()
"""Proper names, most frequent first."""

_RARE_WORDS = tuple(Dice(0, "rare words").shuffled((*MORE_NOUNS, *COMPOUND_LEMMAS, *PLACES, *JOBS, *MATERIALS)))
_RARE = tuple((word, 1 / (rank + 60)) for rank, word in enumerate(_RARE_WORDS))
_RARE_NAMES = tuple((name, 1 / (rank + 1000)) for rank, name in enumerate(NAMES))

_SUBJECTS, _DOINGS = zip(*(text.split(" ", 2)[0:3:2] for text in UNMATCHED_CAPTIONS), strict=True)
_CLOSINGS = (
    "again", "yesterday", "tonight", "together", "everywhere", "anyway", "afterwards", "meanwhile", "altogether",
    "eventually", "somehow", "perhaps", "recently", "sometimes", "online", "nationwide",
)  # fmt: skip


def web_caption(dice: Dice, scene: Scene) -> str:
    """A true caption of `scene`, mostly of two to five words."""
    if dice.chance(_LONG_SHARE):
        return caption(dice, scene)
    many = scene.count > 1
    phrase = f"{scene.colour} {plural(scene.thing) if many else scene.thing}"
    if dice.chance(0.06):
        phrase = f"{scene.thing} in {scene.colour}"
    article = "some" if many else ("an" if phrase[0] in "aeiou" else "a")
    text = dice.weighted(_FRAMES).format(p=phrase, ap=f"{article} {phrase}", background=scene.background)
    if dice.chance(_RARE_SHARE):
        text += _rare_ending(dice)
    return _cased(dice, text)


def general_text(dice: Dice) -> str:
    """A text of generic words, which matches and says nothing."""
    return _cased(dice, dice.weighted(_GENERAL))


def unmatched_text(dice: Dice) -> str:
    """Clean English of which no word is in the sample's encyclopedia or word list."""
    text = f"{dice.choice(_SUBJECTS)} {dice.choice(_DOINGS)}"
    return f"{text} {dice.choice(_CLOSINGS)}" if dice.chance(0.5) else text


def _rare_ending(dice: Dice) -> str:
    if dice.chance(0.6):
        return f" which you can see at {dice.weighted(_RARE_NAMES)}"
    return dice.choice((" with the {}", " and the {}", " near the {}", " for the {}")).format(dice.weighted(_RARE))


def _cased(dice: Dice, text: str) -> str:
    return text[0].upper() + text[1:] if dice.chance(_CAPITAL_SHARE) else text
