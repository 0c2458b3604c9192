"""Classifies failures of rows, runs, training jobs and stories into a few causes, each with its remedies. Pure.

The ledger stores errors as sentences (`Row.reason`, `Run.reason`, `TrainingJob.error`), so the cause is derived from
the sentence, and from the finish reason if the provider gave one. This also covers sentences of earlier versions that
no catalogue translates any more: a page shows the cause in the user's language and the sentence as a detail.
`REMEDIES` and `JOB_REMEDIES` list the remedies for each cause, best first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

from core import errors
from core.errors import FabulaError

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
    "unreachable": ("try_again", "open_settings", "another_model"),
    "server_error": ("try_again", "another_model"),
    "unreadable": ("open_settings", "try_again", "another_model"),
    "model_not_found": ("another_model",),
    "too_long": ("open_recipe", "another_model"),
    "bad_request": ("open_recipe", "another_model"),
    "budget": ("raise_budget", "another_model"),
    "shared_budget": ("open_budgets", "another_model"),
    "unknown_price": ("open_prices", "another_model"),
    "engine_missing": ("install_engine", "another_model"),
    "storage": ("try_again",),
    "out_of_memory": ("try_again", "another_model"),
    "bad_file": ("open_recipe", "another_model"),
    "diverged": ("try_again", "another_model"),
    "job_gone": ("try_again",),
    "other": ("try_again", "another_model"),
}
"""For rows, runs and stories."""

JOB_REMEDIES: Mapping[Cause, tuple[Remedy, ...]] = {
    **dict.fromkeys(CAUSES, ("try_again", "another_model")),
    "content_filter": ("check_file", "another_model"),
    "rate_limit": ("wait", "another_model"),
    "bad_key": ("open_settings", "try_again", "another_model"),
    "setup": ("open_settings", "try_again", "another_model"),
    "unreachable": ("try_again", "open_settings"),
    "unreadable": ("open_settings", "try_again", "another_model"),
    "model_not_found": ("another_model",),
    "too_long": ("check_file",),
    "bad_request": ("check_file", "another_model"),
    "shared_budget": ("open_budgets", "another_model"),
    "unknown_price": ("open_prices", "another_model"),
    "engine_missing": ("install_engine", "another_model"),
    "storage": ("try_again",),
    "out_of_memory": ("smaller_batch", "check_file"),
    "bad_file": ("check_file",),
    "diverged": ("lower_rate",),
    "job_gone": ("try_again",),
}
"""For training jobs, whose input is a file and whose settings are a form."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something failed.

    Attributes:
        provider_message: the provider's own message, as Fabula's sentence quotes it; "": none quoted.
        raw_text: the whole stored text if it contains none of Fabula's sentences, so its origin is unknown; else "".
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
# Patterns of Fabula's own sentences, in this and earlier versions; the first match wins.
_SENTENCES: tuple[tuple[str, Cause], ...] = (
    (r"cut off at [\d,]+ tokens", "token_limit"),
    (r"The model refused", "refused"),
    (r"content filter (?:of .{1,80} )?blocked|held back by the content filter", "content_filter"),
    (r"The answer was empty|answered with no text", "empty_answer"),
    (r"asks to slow down|asks you to wait for|left alone", "rate_limit"),
    (r"the account has no credit left", "no_credit"),
    (r"refused the key|may not create fine-tuning jobs", "bad_key"),
    (r"does not have this model|no longer has \S+[:;]|and it has never (?:been used|written) here", "model_not_found"),
    (r"longer than \S+ can read at once", "too_long"),
    (r"engine needs packages|packages are missing|engine is not installed", "engine_missing"),
    (
        r"no OpenAI-compatible API at|certificate of \S+ is not trusted|There is no (?:server named|provider)"
        r"|The address of .+? (?:begins with|has no http|does not start with|contains a|is not a web address|ends in) ?"
        r"|The proxy .{1,200} (?:asks for a user|does not let you)|The key of .{1,80} (?:has|contains) ",
        "setup",
    ),
    (r"not (?:in )?OpenAI's format|None of the answers can be read", "unreadable"),
    (r"price of .{1,200} is unknown", "unknown_price"),
    (r"left of \$|rest of the \$.{1,30} budget", "budget"),
    (r"would exceed (?:the|your|this)|budget.{0,40} used up", "shared_budget"),
    (
        r"has a server error|gave up waiting for the model|answered with an error|did not (?:carry out|process)",
        "server_error",
    ),
    (r"The database|The disk|cannot be written|can be written to|cannot be created|temporary folder", "storage"),
    (
        r"did not answer in time|cannot be reached|could not be looked up|could not connect|There was no answer for"
        r"|engine is not running|engine is starting|engine's port is taken|did not confirm the job",
        "unreachable",
    ),
    (
        r"(?:broke off|ended) in the middle|was interrupted|did not say (?:whether|if) the text is"
        r"|The text is not finished"
        r"|ended the text with an error|without an answer|with this answer in the provider's file can't be read",
        "interrupted",
    ),
    (
        r"no longer (?:knows|has the results of) this|does not know this (?:job|batch)|was cancelled at the provider",
        "job_gone",
    ),
    (r"no finished rows|rows (?:have )?changed", "bad_file"),
)
_REJECTED = re.compile(
    r"(?:could not use|rejected) the request|does not have it|could not find it|refuses every request|refused the batch"
)
# Patterns of providers' messages about a rejected request or a failed training job.
_PROVIDER_MESSAGES: tuple[tuple[str, Cause], ...] = (
    (
        r"moderation|usage polic|content.{0,3}(?:filter|policy|management)|responsible ?ai|safety|unsafe",
        "content_filter",
    ),
    (r"insufficient.{0,12}(?:quota|balance|credit)|billing|no credit|hard limit|余额不足|欠费", "no_credit"),
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
    (r"can have \d+ tokens at most|longer than", "too_long"),
    (r"infinite|not a number|\bnan\b|diverge", "diverged"),
    (r"disk|no space left", "storage"),
    (r"not trained|cannot be trained|not available for fine-tuning", "model_not_found"),
    (r"\blines?\b.{0,12}\d|broken line|invalid_training_file|format|jsonl|parse|no examples|was deleted", "bad_file"),
    (r"internal|server error|try again|retry|restart|unavailable|overloaded|failed unexpectedly", "server_error"),
)
_CAUSES_BY_ERROR: tuple[tuple[type[FabulaError], Cause], ...] = (
    (errors.EngineMissing, "engine_missing"),
    (errors.ModelNotFound, "model_not_found"),
    (errors.RateLimited, "rate_limit"),
    (errors.Misconfigured, "setup"),
    (errors.Unreadable, "unreadable"),
    (errors.StreamCut, "interrupted"),
    (errors.StorageFull, "storage"),
    (errors.BadFile, "bad_file"),
)
_CAUSES_BY_BASE_ERROR: tuple[tuple[type[FabulaError], Cause], ...] = (
    (errors.ServerError, "server_error"),
    (errors.Unavailable, "unreachable"),
    (errors.Refused, "bad_key"),
    (errors.PromptTooLong, "too_long"),
    (errors.BadRequest, "bad_request"),
    (errors.OverBudget, "shared_budget"),
)
"""Fallback by exception type, for errors whose sentence matches no pattern."""


