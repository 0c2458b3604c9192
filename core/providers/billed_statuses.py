"""Decides whether a request that failed with an error status may be billed.

Only the API itself can say that it did not begin. A proxy that lost its connection to the API does not know, and a
server may fail after the model has generated text. So a status that is not listed here may be billed, and counts at
its maximum possible cost. Failed connections and 429, 401, 403 and 404 are other errors, which are never billed.

Sources: RFC 9110 (redirects, 409, 503); OpenAI's and Anthropic's error pages (503 and 529: overloaded); Groq (498: no
flex capacity); Cloudflare (521, 523, 525, 526: no connection to the server; 520, 522, 524: the connection was lost
later); Envoy (503 "disconnect/reset before headers", also if the connection ended after the request); Azure's "Plan to
manage costs" and "Content filtering" (a 400 of the content filter is billed for prompt and completion; one of the input
limit may be billed, and so may a 408) and its FAQ (500 if the model generated invalid Unicode).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from core.providers.schemas import Provider

_NOT_BEGUN = frozenset(
    {
        *(301, 302, 307, 308),  # moved to another address
        *(409, 425, 498, 529),  # locked, too early, no capacity, overloaded
        *(521, 523, 525, 526),  # the gateway had no connection to the server
    }
)
_OVERLOADED = 503
_LOST_UPSTREAM = re.compile(r"disconnect/reset before headers(?!.{0,40}(connection (failure|timeout)|overflow))", re.I)
_FILTERED = frozenset({"contentfilter", "responsibleaipolicyviolation", "contentpolicyviolation"})


def may_be_billed(
    status: int, codes: Sequence[str], body: object, headers: Mapping[str, str], provider: Provider
) -> bool:
    """Whether a request that got an error response may be billed.

    Args:
        status: of the response; for an error inside HTTP 200, the status that corresponds to it.
        codes: codes of the error object, see `provider_errors.codes_of`.
        body: parsed JSON, or the text if it is not JSON.
        headers: of the response; empty for an error inside another response.
        provider: the endpoint that responded.
    """
    if status == _OVERLOADED:
        return not _from_api(body, headers) or bool(_LOST_UPSTREAM.search(str(body)))
    if 400 <= status < 500 and status not in (408, 424):
        processed = status == 400 and provider.kind == "azure"
        return status not in _NOT_BEGUN and (processed or bool(_FILTERED & {_letters(code) for code in codes}))
    return status not in _NOT_BEGUN


def _from_api(body: object, headers: Mapping[str, str]) -> bool:
    """Whether the API itself sent the error, and not a proxy: it is JSON, or part of another response."""
    return isinstance(body, Mapping | list) or not headers or "json" in headers.get("content-type", "").lower()


def _letters(code: str) -> str:
    return re.sub(r"[^a-z]", "", code.lower())
