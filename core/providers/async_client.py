"""Many requests for text at once: plain aiohttp in place of the SDK, whose objects cost more than the network.

Measured in `bench/generate.py`: the SDK reaches a sixth of aiohttp's requests a second. The bodies, the errors and the
answers are the same as `Client`'s.
"""

from __future__ import annotations

import asyncio
import json

import aiohttp
from yarl import URL

from core.errors import BadRequest, ProviderError
from core.providers.chunk_parser import completion_in
from core.providers.connection import key_headers, trusted
from core.providers.connection_errors import unreachable
from core.providers.endpoint_setup import check_setup, proxy_of
from core.providers.errors import from_status, not_an_api_answer, timed_out
from core.providers.parameters import Negotiation
from core.providers.request_bodies import PATHS, body_of
from core.providers.response_parser import parsed
from core.providers.schemas import Completion, CompletionRequest, Provider

# As for the SDK's clients: a whole story arrives in one answer, and a small machine may write 10 tokens a second.
# No limit on the whole, and none on waiting for a connection: who sends decides how many fly.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=600.0)
_KEEP_S = 15.0  # an idle connection is closed before most servers close it
_MOST_REDIRECTS = 5


class AsyncTextClient:
    """Requests for text to one endpoint, on the event loop that makes it. Keeps its connections; takes no cookies.

    Args:
        provider: the endpoint.
        timeout: in place of the default.

    Raises:
        Misconfigured: its address or its key cannot work.
    """

    def __init__(self, provider: Provider, timeout: aiohttp.ClientTimeout = _TIMEOUT) -> None:
        self.provider = provider
        check_setup(provider)
        base = provider.base_url.rstrip("/")
        self._urls = {endpoint: URL(base + path) for endpoint, path in PATHS.items()}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_S, ssl=trusted()),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={**key_headers(provider), "Content-Type": "application/json"},
            timeout=timeout,
            proxy=proxy_of(base),  # `trust_env` would also send what a ~/.netrc holds in place of our key
        )

    async def ask(self, request: CompletionRequest) -> Completion:
        """The answers to `request`; one try, and another for each parameter that the model turns out not to take.

        Raises:
            RateLimited, Unavailable, Refused, BadRequest, ModelNotFound: see `core.errors`.
        """
        negotiation = Negotiation(self.provider, body_of(request, self.provider.kind))
        while True:
            try:
                return await self._ask(request, json.dumps(negotiation.body).encode())
            except BadRequest as refusal:
                if not negotiation.concedes(refusal):
                    raise

    async def _ask(self, request: CompletionRequest, body: bytes) -> Completion:
        try:
            async with self._session.post(
                self._urls[request.endpoint], data=body, max_redirects=_MOST_REDIRECTS
            ) as answer:
                raw = await answer.read()
        except TimeoutError as exc:
            raise timed_out(self.provider, sent=not isinstance(exc, aiohttp.ConnectionTimeoutError)) from exc
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            raise unreachable(self.provider, exc, sent=not isinstance(exc, aiohttp.ClientConnectorError)) from exc
        if answer.status >= 300:
            raise self._refused(answer, raw)
        if answer.content_type == "text/html":
            raise not_an_api_answer(self.provider)
        return completion_in(raw, self.provider, request.model)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._session.close()
        await asyncio.sleep(0)  # lets the transports close before the loop does

    def _refused(self, answer: aiohttp.ClientResponse, raw: bytes) -> ProviderError:
        try:
            body = parsed(raw)
        except ValueError:
            body = raw[:100_000].decode("utf-8", "replace")
        return from_status(answer.status, body, answer.headers, self.provider, answer.url.path)
