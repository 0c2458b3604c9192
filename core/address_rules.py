"""Which IP addresses the providers of a team may lead to.

Whoever may add a provider makes this server send requests to an address of their choice (server-side request forgery).
In team mode, it must not be an address inside the server's own network, unless `FABULA_INTERNAL_SERVERS` names it.
`core.checked_transport` applies this to the address that a connection is really made to.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

_HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*", re.I)
_INTERNET_V6 = IPv6Network("2000::/3")  # all that is assigned for global unicast (RFC 4291)
_NAT64 = IPv6Network("64:ff9b::/96")  # an IPv4 address in the last 32 bits (RFC 6052)
_LINK_LOCAL = (IPv4Network("169.254.0.0/16"), IPv6Network("fe80::/10"))
# What Python's `is_global` lets through in one version or another: 6to4 and Teredo tunnels, the 6to4 relay, addresses
# for protocols (Oracle's machines answer at one), for documentation, and Azure's service on every machine.
_INSIDE: tuple[IPNetwork, ...] = (
    *map(IPv6Network, ("2002::/16", "2001::/32", "3fff::/20")),
    *map(IPv4Network, ("192.88.99.0/24", "192.0.0.0/24", "168.63.129.16/32")),
)
_ISATAP = (0x00005EFE, 0x02005EFE)  # bits 32 to 63 of an address that tunnels to an IPv4 address (RFC 5214)


class AddressRefused(OSError):
    """A connection to an address that the rules do not allow; nothing was sent."""


@dataclass(frozen=True)
class AddressRules:
    """What a provider's address may lead to.

    Attributes:
        restricted: only the internet and `allowed`; False: everything (local mode, providers of the environment).
        allowed: host names, IP addresses and networks inside the server's network.
    """

    restricted: bool = False
    allowed: tuple[str, ...] = ()

    def check(self, host: str, address: str) -> None:
        """Check a connection.

        Args:
            host: the name in the URL.
            address: the IP address that it leads to now.

        Raises:
            AddressRefused: it is not allowed.
        """
        if self.restricted and not self._allows(host, _ip(address)):
            raise AddressRefused("This address is inside the server's network.")  # the same text for each of a host's

    def refuses_host(self, host: str) -> bool:
        """Whether a host is refused without a look-up: an IP address in any spelling, or this machine's own name."""
        found = _literal(host)
        return self.restricted and found is not None and not self._allows(host, found)

    def _allows(self, host: str, address: IPAddress | None) -> bool:
        if address is None:
            return False
        if is_internet(address) or any(address in network for network in self._networks):
            return True
        # A name does not open link-local addresses: there, cloud providers hand out the machine's credentials.
        by_name = _plain(host) in self._hosts
        return by_name and not any(address in network for network in _LINK_LOCAL)

    @cached_property
    def _networks(self) -> tuple[IPNetwork, ...]:
        return tuple(found for entry in self.allowed if (found := _network(entry)) is not None)

    @cached_property
    def _hosts(self) -> frozenset[str]:
        return frozenset(_plain(entry) for entry in self.allowed if _network(entry) is None)


UNRESTRICTED = AddressRules()
"""Local mode, and providers of the environment: whoever runs the server chose their addresses."""


def is_entry(text: str) -> bool:
    """Whether a text can be one entry of `AddressRules.allowed`."""
    return _network(text) is not None or (_HOST.fullmatch(text) is not None and "/" not in text)


def is_internet(address: IPAddress) -> bool:
    """Whether an address belongs to the public internet, also if it only contains one of IPv4."""
    inner = _inner(address)
    if isinstance(inner, IPv6Address):
        tunnels = (int(inner) >> 32) & 0xFFFFFFFF in _ISATAP
        if inner not in _INTERNET_V6 or tunnels:
            return False
    return inner.is_global and not inner.is_multicast and not any(inner in network for network in _INSIDE)


def resolved(found: Iterable[tuple[object, object, object, object, tuple[object, ...]]]) -> list[str]:
    """The IP addresses in an answer of `socket.getaddrinfo`, each once."""
    return list(dict.fromkeys(str(address[0]) for *_rest, address in found))


def _inner(address: IPAddress) -> IPAddress:
    """The IPv4 address embedded in an IPv6 address (mapped, compatible or NAT64), which is the actual destination."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    in_last_bits = address in _NAT64 or int(address) >> 32 == 0
    return IPv4Address(int(address) & 0xFFFFFFFF) if in_last_bits else address


def _ip(text: str) -> IPAddress | None:
    try:
        found = ipaddress.ip_address(text.partition("%")[0])  # without the name of a network card
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found


def _literal(host: str) -> IPAddress | None:
    """The address that a host is, without a look-up: also 127.1, 0x7f000001, 2130706433, full-width digits."""
    plain = _plain(host)
    if plain == "localhost" or plain.endswith(".localhost"):  # RFC 6761
        return IPv4Address("127.0.0.1")
    if (found := _ip(plain)) is not None:
        return found
    try:
        return IPv4Address(socket.inet_aton(plain))  # the forms that `getaddrinfo` also accepts
    except (OSError, UnicodeEncodeError):
        return None


def _plain(host: str) -> str:
    """A host for comparison: as ASCII as it gets, in lower case, without brackets and the dot at the end."""
    return unicodedata.normalize("NFKC", host).replace("。", ".").strip("[]").rstrip(".").lower()


def _network(text: str) -> IPNetwork | None:
    try:
        return ipaddress.ip_network(text.strip("[]"))
    except ValueError:
        return None
