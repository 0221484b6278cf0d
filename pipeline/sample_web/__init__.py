"""A seeded miniature of the web: pages, pictures, archives, an encyclopedia, and the truth about them.

It is the built-in input of the pipeline and the ground truth of its tests. Importing this package loads
neither Pillow nor pyarrow; start reading at `plan.py`.
"""

from __future__ import annotations

from pipeline.sample_web.build import SampleWebConfig, build_sample_web
from pipeline.sample_web.serving import serving

__all__ = ["SampleWebConfig", "build_sample_web", "serving"]
