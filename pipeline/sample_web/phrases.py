"""English alt texts: true captions of scenes, general ones, and ones that no query of the list matches.

    scene -> noun phrase ("two small red circles", "a star in blue") -> frame ("Picture of ... on a gray
    background") -> sometimes an ending ("for the spring exhibition")

Every caption that describes a scene names its colour and its thing.
"""

from __future__ import annotations

from pipeline.sample_web.dice import Dice
from pipeline.sample_web.scene import Scene
from pipeline.sample_web.vocabulary import COUNT_WORDS, PLURALS

__all__ = [
    "ENDINGS",
    "EVALUATION_TEMPLATES",
    "FLOURISHES",
    "FRAMES",
    "GENERAL_CAPTIONS",
    "UNMATCHED_CAPTIONS",
    "caption",
    "plural",
]

EVALUATION_TEMPLATES = (
    "a picture of a {c}",
    "a drawing of a {c}",
    "a {c} on a plain background",
    "there is a {c} in the picture",
    "this is a {c}",
    "a large {c}",
    "a small {c}",
)
"""CLIP_benchmark's form: {c} stands for the class name."""

FRAMES = (
    # {np} the noun phrase, {Np} the same with a capital, {there} "There is" or "There are".
    "{Np} on the {background} background",
    "here is a picture of {np}",
    "{Np}, as you can see",
    "a picture of {np} on the {background} wall",
    "a drawing of {np}",
    "{there} {np} in the picture",
    "{Np} against a {background} background",
    "this is a picture of {np}",
    "{Np}, drawn on {background} paper",
    "here you can see {np}",
    "the picture shows {np} on a {background} wall",
    "my painting of {np}",
    "an image with {np} on it",
    "{Np} printed on a {background} card",
    "a photo of the sign with {np}",
    "the children have painted {np} on {background} paper",
    "illustration of {np} with a {background} ground",
    "{Np} from the book about colours",
    "a sticker that shows {np}",
    "we made a poster with {np} on {background}",
    "a simple drawing which shows {np}",
    "postcard with {np} in front of a {background} sky",
    "look at {np} on this {background} tile",
    "an old stamp with {np} and a {background} border",
    "a label with {np} for the kitchen",
    "we have sewn {np} on the {background} cloth",
    "a woodcut of {np}, printed by hand",
    "the teacher drew {np} on the {background} board",
    "a mosaic of {np} made from glass and stone",
    "close view of {np} on a {background} flag",
    "the badge of our club has {np} on it",
    "a pillow with {np} on {background} cotton",
    "detail of a carpet with {np} in wool",
    "the mural behind the station shows {np}",
    "a wooden puzzle with {np} for a young child",
    "the lantern with {np} hangs over the door",
    "a ceramic plate with {np} in the middle",
    "you will find {np} on page twelve of the catalogue",
    "the weaver put {np} in the corner of a {background} blanket",
    "a chalk sketch of {np} on the pavement",
)
"""Frames in order of frequency."""

ENDINGS = (
    "for the lesson about shapes",
    "by a pupil of the third class",
    "from our workshop in the old town",
    "for the spring exhibition",
    "in the collection of the museum",
    "as seen in the shop window",
    "for a birthday party",
    "from the first page of the album",
    "made with a brush and water",
    "for the wall of the nursery",
    "in the style of the season",
    "painted in the summer holiday",
    "from the archive of the printing house",
    "on a rainy day in autumn",
    "for the winter market in the village",
    "given to the library by a friend",
    "found in a garden near the river",
    "used by the harbour office",
    "for the theatre on the hill",
    "from the travel notes of a sailor",
    "cut out with scissors by the youngest",
    "with a frame of oak",
    "to be sold at the charity auction",
    "next to the railway timetable",
    "on the cover of a music sheet",
    "in the chapel beside the mountain road",
    "drawn with a ruler and a compass",
    "for the orchestra of the university",
    "after a pattern from the monastery",
    "on display in the planetarium",
)
"""Endings in order of frequency; the last are rare, as are their words."""

FLOURISHES = (
    " & more",
    " (no. 12)",
    ": “made by hand”",
    " – from the school’s café",
    ' by the "Sunday painters"',
    " at Zoë’s gallery",
)
"""Rare closing words with the characters that pages must escape."""

GENERAL_CAPTIONS = (
    "Painted hearts and stars from our workshop in the old town",
    "The new collection of circles, squares and triangles for your wall",
    "All of our stars and rings are painted by hand",
    "Simple pictures with a circle or a square for young children",
    "One of the drawings about the circle from the book of shapes",
    "Cards with a star or a heart for every birthday",
    "A page with arrows and crosses from the catalogue of signs",
    "The children have painted houses and trees for the exhibition",
)
"""One alt text on many pictures: good English that says little about the single picture."""

