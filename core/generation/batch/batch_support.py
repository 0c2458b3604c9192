"""Does an endpoint have a Batch API? OpenAI and Azure do; other endpoints are queried."""

from __future__ import annotations

import time

from core.errors import ProviderError
from core.providers import Client, Provider, RetryLimits

_CACHE_S = 600.0  # changes only when the endpoint is upgraded
_ERROR_CACHE_S = 30.0
_TIMEOUT_S = 3.0  # a form waits for it
_cache: dict[str, tuple[bool, float]] = {}  # base URL → result, and until when it is valid


def supports_batch(provider: Provider) -> bool:
    """True if runs at this endpoint can use its Batch API. The built-in engine has none.

    OpenAI and Azure have one. Other endpoints are queried, with a timeout of three seconds, and the result is cached.
    """
    if provider.kind in ("openai", "azure", "engine"):
        return provider.kind != "engine"
    supported, valid_until = _cache.get(provider.base_url, (False, 0.0))
    if time.monotonic() < valid_until:
        return supported
    try:
        supported, ttl_s = (
            Client(provider, retry_limits=RetryLimits(_TIMEOUT_S, 1), timeout=_TIMEOUT_S).supports_batches(),
            _CACHE_S,
        )
    except ProviderError:
        supported, ttl_s = False, _ERROR_CACHE_S
    _cache[provider.base_url] = (supported, time.monotonic() + ttl_s)
    return supported
