"""Connections that keep a team's address rules (`core.address_rules`), for both HTTP libraries.

The address is checked after the name look-up, and the connection is made to the address that was checked. So it makes
no difference how a URL spells an address, and the name cannot lead elsewhere between check and connection (DNS
rebinding). Redirects to another host are not followed at all (`connection.Connection`, `async_client`).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx2
import openai

from core.address_rules import AddressRefused, AddressRules, resolved
from core.providers.endpoint_setup import proxy_of
from core.providers.schemas import Provider

_UNREACHED = (httpx2.ConnectError, httpx2.ConnectTimeout)  # nothing was sent: the next address may work
SocketFactory = Callable[[Any], socket.socket]


def transport_of(provider: Provider, tls: ssl.SSLContext) -> httpx2.BaseTransport | None:
    """The transport for an endpoint's calls; None: httpx2's own, because no rule applies or a proxy connects."""
    if not _connects_itself(provider):
        return None
    inner = httpx2.HTTPTransport(verify=tls, limits=openai.DEFAULT_CONNECTION_LIMITS, trust_env=False)
    return _CheckedTransport(provider.address_rules, inner)


def async_transport_of(provider: Provider, tls: ssl.SSLContext) -> httpx2.AsyncBaseTransport | None:
    """The same for asynchronous calls."""
    if not _connects_itself(provider):
        return None
    inner = httpx2.AsyncHTTPTransport(verify=tls, limits=openai.DEFAULT_CONNECTION_LIMITS, trust_env=False)
    return _AsyncCheckedTransport(provider.address_rules, inner)


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


class _CheckedTransport(httpx2.BaseTransport):
    def __init__(self, rules: AddressRules, inner: httpx2.BaseTransport) -> None:
        self._rules, self._inner = rules, inner

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            found = socket.getaddrinfo(*_place(request), type=socket.SOCK_STREAM)
        except OSError as exc:
            raise httpx2.ConnectError(str(exc), request=request) from exc
        failure: Exception | None = None
        for one in _requests(request, self._rules, resolved(found)):
            try:
                return self._inner.handle_request(one)
            except _UNREACHED as exc:
                failure = exc
        raise failure or httpx2.ConnectError("The name has no address.", request=request)

    def close(self) -> None:
        self._inner.close()


class _AsyncCheckedTransport(httpx2.AsyncBaseTransport):
    def __init__(self, rules: AddressRules, inner: httpx2.AsyncBaseTransport) -> None:
        self._rules, self._inner = rules, inner

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(*_place(request), type=socket.SOCK_STREAM)
        except OSError as exc:
            raise httpx2.ConnectError(str(exc), request=request) from exc
        failure: Exception | None = None
        for one in _requests(request, self._rules, resolved(found)):
            try:
                return await self._inner.handle_async_request(one)
            except _UNREACHED as exc:
                failure = exc
        raise failure or httpx2.ConnectError("The name has no address.", request=request)

    async def aclose(self) -> None:
        await self._inner.aclose()


def _place(request: httpx2.Request) -> tuple[str, int]:
    url = request.url
    return url.raw_host.decode("ascii"), url.port or {"http": 80}.get(url.scheme, 443)


def _requests(request: httpx2.Request, rules: AddressRules, addresses: Sequence[str]) -> Iterator[httpx2.Request]:
    """The same request to each address that is allowed, with the name in `Host` and for the certificate.

    Raises:
        httpx2.ConnectError: none is allowed; its cause is an `AddressRefused`.
    """
    host, _port = _place(request)
    refused: AddressRefused | None = None
    allowed = []
    for address in addresses:
        try:
            rules.check(host, address)
            allowed.append(address)
        except AddressRefused as exc:
            refused = exc
    if refused is not None and not allowed:
        raise httpx2.ConnectError(str(refused), request=request) from refused
    for address in allowed:
        yield httpx2.Request(
            request.method,
            request.url.copy_with(host=address),
            headers=request.headers,
            stream=request.stream,
            extensions={**request.extensions, "sni_hostname": host},
        )