def of_row(reason: str | None, finish_reason: str | None = None) -> Failure:
    """The cause of a failed row."""
    cause = _cause_in_sentence(reason or "") or _FINISH_REASONS.get(finish_reason or "")
    return _failure(cause, cause or _cause_in_message(reason or "", _PROVIDER_MESSAGES) or "other", reason or "")


def of_run(reason: str | None) -> Failure:
    """Why a run ended before its last row."""
    return Failure(_cause_in_sentence(reason or "") or _cause_in_message(reason or "", _PROVIDER_MESSAGES) or "other")


def of_job(error: str | None) -> Failure:
    """The cause of a failed training job, from the provider's message or Fabula's."""
    cause = _cause_in_sentence(error or "", _JOB_MESSAGES) or _cause_in_message(error or "", _JOB_MESSAGES)
    return Failure(cause or "other")


def of_error(error: FabulaError) -> Failure:
    """The cause of an error that is shown immediately, such as a failed story."""
    cause = next((cause for kind, cause in _CAUSES_BY_ERROR if isinstance(error, kind)), None) or _cause_in_sentence(
        error.what
    )
    cause = cause or next((cause for kind, cause in _CAUSES_BY_BASE_ERROR if isinstance(error, kind)), None)
    return _failure(cause, cause or "other", error.what)


@lru_cache(maxsize=4096)
def _cause_in_sentence(sentence: str, messages: tuple[tuple[str, Cause], ...] = _PROVIDER_MESSAGES) -> Cause | None:
    """The cause named by one of Fabula's sentences; for a rejected request, the cause in the provider's message.

    The text before the first colon is Fabula's. The provider's message after it could match any pattern.
    """
    head, _colon, rest = sentence.partition(": ")
    if (cause := _first_match(_SENTENCES, head)) is not None:
        return cause
    if _REJECTED.search(head):
        return _cause_in_message(rest or head, messages) or "bad_request"
    return _first_match(_SENTENCES, sentence)


def _cause_in_message(text: str, table: tuple[tuple[str, Cause], ...]) -> Cause | None:
    return _first_match(table, text, re.I)


def _first_match(table: tuple[tuple[str, Cause], ...], text: str, flags: int = 0) -> Cause | None:
    return next((cause for pattern, cause in table if re.search(pattern, text, flags | re.S)), None)


def _failure(known: Cause | None, cause: Cause, sentence: str) -> Failure:
    """In a sentence with a `known` cause, the provider's message follows the first colon."""
    return Failure(cause, raw_text=sentence) if known is None else Failure(cause, sentence.partition(": ")[2])
