"""Whether an endpoint has a Batch API. OpenAI and Azure do; any other one is asked."""

from __future__ import annotations

import time

from core.errors import ProviderError
from core.providers import Client, Provider, RetryLimits

_KNOWN_S = 600.0  # whether an endpoint has a Batch API changes with its version, seldom
_UNKNOWN_S = 30.0
_ASK_S = 3.0  # a form waits for the answer
_asked: dict[str, tuple[bool, float]] = {}  # by address: the answer, and until when it holds


def supports_batch(provider: Provider) -> bool:
    """Whether runs at this endpoint can go through its Batch API. The engine writes at once and has none.

    OpenAI and Azure have one. Any other endpoint is asked, within three seconds; the answer is kept for a while.
    """
    if provider.kind in ("openai", "azure", "engine"):
        return provider.kind != "engine"
    answer, until = _asked.get(provider.base_url, (False, 0.0))
    if time.monotonic() < until:
        return answer
    try:
        answer, kept_s = Client(provider, retry_limits=RetryLimits(_ASK_S, 1), timeout=_ASK_S).lists_batches(), _KNOWN_S
    except ProviderError:
        answer, kept_s = False, _UNKNOWN_S
    _asked[provider.base_url] = (answer, time.monotonic() + kept_s)
    return answer
