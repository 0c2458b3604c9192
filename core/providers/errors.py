"""The one place where the SDK's errors become Fabula's: a sentence for people and a next step, cause kept."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import mktime_tz, parsedate_tz

import httpx2
import openai

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
from core.logs import MIN_SECRET_CHARS
from core.message import Message, msg, restored, sentences
from core.providers.connection_errors import EVERYWHERE, no_version, plain_to_tls, proxy_refuses, unreachable, wants_tls
from core.providers.endpoint_setup import has_version
from core.providers.provider_errors import codes_of, no_credit, words_of
from core.providers.rejected_parameters import refused_parameters
from core.providers.schemas import Provider

_LONGEST_WORDS = 300  # characters of a server's own words that a card can hold
_NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)  # there was no connection to send it on
_NOT_BEGUN = {409, 425, 498, 503, 529}  # the server says that it did not begin: locked, too early, overloaded
_GATEWAY_TIMEOUTS = {408, 504, 524}  # whoever has answered gave up waiting; the model behind it may have written
_FAILED_BEHIND = {424, 498}  # Bedrock and TGI: the model failed; Groq: its flex tier has no capacity
_NO_MODEL_CODES = {"model_not_found", "DeploymentNotFound"}  # the latter is Azure's
_NO_MODEL = re.compile(
    r"model.{0,120}(does not exist|not found|has been (deprecated|retired|shut))|模型.{0,20}不存在", re.I | re.S
)
_NO_ROUTE = re.compile(r"unexpected endpoint or method", re.I)  # LM Studio, under HTTP 200
_TUNING_CLOSED = re.compile(r"fine[- _]?tun|training", re.I)


def retry_after_s(error: BaseException) -> float | None:
    """Seconds that the server asked to wait, if it did."""
    return error.retry_after_s if isinstance(error, RateLimited | Unavailable) else None


@contextmanager
def translated(provider: Provider) -> Iterator[None]:
    """Turn every error of the SDK into one of the family.

    Raises:
        RateLimited, Unavailable, Refused, BadRequest, ModelNotFound: see `core.errors`.
    """
    try:
        yield
    except openai.OpenAIError as exc:
        raise translate(exc, provider) from exc
    except (ValueError, TypeError, AttributeError, KeyError, IndexError) as exc:
        if isinstance(exc, FabulaError):
            raise
        # the SDK does not check shapes: an answer that is no JSON, or other JSON, fails where it is read
        raise not_an_api_answer(provider) from exc


def translate(exc: openai.OpenAIError, provider: Provider) -> ProviderError:
    """The error of the family that says what `exc` means for the work."""
    if isinstance(exc, openai.APIStatusError):
        path = exc.request.url.path
        return from_status(exc.status_code, exc.body or str(exc), exc.response.headers, provider, path)
    if isinstance(exc, openai.APITimeoutError):
        return timed_out(provider, sent=not isinstance(exc.__cause__, _NOT_SENT))
    if isinstance(exc, openai.APIConnectionError):
        return unreachable(provider, exc, sent=not isinstance(exc.__cause__, _NOT_SENT))
    if isinstance(exc, openai.APIResponseValidationError):
        return not_an_api_answer(provider)
    return Unavailable(
        msg("{name} answered with an error: {provider}", name=provider.name, provider=_said(exc, provider)),
        msg("Try again in a minute."),
    )


def timed_out(provider: Provider, *, sent: bool = True) -> Unavailable:
    """Nothing came within the time limit. `sent`: the endpoint may have the request."""
    return Unavailable(
        msg("{name} did not answer in time.", name=provider.name),
        msg("Fabula retries automatically; if there is still no answer, check the provider's status page."),
        may_be_billed=sent,
    )


def from_status(
    status: int, body: object, headers: Mapping[str, str], provider: Provider, path: str = ""
) -> ProviderError:
    """The error that an answer of 300 and more means. `body` is its JSON, or its text where it is none.

    `path` is that of the request, where it is known: a call that every OpenAI-shaped API has is missing only where the
    address is wrong.
    """
    words = _words(body, msg("Error code: {status}", status=status), provider)
    return _from_status(status, words, body, headers, provider, path)


def unreadable(provider: Provider) -> Unreadable:
    """A success status, and an answer from which neither a text nor usage can be read. It may be billed."""
    return Unreadable(
        msg("{name} answered with something that is not OpenAI's format.", name=provider.name),
        msg(
            "Check that {base_url} is the address of an OpenAI-compatible API; most end in /v1.",
            base_url=provider.shown_url,
        ),
    )


def not_an_api_answer(provider: Provider) -> ServerError:
    """The answer is not what an OpenAI-shaped endpoint sends: a login page, a proxy's page, other JSON."""
    return ServerError(
        msg("{name} answered with something that is not OpenAI's format.", name=provider.name),
        msg(
            "Check that {base_url} is the address of an OpenAI-compatible API; most end in /v1.",
            base_url=provider.shown_url,
        ),
    )


