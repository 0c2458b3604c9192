"""Interprets a provider's error: its HTTP status, its message, whether the account is out of credit, and whether it may
be billed.

OpenAI-compatible servers return errors in many formats, some with HTTP 200:

- `{"error": {"message", "type", "code"}}`: OpenAI; OpenRouter and LiteLLM with the HTTP status as `code`.
- `{"error": "Unexpected endpoint or method."}`: LM Studio (lmstudio-bug-tracker#618).
- `[{"error": {"code", "message", "status"}}]`: Gemini's OpenAI-compatible endpoint.
- `{"object": "error", "message", "type", "code"}`: older vLLM.
- `{"base_resp": {"status_code", "status_msg"}}`: MiniMax.
- `{"code", "message" | "msg"}`, `{"status_code", "status_message"}`, `{"detail"}`: gateways.
- `{"detail": [{"loc", "msg"}]}`: servers built with pydantic; Mistral puts that into `message`.
- `{"error": {"message": "Provider returned error", "metadata": {"raw"}}}`: OpenRouter, with the upstream error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from core.providers.schemas import Provider

_CODE_FIELDS = ("code", "status_code", "status", "type", "statusCode", "http_code", "error_code")
_MESSAGE_FIELDS = (
    "message",
    "msg",
    "detail",
    "error_msg",
    "errorMessage",
    "status_message",
    "status_msg",
    "error_description",
)

# Zhipu's own error codes (docs.bigmodel.cn, "error codes") → HTTP status.
_ZHIPU = {
    **dict.fromkeys(("1000", "1001", "1002", "1003", "1004"), 401),
    **dict.fromkeys(("1110", "1111", "1112", "1121", "1220"), 403),
    **dict.fromkeys(("1302", "1303", "1305", "1308"), 429),
    **dict.fromkeys(("1113", "1309", "1311"), 402),  # 1309, 1311: the plan has expired, or does not include the model
    "1120": 503,
    "1211": 404,
    "1230": 500,
    "1234": 500,
    "1301": 400,
}
_MINIMAX = {"1000": 500, "1001": 504, "1002": 429, "1004": 401, "1008": 402, "1013": 500, "1024": 500, "1039": 429}
_RATE = (
    r"rate.?limit|(qps|rpm|tpm).{0,12}limit|throttl|too.?many.?requests|resource.?exhausted|slow down|concurrency"
    r"|频繁|速率"
)
_OVERLOADED = r"overload|unavailable|busy|capacity|try again|繁忙|稍后"
_FAILED = r"server.?error|internal.?error|upstream|time.?out|timed out|bad.?gateway"
_MAX_RAW_CHARS = 2_000  # limit for parsing a nested error
_REJECTION = re.compile(
    r"\binvalid.?(request|param|argument|value|input|message|prompt|model)|bad.?request|not.?found|not exist"
    r"|validation|unexpected endpoint|unsupported|not supported|\brequired\b|\bmissing (field|param|argument)"
    r"|\bmust (not )?be\b|too long|context.?length|maximum.{0,20}context|could not be parsed"
    r"|参数|不存在|不支持",
    re.I,
)
_KEY = r"unauthori[sz]ed|authenticat|api.?key|permission|forbidden|access.?denied"
# Patterns matched in this order, first against the codes, then against the message.
_MEANINGS = tuple(
    (re.compile(pattern, re.I), status)
    for pattern, status in ((_RATE, 429), (_OVERLOADED, 503), (_FAILED, 500), (_KEY, 401))
)

# Codes and types that mean "no credit", reduced to letters: OpenAI, Moonshot, DashScope, DeepSeek, Volcengine, one-api
# and its forks, OpenRouter, LiteLLM (`budget_exceeded`, with status 400).
_NO_CREDIT_CODES = frozenset(
    {
        "insufficientquota",
        "exceededcurrentquotaerror",
        "billinghardlimitreached",
        "billingnotactive",
        "accountdeactivated",
        "arrearage",
        "prepaidbilloverdue",
        "postpaidbilloverdue",
        "allocationquotafreetieronly",
        "accountoverdueerror",
        "insufficientbalance",
        "insufficientcredits",
        "insufficientcredit",
        "insufficientfunds",
        "insufficientuserquota",
        "budgetexceeded",
        "setlimitexceeded",
        "preconsumetokenquotafailed",
        "paymentrequired",
        "resourcepackexhausted",
    }
)
_NO_CREDIT_MESSAGE = re.compile(
    r"insufficient.{0,12}(balance|credit|fund)"
    r"|(balance|credits?).{0,20}(insufficient|not enough|too low|exhausted|used up|depleted)"
    r"|(out of|requires? more|not enough|no( more| remaining)?|doesn't have any|used all( your| available)?) credits?\b"
    r"|credit limit exceeded|included credits|(spend(ing)?|billing.hard).(limit|cap)|past invoices|payment required"
    r"|specified API usage limits?|budget has been exceeded"
    r"|account is in arrears|arrearage|overdue.{0,3}payment|account is in good standing"
    r"|余额不足|余额已用|欠费|套餐.{0,4}到期|额度(不足|已用|耗尽|用完|为 ?0)|资源包.{0,4}(不足|用尽|用完|耗尽)"
    r"|账户.{0,6}余额|请充值",
    re.I,
)
# DashScope also uses OpenAI's `insufficient_quota` for its limit on tokens per minute (its error list: "Allocated quota
# exceeded, please increase your quota limit"), which is temporary.
_PER_MINUTE = re.compile(r"allocated quota exceeded|per.(minute|second|hour)|\b[RT]PM\b", re.I)

# Statuses of requests that were never processed. Sources: RFC 9110 (redirects, 409, 503); OpenAI's and Anthropic's
# error pages (503 and 529: overloaded); Groq (498: no flex capacity); Cloudflare (521, 523, 525, 526: no connection
# to the server; 520, 522, 524: the connection was lost later); Envoy (503 "disconnect/reset before headers", also
# if the connection ended after the request); Azure's "Plan to manage costs" and "Content filtering" (a 400 from the
# content filter is billed for prompt and completion; one for exceeding the input limit may be billed, and so may a
# 408) and its FAQ (500 if the model generated invalid Unicode). A 400 after the model has generated text: Groq
# ("failed_generation"), OpenAI's reasoning models that use up the token limit before the first word, and output
# filters at Volcengine (`OutputTextSensitiveContentDetected`, `OutputTextRiskDetection`), DashScope
# (`DataInspectionFailed`: "Output data may contain inappropriate content"), MiniMax (1027: "output new_sensitive")
# and Zhipu (1301: "输入或生成内容").
_NOT_BEGUN = frozenset(
    {
        *(301, 302, 307, 308),  # moved to another address
        *(409, 425, 498, 529),  # locked, too early, no capacity, overloaded
        *(521, 523, 525, 526),  # the gateway had no connection to the server
    }
)
_OVERLOADED_STATUS = 503
_LOST_UPSTREAM = re.compile(r"disconnect/reset before headers(?!.{0,40}(connection (failure|timeout)|overflow))", re.I)
_FILTERED = frozenset({"contentfilter", "responsibleaipolicyviolation", "contentpolicyviolation"})
_GENERATED = re.compile(
    r"failed_generation|tool_use_failed|json_validate_failed|output_parse_failed|model output limit was reached"
    r"|\boutput.{0,20}(sensitive|inappropriate|risk)|生成的?内容",
    re.I,
)


def error_object(answer: object) -> object | None:
    """The error in a JSON response, as an object or text; None if the response contains no error."""
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    if not isinstance(answer, Mapping):
        return None
    for name in ("error", "errors"):
        error = answer.get(name)
        if isinstance(error, list) and error:
            error = error[0]
        if isinstance(error, str) and error.strip():
            return error if _plain_code(answer) is None else {"message": error, "code": answer.get("code")}
        if isinstance(error, Mapping) and (
            _has_failure_code(error) or (message_of(error) and _plain_code(error) is None)
        ):
            return error
    result = answer.get("base_resp")
    if isinstance(result, Mapping) and result.get("status_code"):
        code = _text(result["status_code"])
        return {"message": message_of(result), "code": _MINIMAX.get(code, code)}
    is_error = (
        answer.get("object") == "error"
        or answer.get("success") is False
        or _has_failure_code(answer)
        or "detail" in answer
    )
    return answer if is_error and message_of(answer) and not answer.get("choices") else None


def http_status_of(error: object) -> int:
    """The HTTP status for an error object: its own code, or a status derived from its type or message, or else 400."""
    codes = codes_of(error)
    for code in codes:
        if code.isdecimal() and 400 <= int(code) <= 599:
            return int(code)
    for code in codes:
        if code in _ZHIPU:
            return _ZHIPU[code]
    for text in (" ".join(codes), message_of(error)):
        for pattern, status in _MEANINGS:
            if pattern.search(text):
                overloaded = re.search(_OVERLOADED, message_of(error), re.I)
                return 503 if status == 500 and overloaded else status
    return 400


def is_rejection(error: object) -> bool:
    """Whether an error means that the request itself was rejected: a 4xx status, or a corresponding code or message."""
    codes = codes_of(error)
    stated = any(code.isdecimal() and 400 <= int(code) < 500 for code in codes)
    return stated or _REJECTION.search(" ".join((*codes, message_of(error)))) is not None


def codes_of(error: object) -> list[str]:
    """Codes and types of an error object as strings, in order of precedence."""
    if isinstance(error, list) and len(error) == 1:
        error = error[0]
    if not isinstance(error, Mapping):
        return []
    codes = [_text(error.get(name)) for name in _CODE_FIELDS]
    inner = error.get("error")
    return [code for code in codes if code] + (codes_of(inner) if isinstance(inner, Mapping) else [])


def message_of(error: object) -> str:
    """An error object's message; "" if it has none."""
    if isinstance(error, list) and len(error) == 1:
        error = error[0]
    if isinstance(error, str):
        return error.strip()
    if isinstance(error, Mapping):
        for name in (*_MESSAGE_FIELDS, "error"):
            value = error.get(name)
            message = _validation_messages(value) if isinstance(value, list) else message_of(value)
            if message:
                return message + _upstream(error)
    return ""


