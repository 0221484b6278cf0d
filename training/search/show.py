"""What was found, as a table, as JSON, or as an HTML page that asks for nothing else.

Every value on the page is escaped for HTML and for the eye (`terminal/printable.py`), and pictures are decoded and made
anew: captions, names and pictures are other people's. The same answer gives the same bytes.
"""

from __future__ import annotations

import base64
import io
import json
import sys
from pathlib import Path
from typing import Any, TextIO

from PIL import Image

from pipeline.storage.place import place_of
from pipeline.storage.written import written
from pipeline.terminal.html import page_environment
from pipeline.terminal.printable import printable_json
from pipeline.terminal.table import terminal_width, write_table
from training.data.decode import decode
from training.search.search import Answer, Hit

__all__ = ["as_json", "as_page", "show"]

_SIDE = 256
"""Of a picture on the page, in pixels, the longer one."""
_HERE = Path(__file__).parent


def show(answer: Answer) -> None:
    """Print the answer, or write it to the file that was asked for. Raises OutputError."""
    if answer.asked.to is None:
        _write(answer, sys.stdout)
        return
    with written(place_of(answer.asked.to)) as path, path.open("w", encoding="utf-8") as file:
        _write(answer, file)


def _write(answer: Answer, file: TextIO) -> None:
    if answer.asked.shape == "html":
        file.write(as_page(answer))
    elif answer.asked.shape == "json":
        file.write(as_json(answer))
    else:
        rows = [
            [str(hit.rank), f"{hit.score:.4f}", hit.name, hit.original.text or "", hit.uid.hex()] for hit in answer.hits
        ]
        write_table(("rank", "score", "name", "text", "uid"), rows, file, terminal_width(file))


def as_json(answer: Answer) -> str:
    """One object: what was asked, how many were searched, the hits."""
    asked: dict[str, Any] = {"text": answer.asked.text, "image": answer.asked.image, "where": answer.asked.where}
    content = {
        "asked": {name: value for name, value in asked.items() if value is not None},
        "searched": answer.searched,
        "hits": [_plain(hit) for hit in answer.hits],
    }
    return f"{printable_json(json.dumps(content, ensure_ascii=False, indent=1))}\n"


def _plain(hit: Hit) -> dict[str, Any]:
    return {
        "rank": hit.rank,
        "score": round(hit.score, 6),
        "uid": hit.uid.hex(),
        "name": hit.name,
        "text": hit.original.text,
    }


def as_page(answer: Answer) -> str:
    """HTML with the pictures in it."""
    environment = page_environment(_HERE)
    return environment.get_template("page.html").render(
        answer=answer,
        asked=answer.asked.text or f"pictures like {answer.asked.image}",
        picture=_data_uri(answer.picture),
        shown=[(hit, _data_uri(hit.original.picture)) for hit in answer.hits],
    )


def _data_uri(picture: bytes | None) -> str | None:
    """A small JPEG; None for what is no whole picture."""
    pixels = None if picture is None else decode(picture, min_side=_SIDE)
    if pixels is None:
        return None
    small, body = Image.fromarray(pixels), io.BytesIO()
    small.thumbnail((_SIDE, _SIDE))
    small.save(body, "jpeg", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(body.getvalue()).decode()}"
