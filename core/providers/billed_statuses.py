"""Whether an error answer proves that nothing was billed: the one table of statuses and money.

Only the API itself can say that it did not begin. A proxy in between that lost its connection does not know, and a
server may fail after the model has written. So what is not listed here may be billed, and counts at its worst case.
A connection that could not be made, and 429, 401, 403 and 404, are errors of other kinds: never billed.

Sources: RFC 9110 (redirects, 409, 503); OpenAI's and Anthropic's error pages (503 and 529: overloaded); Groq (498: no
flex capacity); Cloudflare (521, 523, 525, 526: no connection to the server; 520, 522 and 524 after one); Envoy (503
"disconnect/reset before headers" also where the connection ended after the request); Azure's "Plan to manage costs" and
"Content filtering" (a 400 of the content filter costs prompt and completion, one of the input limit may cost, and so
may 408) and its FAQ (500 where the model wrote invalid Unicode).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from core.providers.schemas import Provider

_NOT_BEGUN = frozenset(
    {
        *(301, 302, 307, 308),  # it is elsewhere
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
    """Whether the request behind an error answer may be on the bill.

    Args:
        status: as the answer has it, or the one that an error inside HTTP 200 stands for.
        codes: of the error object, see `provider_errors.codes_of`.
        body: JSON, or text where it is none.
        headers: of the answer; empty for an error inside another answer.
        provider: who answered.
    """
    if status == _OVERLOADED:
        return not _from_api(body, headers) or bool(_LOST_UPSTREAM.search(str(body)))
    if 400 <= status < 500 and status not in (408, 424):
        processed = status == 400 and provider.kind == "azure"
        return status not in _NOT_BEGUN and (processed or bool(_FILTERED & {_letters(code) for code in codes}))
    return status not in _NOT_BEGUN


def _from_api(body: object, headers: Mapping[str, str]) -> bool:
    """Whether the API itself wrote the answer, and not a proxy: it is JSON, or part of another answer."""
    return isinstance(body, Mapping | list) or not headers or "json" in headers.get("content-type", "").lower()


def _letters(code: str) -> str:
    return re.sub(r"[^a-z]", "", code.lower())
