"""The provider of an old model: where it may be, what of its answers is passed on, and when a model has stopped."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

import httpx2

from core.address_rules import AddressRefused, AddressRules
from core.checked_transport import AsyncCheckedTransport, proxy_of
from core.engine.chat_messages import is_missing

TIMEOUT_S = 600.0
"""Longest wait for the next byte of an answer; the SDK's own limit."""
_CONNECT_S = 10.0
_LIMITS = httpx2.Limits(max_connections=256)  # to one host; as many as the engine serves
# not the headers that name the account, `openai-organization` and `openai-project`
_PASSED_ON = re.compile(
    r"content-type|retry-after(-ms)?|x-should-retry|x-ratelimit-.+|x-request-id|openai-(processing-ms|version|model)",
    re.I,
)
_KEY = re.compile(r"[!-~]+")
_STOPPED_CODES = frozenset({"model_not_found", "model_deprecated", "deploymentnotfound", "model_not_available"})
# not after a quotation mark: there providers repeat the caller's words
_STOPPED = re.compile(
    r"[^'\"`]{0,60}?\bmodel\b.{0,200}(does not exist|not found|deprecated|retired|shut ?down|no longer)", re.I | re.S
)


def rules_of(environ: Mapping[str, str]) -> AddressRules:
    """Where upstreams may be: in team mode, outside the server's network only, as for a team's providers."""
    if environ.get("FABULA_MODE", "").strip().lower() != "team":
        return AddressRules()
    entries = (entry.strip() for entry in environ.get("FABULA_INTERNAL_SERVERS", "").split(","))
    return AddressRules(True, tuple(entry for entry in entries if entry))


class Upstreams:
    """The HTTP clients for upstreams. They do not follow redirects: a key goes to one address only.

    Each host has its own: if two have the same address, the connection to one of them is no connection to the other.
    Call the methods on the event loop.
    """

    def __init__(self, rules: AddressRules) -> None:
        self._rules = rules
        self._clients: dict[str, httpx2.AsyncClient] = {}

    async def send(self, url: str, content: bytes, headers: Mapping[str, str]) -> httpx2.Response:
        """Send a call; return the answer once its first bytes have arrived. Close it.

        Raises:
            AddressRefused, httpx2.ConnectError: the address leads into the server's network, or cannot be reached.
            httpx2.HTTPError: the call was sent, and there is no answer.
        """
        parts = urlsplit(url)
        if self._rules.refuses_host(parts.hostname or ""):
            raise AddressRefused("This address is inside the server's network.")
        place = f"{parts.scheme}://{parts.netloc}"
        client = self._clients.get(place)
        if client is None:
            client = self._clients[place] = self._client(url)
        return await client.send(client.build_request("POST", url, content=content, headers=headers), stream=True)

    async def aclose(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            await client.aclose()

    def _client(self, url: str) -> httpx2.AsyncClient:
        transport = None
        if self._rules.restricted and proxy_of(url) is None:  # a proxy looks names up itself
            transport = AsyncCheckedTransport(self._rules, httpx2.AsyncHTTPTransport(limits=_LIMITS))
        timeout = httpx2.Timeout(TIMEOUT_S, connect=_CONNECT_S)
        return httpx2.AsyncClient(timeout=timeout, limits=_LIMITS, transport=transport)


def is_key(key: str) -> bool:
    """Whether a key can be sent in a header: visible ASCII characters, no spaces or line breaks."""
    return _KEY.fullmatch(key) is not None


def headers_of(response: httpx2.Response) -> dict[str, str]:
    """The headers of an answer that its caller gets too."""
    return {name: value for name, value in response.headers.items() if _PASSED_ON.fullmatch(name)}


def stopped(status: int, body: bytes) -> str | None:
    """What the provider said if the old model does not exist any more; None for any other answer.

    Other errors, such as a wrong key, a rate limit, a path that does not exist or a parameter that is not supported any
    more, do not mean that a model has stopped.
    """
    if status not in (400, 404, 410):
        return None
    try:
        error = json.loads(body)["error"]
        code, message = str(error.get("code") or "").lower(), str(error.get("message") or "")
        message = message.encode("utf-8", "replace").decode()  # a lone surrogate can't be stored
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if status != 400 and code in _STOPPED_CODES:
        return message or code
    if code and not code.isdigit() and not code.startswith("model_") and code not in _STOPPED_CODES:
        return None  # the code names another reason
    return message if not is_missing(message) and _STOPPED.match(message) else None