UNMATCHED_CAPTIONS = (
    "Grandparents celebrating their golden wedding anniversary together",
    "Delicious homemade chocolate brownies cooling outside",
    "Firefighters rescued several frightened kittens yesterday",
    "Happy teenagers dancing wildly throughout their graduation",
    "Fresh strawberries, raspberries plus blueberries everywhere",
    "Exhausted marathon runners limping towards their trainers",
    "Friendly neighbours sharing homegrown vegetables",
    "Professional photographers capturing beautiful wildlife moments",
    "Enormous elephants bathing underneath tall waterfalls",
    "Volunteers cleaning polluted beaches together",
    "Barefoot toddlers splashing through muddy puddles",
    "Businesswoman answering several urgent emails tonight",
    "Famous footballers signing autographs before kickoff",
    "Sleeping puppies dreaming peacefully beneath warm blankets",
    "Electricians repairing damaged cables before nightfall",
    "Newlyweds honeymooning somewhere warm, probably Hawaii",
    "Hungry customers queuing outside their favourite bakery",
    "Determined climbers conquering dangerous frozen cliffs",
    "Scientists discovering previously unknown bacteria",
    "Cheerful nurses comforting elderly hospital patients",
    "Farmers harvesting ripe wheat before sunset",
    "Astronauts repairing their broken spaceship",
    "Retired couples enjoying luxurious Caribbean cruises",
    "Students studying chemistry until midnight",
    "Mechanics replacing worn tyres quickly",
    "Lifeguards watching inexperienced swimmers carefully",
    "Talented guitarists performing live tonight",
    "Chefs preparing traditional Japanese noodles",
    "Gorgeous models wearing expensive luxury jewellery",
    "Dentists recommend brushing twice daily",
    "Archaeologists uncovering ancient Egyptian treasures",
    "Curious monkeys stealing tourists' sunglasses",
    "Local politicians debating higher taxes again",
    "Breathtaking fireworks welcoming another decade",
    "Veterinarians treating injured hedgehogs overnight",
    "Soldiers returning safely before Christmas",
    "Skilled restorers repairing medieval furniture",
    "Angry protesters demanding cheaper housing",
    "Brave explorers crossing endless deserts",
    "Lovely bridesmaids wearing matching dresses",
    "Journalists interviewing several Olympic champions",
    "Playful dolphins jumping alongside speedboats",
    "Gardeners watering thirsty tomatoes tonight",
    "Commuters waiting impatiently because several flights got delayed",
)
"""Clean English of which no word is in the sample's encyclopedia or word list."""


def plural(thing: str) -> str:
    """The plural of a noun, whose last word changes."""
    before, space, last = thing.rpartition(" ")
    ending = "es" if last.endswith(("s", "x", "ch", "sh")) else "s"
    return f"{before}{space}{PLURALS.get(last, last + ending)}"


def caption(dice: Dice, scene: Scene) -> str:
    """A true caption of `scene`, in one of thousands of wordings."""
    noun_phrase = _noun_phrase(dice, scene)
    frames = [(frame, 1 / (i + 3)) for i, frame in enumerate(FRAMES)]
    text = (
        dice.weighted(frames)
        .format(
            np=noun_phrase,
            Np=noun_phrase[0].upper() + noun_phrase[1:],
            there="there is" if scene.count == 1 else "there are",
            background=scene.background,
        )
        .replace(" a olive", " an olive")
    )
    if "," not in text and dice.chance(0.28):
        endings = [(ending, 1 / (i + 2)) for i, ending in enumerate(ENDINGS)]
        text = f"{text} {dice.weighted(endings)}"
    elif scene.background not in text and dice.chance(0.3):
        text = f"{text} on the {scene.background} background"
    if dice.chance(0.05):
        text += dice.choice(FLOURISHES)
    if dice.chance(0.3):
        text = text[0].upper() + text[1:]
    return f"{text}." if dice.chance(0.15) else text


def _noun_phrase(dice: Dice, scene: Scene) -> str:
    many = scene.count > 1
    colour, thing = scene.colour, plural(scene.thing) if many else scene.thing
    adjectives = []
    if scene.size != "middling" and dice.chance(0.6):
        adjectives.append(dice.choice({"small": ("small", "little"), "large": ("large", "big")}[scene.size]))
    filled = ""
    if scene.pattern != "plain" and dice.chance(0.85):
        if dice.chance(0.6):
            adjectives.append(scene.pattern)
        else:
            filled = " with stripes" if scene.pattern == "striped" else " with dots"
    form = dice.weighted([("before", 0.7), ("in", 0.13), ("painted", 0.07), ("that", 0.1)])
    if form == "before":
        core = [*adjectives, colour, thing]
        after = ""
    else:
        core = [*adjectives, thing]
        verb = "are" if many else "is"
        after = {"in": f" in {colour}", "painted": f" painted {colour}", "that": f" that {verb} {colour}"}[form]
    words = " ".join(core)
    determiner = COUNT_WORDS[scene.count] if many else ("an" if words[0] in "aeiou" else "a")
    phrase = f"{determiner} {words}{after}{filled}"
    if scene.place != "middle" and dice.chance(0.6):
        phrase += {
            "left": " on the left",
            "right": " on the right",
            "top": " near the top",
            "bottom": " near the bottom",
        }[scene.place]
    return phrase
