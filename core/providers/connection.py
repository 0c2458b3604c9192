"""One SDK client per endpoint, made so that nothing happens behind our back: no hidden retries, no borrowed headers."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from typing import Any, TypeVar
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import httpx2
import openai

from core.providers.background_loop import running_loop
from core.providers.endpoint_setup import LOOPBACK, check_setup
from core.providers.errors import not_an_api_answer, translated
from core.providers.retry import RetryLimits, with_retries, with_retries_async
from core.providers.schemas import Provider

T = TypeVar("T")

# A whole story arrives in one answer, and a small machine that also trains may write 10 tokens a second.
_TIMEOUT = httpx2.Timeout(connect=5.0, read=600.0, write=60.0, pool=60.0)
_NO_KEY = "none"  # an endpoint without sign-in still needs some word there: the SDK refuses to start without one


def key_headers(provider: Provider) -> dict[str, str]:
    """How every request to the endpoint shows our key. Azure has a name of its own; newer gateways take either."""
    key = provider.api_key or _NO_KEY
    return {"Authorization": f"Bearer {key}", **({"api-key": key} if provider.kind == "azure" else {})}


@cache
def trusted() -> ssl.SSLContext:
    """The certificates that all clients trust, read once: a context of its own for each would take 50 ms a client."""
    return httpx2.create_ssl_context()


class Connection:
    """The SDK clients of one endpoint and the two ways to call them: once, or patiently.

    Args:
        provider: the endpoint.
        retry_limits: how long calls that are safe to repeat are repeated.
        transport, async_transport: in place of the network, for tests.
        timeout: seconds, in place of the defaults.
    """

    def __init__(
        self,
        provider: Provider,
        *,
        retry_limits: RetryLimits | None = None,
        transport: httpx2.BaseTransport | None = None,
        async_transport: httpx2.AsyncBaseTransport | None = None,
        timeout: httpx2.Timeout | float | None = None,
    ) -> None:
        self.provider = provider
        self._retry_limits = retry_limits or RetryLimits()
        self._transport = transport
        self._async_transport = async_transport
        self._timeout = _TIMEOUT if timeout is None else timeout
        self._lock = threading.Lock()
        self._sync: openai.OpenAI | None = None
        self._async: WeakKeyDictionary[asyncio.AbstractEventLoop, openai.AsyncOpenAI] = WeakKeyDictionary()

    def close(self) -> None:
        """Close idle connections, those of streams too. The next call opens new ones."""
        loop = running_loop()
        with self._lock:
            sdk, self._sync = self._sync, None
            streams = self._async.pop(loop, None) if loop is not None else None
        if sdk is not None:
            sdk.close()
        if loop is not None and streams is not None:
            asyncio.run_coroutine_threadsafe(streams.close(), loop)

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        with self._lock:
            sdk = self._async.pop(asyncio.get_running_loop(), None)
        if sdk is not None:
            await sdk.close()

    def _sdk(self) -> openai.OpenAI:
        check_setup(self.provider)
        with self._lock:
            if self._sync is None:
                self._sync = openai.OpenAI(
                    api_key=self.provider.api_key or _NO_KEY,
                    admin_api_key="",
                    base_url=self.provider.base_url,
                    max_retries=0,
                    default_headers=self._headers(),
                    http_client=openai.DefaultHttpx2Client(
                        transport=self._transport,
                        verify=trusted(),
                        timeout=self._timeout,
                        trust_env=self._through_proxies(),
                        event_hooks={"response": [self._check]},
                    ),
                )
            return self._sync

    def _async_sdk(self) -> openai.AsyncOpenAI:
        check_setup(self.provider)
        loop = asyncio.get_running_loop()
        with self._lock:
            if loop not in self._async:
                self._async[loop] = openai.AsyncOpenAI(
                    api_key=self.provider.api_key or _NO_KEY,
                    admin_api_key="",
                    base_url=self.provider.base_url,
                    max_retries=0,
                    default_headers=self._headers(),
                    http_client=openai.DefaultAsyncHttpx2Client(
                        transport=self._async_transport,
                        verify=trusted(),
                        timeout=self._timeout,
                        trust_env=self._through_proxies(),
                        event_hooks={"response": [self._acheck]},
                    ),
                )
            return self._async[loop]

    def _once(self, call: Callable[[], T]) -> T:
        """`call()`, its errors translated; never repeated."""
        with translated(self.provider):
            return call()

    def _patiently(self, call: Callable[[], T]) -> T:
        """`call()`, repeated while patience lasts: only for calls that change nothing, or nothing that counts."""
        return with_retries(lambda: self._once(call), self._retry_limits)

    def _bought(self, call: Callable[[], T]) -> T:
        """`call()`, which costs money at most endpoints: repeated only while it was certainly not carried out."""
        return with_retries(lambda: self._once(call), self._retry_limits, pays=self.provider.kind != "engine")

    async def _abought(self, call: Callable[[], Awaitable[T]]) -> T:
        """`_bought` on the running event loop."""

        async def once() -> T:
            with translated(self.provider):
                return await call()

        return await with_retries_async(once, self._retry_limits, pays=self.provider.kind != "engine")

    def _headers(self) -> Mapping[str, str]:
        """Our key and nothing else: the SDK would add headers from OPENAI_* variables to every endpoint's requests."""
        headers: dict[str, Any] = {**key_headers(self.provider)}
        if self.provider.kind != "openai":
            headers |= {"OpenAI-Organization": openai.Omit(), "OpenAI-Project": openai.Omit()}
        return headers

    def _through_proxies(self) -> bool:
        """A proxy of the environment cannot reach this machine's own loopback."""
        return (urlsplit(self.provider.base_url).hostname or "") not in LOOPBACK

    def _check(self, response: httpx2.Response) -> None:
        """A web page in place of JSON (a login, a proxy, a wrong path) would come out of the SDK as plain text."""
        if response.status_code < 300 and response.headers.get("content-type", "").startswith("text/html"):
            raise not_an_api_answer(self.provider)

    async def _acheck(self, response: httpx2.Response) -> None:
        self._check(response)
