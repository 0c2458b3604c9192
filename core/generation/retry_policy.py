"""Decides what to do after an answer or an error: settle the row, retry it, release it, or end the run.

Pure: no clock, no I/O. A request may ask for several texts (`n`); `split_completion` divides its answer, tokens and
cost among their rows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from core.errors import (
    FabulaError,
    ModelNotFound,
    NotFound,
    ProviderError,
    ProviderRemoved,
    RateLimited,
    Refused,
    Transient,
    Unreadable,
)
from core.generation.concurrency import CircuitBreaker, ConcurrencyControl, RunLimits
from core.generation.row_store import RowResult
from core.message import cause_of, msg, sentences, with_cause
from core.providers import Choice, Completion, RetryPolicy
from core.sanitize import storable

_EMPTY = with_cause(msg("The answer was empty."), "empty_answer")
_MAX_FINISH_REASON = 30  # characters, the size of the column; the API's own values are shorter
_COST_UNIT = Decimal("1e-12")  # US dollars; a token costs at least a thousand times as much

_OUTAGE_CAP_FACTOR = 3  # in an outage, all rows pause for at most this many times the longest pause of a single row


def classify(answer: Completion, max_tokens: int) -> RowResult:
    """The result for the first text of an answer. Only a text with the finish reason `stop` is a finished story."""
    used = (answer.prompt_tokens, answer.completion_tokens)
    if not answer.texts:
        return RowResult("failed", _EMPTY, "", None, *used)
    choice = answer.texts[0]
    text = storable(choice.text)
    reason = _unfinished_reason(text, choice, max_tokens)
    finish_reason = storable(choice.finish_reason)[:_MAX_FINISH_REASON] if choice.finish_reason else None
    return RowResult("done" if reason is None else "failed", reason, text, finish_reason, *used)


def _unfinished_reason(text: str, choice: Choice, max_tokens: int) -> str | None:
    finish_reason = choice.finish_reason
    if choice.error:
        return storable(
            with_cause(msg("The provider ended the text with an error: {message}", message=choice.error), "interrupted")
        )
    if finish_reason == "length":
        return with_cause(
            msg("The text was cut off at {max_tokens} tokens.", max_tokens=f"{max_tokens:,}"), "token_limit"
        )
    if finish_reason == "refusal":
        return with_cause(msg("The model refused to write this."), "refused")
    if finish_reason == "content_filter":
        return with_cause(msg("The provider's content filter blocked the text."), "content_filter")
    if not text.strip():
        return _EMPTY
    if finish_reason is None:
        return with_cause(msg("The provider did not say whether the text is finished."), "interrupted")
    if finish_reason != "stop":
        return with_cause(
            msg("The text is not finished: the provider ended it with {finish_reason}.", finish_reason=finish_reason),
            "interrupted",
        )
    return None


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ends: its final state and a reason.

    Attributes:
        wait_s: for state "waiting": seconds until the run resumes.
        increasing: whether the provider did not report how long to wait; each pause without an answer in between is
            then longer than the previous one.
        unable: whether only this process is known to be unable to use the provider: another worker may have the right
            key (see `run_sharing.leave`).
    """

    state: str
    reason: str | None = None
    wait_s: float | None = None
    increasing: bool = False
    unable: bool = False


def end_for_error(error: FabulaError) -> RunEnd:
    """The end of a run that failed with this error, with what happened and what to do."""
    missing_here = isinstance(error, NotFound) and not isinstance(error, ProviderError | ProviderRemoved)
    unable = isinstance(error, Refused) or missing_here
    return RunEnd("failed", storable(sentences(error.what, error.next_step)), unable=unable)


