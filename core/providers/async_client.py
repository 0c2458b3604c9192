"""Client for many parallel text requests. It uses plain aiohttp, because the SDK's objects cost more time than the
network.

Measured in `bench/generate.py`: the SDK achieves a sixth of aiohttp's requests per second. Request bodies, errors and
results are the same as with `Client`.
"""

from __future__ import annotations

import asyncio
import json
import time

import aiohttp
from yarl import URL

from core import metrics
from core.checked_transport import proxy_of
from core.errors import BadRequest, ProviderError
from core.providers.checked_connections import socket_factory_of
from core.providers.chunk_parser import parse_body
from core.providers.connection import request_headers, tls_context
from core.providers.connection_errors import leaves_host, redirected, unreachable
from core.providers.endpoint_setup import check_setup
from core.providers.errors import from_status, timed_out, web_page_answer
from core.providers.parameters import PATHS, Negotiation, request_body
from core.providers.response_parser import parsed
from core.providers.schemas import Completion, CompletionRequest, Provider

# The same timeout as for the SDK's clients: a story arrives in one response, and a small machine may generate only 10
# tokens per second. No total timeout and no connection limit: the caller controls the concurrency.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=600.0)
_KEEPALIVE_S = 15.0  # close idle connections before most servers close them
_MOST_REDIRECTS = 5
_REPEATED_AT = frozenset({301, 302, 307, 308})  # redirects after which a POST is repeated as a POST


class AsyncTextClient:
    """Sends text requests to one endpoint, on the event loop that creates it. Reuses connections; ignores cookies.

    Args:
        provider: the endpoint.
        timeout: timeout that replaces the default one.

    Raises:
        Misconfigured: the endpoint's address or key is invalid.
    """

    def __init__(self, provider: Provider, timeout: aiohttp.ClientTimeout = _TIMEOUT) -> None:
        self.provider = provider
        check_setup(provider)
        base = provider.base_url.rstrip("/")
        self._urls = {endpoint: URL(base + path) for endpoint, path in PATHS.items()}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,
                keepalive_timeout=_KEEPALIVE_S,
                ssl=tls_context(provider.certificates),
                socket_factory=socket_factory_of(provider),
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={**request_headers(provider), "Content-Type": "application/json"},
            timeout=timeout,
            proxy=proxy_of(base),  # `trust_env` would also replace our key with credentials from ~/.netrc
        )

    async def complete(self, request: CompletionRequest) -> Completion:
        """Send `request`, and repeat it once for each parameter that the model rejects.

        Raises:
            RateLimited, Unavailable, Refused, BadRequest, ModelNotFound: see `core.errors`.
        """
        negotiation = Negotiation(self.provider, request_body(request, self.provider.capabilities))
        while True:
            try:
                return await self._send(request, json.dumps(negotiation.body).encode())
            except BadRequest as refusal:
                if not negotiation.adapt_to(refusal):
                    raise

    async def _send(self, request: CompletionRequest, body: bytes) -> Completion:
        url, sent_at = self._urls[request.endpoint], time.monotonic()
        try:
            for _ in range(_MOST_REDIRECTS):
                async with self._session.post(url, data=body, allow_redirects=False) as response:
                    raw = await response.read()
                target = response.headers.get("location") if response.status in _REPEATED_AT else None
                if target is None:
                    break
                url = url.join(URL(target))
                if leaves_host(self.provider, str(url)):
                    raise redirected(self.provider, str(url))
        except TimeoutError as exc:
            metrics.provider_failed(self.provider.id)
            raise timed_out(self.provider, sent=not isinstance(exc, aiohttp.ConnectionTimeoutError)) from exc
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            metrics.provider_failed(self.provider.id)
            raise unreachable(self.provider, exc, sent=not isinstance(exc, aiohttp.ClientConnectorError)) from exc
        metrics.provider_answered(self.provider.id, response.status, time.monotonic() - sent_at)
        if response.status >= 300:
            raise self._refused(response, raw)
        if response.content_type == "text/html":
            raise web_page_answer(self.provider)
        return parse_body(raw, self.provider, request.model, tools=bool(request.tools))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._session.close()
        await asyncio.sleep(0)  # lets the transports close before the event loop does

    def _refused(self, response: aiohttp.ClientResponse, raw: bytes) -> ProviderError:
        try:
            body = parsed(raw)
        except ValueError:
            body = raw[:100_000].decode("utf-8", "replace")
        return from_status(response.status, body, response.headers, self.provider, response.url.path)
