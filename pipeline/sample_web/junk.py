"""Alt texts that are no captions, by the rule that must reject them."""

from __future__ import annotations

from pipeline.sample_web.dice import Dice
from pipeline.sample_web.vocabulary import COLOURS, SHAPES

__all__ = ["JUNK_COUNTS", "junk_text"]

JUNK_COUNTS: dict[str, int] = {
    "clean/file_name": 140,
    "clean/date": 60,
    "clean/placeholder": 90,
    "clean/keyword_list": 70,
    "clean/web_address": 30,
    "clean/too_short": 16,
    "clean/empty": 16,
    "extract/no_text": 200,
}
"""How many links of each kind there are among 6,000."""

_PLACEHOLDERS = (
    "image",
    "Image",
    "photo",
    "picture",
    "Picture",
    "img",
    "untitled",
    "spacer",
    "IMAGE",
    "Photo",
)
_MONTHS = ("January", "March", "April", "June", "August", "October", "December")
_TERMS = (
    "cheap posters",
    "wall art",
    "buy shapes",
    "free clipart",
    "best price",
    "download",
    "wallpaper hd",
    "sticker shop",
    "gift ideas",
    "home decor",
    "kids room",
    "print online",
    "free shipping",
    "sale",
    "discount",
)


def junk_text(dice: Dice, fate: str) -> str | None:
    """A text that `fate`'s rule rejects; None for an image without an alt attribute."""
    number = dice.below(9000) + 1000
    match fate:
        case "clean/file_name":
            colour, shape = dice.choice(tuple(COLOURS)), dice.choice(SHAPES)
            return dice.choice(
                (
                    f"IMG_{number}",
                    f"DSC0{number}",
                    f"{colour}-{shape}-{number}.jpg",
                    f"{shape}_{number}_final.png",
                    f"DSC0{number}.JPG",
                    f"{colour}{number}.webp",
                    f"IMG_2025{number}.jpeg",
                )
            )
        case "clean/date":
            day, month, year = dice.below(28) + 1, dice.choice(_MONTHS), 2000 + dice.below(26)
            return dice.choice(
                (
                    f"{year}-{dice.below(12) + 1:02d}-{day:02d}",
                    f"{day} {month} {year}",
                    f"{month} {day}, {year}",
                    f"{day:02d}.{dice.below(12) + 1:02d}.{year}",
                    f"{day}/{dice.below(12) + 1}/{year}",
                )
            )
        case "clean/placeholder":
            return dice.choice(_PLACEHOLDERS)
        case "clean/keyword_list":
            terms = dice.shuffled(_TERMS)[: 8 + dice.below(6)]
            return dice.choice((", ", ",", " | ", "; ")).join(terms)
        case "clean/web_address":
            host = dice.choice(("shop", "gallery", "blog"))
            return dice.choice(
                (
                    f"http://www.{host}.example/item/{number}",
                    f"https://{host}.example/",
                    f"www.{host}.example",
                    f"contact{number}@{host}.example",
                )
            )
        case "clean/too_short":
            return dice.choice(("a", "-", "I", "x", "?", "1"))
        case "clean/empty":
            return dice.choice(("\u200b", "\ufeff", "\u200b\u200b"))  # zero-width: nothing to see
        case _:
            return "" if dice.chance(0.6) else None