class RepeatedFailures:
    """Detects failures that are not caused by the requests themselves: many consecutive ones with the same error
    message.

    Args:
        first: number of failures that counts as many before the first success; four times as many count afterwards.
    """

    def __init__(self, first: int) -> None:
        self._first = first
        self._last_message = ""
        self._count = 0
        self._succeeded = False

    def succeeded(self) -> None:
        """Record a success."""
        self._succeeded, self._count = True, 0

    def failed(self, message: str) -> bool:
        """Record a failure with this error message. Return True if continuing is pointless."""
        message = re.sub(r"\d+", "#", message)  # the same cause has different token counts and ids
        self._count = self._count + 1 if message == self._last_message else 1
        self._last_message = message
        return self._count >= (4 * self._first if self._succeeded else self._first)


def split_completion(answer: Completion, expected: int) -> list[Completion]:
    """Return one completion for each text, up to `expected` but at least one. Their tokens add up to the answer's."""
    if expected == 1:
        return [answer]
    texts: list[tuple[Choice, ...]] = [(text,) for text in answer.texts[:expected]] or [()]
    prompt, completion = (split_tokens(t, len(texts)) for t in (answer.prompt_tokens, answer.completion_tokens))
    return [
        replace(answer, texts=text, prompt_tokens=used, completion_tokens=written)
        for text, used, written in zip(texts, prompt, completion, strict=True)
    ]


def split_tokens(total: int | None, parts: int) -> Sequence[int | None]:
    """Split `total` into whole numbers; the first part gets the remainder. None means unknown."""
    if total is None:
        return [None] * parts
    each, remainder = divmod(total, parts)
    return [each + remainder] + [each] * (parts - 1)


def split_cost(total: Decimal | None, parts: int) -> Sequence[Decimal | None]:
    """Split `total` into parts that add up to it exactly; the first part gets the remainder. None means unknown."""
    if total is None or parts == 1:
        return [total] * parts
    each = (total / parts).quantize(_COST_UNIT, rounding="ROUND_DOWN")
    return [total - each * (parts - 1)] + [each] * (parts - 1)


@dataclass(frozen=True, slots=True)
class RetryRow:
    """Send the row again after `wait_s` seconds.

    `lost`: whether the request may be billed. If so, it counts at its maximum cost, and the row needs a new
    reservation.
    """

    wait_s: float
    lost: bool = False


@dataclass(frozen=True, slots=True)
class ReleaseRow:
    """The request was refused without a bill; the row becomes pending again."""


@dataclass(slots=True, eq=False)
class RowAttempts:
    """The attempts to generate a row.

    Attributes:
        failures: failures while other rows succeeded (so the row itself is the cause), and requests that may be billed.
        answers_seen: number of answers that the run had at the last counted failure.
        not_before: when the row may be sent again (monotonic seconds).
    """

    count: int = 0
    sent_at: float = 0.0
    failures: int = 0
    answers_seen: int = 0
    not_before: float = 0.0


