"""Where webhooks may go: URLs come from users, and must not lead to what only this machine can reach."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

from sllm_tasks.networks import Networks, is_within

#: Public by their numbers and yet inside of somebody's cloud, or a way to IPv4 addresses behind a gateway.
_NOT_PUBLIC: Final = (
    # The metadata service of Azure.
    ip_network("168.63.129.16/32"),
    # 6to4: the relays, and addresses that hold one of IPv4.
    ip_network("192.88.99.0/24"),
    ip_network("2002::/16"),
    # Teredo holds one as well.
    ip_network("2001::/32"),
)
#: Unicast of the public IPv6 internet. What maps or translates IPv4 (::ffff:0:0/96, 64:ff9b::/96) is outside of it.
_PUBLIC_IPV6: Final = ip_network("2000::/3")
#: Leads to the machine itself wherever it is looked up, with any name before it (RFC 6761).
_LOCALHOST: Final = "localhost"


class ForbiddenAddressError(OSError):
    """A name leads to an address that webhooks may not reach."""


def resolve(host: str, port: int, allowed: Networks) -> str:
    """Look a name up once and return an address to connect to.

    All of its addresses are checked, not only the one that is used. However an address is spelled (`0x7f.1`,
    `2130706433`), what is checked is what the resolver has made of it.

    Raises:
        ForbiddenAddressError: One of the addresses is neither public nor allowed.
        OSError: The name is not known.

    """
    found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    _check(host, found, allowed)
    return found[0]


def check_literal(host: str, allowed: Networks) -> None:
    """Refuse what may not be reached as far as its spelling tells: addresses and `localhost`. No name is looked up.

    Raises ForbiddenAddressError.
    """
    if host == _LOCALHOST or host.endswith(f".{_LOCALHOST}"):
        _check(host, ["127.0.0.1"], allowed)
        return
    try:
        found = socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return
    _check(host, [str(info[4][0]) for info in found], allowed)


def _check(host: str, found: list[str], allowed: Networks) -> None:
    for text in found:
        if not may_reach(ip_address(text), allowed):
            raise ForbiddenAddressError(f"{host} leads to {text}, which webhooks may not reach")


def may_reach(address: IPv4Address | IPv6Address, allowed: Networks) -> bool:
    """Whether an address is public, or in one of the networks that the operator allows."""
    if is_within(address, allowed):
        return True
    is_public = address.is_global and not (address.is_multicast or address.is_reserved)
    if isinstance(address, IPv6Address):
        is_public = address.is_global and address in _PUBLIC_IPV6
    return is_public and not is_within(address, _NOT_PUBLIC)
