"""fetch: URLs in, bodies or reasons out.

urls --admit--> Schedule (per host) --> curl transfers --judge--> Fetched
         |                                  |
         bad_url, block_list,               redirect, retry: back to the Schedule
         robots_txt, ...

config.py    FetchConfig
download.py  fetch(), the loop
transfer.py  one request and what its end means
schedule.py  whose turn it is: hosts, rates, waits
address.py   which addresses may be connected to
consent.py   X-Robots-Tag, tdm-reservation
robots.py    robots.txt
block.py     the user's block list
"""

from __future__ import annotations

from pipeline.stages.fetch.config import FetchConfig
from pipeline.stages.fetch.download import Fetched, fetch

__all__ = ["FetchConfig", "Fetched", "fetch"]
