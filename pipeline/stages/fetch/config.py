"""What the fetch stage can be told: limits, politeness, consent, safety."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Annotated, Literal

from configs.bounds import Bounds
from configs.load import ConfigError, check_bounds
from configs.options import Example
from pipeline.stages.fetch.address import parse_allowed

__all__ = ["FetchConfig"]

_HEADER_TEXT = re.compile(r"[\x20-\x7e]+\Z")
_PRODUCT = re.compile(r"[A-Za-z0-9_-]+")
_CONTACT = re.compile(r"https?://\S+|[^\s@]+@[^\s@]+\.[^\s@]+")
_TRANSFERS_PER_CPU = 256
"""A picture takes 5 to 6 ms of a core (docs/fetching.md), and mostly more than a second to come."""
_RESOLVE = re.compile(r"[^\s:]+:\d{1,5}:\S+\Z")


@dataclass(frozen=True, kw_only=True)
class FetchConfig:
    """How pictures are requested. Sizes are bytes, times seconds; limits hold for every URL by itself."""

    user_agent: Annotated[str, Example("my-crawler/1.0 (+https://example.org/about-my-crawler)")]
    """The User-Agent header: a product name, and a URL or an e-mail address under which a site's owner
    reaches whoever runs this. The name before the slash is also our name in robots.txt and X-Robots-Tag."""

    concurrency: Annotated[int, Bounds(least=1)] = 64
    """Transfers in flight in one process."""

    per_host_concurrency: Annotated[int, Bounds(least=1)] = 4
    """Transfers in flight to one host name in one process."""

    per_host_rate: Annotated[float, Bounds(least=0)] = 0.0
    """Requests a second that one process starts to one host name, at most; 0 for no limit."""

    heavy_host_urls: Annotated[int, Bounds(least=0)] = 1000
    """A host with so many URLs to request in the plan is heavy: all tasks of the run share its two limits that follow,
    beside those of one process; 0 for no such hosts."""

    heavy_host_concurrency: Annotated[int, Bounds(least=1)] = 8
    """Requests in flight to one heavy host from the whole run, on as many connections."""

    heavy_host_rate: Annotated[float, Bounds(least=0.001)] = 20.0
    """Requests a second that the whole run starts to one heavy host."""

    max_crawl_delay_s: Annotated[float, Bounds(least=0)] = 30.0
    """The longest Crawl-delay of a robots.txt that is kept to; a host that asks for more gets this. The whole run
    waits so long between two requests. 0 takes no notice of it."""

    per_host_failures: Annotated[int, Bounds(least=0)] = 16
    """So many URLs of one host in a row without a connection (connect) or an end (timeout, too_slow), and the rest of
    the shard's fail likewise without being asked; 0 for never."""

    connect_timeout_s: Annotated[float, Bounds(least=0.001)] = 10.0
    """Time for name resolution, connection and TLS handshake."""

    timeout_s: Annotated[float, Bounds(least=0.001)] = 60.0
    """Time for one attempt as a whole, its redirects included."""

    low_speed_bytes: Annotated[int, Bounds(least=0)] = 1024
    """A transfer that stays under this many bytes a second for low_speed_time_s is cut; 0 for never."""

    low_speed_time_s: Annotated[int, Bounds(least=0)] = 10
    """See low_speed_bytes; whole seconds."""

    max_bytes: Annotated[int, Bounds(least=1)] = 32 * 1024 * 1024
    """Body bytes, after decoding of any Content-Encoding; announced or received."""

    max_header_bytes: Annotated[int, Bounds(least=256)] = 64 * 1024
    """Bytes of all header lines of one answer."""

    max_redirects: Annotated[int, Bounds(least=0)] = 5
    """Redirects of one attempt."""

    max_waiting_bytes: Annotated[int, Bounds(least=0)] = 16 * 1024 * 1024
    """No transfer starts while more bytes of finished bodies wait for the consumer."""

    retries: Annotated[int, Bounds(least=0)] = 2
    """More attempts after one that failed in a way that can heal: 408, 425, 429, 5xx, broken connections."""

    backoff_s: Annotated[float, Bounds(least=0)] = 1.0
    """Wait before the first retry; it doubles with each further one, plus up to half of it as jitter."""

    max_retry_after_s: Annotated[float, Bounds(least=0)] = 60.0
    """The longest Retry-After that is waited for; a host that asks for more is not retried."""

    shard_deadline_s: Annotated[float, Bounds(least=0)] = 3600.0
    """When so much time has passed, what is not finished is given up as a timeout; 0 for never."""

    store: str | None = None
    """Where the pictures and what is known of each URL are kept, a directory or a bucket's URL, for several data sets
    to share: what one has asked for, no other asks for again. One run at a time uses it. null: in the output."""

    allow_addresses: tuple[str, ...] = ()
    """Ranges that may be reached although they are not global: CIDR, CIDR:port or [IPv6 CIDR]:port."""

    verify_certificates: bool = True
    """Whether the certificate and its host name must be valid."""

    ca_file: str = ""
    """PEM file of trusted authorities; empty for the system's."""

    proxy: str = ""
    """URL of a proxy for all requests; empty for none. Proxy variables of the environment are never read.
    Behind a proxy only literal addresses in URLs can be guarded: the proxy resolves the names."""

    resolve: tuple[str, ...] = ()
    """Host names with given addresses, as host:port:address; the address guard applies to them too."""

    resolvers: tuple[str, ...] = ()
    """Name servers that are asked in turn, as address, address:port or [IPv6]:port; needs the extra dns. Empty for the
    system's way. Tasks of one machine tell each other for minutes what names resolve to, and which do not."""

    http2: bool = True
    """Whether to use HTTP/2 where an https server offers it."""

    robots_txt: bool = False
    """Whether to ask each host's robots.txt first; one more request a host."""

    block: tuple[str, ...] = ()
    """What is never fetched or kept: host names (with all names below them), URLs, SHA-256 of bodies. Holds for
    pictures that are there already, too; a change of it requests nothing that is known."""

    block_files: tuple[str, ...] = ()
    """Files, or objects in a bucket, with entries as in `block`, one a line; # starts a comment."""

    engine: Literal["own", "img2dataset"] = "own"
    """Who makes the requests. img2dataset can do less (docs/peers.md says what): options that it cannot honour and that
    change what is requested are refused."""

    engine_python: str = ""
    """The Python of an environment with img2dataset, for that engine; on a cluster, at this path on every machine."""

    def __post_init__(self) -> None:
        """Raises ConfigError for values that cannot work."""
        check_bounds(self)
        if not _HEADER_TEXT.match(self.user_agent) or not _PRODUCT.match(self.user_agent):
            raise ConfigError(
                f"user_agent {self.user_agent!r} must begin with a product name, like openwit/0.1 (+https://...)"
            )
        if not _CONTACT.search(self.user_agent):
            raise ConfigError("user_agent must hold a URL or an e-mail address under which you can be reached")
        for entry in self.resolve:
            if not _RESOLVE.match(entry):
                raise ConfigError(f"resolve entry {entry!r} must look like host:port:address")
        for entry in self.resolvers:
            if not _is_server(entry):
                raise ConfigError(f"resolvers entry {entry!r} must look like address, address:port or [IPv6]:port")
        parse_allowed(self.allow_addresses)
        if self.engine == "img2dataset":
            self._refuse_what_img2dataset_cannot()

    def _refuse_what_img2dataset_cannot(self) -> None:
        if not self.engine_python:
            raise ConfigError("engine img2dataset needs engine_python, the Python of an environment that has it")
        asked_for = {
            "per_host_rate": self.per_host_rate > 0,
            "proxy": bool(self.proxy),
            "resolve": bool(self.resolve),
            "resolvers": bool(self.resolvers),
            "robots_txt": self.robots_txt,
            "verify_certificates": not self.verify_certificates,
        }
        refused = [name for name, asked in asked_for.items() if asked]
        if refused:
            raise ConfigError(f"engine img2dataset cannot honour {', '.join(refused)}; leave it out or use engine own")

    @property
    def cpus(self) -> float:
        """What a task takes that mostly waits for its transfers."""
        return min(1.0, self.concurrency / _TRANSFERS_PER_CPU)

    @property
    def product(self) -> str:
        """Our name in robots.txt and X-Robots-Tag: the user agent's product token, in lower case."""
        match = _PRODUCT.match(self.user_agent)
        assert match is not None  # checked on construction
        return match.group().lower()


def _is_server(entry: str) -> bool:
    """Whether it names a server as c-ares takes it."""
    host, port = entry, "53"
    if entry.startswith("[") or entry.count(":") == 1:
        host, _, port = entry.rpartition(":")
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        return 0 < int(port) < 65536
    except ValueError:
        return False