class RequestRetryPolicy:
    """Decides what to do with every request that ends, and keeps the state needed to decide.

    Attributes:
        last_answer_at: time of the last valid answer (monotonic seconds).
        cause: why rows are waiting, as a sentence; "" if none has waited.
        end: set as soon as the run has a reason to end.
    """

    def __init__(self, limits: RunLimits, concurrency: ConcurrencyControl, max_tokens: int, now: float) -> None:
        self._limits, self._concurrency, self._max_tokens = limits, concurrency, max_tokens
        self._repeated_failures = RepeatedFailures(limits.max_repeated_failures)
        self._row_policy = RetryPolicy(base_s=limits.base_s, cap_s=limits.cap_s)
        self._circuit_breaker = CircuitBreaker(
            limits.max_lost_requests, replace(self._row_policy, cap_s=_OUTAGE_CAP_FACTOR * limits.cap_s)
        )
        self._answers = 0
        self.last_answer_at = now
        self.cause = ""
        self._rate_limited = False  # the last error was a rate limit
        self.end: RunEnd | None = None

    def on_answer(self, answer: Completion, now: float, expected: int = 1) -> list[RowResult]:
        """Handle an answer with `expected` texts or fewer. Return one result per text, at least one."""
        self._count_answer(now)
        self._repeated_failures.succeeded()
        self._concurrency.succeeded()
        return [classify(part, self._max_tokens) for part in split_completion(answer, expected)]

    def on_error(self, error: FabulaError, attempts: RowAttempts, now: float) -> RowResult | RetryRow | ReleaseRow:
        """Handle a request that ended with an error."""
        if isinstance(error, Transient):
            return self._retry(error, attempts, now)
        if isinstance(error, ProviderError) and not isinstance(error, Refused | ModelNotFound):
            self._count_answer(now)
            if self._repeated_failures.failed(error.what):
                self.end_run(RunEnd("failed", msg("The provider refuses every request. {what}", what=error.what)))
            return _failed_row(error)
        self.end_run(end_for_error(error))
        return ReleaseRow()

    def available(self, in_flight: int, now: float) -> int:
        """How many more requests may be sent now."""
        available = self._concurrency.available(in_flight)
        limit = self._circuit_breaker.available(in_flight, now)
        return available if limit is None else min(available, limit)

    @property
    def resume_at(self) -> float | None:
        """When the next request may be sent (monotonic seconds) in an outage; None if there is no outage."""
        return self._circuit_breaker.resume_at

    def check_stalled(self, now: float, all_retried: bool) -> None:
        """End the run if there was no answer for too long. After a rate limit, which is temporary, the run waits
        instead.

        A run is not stalled while first attempts may still be answered, or if it has had no error yet (slow database,
        busy machine).
        """
        if not self.cause or not all_retried or now - self.last_answer_at <= self._limits.stall_s:
            return
        if self._rate_limited:
            self.end_run(RunEnd("waiting", self.cause, self._limits.stall_s, increasing=True))
            return
        minutes = max(1, round(self._limits.stall_s / 60))
        reason = msg("There was no answer for {minutes} minutes. {cause}", minutes=minutes, cause=self.cause)
        reason = with_cause(reason, cause_of(self.cause) or "unreachable")
        self.end_run(RunEnd("failed", reason))

    def end_run(self, end: RunEnd) -> None:
        """Record a reason to end the run; only the first reason counts."""
        self.end = self.end or end

    def _count_answer(self, now: float) -> None:
        self._answers += 1
        self.last_answer_at = now
        if self._circuit_breaker.on_success():
            self._concurrency.restart()

    def _retry(self, error: Transient, attempts: RowAttempts, now: float) -> RowResult | RetryRow:
        self.cause, self._rate_limited = error.what, isinstance(error, RateLimited)
        lost, retry_after = error.may_be_billed, error.retry_after_s
        if isinstance(error, RateLimited):
            self._concurrency.rate_limited(attempts.sent_at, now)
        elif self._answers > attempts.answers_seen or lost:
            attempts.failures, attempts.answers_seen = attempts.failures + 1, self._answers
        if lost or self._circuit_breaker.is_open:
            self._circuit_breaker.on_failure(attempts.sent_at, now, retry_after)
        if isinstance(error, Unreadable) and self._repeated_failures.failed(error.what):
            self.end_run(RunEnd("failed", msg("None of the answers can be read. {what}", what=error.what)))
        if attempts.failures >= self._limits.max_row_failures:
            if self._answers:
                return _failed_row(error)
            self.end_run(RunEnd("failed", _nothing_answered(attempts.failures, error)))  # the row stays pending
        if retry_after is not None and retry_after > self._limits.stall_s:
            self.end_run(RunEnd("waiting", error.what, retry_after))
        return RetryRow(self._row_policy.wait_s(max(1, attempts.count), retry_after), lost)


def _failed_row(error: ProviderError) -> RowResult:
    tokens = None if error.may_be_billed else 0
    return RowResult("failed", error.what, prompt_tokens=tokens, completion_tokens=tokens)


def _nothing_answered(tries: int, error: ProviderError) -> str:
    """The end of a run after `tries` attempts at one row without an answer to any row."""
    return msg("No request was answered, and one row was tried {tries} times. {what}", tries=tries, what=error.what)
