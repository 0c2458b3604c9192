"""Connections that keep a team's address rules (`core.address_rules`), for both HTTP libraries.

httpx2 gets a transport (`core.checked_transport`), aiohttp sockets that are created for an address that was checked.
Redirects to another host are not followed at all (`connection.Connection`, `async_client`).
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import Any

import httpx2
import openai

from core.checked_transport import AsyncCheckedTransport, CheckedTransport, proxy_of
from core.providers.schemas import Provider

SocketFactory = Callable[[Any], socket.socket]


def transport_of(provider: Provider, tls: ssl.SSLContext) -> httpx2.BaseTransport | None:
    """The transport for an endpoint's calls; None: httpx2's own, because no rule applies or a proxy connects."""
    if not _connects_itself(provider):
        return None
    inner = httpx2.HTTPTransport(verify=tls, limits=openai.DEFAULT_CONNECTION_LIMITS, trust_env=False)
    return CheckedTransport(provider.address_rules, inner)


def async_transport_of(provider: Provider, tls: ssl.SSLContext) -> httpx2.AsyncBaseTransport | None:
    """The same for asynchronous calls."""
    if not _connects_itself(provider):
        return None
    inner = httpx2.AsyncHTTPTransport(verify=tls, limits=openai.DEFAULT_CONNECTION_LIMITS, trust_env=False)
    return AsyncCheckedTransport(provider.address_rules, inner)


def socket_factory_of(provider: Provider) -> SocketFactory | None:
    """Creates aiohttp's sockets, each for one address; None: aiohttp's own, see `transport_of`."""
    if not _connects_itself(provider):
        return None
    rules, host = provider.address_rules, httpx2.URL(provider.base_url).raw_host.decode("ascii")

    def create(address_info: Any) -> socket.socket:
        family, kind, protocol, _name, address = address_info
        rules.check(host, str(address[0]))
        return socket.socket(family, kind, protocol)

    return create


def _connects_itself(provider: Provider) -> bool:
    """Whether this process connects to the endpoint, and rules apply. A proxy looks names up itself."""
    return provider.address_rules.restricted and proxy_of(provider.base_url) is None
