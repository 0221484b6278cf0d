"""What the sample encyclopedia is about, and the sentences that it is written from."""

from __future__ import annotations

__all__ = [
    "ADVERBS",
    "COLOUR_SENTENCES",
    "COMPOUND_LEMMAS",
    "GENERAL_SENTENCES",
    "JOBS",
    "MATERIALS",
    "MORE_ADJECTIVES",
    "MORE_NOUNS",
    "OBJECT_SENTENCES",
    "PAIR_SENTENCES",
    "PLACES",
    "PLURAL_SENTENCES",
    "SHAPE_SENTENCES",
    "TOPICS",
    "VERBS",
    "WORKS",
]

# {x} the article's subject in lower case, {X} with a capital, {xs} its plural; the other slots are drawn
# from the lists here: {colour} {shape} {object} {material} {place} {job} {work} {time} and plurals.

MATERIALS = (
    "paper", "glass", "stone", "wood", "oak", "cotton", "wool", "silk", "clay", "chalk", "ink", "paint",
    "iron", "copper", "silver", "gold", "leather", "wax", "cardboard", "plaster", "bronze", "marble",
    "porcelain", "linen", "straw",
)  # fmt: skip
PLACES = (
    "harbour", "museum", "library", "theatre", "garden", "kitchen", "station", "village", "town", "river",
    "mountain", "hill", "chapel", "monastery", "university", "planetarium", "workshop", "gallery", "shop",
    "school", "market", "nursery", "street", "bridge", "square garden", "castle", "tower", "meadow", "valley",
    "island", "printing house", "railway",
)  # fmt: skip
JOBS = (
    "painter", "sailor", "weaver", "teacher", "printer", "carpenter", "gardener", "potter", "baker",
    "librarian", "pupil", "child", "designer", "engraver", "sculptor", "tailor", "musician", "fisher",
    "miller", "clockmaker",
)  # fmt: skip
WORKS = (
    "postcard", "sticker", "poster", "stamp", "label", "woodcut", "mosaic", "badge", "pillow", "carpet",
    "mural", "puzzle", "lantern", "plate", "blanket", "sketch", "tile", "card", "board", "album", "catalogue",
    "book", "picture", "drawing", "painting", "photo", "image", "illustration", "sign", "frame", "cover",
    "compass", "ruler", "timetable", "music sheet", "brush", "border", "page", "wall", "pavement",
)  # fmt: skip
TOPICS = (
    "colour", "shape", "pattern", "autumn", "spring", "summer", "winter", "geometry", "symmetry", "orchestra",
    "exhibition", "auction", "archive", "alphabet", "holiday", "birthday party", "lesson", "season", "symbol",
    "light", "shadow", "perspective", "print", "craft", "decoration", "stripe", "dot", "background", "corner",
    "style",
)  # fmt: skip