def _validation_messages(errors: list[object]) -> str:
    """Validation errors as one text: `body.messages: Field required; …`."""
    messages = []
    for item in errors:
        message = message_of(item)
        location = item.get("loc") if isinstance(item, Mapping) else None
        messages.append(
            f"{'.'.join(map(str, location))}: {message}" if message and isinstance(location, list) else message
        )
    return "; ".join(filter(None, messages))


def _upstream(error: Mapping[str, Any]) -> str:
    """The upstream provider's message, if a gateway passes it on (OpenRouter)."""
    metadata = error.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, Mapping) else None
    if isinstance(raw, str) and raw.lstrip().startswith("{") and len(raw) <= _MAX_RAW_CHARS:
        with suppress(ValueError, RecursionError):
            raw = json.loads(raw)
    message = message_of(error_object(raw) or raw)
    return f": {message}" if message else ""


def no_credit(status: int, codes: list[str], message: str) -> bool:
    """Whether the account is out of credit, so that requests fail until it is topped up."""
    if status == 402:
        return True
    if status == 429 and _PER_MINUTE.search(message):
        return False
    letters = {re.sub(r"[^a-z]", "", code.lower()) for code in codes}
    coded = any(_ZHIPU.get(code) == 402 for code in codes) or bool(letters & _NO_CREDIT_CODES)
    return coded or bool(_NO_CREDIT_MESSAGE.search(message))


