"""check_image: the bytes of a body in, a picture fit to store or a reason out.

body --identify--> limits on the header --decode--> upright sRGB --resize--> hash, encode --> Picture
          |               |                 |
          `---------------+-----------------+--> Rejected(reason, detail)

config.py    ImageConfig, Picture, Rejected
check.py     check_image(), the flow above
identify.py  format and size from the first bytes
jpeg.py      JPEG, by libjpeg-turbo, scaled while it decodes
still.py     every other format, by Pillow, to upright sRGB
geometry.py  orientation and resize modes
area.py      averaging areas; area_kernel.py has its loops
facts.py     EXIF and the perceptual hash
isolate.py   IsolatedChecker: decoding in a process that may die
worker.py    that process
"""

from __future__ import annotations

from pipeline.stages.check_image.check import check_image
from pipeline.stages.check_image.config import ImageConfig, Picture, Rejected
from pipeline.stages.check_image.isolate import IsolatedChecker

__all__ = ["ImageConfig", "IsolatedChecker", "Picture", "Rejected", "check_image"]
