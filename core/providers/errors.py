"""Translates SDK errors and HTTP statuses to Fabula's exceptions, keeping the cause."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import mktime_tz, parsedate_tz

import httpx2
import openai

from core import metrics
from core.errors import (
    BadRequest,
    FabulaError,
    ModelNotFound,
    NotThere,
    ProviderError,
    RateLimited,
    Refused,
    ServerError,
    StreamCut,
    Unavailable,
    Unreadable,
)
from core.failures import request_refused
from core.logs import MIN_SECRET_CHARS
from core.message import Message, msg, restored, sentences, with_cause
from core.providers.connection_errors import (
    CORE_PATHS,
    no_endpoint,
    no_version,
    plain_to_tls,
    proxy_refuses,
    unreachable,
    wants_tls,
    web_page,
)
from core.providers.endpoint_setup import has_version
from core.providers.provider_errors import codes_of, may_be_billed, message_of, no_credit
from core.providers.rejected_parameters import refused_parameters
from core.providers.schemas import Provider

_MAX_MESSAGE_CHARS = 300  # maximum length of a server's message shown on a card
_NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)  # no connection was established
_CHECK_KEY = msg("Check the key (a new one needs a restart) and the account's permissions, then try again.")
_CHECK_SAVED_KEY = msg("Check the key under Settings → Providers and the account's permissions, then try again.")
_GATEWAY_TIMEOUTS = {408, 504, 524}  # a gateway gave up waiting; the model may still have generated output
_UPSTREAM_FAILED = {424, 498}  # Bedrock and TGI: the model failed; Groq: no capacity in the flex tier
_NO_MODEL_CODES = {"model_not_found", "DeploymentNotFound"}  # the latter is Azure's
_NO_MODEL = re.compile(
    r"model.{0,120}(does not exist|not found|has been (deprecated|retired|shut))|模型.{0,20}不存在", re.I | re.S
)
_ABOUT_MODEL = re.compile(r"\bmodels?\b|no endpoints found for|模型", re.I)  # the latter two: OpenRouter, Zhipu
_NO_ROUTE = re.compile(r"unexpected endpoint or method", re.I)  # LM Studio, under HTTP 200
_TUNING_CLOSED = re.compile(r"fine[- _]?tun|training", re.I)


@contextmanager
def translate_errors(provider: Provider) -> Iterator[None]:
    """Translate every SDK error raised in the block.

    Raises:
        RateLimited, Unavailable, Refused, BadRequest, ModelNotFound: see `core.errors`.
    """
    try:
        yield
    except openai.OpenAIError as exc:
        if not isinstance(exc, openai.APIStatusError):
            metrics.provider_failed(provider.id)
        raise translate(exc, provider) from exc
    except (ValueError, TypeError, AttributeError, KeyError, IndexError) as exc:
        if isinstance(exc, FabulaError):
            raise
        # the SDK does not validate responses; an unexpected body causes an error only when it is read
        raise not_an_api_answer(provider) from exc


def translate(exc: openai.OpenAIError, provider: Provider) -> ProviderError:
    """The `ProviderError` for an SDK error."""
    if isinstance(exc, openai.APIStatusError):
        path = exc.request.url.path
        return from_status(exc.status_code, exc.body or str(exc), exc.response.headers, provider, path)
    if isinstance(exc, openai.APITimeoutError):
        return timed_out(provider, sent=not isinstance(exc.__cause__, _NOT_SENT))
    if isinstance(exc.__cause__, ProviderError):  # raised by one of the connection's hooks
        return exc.__cause__
    if isinstance(exc, openai.APIConnectionError):
        return unreachable(provider, exc, sent=not isinstance(exc.__cause__, _NOT_SENT))
    if isinstance(exc, openai.APIResponseValidationError):
        return not_an_api_answer(provider)
    return Unavailable(
        with_cause(
            msg("{name} answered with an error: {message}", name=provider.name, message=_sdk_message(exc, provider)),
            "server_error",
        ),
        msg("Try again in a minute."),
    )


def timed_out(provider: Provider, *, sent: bool = True) -> Unavailable:
    """The error for a timeout. `sent`: whether the endpoint may have received the request."""
    return Unavailable(
        msg("{name} did not answer in time.", name=provider.name),
        msg("Fabula retries automatically; if there is still no answer, check the provider's status page."),
        may_be_billed=sent,
    )


def from_status(
    status: int,
    body: object,
    headers: Mapping[str, str],
    provider: Provider,
    path: str = "",
    *,
    proven: bool = True,
) -> ProviderError:
    """The error for an HTTP status of 300 or above. `body` is the response's JSON, or its text if it is not JSON.

    `path`: path of the request, if known. If a core path is missing (see `CORE_PATHS`), the address is wrong. `proven`:
    whether the endpoint stated that it rejected the request; False if a bad request is only assumed.
    """
    names = ", ".join(code for code in codes_of(body) if not code.isdecimal())
    message = _display_message(body, names or msg("Error code: {status}", status=status), provider)
    error = _from_status(status, message, body, headers, provider, path)
    if type(error) is BadRequest and not proven:
        error.may_be_billed = not error.refused_parameters
    return error


def unreadable(provider: Provider) -> Unreadable:
    """The error for a success status with a body that contains neither text nor usage. The request may be billed."""
    return Unreadable(
        msg("{name} returned a response that is not in OpenAI's format.", name=provider.name),
        msg(
            "Check that {base_url} is the address of an OpenAI-compatible API; most end in /v1.",
            base_url=provider.shown_url,
        ),
    )


def web_page_answer(provider: Provider) -> ServerError:
    """The error for an HTML page under a success status: a website, or the sign-in page of a network or proxy."""
    return ServerError(
        with_cause(msg("{name} answered with a web page, not as an API.", name=provider.name), "unreadable"),
        msg(
            "Compare {base_url} with the API's address (base URL) in the provider's documentation: a website often has "
            "another one. In a network that asks you to sign in, sign in first.",
            base_url=provider.shown_url,
        ),
    )


def not_an_api_answer(provider: Provider) -> ServerError:
    """The error for a response that is not in OpenAI's format: other JSON, text."""
    return ServerError(
        with_cause(msg("{name} returned a response that is not in OpenAI's format.", name=provider.name), "unreadable"),
        msg(
            "Check that {base_url} is the address of an OpenAI-compatible API; most end in /v1.",
            base_url=provider.shown_url,
        ),
    )