def _has_failure_code(error: Mapping[str, Any]) -> bool:
    """Whether a code means failure; some gateways send 0, 200 or "success" as codes."""
    code = _plain_code(error)
    return code is not None and code.lower() not in ("0", "200", "ok", "success")


def _plain_code(error: Mapping[str, Any]) -> str | None:
    for name in ("code", "status_code", "statusCode", "http_code", "error_code"):
        if code := _text(error.get(name)):
            return code
    return None


def _text(code: object) -> str:
    """A code as a string: 429, 429.0 and "429" are equal."""
    if isinstance(code, bool) or code is None:
        return ""
    if isinstance(code, float) and code.is_integer():
        code = int(code)
    return str(code).strip() if isinstance(code, int | str) else ""


def may_be_billed(
    status: int, codes: Sequence[str], body: object, headers: Mapping[str, str], provider: Provider
) -> bool:
    """Whether a request that got an error response may be billed; if so, it counts at its maximum possible cost.

    Only the API itself can state that processing did not begin. A proxy that lost its connection to the API cannot, and
    a server may fail after the model has generated text. Any status that is not in `_NOT_BEGUN` may therefore be
    billed. Failed connections and 429, 401, 403 and 404 are handled elsewhere and never billed.

    Args:
        status: status of the response; for an error inside an HTTP 200 response, the corresponding status.
        codes: codes of the error object, see `codes_of`.
        body: parsed JSON, or the text if it is not JSON.
        headers: headers of the response; empty for an error inside another response.
        provider: the endpoint that responded.
    """
    if status == _OVERLOADED_STATUS:
        return not _from_api(body, headers) or bool(_LOST_UPSTREAM.search(str(body)))
    if 400 <= status < 500 and status not in (408, 424):
        processed = status == 400 and provider.capabilities.bills_rejections
        return status not in _NOT_BEGUN and (processed or _was_processed(codes, body))
    return status not in _NOT_BEGUN


def _was_processed(codes: Sequence[str], body: object) -> bool:
    """Whether a refusal implies that the model has read the prompt or generated text."""
    filtered = _FILTERED & {_letters(code) for code in codes}
    return bool(filtered) or _GENERATED.search(str(body)) is not None


def _from_api(body: object, headers: Mapping[str, str]) -> bool:
    """Whether the error was sent by the API itself and not by a proxy: it is JSON, or part of another response."""
    return isinstance(body, Mapping | list) or not headers or "json" in headers.get("content-type", "").lower()


def _letters(code: str) -> str:
    return re.sub(r"[^a-z]", "", code.lower())
