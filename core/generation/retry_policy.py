"""What to do when a request ends: settle its row, retry, release it, or end the run. No clock, no I/O."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from core.errors import FabulaError, ModelNotFound, ProviderError, RateLimited, Refused, Transient, Unreadable
from core.generation.concurrency import CircuitBreaker, ConcurrencyControl, RunLimits
from core.generation.response_classification import (
    RepeatedFailures,
    ResponseVerdict,
    RunEnd,
    classify,
    end_for_error,
    split_completion,
)
from core.generation.row_store import Claim, RowOutcome
from core.message import cause_of, msg, with_cause
from core.providers import Completion, RetryPolicy

_OUTAGE_CAP_FACTOR = 3  # longest pause of all rows in an outage: this many times the longest pause of one row


class SettleRow(NamedTuple):
    """The row is settled: a verdict, and the tokens used (None: unknown)."""

    verdict: ResponseVerdict
    prompt_tokens: int | None
    completion_tokens: int | None

    def outcome(self, claim: Claim, cost_usd: Decimal | None, finished_at: datetime) -> RowOutcome:
        """The result for the claimed row."""
        return RowOutcome(
            row_id=claim.row_id,
            spend_id=claim.spend_id,
            state=self.verdict.state,
            reason=self.verdict.reason,
            text=self.verdict.text,
            finish_reason=self.verdict.finish_reason,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            cost_usd=cost_usd,
            at=finished_at,
            key=claim.key,
            reserved_usd=claim.reserved_usd,
        )


@dataclass(frozen=True, slots=True)
class RetryRow:
    """Send the row again after `wait_s` seconds.

    `lost`: the request may be billed. It counts at its maximum cost, and the row needs a new reservation.
    """

    wait_s: float
    lost: bool = False


@dataclass(frozen=True, slots=True)
class ReleaseRow:
    """The request was refused without a bill; the row is pending again."""


@dataclass(slots=True, eq=False)
class RowAttempts:
    """The attempts to generate a row.

    Attributes:
        failures: failures while other rows succeeded (so the row itself is the cause), and requests that may be billed.
        answers_seen: answers of the run at the last counted failure.
        not_before: when the row may be sent again (monotonic seconds).
    """

    count: int = 0
    sent_at: float = 0.0
    failures: int = 0
    answers_seen: int = 0
    not_before: float = 0.0


class RequestRetryPolicy:
    """Decides what to do with every request that ends, and keeps the state needed for the decisions.

    Attributes:
        last_answer_at: time of the last valid answer (monotonic seconds).
        cause: why rows wait, a sentence; "" if none has waited.
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

    def on_answer(self, answer: Completion, now: float, expected: int = 1) -> list[SettleRow]:
        """An answer arrived with `expected` texts or fewer. Returns one verdict per text, at least one."""
        self._count_answer(now)
        self._repeated_failures.succeeded()
        self._concurrency.succeeded()
        return [
            SettleRow(classify(part, self._max_tokens), part.prompt_tokens, part.completion_tokens)
            for part in split_completion(answer, expected)
        ]

    def on_error(self, error: FabulaError, attempts: RowAttempts, now: float) -> SettleRow | RetryRow | ReleaseRow:
        """A request ended with an error."""
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
        """In an outage, when the next request may be sent (monotonic seconds). None: there is no outage."""
        return self._circuit_breaker.resume_at

    def check_stalled(self, now: float, all_retried: bool) -> None:
        """End the run if there was no answer for too long. After a rate limit, which ends by itself, the run waits
        instead.

        First attempts may still be answered, and a run that has had no error yet (slow database, busy machine) is not
        stalled.
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
        """Record a reason to end the run; the first one counts."""
        self.end = self.end or end

    def _count_answer(self, now: float) -> None:
        self._answers += 1
        self.last_answer_at = now
        if self._circuit_breaker.on_success():
            self._concurrency.restart()

    def _retry(self, error: Transient, attempts: RowAttempts, now: float) -> SettleRow | RetryRow:
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


def _failed_row(error: ProviderError) -> SettleRow:
    tokens = None if error.may_be_billed else 0
    return SettleRow(ResponseVerdict("failed", error.what, None, None), tokens, tokens)


def _nothing_answered(tries: int, error: ProviderError) -> str:
    """Why a run ends after `tries` attempts at one row without an answer to any row."""
    return msg("No request was answered, and one row was tried {tries} times. {what}", tries=tries, what=error.what)
