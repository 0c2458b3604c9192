"""The causes of failed rows, runs, training jobs and stories, and the remedies for each, best first. Pure.

The cause's code is stored with the message (`core.message.with_cause`). It comes from the error's class
(`FabulaError.cause`) or is set where the message is created. Only a provider's own message is searched for a cause,
before it is stored. Messages from earlier versions have no code; for them, the finish reason or the provider's message
decides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from core.errors import FabulaError
from core.message import Message, cause_of, with_cause

Cause = Literal[
    "token_limit",
    "content_filter",
    "refused",
    "empty_answer",
    "interrupted",
    "rate_limit",
    "no_credit",
    "bad_key",
    "setup",
    "provider_removed",
    "provider_changed",
    "unreachable",
    "server_error",
    "unreadable",
    "model_not_found",
    "too_long",
    "bad_request",
    "budget",
    "shared_budget",
    "unknown_price",
    "engine_missing",
    "storage",
    "out_of_memory",
    "bad_file",
    "diverged",
    "job_gone",
    "not_allowed",
    "other",
]
Remedy = Literal[
    "raise_limit",
    "lower_temperature",
    "another_model",
    "open_recipe",
    "try_again",
    "wait",
    "raise_budget",
    "ask_budget",
    "open_budgets",
    "open_prices",
    "open_settings",
    "install_engine",
    "smaller_batch",
    "lower_rate",
    "check_file",
]
CAUSES: tuple[Cause, ...] = get_args(Cause)

REMEDIES: Mapping[Cause, tuple[Remedy, ...]] = {
    "token_limit": ("raise_limit", "another_model"),
    "content_filter": ("another_model", "open_recipe"),
    "refused": ("another_model", "open_recipe"),
    "empty_answer": ("lower_temperature", "another_model"),
    "interrupted": ("try_again", "another_model"),
    "rate_limit": ("wait", "another_model"),
    "no_credit": ("another_model", "try_again"),
    "bad_key": ("open_settings", "try_again", "another_model"),
    "setup": ("open_settings", "try_again", "another_model"),
    "provider_removed": ("another_model",),
    "provider_changed": ("open_settings",),
    "unreachable": ("try_again", "open_settings", "another_model"),
    "server_error": ("try_again", "another_model"),
    "unreadable": ("open_settings", "try_again", "another_model"),
    "model_not_found": ("another_model",),
    "too_long": ("open_recipe", "another_model"),
    "bad_request": ("open_recipe", "another_model"),
    "budget": ("raise_budget", "another_model"),
    "shared_budget": ("ask_budget", "open_budgets", "another_model"),
    "unknown_price": ("open_prices", "another_model"),
    "engine_missing": ("install_engine", "another_model"),
    "storage": ("try_again",),
    "out_of_memory": ("try_again", "another_model"),
    "bad_file": ("open_recipe", "another_model"),
    "diverged": ("try_again", "another_model"),
    "job_gone": ("try_again",),
    "not_allowed": ("open_settings",),
    "other": ("try_again", "another_model"),
}
"""For rows, runs and stories."""

JOB_REMEDIES: Mapping[Cause, tuple[Remedy, ...]] = {
    **dict.fromkeys(CAUSES, ("try_again", "another_model")),
    "content_filter": ("check_file", "another_model"),
    "rate_limit": ("wait", "another_model"),
    "bad_key": ("open_settings", "try_again", "another_model"),
    "setup": ("open_settings", "try_again", "another_model"),
    "provider_removed": ("another_model",),
    "provider_changed": ("open_settings",),
    "unreachable": ("try_again", "open_settings"),
    "unreadable": ("open_settings", "try_again", "another_model"),
    "model_not_found": ("another_model",),
    "too_long": ("check_file",),
    "bad_request": ("check_file", "another_model"),
    "shared_budget": ("ask_budget", "open_budgets", "another_model"),
    "unknown_price": ("open_prices", "another_model"),
    "engine_missing": ("install_engine", "another_model"),
    "storage": ("try_again",),
    "out_of_memory": ("smaller_batch", "check_file"),
    "bad_file": ("check_file",),
    "diverged": ("lower_rate",),
    "job_gone": ("try_again",),
    "not_allowed": ("open_settings",),
}
"""For training jobs, whose input is a file and whose settings are a form."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something failed.

    Attributes:
        provider_message: the provider's own message, as quoted in Fabula's sentence; "" if none is quoted.
        raw_text: the whole stored text if it has no code of a cause, so its origin may be unknown; else "".
    """

    cause: Cause
    provider_message: str = ""
    raw_text: str = ""


_FINISH_REASONS: Mapping[str, Cause] = {
    "length": "token_limit",
    "content_filter": "content_filter",
    "refusal": "refused",
    "tool_calls": "interrupted",
    "error": "interrupted",
}
# Patterns of providers' messages about a rejected request or a failed training job.
_PROVIDER_MESSAGES: tuple[tuple[str, Cause], ...] = (
    (
        r"moderation|usage polic|content.{0,3}(?:filter|policy|management)|responsible ?ai"
        r"|\bsafety (?:system|polic|reason|filter|check)|\bunsafe (?:content|prompt|input)",
        "content_filter",
    ),
    (
        r"insufficient.{0,12}(?:quota|balance|credit)|billing (?:hard|limit|account|quota)|exceeded.{0,20}billing"
        r"|no credit|hard limit|余额不足|欠费",
        "no_credit",
    ),
    (
        r"context.{0,40}(?:length|window|size)|maximum.{0,20}(?:context|prompt)|too many tokens|(?:is|are) too long"
        r"|context_length",
        "too_long",
    ),
    (
        r"model.{0,120}(?:does not exist|not found|has been (?:deprecated|retired|shut))|模型.{0,20}不存在",
        "model_not_found",
    ),
    (r"rate.?limit|too many requests", "rate_limit"),
)
_JOB_MESSAGES: tuple[tuple[str, Cause], ...] = (
    (r"memory|bad_alloc|\bOOM\b", "out_of_memory"),
    *_PROVIDER_MESSAGES,
    (r"infinite|not a number|\bnan\b|diverge", "diverged"),
    (r"disk|no space left", "storage"),
    (r"not available for fine-tuning", "model_not_found"),
    (r"\blines?\b.{0,12}\d|invalid_training_file|format|jsonl|parse|no examples", "bad_file"),
    (r"internal|server error|try again|retry|restart|unavailable|overloaded|failed unexpectedly", "server_error"),
)


def of_row(reason: str | None, finish_reason: str | None = None) -> Failure:
    """The cause of a failed row."""
    known = _stated(reason) or _FINISH_REASONS.get(finish_reason or "")
    if known is not None:
        return Failure(known, quoted_message(reason or ""))
    return Failure(_cause_in(reason or "", _PROVIDER_MESSAGES) or "other", raw_text=reason or "")


def of_run(reason: str | None) -> Failure:
    """Why a run ended before its last row."""
    return Failure(_stated(reason) or _cause_in(reason or "", _PROVIDER_MESSAGES) or "other")


def of_job(error: str | None) -> Failure:
    """The cause of a failed training job."""
    return Failure(_stated(error) or _cause_in(error or "", _JOB_MESSAGES) or "other")


def of_error(error: FabulaError) -> Failure:
    """The cause of an error that is shown immediately, such as a failed story."""
    known = _stated(error.what)
    return Failure("other", raw_text=error.what) if known is None else Failure(known, quoted_message(error.what))


def request_refused(message: str) -> Cause:
    """The cause in a provider's message about a request that it refused."""
    return _stated(message) or _cause_in(message, _PROVIDER_MESSAGES) or "bad_request"


