"""The address guard: which IP addresses a download may connect to.

It sees the address of the socket that is about to be opened, never the name. So whatever led there (a
redirect, a name that resolves differently the second time, 0x7f000001, 2130706433, an IPv4 address inside an
IPv6 one) makes no difference.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from configs.load import ConfigError

__all__ = ["AddressGuard", "Allowed", "is_global", "literal_address", "parse_allowed"]

_ENTRY = re.compile(r"(?:\[(?P<six>[^\]]+)\]|(?P<four>[^:]+))(?::(?P<port>\d{1,5}))?\Z")
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# IANA special-purpose address registries (RFC 6890 and its updates), multicast (RFC 5771), and the deprecated
# 6to4 relay (RFC 7526). Listed here rather than asked of `ipaddress`, whose answer changes between patch
# releases of Python; where a block has globally reachable islands, the island is refused too.
_NOT_GLOBAL_V4 = tuple(
    (int(network.network_address), int(network.netmask))
    for network in map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "168.63.129.16/32",  # registered as public, but inside Azure the host of one's own machine answers there
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
        ),
    )
)
_UNICAST_V6 = ipaddress.IPv6Network("2000::/3")
_NOT_GLOBAL_V6 = tuple(
    map(
        ipaddress.IPv6Network,
        (
            "2001::/23",  # protocol assignments: Teredo, benchmarking, ORCHID
            "2001:db8::/32",
            "3fff::/20",
        ),
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_V4_COMPATIBLE = ipaddress.IPv6Network("::/96")


def _embedded_v4(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that packets to `address` end at, for the forms that carry one."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address in _NAT64 or address in _V4_COMPATIBLE:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def is_global(address: _Address) -> bool:
    """Whether `address` belongs to the public Internet, by what it carries if it is an IPv4 one in disguise."""
    if isinstance(address, ipaddress.IPv6Address):
        embedded = _embedded_v4(address)
        if embedded is not None:
            return address not in _V4_COMPATIBLE and is_global(embedded)
        return address in _UNICAST_V6 and not any(address in network for network in _NOT_GLOBAL_V6)
    value = int(address)
    return not any(value & mask == network for network, mask in _NOT_GLOBAL_V4)


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """A range that may be reached although it is not global; `port` None for every port."""

    network: _Network
    port: int | None

    def covers(self, address: _Address, port: int) -> bool:
        """Whether the range holds `address` and `port`."""
        if self.port is not None and port != self.port:
            return False
        return address.version == self.network.version and address in self.network


def parse_allowed(entries: Sequence[str]) -> tuple[Allowed, ...]:
    """Read `127.0.0.0/8`, `127.0.0.0/8:8766`, `::1/128`, `[::1/128]:8766`. Raises ConfigError on others."""
    allowed: list[Allowed] = []
    for entry in entries:
        match = _ENTRY.match(entry)
        network = (match["six"] or match["four"]) if match else entry  # else perhaps a bare IPv6 range
        port = match["port"] if match else None
        try:
            number = int(port) if port is not None else None
            if number is not None and not 0 < number < 65536:
                raise ValueError("port out of range")
            allowed.append(Allowed(network=ipaddress.ip_network(network), port=number))
        except ValueError as error:
            raise ConfigError(
                f"allow_addresses: {entry!r} is not CIDR, CIDR:port or [IPv6 CIDR]:port ({error})"
            ) from error
    return tuple(allowed)


class AddressGuard:
    """Decides on addresses; remembers its answers.

    >>> AddressGuard(["127.0.0.0/8:8766"]).permits("127.0.0.1", 8766)
    True
    """

    def __init__(self, allow_addresses: Sequence[str] = ()) -> None:
        """Raises ConfigError if an entry of `allow_addresses` is not a range."""
        self._allowed = parse_allowed(allow_addresses)
        self._known: dict[tuple[str, int], bool] = {}

    def permits(self, address: str, port: int) -> bool:
        """Whether a connection to `address` (an IP address in text) and `port` may be opened."""
        key = (address, port)
        known = self._known.get(key)
        if known is None:
            if len(self._known) > 100_000:
                self._known.clear()
            known = self._known[key] = self._decide(address, port)
        return known

    def permits_host(self, host: str, port: int) -> bool:
        """Whether `host` may be asked for before it is resolved: false only for what is surely not allowed.

        For requests through a proxy, where no socket to the host is ever seen.
        """
        name = host.strip("[]").rstrip(".").lower()
        if name == "localhost" or name.endswith(".localhost"):
            return self.permits("127.0.0.1", port)
        literal = literal_address(name)
        return literal is None or self.permits(literal, port)

    def _decide(self, text: str, port: int) -> bool:
        try:
            address: _Address = ipaddress.ip_address(text.partition("%")[0])
        except ValueError:
            return False
        if is_global(address):
            return True
        candidates = [address]
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            candidates.append(address.ipv4_mapped)
        return any(allowed.covers(each, port) for allowed in self._allowed for each in candidates)


def literal_address(host: str) -> str | None:
    """`host` as an IP address in its plain form if it is one, in any form that resolvers read as one."""
    if ":" not in host and not host.rpartition(".")[2][:1].isdigit():
        return None  # a name; nearly all hosts are, and the parsers take long to say no
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
        return str((isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped) or address)
    except ValueError:
        pass
    try:
        # inet_aton also reads 127.1, 2130706433, 0x7f.1 and 0177.0.0.1, as resolvers do.
        return socket.inet_ntoa(socket.inet_aton(host))
    except (OSError, ValueError):  # a NUL, characters that are not ASCII
        return None
