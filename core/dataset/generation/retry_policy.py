"""What to do when a request ends: keep its row, try again, give it back, end the run (design §8). No clock, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from core.dataset.generation.concurrency import ConcurrencyControl, RunLimits
from core.dataset.generation.request_grouping import split_completion
from core.dataset.generation.response_classification import RepeatedFailures, ResponseVerdict, classify
from core.dataset.generation.row_store import Claim, RowOutcome
from core.errors import (
    FabulaError,
    ModelNotFound,
    ProviderError,
    RateLimited,
    Refused,
    ServerError,
    Unavailable,
    Unreadable,
)
from core.message import msg, sentences
from core.providers import Completion
from core.providers.errors import retry_after_s
from core.providers.retry import wait_s


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ends: its last state, and a sentence.

    Attributes:
        wait_s: of state "waiting": seconds until it is resumed.
        growing: nobody said how long to wait: each pause without an answer in between is longer than the one before.
    """

    state: str
    reason: str | None = None
    wait_s: float | None = None
    growing: bool = False


class SettleRow(NamedTuple):
    """The row is settled: a verdict, and the tokens that it took (None: unknown)."""

    verdict: ResponseVerdict
    prompt_tokens: int | None
    completion_tokens: int | None

    def outcome(self, claim: Claim, cost_usd: Decimal | None, at: datetime) -> RowOutcome:
        """What becomes of the claimed row."""
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
            at=at,
            key=claim.key,
            reserved_usd=claim.reserved_usd,
        )


@dataclass(frozen=True, slots=True)
class RetryRow:
    """The row is sent again after `wait_s` seconds.

    `lost`: nothing was heard of the end of what was sent, or it cannot be read. It counts at the most that it can have
    cost, and the row needs a new reservation.
    """

    wait_s: float
    lost: bool = False


@dataclass(frozen=True, slots=True)
class ReleaseRow:
    """The row was not bought; it is pending again."""


@dataclass(slots=True, eq=False)
class RowAttempts:
    """What a row has been through.

    Attributes:
        strikes: failures while other rows succeeded (then it is the row), and requests that were lost.
        not_before: when it may be sent again (a clock's seconds).
    """

    count: int = 0
    sent_at: float = 0.0
    strikes: int = 0
    answers_seen: int = 0
    not_before: float = 0.0


class RequestRetryPolicy:
    """Decides on every request that ends, and remembers what the decisions need.

    Attributes:
        last_answer_at: when the endpoint last gave an answer that counts (a clock's seconds).
        cause: why rows wait, a sentence; "" while none has had to.
        end: set as soon as the run has a reason to end.
    """

    def __init__(self, limits: RunLimits, concurrency: ConcurrencyControl, max_tokens: int, now: float) -> None:
        self._limits, self._concurrency, self._max_tokens = limits, concurrency, max_tokens
        self._alike = RepeatedFailures(limits.alike)
        self._answers = 0
        self.last_answer_at = now
        self.cause = ""
        self._rate_limited = False  # the last error was a rate limit
        self.end: RunEnd | None = None

    def answer(self, answer: Completion, now: float, wanted: int = 1) -> list[SettleRow]:
        """An answer came, with `wanted` texts or fewer; one verdict for each text, at least one."""
        self._count_answer(now)
        self._alike.succeeded()
        self._concurrency.succeeded()
        return [
            SettleRow(classify(one, self._max_tokens), one.prompt_tokens, one.completion_tokens)
            for one in split_completion(answer, wanted)
        ]

    def error(self, error: FabulaError, tries: RowAttempts, now: float) -> SettleRow | RetryRow | ReleaseRow:
        """A request ended with an error."""
        if isinstance(error, RateLimited | Unavailable):
            return self._again(error, tries, now)
        if isinstance(error, ProviderError) and not isinstance(error, Refused | ModelNotFound):
            self._count_answer(now)
            if self._alike.failed(error.what):
                self.ended(RunEnd("failed", msg("The provider refuses every request. {what}", what=error.what)))
            return SettleRow(ResponseVerdict("failed", error.what, None, None), 0, 0)
        self.ended(end_for_error(error))
        return ReleaseRow()

    def stalled(self, now: float, all_retried: bool) -> None:
        """End the run when there has been no answer for too long. A rate limit ends by itself: the run waits for that.

        Requests that are under way for the first time may still be answered; a run that has not failed to reach its
        endpoint yet (a slow database, a busy machine) has not stalled.
        """
        if not self.cause or not all_retried or now - self.last_answer_at <= self._limits.stall_s:
            return
        if self._rate_limited:
            self.ended(RunEnd("waiting", self.cause, self._limits.stall_s, growing=True))
            return
        minutes = max(1, round(self._limits.stall_s / 60))
        reason = msg("There was no answer for {minutes} minutes. {cause}", minutes=minutes, cause=self.cause)
        self.ended(RunEnd("failed", reason))

    def ended(self, end: RunEnd) -> None:
        """The run has a reason to end; the first one counts."""
        self.end = self.end or end

    def _count_answer(self, now: float) -> None:
        self._answers += 1
        self.last_answer_at = now

    def _again(self, error: RateLimited | Unavailable, tries: RowAttempts, now: float) -> SettleRow | RetryRow:
        self.cause, self._rate_limited = error.what, isinstance(error, RateLimited)
        lost = error.may_be_billed and not isinstance(error, ServerError)
        asked_s = retry_after_s(error)
        if isinstance(error, RateLimited):
            self._concurrency.rate_limited(tries.sent_at, now)
        elif self._answers > tries.answers_seen or lost:
            tries.strikes, tries.answers_seen = tries.strikes + 1, self._answers
        if isinstance(error, Unreadable) and self._alike.failed(error.what):
            self.ended(RunEnd("failed", msg("None of the answers can be read. {what}", what=error.what)))
        if tries.strikes >= self._limits.strikes:
            tokens = None if error.may_be_billed else 0
            return SettleRow(ResponseVerdict("failed", error.what, None, None), tokens, tokens)
        if asked_s is not None and asked_s > self._limits.stall_s:
            self.ended(RunEnd("waiting", error.what, asked_s))
        wait = wait_s(max(1, tries.count), asked_s, self._limits.base_s, self._limits.cap_s)
        return RetryRow(wait, lost)


def end_for_error(error: FabulaError) -> RunEnd:
    """The end that an error makes: what happened and what to do."""
    return RunEnd("failed", sentences(error.what, error.next_step))