def with_request_cause(message: str) -> str:
    """A provider's message about a row that it rejected, ready to be stored with the code of its cause, if known."""
    cause = _cause_in(message, _PROVIDER_MESSAGES)
    return message if cause is None else Message("{message}", {"message": message}, cause)


def with_job_cause(error: str) -> str:
    """A training job's error, ready to be stored with the code of its cause, if known.

    If the code only means that a request was refused, the provider's message decides.
    """
    cause = _stated(error)
    if cause in (None, "bad_request"):
        cause = _cause_in(quoted_message(error) or error, _JOB_MESSAGES) or cause
    return error if cause is None else with_cause(error, cause)


def quoted_message(text: str) -> str:
    """The provider's own message that a sentence quotes (its parameter `message`, or that of a nested message); "" if
    there is none.
    """
    if not isinstance(text, Message):
        return ""
    if isinstance(own := text.params.get("message"), str):
        return own
    nested = (quoted_message(value) for value in text.params.values() if isinstance(value, str))
    return next((message for message in nested if message), "")


def _stated(text: str | None) -> Cause | None:
    """The cause whose code is stored with a message. Unknown codes, for example from a server, are ignored."""
    code = cause_of(text or "")
    return next((cause for cause in CAUSES if cause == code), None)


def _cause_in(text: str, table: tuple[tuple[str, Cause], ...]) -> Cause | None:
    return next((cause for pattern, cause in table if re.search(pattern, text, re.I | re.S)), None)
