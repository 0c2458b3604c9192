"""One SDK client per endpoint, and the event loop for requests that a synchronous caller may cancel.

The clients use neither the SDK's own retries nor headers from OPENAI_* variables.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import wait
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import httpx2
import openai

from core import metrics
from core.checked_transport import LOOPBACK
from core.errors import Cancelled
from core.providers import checked_connections
from core.providers.connection_errors import leaves_host, redirected
from core.providers.endpoint_setup import check_setup
from core.providers.errors import translate_errors, web_page_answer
from core.providers.retry import RetryPolicy, with_retries, with_retries_async
from core.providers.schemas import Provider

T = TypeVar("T")

# A whole story arrives in one response, and a small machine that is also training may generate only 10 tokens per
# second.
_TIMEOUT = httpx2.Timeout(connect=5.0, read=600.0, write=60.0, pool=60.0)
_DUMMY_KEY = "none"  # for endpoints without authentication, because the SDK requires a non-empty key
# An alias is for programs. In the studio it would be a second way to a model, past the access list of its job.
_NO_ALIASES_HEADER = "fabula-no-aliases"
_CLAMP_HEADER = "fabula-clamp-max-tokens"  # without it, the engine refuses such a limit, as OpenAI does
_SENT_AT = "fabula_sent_at"  # extension of a request: the time it was sent, in monotonic seconds
_POLL_S = 0.1  # how quickly a stop request takes effect
_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def request_headers(provider: Provider) -> dict[str, str]:
    """Headers for every request: authentication (Azure uses its own header; newer Azure gateways accept either), and
    for the engine, permission to lower a token limit that does not fit into a small model's context, and that model
    names are no aliases.
    """
    key = provider.api_key or _DUMMY_KEY
    name = provider.capabilities.key_header
    engine = {_CLAMP_HEADER: "1", _NO_ALIASES_HEADER: "1"} if provider.capabilities.engine_api else {}
    return {"Authorization": f"Bearer {key}", **({name: key} if name else {}), **engine}


@lru_cache(maxsize=32)
def tls_context(certificates: str = "") -> ssl.SSLContext:
    """The clients' TLS context, created once because creating one takes 50 ms.

    Args:
        certificates: PEM of certificate authorities to trust in addition to the system's.
    """
    context = httpx2.create_ssl_context()
    if certificates:
        context.load_verify_locations(cadata=certificates)
    return context


class Connection:
    """One endpoint's SDK clients, and calls with and without retries.

    Args:
        provider: the endpoint.
        retry_policy: policy for calls that are safe to repeat.
        transport, async_transport: replacements for the network in tests.
        timeout: timeout in seconds; replaces the defaults.
    """

    def __init__(
        self,
        provider: Provider,
        *,
        retry_policy: RetryPolicy | None = None,
        transport: httpx2.BaseTransport | None = None,
        async_transport: httpx2.AsyncBaseTransport | None = None,
        timeout: httpx2.Timeout | float | None = None,
    ) -> None:
        self.provider = provider
        self._retry_policy = retry_policy or RetryPolicy()
        self._transport = transport
        self._async_transport = async_transport
        self._timeout = _TIMEOUT if timeout is None else timeout
        self._lock = threading.Lock()
        self._sync: openai.OpenAI | None = None
        self._async: WeakKeyDictionary[asyncio.AbstractEventLoop, openai.AsyncOpenAI] = WeakKeyDictionary()

    def close(self) -> None:
        """Close idle connections, including those of streams. The next call opens new ones."""
        loop = running_loop()
        with self._lock:
            sdk, self._sync = self._sync, None
            streams = self._async.pop(loop, None) if loop is not None else None
        if sdk is not None:
            sdk.close()
        if loop is not None and streams is not None:
            asyncio.run_coroutine_threadsafe(streams.close(), loop)

    async def aclose(self) -> None:
        """Close the running event loop's connections."""
        with self._lock:
            sdk = self._async.pop(asyncio.get_running_loop(), None)
        if sdk is not None:
            await sdk.close()

    def _sdk(self) -> openai.OpenAI:
        check_setup(self.provider)
        with self._lock:
            if self._sync is None:
                tls = tls_context(self.provider.certificates)
                self._sync = openai.OpenAI(
                    api_key=self.provider.api_key or _DUMMY_KEY,
                    admin_api_key="",
                    base_url=self.provider.base_url,
                    max_retries=0,
                    default_headers=self._headers(),
                    http_client=openai.DefaultHttpx2Client(
                        transport=self._transport or checked_connections.transport_of(self.provider, tls),
                        verify=tls,
                        timeout=self._timeout,
                        trust_env=self._uses_proxies(),
                        event_hooks={"request": [_note_time], "response": [self._check_response]},
                    ),
                )
            return self._sync

    def _async_sdk(self) -> openai.AsyncOpenAI:
        check_setup(self.provider)
        loop = asyncio.get_running_loop()
        with self._lock:
            if loop not in self._async:
                tls = tls_context(self.provider.certificates)
                self._async[loop] = openai.AsyncOpenAI(
                    api_key=self.provider.api_key or _DUMMY_KEY,
                    admin_api_key="",
                    base_url=self.provider.base_url,
                    max_retries=0,
                    default_headers=self._headers(),
                    http_client=openai.DefaultAsyncHttpx2Client(
                        transport=self._async_transport or checked_connections.async_transport_of(self.provider, tls),
                        verify=tls,
                        timeout=self._timeout,
                        trust_env=self._uses_proxies(),
                        event_hooks={"request": [_note_time_async], "response": [self._check_response_async]},
                    ),
                )
            return self._async[loop]

    def _once(self, call: Callable[[], T]) -> T:
        """Call once, translating SDK errors."""
        with translate_errors(self.provider):
            return call()

    def _with_retries(self, call: Callable[[], T]) -> T:
        """Call with retries; only for idempotent calls."""
        return with_retries(lambda: self._once(call), self._retry_policy)

    def _with_paid_retries(self, call: Callable[[], T]) -> T:
        """Call with retries; a paid call is repeated only after errors that were certainly not billed."""
        return with_retries(lambda: self._once(call), self._retry_policy, paid=self.provider.capabilities.billed)

    async def _with_paid_retries_async(self, call: Callable[[], Awaitable[T]]) -> T:
        """`_with_paid_retries` on the running event loop."""

        async def once() -> T:
            with translate_errors(self.provider):
                return await call()

        return await with_retries_async(once, self._retry_policy, paid=self.provider.capabilities.billed)

    def _headers(self) -> Mapping[str, str]:
        """Headers with our key only; by default the SDK adds headers from OPENAI_* variables to requests to every
        endpoint.
        """
        headers: dict[str, Any] = {**request_headers(self.provider)}
        if not self.provider.capabilities.account_headers:
            headers |= {"OpenAI-Organization": openai.Omit(), "OpenAI-Project": openai.Omit()}
        return headers

    def _uses_proxies(self) -> bool:
        """Whether to use the proxy settings; not for this machine's loopback interface, which a proxy cannot reach."""
        return (urlsplit(self.provider.base_url).hostname or "") not in LOOPBACK

    def _check_response(self, response: httpx2.Response) -> None:
        """Raise for a redirect to another host, and for an HTML page instead of JSON (a login, a proxy, a wrong path),
        which the SDK would return as text."""
        now = time.monotonic()
        seconds = now - response.request.extensions.get(_SENT_AT, now)
        metrics.provider_answered(self.provider.id, response.status_code, seconds)
        if response.has_redirect_location:
            target = str(response.request.url.join(response.headers["location"]))
            if leaves_host(self.provider, target):
                raise redirected(self.provider, target)
        if response.status_code < 300 and response.headers.get("content-type", "").startswith("text/html"):
            raise web_page_answer(self.provider)

    async def _check_response_async(self, response: httpx2.Response) -> None:
        self._check_response(response)


def _note_time(request: httpx2.Request) -> None:
    request.extensions[_SENT_AT] = time.monotonic()


async def _note_time_async(request: httpx2.Request) -> None:
    _note_time(request)


def background_loop() -> asyncio.AbstractEventLoop:
    """This process's event loop, in a daemon thread. It is started on first use and runs until the process exits.

    A thread that blocks in a socket call cannot be interrupted, and during name lookup or connecting there is no socket
    to shut down. A task on an event loop can be cancelled in all of these states.
    """
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="provider-streams", daemon=True).start()
        return _loop


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The background loop if it has been started; otherwise None."""
    return _loop


def call_until(stop: threading.Event, request: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run `request()` on the background loop and return its result; cancel it as soon as `stop` is set.

    Raises:
        Cancelled: the request was stopped; `may_be_billed` is set if it may have been sent.
    """
    if stop.is_set():
        raise Cancelled(may_be_billed=False)
    future = asyncio.run_coroutine_threadsafe(request(), background_loop())
    while not wait([future], _POLL_S).done:
        if stop.is_set():
            future.cancel()
            raise Cancelled
    return future.result()
