"""fetch: URLs in, bodies or reasons out.

urls --admit--> Schedule (per host) --> curl transfers --judge--> Fetched
         |                                  |
         bad_url, block_list,               redirect, retry: back to the Schedule
         robots_txt, ...

config.py    FetchConfig
download.py  fetch(), the loop: a URL's way from its turn to its result
wire.py      the URL that is requested, and where a redirect leads
transfer.py  one request and what its end means
encodings.py Content-Encoding, undone
multi.py     many of them at once
hosts.py     what hosts have shown, and which are not asked any more
outage.py    when it is this machine that reaches nothing
schedule.py  whose turn it is: hosts, rates, waits
shared_hosts.py  hosts of which all tasks of a run share one limit: what this task asks for, and goes by
limiter.py   what all tasks together may ask of such a host
names.py     what names resolve to
name_cache.py  the same, for all tasks of the machine
address.py   which addresses may be connected to
tdmrep.py    /.well-known/tdmrep.json of hosts, where it is honoured
robots.py    robots.txt
block.py     the user's block list
retry.py     which failures time can heal
img2dataset.py  the other engine: img2dataset makes the requests
"""