def _from_status(
    status: int, message: str, body: object, headers: Mapping[str, str], provider: Provider, path: str
) -> ProviderError:
    if status == 407:
        return proxy_refuses(provider, status)
    if status == 400 and wants_tls(message):
        return plain_to_tls(provider)
    codes = codes_of(body)
    if no_credit(status, codes, message):
        return Refused(
            with_cause(
                msg("{name}: the account has no credit left: {message}", name=provider.name, message=message),
                "no_credit",
            ),
            msg("Add credit or raise the limit at the provider, then try again."),
        )
    if status in (401, 403):
        return Refused(
            msg("{name} refused the key ({status}): {message}", name=provider.name, status=status, message=message),
            _CHECK_SAVED_KEY if provider.saved else _CHECK_KEY,
        )
    if status == 429:
        return RateLimited(
            msg("{name} asks to slow down: {message}", name=provider.name, message=message),
            msg("Fabula retries automatically; fewer parallel requests help."),
            _header_wait_s(headers),
        )
    if status in {408, 409, 425, *_UPSTREAM_FAILED} or status >= 500 or status < 400:
        if status in _GATEWAY_TIMEOUTS:
            return Unavailable(
                with_cause(
                    msg(
                        "{name} gave up waiting for the model ({status}): {message}",
                        name=provider.name,
                        status=status,
                        message=message,
                    ),
                    "server_error",
                ),
                msg(
                    "Fabula retries automatically; if it persists, ask for fewer tokens, or check the provider's "
                    "status page."
                ),
                _header_wait_s(headers),
            )
        return ServerError(
            msg("{name} has a server error ({status}): {message}", name=provider.name, status=status, message=message),
            msg("Fabula retries automatically; if it persists, check the provider's status page."),
            _header_wait_s(headers),
            may_be_billed=may_be_billed(status, codes, body, headers, provider),
        )
    asks_model = (
        status == 404 and path.endswith(("/completions", "/audio/speech")) and not is_web_page(message_of(body))
    )
    if (
        _NO_MODEL_CODES.intersection(codes)
        or (status in (400, 404) and _NO_MODEL.search(message))
        or (asks_model and _ABOUT_MODEL.search(message))
    ):
        return ModelNotFound(
            msg("{name} does not have this model: {message}", name=provider.name, message=message),
            msg("Choose another model; tuned models disappear when their base model is retired."),
        )
    missing = (status in (404, 405) and path.endswith(CORE_PATHS)) or _NO_ROUTE.search(message)
    if missing and is_web_page(message_of(body)):
        return web_page(provider, message)
    if missing and not has_version(provider):
        return no_version(provider, message)
    if status == 404 and (error := no_endpoint(provider, path, message)) is not None:
        return error
    if status == 404:
        return NotThere(
            with_cause(
                msg("{name} could not find it: {message}", name=provider.name, message=message),
                request_refused(message),
            ),
            msg("It was deleted, or belongs to another account."),
        )
    refused = refused_parameters(body)
    return BadRequest(
        with_cause(
            msg(
                "{name} rejected the request ({status}): {message}", name=provider.name, status=status, message=message
            ),
            request_refused(message),
        ),
        msg("Change it and try again."),
        refused,
        may_be_billed=not refused and may_be_billed(status, codes, body, headers, provider),
    )