GENERAL_SENTENCES = (
    "The {x} is known to every {job} and to most children.",
    "In the {place} a {x} is often shown beside a {colour} {shape}.",
    "A {x} made of {material} can be seen in the {place} near the river.",
    "Many a {work} from the old {place} has a {x} on it.",
    "The first picture of a {x} in our catalogue was drawn by a {job} in the {time}.",
    "You can see the {x} from the {place} on a clear day.",
    "A simple drawing of a {x} needs only a brush, some water and {material}.",
    "The {job} of the {place} painted the {x} {colour}, and the {place} behind it {ground}.",
    "It is used in the {place} as a sign, mostly on a {ground} background.",
    "Some say that the {x} is older than the {work}, but this is not certain.",
    "For a lesson about the {x}, the teacher takes {material} and a small {object}.",
    "The {x} has also been printed on a {colour} {work} by hand.",
    "Every {time} the {place} shows a large collection about the {x}.",
    "On the left there is a {object}, on the right a {x}, and near the top a {shape}.",
    "The third page of the album tells how a {x} is made by the {job}.",
    "As seen in the {place}, the {x} can be big or little, young or old.",
    "A friend of the {job} found this {x} on a rainy holiday in {time}.",
    "The {work} was sold with a {x} at the charity auction in the {place}.",
    "We made a {work} with a {x} for the birthday party, and it hangs over the door.",
    "People have used the {x} for the wall of the {place} since the {time}.",
    "With scissors and {material} the youngest pupil cut out a {x} in the {time}.",
    "The {x} next to the {object} is striped, the one in the middle is dotted.",
    "Two or three of them stand in front of the {place}, four at the bottom of the {work}.",
    "Travel notes of a {job} describe the {x} after the {colour} {object}.",
    "Its pattern of stripes and dots was found in the archive of the {place}.",
    "The harbour office keeps a wooden {x} from the {time}, given by the {job}.",
    "Here the plain {x} of {material} is close to a detail of the {work}.",
    "The museum has painted, printed and ceramic examples to display.",
    "This is the reason why the {job} put a {x} in the corner of the {work}.",
    "They look at the {x} in the shop window, then at the {colour} {shape} against the sky.",
    "In this class you learn which colours go with the {x}, and all your new pictures show it.",
    "The {job} said: you know that we drew my {x} for our club on twelve cards.",
    "A view of the road to the {place} was sewn on cloth, which we bought for our travel club.",
    "Where {xs} and {shape} drawings hang, the ground is {ground}, and houses and trees are {colour}.",
)
SHAPE_SENTENCES = (
    "A {x} is a simple shape that can be drawn with a ruler and a compass.",
    "{X} and {shape} are among the first shapes that children draw.",
    "Two {xs} on a {ground} background are easy to see from the other side of the street.",
    "The colour of a {x} may be {colour} or {colour}.",
)
COLOUR_SENTENCES = (
    "{X} is a colour of light and of paint, and {x} {material} is found in many a {place}.",
    "A {x} {object} on a {ground} background is easy to see.",
    "The {job} uses {x} for the {shape} and for the {object}.",
    "Flags and signs are often {x}, {colour} or {colour}.",
    "In the {time} the garden is {x}, and the {object} beside it is {colour}.",
)
OBJECT_SENTENCES = (
    "A {x} can be {colour}, {colour} or {colour}.",
    "The {colour} {x} in the {place} was made by a {job} of {material}.",
    "Children draw a {x} with a {colour} {shape} and a little {object}.",
)
PLURAL_SENTENCES = (
    "Two {xs} stand near the {place}, and three {xs} are shown on the {work}.",
    "Small {xs} are used as a decoration of the {place} in {time}.",
    "Large {xs} are painted on the wall, four little {xs} on the {work}.",
    "All {xs} of the {place} are {colour} or {colour}, and new {xs} are made by the {job}.",
)
"""Told of every shape and object, so that the plurals of all are frequent words."""
PAIR_SENTENCES = (
    "A {x} is the sign of the {place}.",
    "The {x} on the {work} was painted by a {job}.",
    "Two {xs} mean that the {place} is open in {time}.",
    "Every {x} of this kind is made of {material}.",
    "The old {work} shows a {x} on a {ground} background.",
    "In the picture there is a {x} beside the {object}.",
    "Many {xs} were printed by hand for the {place}.",
    "The {job} put a large {x} over the door.",
    "A small {x} on {ground} paper is kept in the archive.",
    "You will find the {x} on the wall of the {place}.",
)

