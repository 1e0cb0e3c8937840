"""Networks as settings name them: `10.0.0.0/8, 192.168.1.7, fd00::/8`."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

Network = IPv4Network | IPv6Network
Networks = tuple[Network, ...]


def parse_networks(text: str) -> Networks:
    """Read addresses and networks that commas separate; raises ValueError that names the one which is none."""
    return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())


def is_within(address: IPv4Address | IPv6Address, networks: Iterable[Network]) -> bool:
    """Whether one of the networks has that address."""
    return any(address in network for network in networks)