def stream_cut(provider: Provider, message: str = "") -> StreamCut:
    """The error for a stream that broke off; `message` is the endpoint's message, if any."""
    return StreamCut(
        sentences(msg("The connection to {name} ended in the middle of the text.", name=provider.name), message),
        msg("Everything received is kept; try again."),
    )


def cannot_pause(provider: Provider) -> NotThere:
    """The error for pausing a job at an endpoint that cannot pause jobs."""
    return NotThere(msg("{name} cannot pause a job.", name=provider.name), msg("Cancel it, or let it continue."))


def tuning_closed(error: ProviderError, provider: Provider) -> ProviderError:
    """Return a more specific error if the account may not create fine-tuning jobs; otherwise `error` itself."""
    if isinstance(error, Refused) and _TUNING_CLOSED.search(error.what):
        return Refused(
            msg("This account may not create fine-tuning jobs at {name}: {what}", name=provider.name, what=error.what),
            msg("Train on the built-in engine; OpenAI closes self-serve fine-tuning to everyone on 2027-01-06."),
        )
    return error


def _sdk_message(exc: Exception, provider: Provider) -> str:
    return _display_message(getattr(exc, "body", None), str(exc), provider)


def message_for(error: object, provider: Provider) -> str:
    """An error object's message, for display."""
    return _display_message(error, ", ".join(codes_of(error)) or msg("no reason given"), provider)


def _display_message(body: object, default: str, provider: Provider) -> str:
    """The server's message for display; for an HTML page, its title."""
    text = message_of(body) or default
    if isinstance(text, Message):
        return text
    if is_web_page(text):
        title = re.search(r"<title[^>]*>(.*?)</title>", text, re.I | re.S)
        return msg("a web page ({title})", title=quoted(title[1], provider)) if title else msg("a web page")
    return restored(quoted(text, provider), body)


def is_web_page(text: str) -> bool:
    """Whether a response is an HTML page."""
    return "<html" in text.lower() or "<!doctype" in text.lower()


def without_key(text: str, provider: Provider) -> str:
    """Redact the key, which some servers repeat in their error messages.

    Short keys are not redacted: they are dummy values (`none`, `ollama`) that may be part of any sentence.
    """
    return text.replace(provider.api_key, "[key]") if len(provider.api_key) >= MIN_SECRET_CHARS else text


def quoted(message: object, provider: Provider) -> str:
    """The endpoint's message as one line of limited length, without the key; a placeholder if it is empty."""
    if not message:
        return msg("no reason given")
    text = " ".join(without_key(str(message), provider).split())
    return text if len(text) <= _MAX_MESSAGE_CHARS else text[: _MAX_MESSAGE_CHARS - 1] + "…"


def _header_wait_s(headers: Mapping[str, str]) -> float | None:
    """`retry-after-ms` or `retry-after` (seconds or a date), in seconds; None if missing or malformed."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            wait = float(headers[name]) / unit
        except (KeyError, ValueError):
            continue
        if math.isfinite(wait) and wait >= 0:
            return wait
    date = parsedate_tz(headers.get("retry-after", ""))
    if date is None:
        return None
    return max(0.0, mktime_tz(date) - time.time())
