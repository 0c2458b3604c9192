"""HTTP connections that are made to the address that was checked (`core.address_rules`), for the studio and the engine.

The address is checked after the name look-up, and the connection is made to the address that was checked. So it makes
no difference how a URL spells an address, and the name cannot lead elsewhere between check and connection (DNS
rebinding).
"""

from __future__ import annotations

import asyncio
import socket
import urllib.request
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

import httpx2

from core.address_rules import AddressRefused, AddressRules, resolved

LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_UNREACHED = (httpx2.ConnectError, httpx2.ConnectTimeout)  # nothing was sent: the next address may work


def proxy_of(url: str) -> str | None:
    """The proxy from the environment for this address; None if there is none, or for the loopback interface."""
    parts = urlsplit(url)
    if not parts.hostname or parts.hostname in LOOPBACK or urllib.request.proxy_bypass(parts.netloc):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


class CheckedTransport(httpx2.BaseTransport):
    """Checks where a request leads to and hands it to `inner`, which connects to the checked address.

    Give each host its own `inner`: it keeps connections open by address and reuses one without asking whose certificate
    was checked, and several hosts may have the same address.
    """

    def __init__(self, rules: AddressRules, inner: httpx2.BaseTransport) -> None:
        self._rules, self._inner = rules, inner

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request. Raises httpx2.ConnectError if no address is allowed, known or reachable."""
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
        """Close all connections."""
        self._inner.close()


class AsyncCheckedTransport(httpx2.AsyncBaseTransport):
    """The same for asynchronous calls."""

    def __init__(self, rules: AddressRules, inner: httpx2.AsyncBaseTransport) -> None:
        self._rules, self._inner = rules, inner

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """See `CheckedTransport.handle_request`."""
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
        """Close all connections."""
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
