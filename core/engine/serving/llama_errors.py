"""Errors about a model's context, and those of llama.cpp, in OpenAI's format."""

from __future__ import annotations

from typing import Any

from core.engine.api.errors import ApiError, unavailable
from core.engine.job_rules import CONTEXT_SETTING
from core.message import msg, sentences


def too_long(context: object, tokens: object, own: int | None = None, param: str = "prompt") -> ApiError:
    """400: a prompt of `tokens` tokens exceeds a context of `context` tokens.

    Args:
        own: the model's own context length, if a setting limits it further.
        param: the request's parameter, `prompt` or `messages`.
    """
    message: str
    if param == "messages":
        message = msg(
            "This model's maximum context length is {context} tokens. However, your messages resulted in {tokens} "
            "tokens. Please reduce the length of the messages.",
            context=context,
            tokens=tokens,
        )
    else:
        message = msg(
            "This model's maximum context length is {context} tokens. However, your prompt has {tokens} tokens. "
            "Please shorten it.",
            context=context,
            tokens=tokens,
        )
    return _context_error(message, own, param)


def too_much(context: int, tokens: int, limit: int, own: int | None = None, param: str = "prompt") -> ApiError:
    """400: a prompt of `tokens` tokens and an answer of up to `limit` tokens exceed a context of `context` tokens. The
    other arguments are those of `too_long`.
    """
    requested = tokens + limit
    if param == "messages":
        return _context_error(
            msg(
                "This model's maximum context length is {context} tokens. However, you requested {requested} tokens "
                "({tokens} in the messages, {limit} in the completion). Please reduce the length of the messages or "
                "completion.",
                context=context,
                requested=requested,
                tokens=tokens,
                limit=limit,
            ),
            own,
            param,
        )
    return _context_error(
        msg(
            "This model's maximum context length is {context} tokens. However, you requested {requested} tokens "
            "({tokens} in the prompt, {limit} in the completion). Please reduce the length of the prompt or "
            "completion.",
            context=context,
            requested=requested,
            tokens=tokens,
            limit=limit,
        ),
        own,
        param,
    )


def _context_error(message: str, own: int | None, param: str) -> ApiError:
    if own is not None:
        message = sentences(message, raise_the_limit(own))
    return ApiError(400, message, param=param, code="context_length_exceeded")


def raise_the_limit(own: int) -> str:
    """Advice for a limit that comes from a setting and not from the model."""
    return msg(
        "The limit is {setting}; the model itself can read {own} tokens. To use more, set it and restart the engine.",
        setting=CONTEXT_SETTING,
        own=own,
    )


def as_api_error(status: int, body: dict[str, Any]) -> ApiError:
    """Convert an error from llama.cpp to OpenAI's format."""
    error = body.get("error") if isinstance(body.get("error"), dict) else {}
    assert isinstance(error, dict)
    if error.get("type") == "exceed_context_size_error":
        return too_long(error.get("n_ctx"), error.get("n_prompt_tokens"))
    message = str(error.get("message") or "llama.cpp refused the request")
    if status == 400 and "failed to parse grammar" in message:
        return ApiError(
            400, msg("llama.cpp cannot use this schema as a grammar. Simplify its patterns and references.")
        )
    return (
        ApiError(400, message)
        if 400 <= status < 500
        else unavailable(msg("The model stopped working: {message}.", message=message))
    )
