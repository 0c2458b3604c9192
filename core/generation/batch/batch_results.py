"""Interprets a line of a batch's output: what it means for its row and for the run. No clock, no I/O."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

from core.errors import ModelNotFound, Refused, Transient, Unavailable
from core.generation.retry_policy import RepeatedFailures, RunEnd, classify, end_for_error
from core.generation.row_store import RowResult
from core.message import msg, with_cause
from core.providers.batches import BatchAnswer, BatchFault, RemoteBatch
from core.sanitize import storable

_MAX_ATTEMPTS = 3  # number of batches that a row may go through without an answer; each may take a day
_REPEATED = 5  # this many equal refusals before the first success are not the row's fault; see `RepeatedFailures`
_PENDING = RowResult("pending")
# code used by OpenAI and Azure: too many enqueued tokens in all of the account's batches
_QUEUE_FULL = "token_limit_exceeded"


BatchPrice = Callable[[int | None, int | None], Decimal | None]
"""US dollars for (prompt tokens, completion tokens) in a batch, None if unknown."""


class BatchOutcome(NamedTuple):
    """The result for the row with this key.

    `may_be_billed`: for a pending row, whether the request that produced no answer may be billed, at an unknown cost.
    """

    key: str
    result: RowResult
    may_be_billed: bool = False


@dataclass(slots=True)
class FailureHistory:
    """Failures that a run remembers from one batch to the next.

    Attributes:
        repeated: counts consecutive equal refusals.
        attempts: how often each row, by key, came back without an answer.
    """

    repeated: RepeatedFailures = field(default_factory=lambda: RepeatedFailures(_REPEATED))
    attempts: Counter[str] = field(default_factory=Counter)


class BatchResults:
    """Classifies every line, and keeps the state needed to do so.

    Attributes:
        end: set as soon as the run has a reason to end.

    Args:
        max_tokens: the recipe's token limit.
        history: failures of earlier batches of the run.
    """

    def __init__(
        self,
        max_tokens: int,
        history: FailureHistory | None = None,
    ) -> None:
        self._max_tokens = max_tokens
        history = history or FailureHistory()
        self._repeated, self._attempts = history.repeated, history.attempts
        self.end: RunEnd | None = None

    def read(self, answer: BatchAnswer, price: BatchPrice, old: bool = False) -> BatchOutcome:
        """The result for this line's row.

        Args:
            price: for the batch's model.
            old: whether the line is from a batch of an earlier run. Its errors may be fixed by now, so the row is sent
                again.
        """
        if answer.completion is not None:
            self._repeated.succeeded()
            result = classify(answer.completion, self._max_tokens)
            cost_usd = price(result.prompt_tokens, result.completion_tokens)
            return BatchOutcome(answer.custom_id, result._replace(cost_usd=cost_usd))
        error = answer.error or Unavailable(
            with_cause(msg("The provider's file lists this row without an answer."), "interrupted")
        )
        if old:
            return BatchOutcome(answer.custom_id, _PENDING, error.may_be_billed)
        if isinstance(error, Transient):
            return self.count_failure(answer.custom_id, error.what, may_be_billed=error.may_be_billed)
        if isinstance(error, Refused | ModelNotFound):
            self.end = self.end or end_for_error(error)
            return BatchOutcome(answer.custom_id, _PENDING)
        if self._repeated.failed(error.what):
            self.end = self.end or RunEnd(
                "failed", msg("The provider refuses every request. {what}", what=storable(error.what))
            )
        return _failed(answer.custom_id, error.what, error.may_be_billed)

    def count_failure(self, key: str, message: str, *, may_be_billed: bool = False) -> BatchOutcome:
        """Count a row that came back without an answer; it is sent again, up to a limit."""
        self._attempts[key] += 1
        if self._attempts[key] < _MAX_ATTEMPTS:
            return BatchOutcome(key, _PENDING, may_be_billed)
        del self._attempts[key]
        return _failed(key, message, may_be_billed)


def is_queue_full(remote: RemoteBatch) -> bool:
    """True if a batch was refused only because too many tokens are already enqueued at the provider."""
    return any(fault.code == _QUEUE_FULL for fault in remote.faults)


def rejected_lines(remote: RemoteBatch) -> Mapping[int, BatchFault]:
    """The lines (from 1) that caused the rejection of a file. Empty if the whole file was rejected."""
    by_line = {fault.line: fault for fault in remote.faults if fault.line is not None and fault.line > 0}
    messages = {re.sub(r"\d+", "#", fault.message) for fault in by_line.values()}
    return {} if len(by_line) >= _REPEATED and len(messages) == 1 else by_line


def rejection_reason(remote: RemoteBatch) -> str:
    """The provider's reason for rejecting a file."""
    return storable(remote.faults[0].message) if remote.faults else msg("No reason was given.")


def _failed(key: str, message: str, may_be_billed: bool) -> BatchOutcome:
    """The outcome for a row that failed, at an unknown cost or at no cost."""
    return BatchOutcome(key, RowResult("failed", storable(message))) if may_be_billed else unbilled(key, message)


def unbilled(key: str, message: str) -> BatchOutcome:
    """The outcome for a row that failed before a model processed it."""
    result = RowResult("failed", storable(message), prompt_tokens=0, completion_tokens=0, cost_usd=Decimal(0))
    return BatchOutcome(key, result)
