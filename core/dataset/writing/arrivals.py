"""What to do when a request ends: keep its row, try again, give it back, end the run (design §8). No clock, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from core.dataset.writing.ledger import Claim, Outcome
from core.dataset.writing.outcomes import Alike, Verdict, judge
from core.dataset.writing.pace import Limits, Pace
from core.dataset.writing.sharing import divided
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
class End:
    """How a run ends: its last state, and a sentence.

    Attributes:
        wait_s: of state "waiting": seconds until it is resumed.
        growing: nobody said how long to wait: each pause without an answer in between is longer than the one before.
    """

    state: str
    reason: str | None = None
    wait_s: float | None = None
    growing: bool = False


class Kept(NamedTuple):
    """The row is settled: a verdict, and the tokens that it took (None: unknown)."""

    said: Verdict
    prompt_tokens: int | None
    completion_tokens: int | None

    def outcome(self, claim: Claim, cost_usd: Decimal | None, at: datetime) -> Outcome:
        """What becomes of the claimed row."""
        return Outcome(
            row_id=claim.row_id,
            spend_id=claim.spend_id,
            state=self.said.state,
            reason=self.said.reason,
            text=self.said.text,
            finish_reason=self.said.finish_reason,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            cost_usd=cost_usd,
            at=at,
            key=claim.key,
            reserved_usd=claim.reserved_usd,
        )


@dataclass(frozen=True, slots=True)
class Again:
    """The row is sent again after `wait_s` seconds.

    `lost`: nothing was heard of the end of what was sent, or it cannot be read. It counts at the most that it can have
    cost, and the row needs a new reservation.
    """

    wait_s: float
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Back:
    """The row was not bought; it is pending again."""


@dataclass(slots=True, eq=False)
class Tries:
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


class Arrivals:
    """Decides on every request that ends, and remembers what the decisions need.

    Attributes:
        heard_at: when the endpoint last gave an answer that counts (a clock's seconds).
        cause: why rows wait, a sentence; "" while none has had to.
        end: set as soon as the run has a reason to end.
    """

    def __init__(self, limits: Limits, pace: Pace, max_tokens: int, now: float) -> None:
        self._limits, self._pace, self._max_tokens = limits, pace, max_tokens
        self._alike = Alike(limits.alike)
        self._answers = 0
        self.heard_at = now
        self.cause = ""
        self._rate_limited = False  # the last error was a rate limit
        self.end: End | None = None

    def answer(self, answer: Completion, now: float, wanted: int = 1) -> list[Kept]:
        """An answer came, with `wanted` texts or fewer; one verdict for each text, at least one."""
        self._heard(now)
        self._alike.succeeded()
        self._pace.succeeded()
        return [
            Kept(judge(one, self._max_tokens), one.prompt_tokens, one.completion_tokens)
            for one in divided(answer, wanted)
        ]

    def error(self, error: FabulaError, tries: Tries, now: float) -> Kept | Again | Back:
        """A request ended with an error."""
        if isinstance(error, RateLimited | Unavailable):
            return self._again(error, tries, now)
        if isinstance(error, ProviderError) and not isinstance(error, Refused | ModelNotFound):
            self._heard(now)
            if self._alike.failed(error.what):
                self.ended(End("failed", msg("The provider refuses every request. {what}", what=error.what)))
            return Kept(Verdict("failed", error.what, None, None), 0, 0)
        self.ended(ended_by(error))
        return Back()

    def stalled(self, now: float, all_retried: bool) -> None:
        """End the run when there has been no answer for too long. A rate limit ends by itself: the run waits for that.

        Requests that are under way for the first time may still be answered; a run that has not failed to reach its
        endpoint yet (a slow database, a busy machine) has not stalled.
        """
        if not self.cause or not all_retried or now - self.heard_at <= self._limits.stall_s:
            return
        if self._rate_limited:
            self.ended(End("waiting", self.cause, self._limits.stall_s, growing=True))
            return
        minutes = max(1, round(self._limits.stall_s / 60))
        reason = msg("There was no answer for {minutes} minutes. {cause}", minutes=minutes, cause=self.cause)
        self.ended(End("failed", reason))

    def ended(self, end: End) -> None:
        """The run has a reason to end; the first one counts."""
        self.end = self.end or end

    def _heard(self, now: float) -> None:
        self._answers += 1
        self.heard_at = now

    def _again(self, error: RateLimited | Unavailable, tries: Tries, now: float) -> Kept | Again:
        self.cause, self._rate_limited = error.what, isinstance(error, RateLimited)
        lost = error.may_be_billed and not isinstance(error, ServerError)
        asked_s = retry_after_s(error)
        if isinstance(error, RateLimited):
            self._pace.rate_limited(tries.sent_at, now)
        elif self._answers > tries.answers_seen or lost:
            tries.strikes, tries.answers_seen = tries.strikes + 1, self._answers
        if isinstance(error, Unreadable) and self._alike.failed(error.what):
            self.ended(End("failed", msg("None of the answers can be read. {what}", what=error.what)))
        if tries.strikes >= self._limits.strikes:
            tokens = None if error.may_be_billed else 0
            return Kept(Verdict("failed", error.what, None, None), tokens, tokens)
        if asked_s is not None and asked_s > self._limits.stall_s:
            self.ended(End("waiting", error.what, asked_s))
        wait = wait_s(max(1, tries.count), asked_s, self._limits.base_s, self._limits.cap_s)
        return Again(wait, lost)


def ended_by(error: FabulaError) -> End:
    """The end that an error makes: what happened and what to do."""
    return End("failed", sentences(error.what, error.next_step))