def _from_status(
    status: int, words: str, body: object, headers: Mapping[str, str], provider: Provider, path: str
) -> ProviderError:
    if status == 407:
        return proxy_refuses(provider, status)
    if status == 400 and wants_tls(words):
        return plain_to_tls(provider)
    codes = codes_of(body)
    if no_credit(status, codes, words):
        return Refused(
            msg("{name}: the account has no credit left: {words}", name=provider.name, words=words),
            msg("Add credit or raise the limit at the provider, then resume. Nothing is lost."),
        )
    if status in (401, 403):
        return Refused(
            msg("{name} refused the key ({status}): {words}", name=provider.name, status=status, words=words),
            msg(
                "Check the key (a new one needs a restart) and the account's permissions, then resume. Nothing is lost."
            ),
        )
    if status == 429:
        return RateLimited(
            msg("{name} asks to slow down: {words}", name=provider.name, words=words),
            msg("Fabula retries automatically; fewer parallel requests help."),
            _header_wait_s(headers),
        )
    if status in {408, 409, 425, *_FAILED_BEHIND} or status >= 500 or status < 400:
        if status in _GATEWAY_TIMEOUTS:
            return Unavailable(
                msg(
                    "{name} gave up waiting for the model ({status}): {words}",
                    name=provider.name,
                    status=status,
                    words=words,
                ),
                msg(
                    "Fabula retries automatically; if it persists, ask for fewer tokens, or check the provider's "
                    "status page."
                ),
                _header_wait_s(headers),
            )
        return ServerError(
            msg("{name} has a server error ({status}): {words}", name=provider.name, status=status, words=words),
            msg("Fabula retries automatically; if it persists, check the provider's status page."),
            _header_wait_s(headers),
            may_be_billed=status not in _NOT_BEGUN,
        )
    if _NO_MODEL_CODES.intersection(codes) or (status in (400, 404) and _NO_MODEL.search(words)):
        return ModelNotFound(
            msg("{name} does not have this model: {words}", name=provider.name, words=words),
            msg("Choose another model; tuned models disappear when their base model is retired."),
        )
    missing = (status in (404, 405) and path.endswith(EVERYWHERE)) or _NO_ROUTE.search(words)
    if missing and not has_version(provider):
        return no_version(provider, words)
    if status == 404:
        return NotThere(
            msg("{name} does not have it: {words}", name=provider.name, words=words),
            msg("It was deleted, or belongs to another account."),
        )
    return BadRequest(
        msg("{name} could not use the request ({status}): {words}", name=provider.name, status=status, words=words),
        msg("Change it and try again."),
        refused_parameters(body),
    )


def stream_cut(provider: Provider, words: str = "") -> StreamCut:
    """The stream ended before its end; `words`: what the endpoint said of it."""
    return StreamCut(
        sentences(msg("{name} broke off in the middle of the text.", name=provider.name), words),
        msg("Everything received is kept; try again."),
    )


def cannot_pause(provider: Provider) -> NotThere:
    """The endpoint knows no pausing of jobs."""
    return NotThere(msg("{name} cannot pause a job.", name=provider.name), msg("Cancel it, or let it continue."))


def tuning_closed(error: ProviderError, provider: Provider) -> ProviderError:
    """Say it in full when an account may not create fine-tuning jobs at all."""
    if isinstance(error, Refused) and _TUNING_CLOSED.search(error.what):
        return Refused(
            msg("This account may not create fine-tuning jobs at {name}: {what}", name=provider.name, what=error.what),
            msg("Train on the built-in engine; OpenAI closes self-serve fine-tuning to everyone on 2027-01-06."),
        )
    return error


def _said(exc: Exception, provider: Provider) -> str:
    return _words(getattr(exc, "body", None), str(exc), provider)


def words_for(error: object, provider: Provider) -> str:
    """The server's own words in an error object, fit to be shown."""
    return _words(error, ", ".join(codes_of(error)) or msg("no reason given"), provider)


def _words(body: object, otherwise: str, provider: Provider) -> str:
    """The server's own words, fit to be shown; of an error page its title."""
    text = words_of(body) or otherwise
    if isinstance(text, Message):
        return text
    if "<html" in text.lower() or "<!doctype" in text.lower():
        title = re.search(r"<title[^>]*>(.*?)</title>", text, re.I | re.S)
        return msg("a web page ({title})", title=quoted(title[1], provider)) if title else msg("a web page")
    return restored(quoted(text, provider), body)


def without_key(text: str, provider: Provider) -> str:
    """Text of the endpoint without the key, which some servers repeat in their errors.

    Local servers get a word as a key (`none`, `ollama`): that is no secret, and may be a part of any sentence.
    """
    return text.replace(provider.api_key, "[key]") if len(provider.api_key) >= MIN_SECRET_CHARS else text


def quoted(words: object, provider: Provider) -> str:
    """Words of the endpoint in one bounded line, without the key; a message where it gives none."""
    if not words:
        return msg("no reason given")
    text = " ".join(without_key(str(words), provider).split())
    return text if len(text) <= _LONGEST_WORDS else text[: _LONGEST_WORDS - 1] + "…"


def _header_wait_s(headers: Mapping[str, str]) -> float | None:
    """`retry-after-ms` or `retry-after` (seconds or a date), in seconds; None: not given, or no sense in it."""
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
