"""A web made of a directory of named pictures, in the place of drawn scenes: real drawings, real words.

    DIR/SET.tar, DIR/texts.parquet -> pages, pictures, archives, ground truth ; words.txt ; eval/ , retrieval/

One set may be held out: it stands on no page, and its pictures become the classes of an evaluation. Start reading at
`plan.py`. Importing this package loads neither Pillow nor pyarrow.
"""

from __future__ import annotations

from pipeline.sample_web.from_pictures.build import PicturesConfig, build_pictures_web

__all__ = ["PicturesConfig", "build_pictures_web"]
