"""pictures: the bytes of a picture to pixels, one decoder for everyone. The image check and the trainer see the same.

body --identify--> size admitted? --decode--> pixels as stored --profile, orientation--> upright sRGB
          |               |            |
          `---------------+------------+--> Rejected(reason, detail)

decode.py       decode(), the flow above; decode_upright() for those who want the end of it
identify.py     format and size from the first bytes
jpeg.py         JPEG, by libjpeg-turbo, scaled while it decodes
still.py        every other format, by Pillow, on white
png.py, gif.py, webp.py   what their chunks and blocks say, before Pillow sees them
colour.py       profiles and CMYK to sRGB
orientation.py  EXIF, and turning upright
"""

from __future__ import annotations

from pipeline.pictures.colour import profile_to_srgb
from pipeline.pictures.decode import Decoded, decode, decode_upright, quiet_pillow
from pipeline.pictures.identify import identify
from pipeline.pictures.jpeg import Pixels, read_jpeg_header
from pipeline.pictures.orientation import upright
from pipeline.pictures.rejected import Rejected

__all__ = [
    "Decoded",
    "Pixels",
    "Rejected",
    "decode",
    "decode_upright",
    "identify",
    "profile_to_srgb",
    "quiet_pillow",
    "read_jpeg_header",
    "upright",
]