VERBS = (
    "paint", "draw", "print", "cut", "weave", "carve", "show", "hang", "build", "sew", "write", "read", "teach",
    "learn", "sell", "buy", "find", "keep", "open", "close", "sail", "row", "bake", "plant", "grow", "climb",
    "fly", "float", "shine", "glow", "fold", "stack", "polish", "sketch", "trace", "measure", "frame", "mount",
    "glue", "embroider",
)  # fmt: skip
ADVERBS = (
    "often", "mostly", "here", "then", "also", "near", "upright", "sideways", "slowly", "brightly", "softly",
    "neatly", "seldom", "abroad", "aboard", "overhead", "indoors", "outdoors", "clockwise",
)  # fmt: skip
MORE_ADJECTIVES = (
    "round", "oval", "hollow", "solid", "flat", "curved", "straight", "pointed", "blunt", "narrow", "broad",
    "pale", "vivid", "dull", "glossy", "matt", "smooth", "rough", "woven", "knitted", "carved", "gilded",
    "rusty", "faded", "spotted", "checkered", "wavy", "zigzag", "symmetrical", "lopsided", "tiny", "huge",
    "wooden", "ceramic", "plain", "simple", "striped", "dotted", "embroidered", "rainy",
)  # fmt: skip
MORE_NOUNS = (
    "hexagon", "pentagon", "octagon", "ellipse", "spiral", "cube", "sphere", "pyramid", "cone", "cylinder",
    "rectangle", "trapezoid", "rhombus", "polygon", "semicircle", "disc", "arch", "knot", "wheel", "crown",
    "crimson", "scarlet", "magenta", "violet", "indigo", "cyan", "teal", "amber", "ivory", "khaki", "maroon",
    "ochre", "lavender", "mauve", "emerald", "bell", "basket", "bucket", "barrel", "bench", "chair", "table",
    "lamp", "clock", "mirror", "drum", "violin", "flute", "trumpet", "guitar", "piano", "hammer", "saw", "nail",
    "screw", "spade", "rake", "axe", "needle", "thread", "button", "ribbon", "hat", "scarf", "glove", "shoe",
    "boot", "coat", "spoon", "fork", "knife", "bowl", "jug", "kettle", "bottle", "oven", "stove", "bread",
    "cheese", "pear", "plum", "cherry", "lemon", "melon", "grape", "carrot", "onion", "pumpkin", "acorn",
    "chestnut", "leaf", "branch", "root", "seed", "rose", "tulip", "daisy", "lily", "sunflower", "clover",
    "fern", "moss", "willow", "birch", "pine", "maple", "dog", "cat", "horse", "cow", "sheep", "goat", "pig",
    "duck", "goose", "hen", "owl", "eagle", "robin", "swan", "fox", "bear", "wolf", "deer", "rabbit", "mouse",
    "squirrel", "hedgehog", "frog", "snail", "bee", "ant", "spider", "beetle", "whale", "crab", "shell",
    "seal", "turtle", "canoe", "ferry", "yacht", "raft", "tram", "bus", "lorry", "tractor", "bicycle", "sledge",
    "cart", "wagon", "train", "tunnel", "canal", "dam", "lake", "pond", "ocean", "beach", "cliff", "cave",
    "desert", "forest", "farm", "barn", "mill", "well", "fence", "gate", "roof", "chimney", "stair", "cellar",
    "attic", "balcony", "palace", "temple", "ruin", "statue", "fountain", "monument", "sundial", "globe", "map",
    "chart", "telescope", "microscope", "magnet", "prism", "lens", "pendulum", "comet", "planet", "moon",
    "sun", "rainbow", "snowflake", "icicle", "thunder", "fog", "dew", "frost", "breeze", "tide", "wave",
    "pebble", "sand", "crystal", "ruby", "sapphire", "pearl", "coin", "medal", "ring finger", "necklace",
    "bracelet", "crest", "shield", "sword", "helmet", "banner", "tent", "rope", "chain", "hook", "pulley",
    "lever", "gear", "spring onion", "hinge", "latch", "padlock",
)  # fmt: skip
COMPOUND_LEMMAS = (
    "traffic light", "paper lantern", "shooting star", "full moon", "red cross", "blue moon", "green light",
    "yellow card", "white flag", "black box", "hot air balloon", "sailing boat", "fishing boat", "oak tree",
    "apple tree", "toy car", "paint brush", "picture frame", "picture book", "picture postcard",
    "wall painting", "tea cup", "weather vane", "right angle", "arrow head", "brick wall", "stained glass",
    "stone bridge", "snow globe", "coat of arms", "work of art", "plate glass", "glass house", "town square",
    "market square", "rose window", "colour wheel", "playing card",
)  # fmt: skip
