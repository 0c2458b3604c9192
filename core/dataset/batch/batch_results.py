"""What a line of a batch's answers means for its row and for the run (design §8, a day later). No clock, no I/O."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from core.dataset.batch.batch_settlement import BatchOutcome
from core.dataset.generation.response_classification import RepeatedFailures, classify, storable
from core.errors import FabulaError, ModelNotFound, RateLimited, Refused, Unavailable
from core.message import msg, sentences
from core.providers.batches import BatchAnswer, BatchFault, RemoteBatch

_STRIKES = 3  # batches that a row may go through without an answer of its own; each may take a day
_ALIKE = 5  # so many equal refusals before the first success mean that it is not the row; see `outcomes.Alike`
_CROWDED = "token_limit_exceeded"  # OpenAI's and Azure's code: more tokens wait in all batches than the account may


@dataclass(frozen=True, slots=True)
class BatchRunEnd:
    """How a run ends: its last state, and a sentence."""

    state: str
    reason: str | None = None


def end_for_error(error: FabulaError) -> BatchRunEnd:
    """The end that an error makes: what happened and what to do."""
    return BatchRunEnd("failed", storable(sentences(error.what, error.next_step)))


@dataclass(slots=True)
class FailureHistory:
    """What is remembered from one batch of a run to the next.

    Attributes:
        alike: counts equal refusals in a row.
        strikes: how often a row, by key, came back without an answer of its own.
    """

    alike: RepeatedFailures = field(default_factory=lambda: RepeatedFailures(_ALIKE))
    strikes: Counter[str] = field(default_factory=Counter)


class BatchResults:
    """Decides on every line, and remembers what the decisions need.

    Attributes:
        end: set as soon as the run has a reason to end.

    Args:
        max_tokens: the recipe's.
        price: US dollars for (prompt tokens, completion tokens) in a batch, None where unknown.
        seen: what earlier answers of the run have shown.
    """

    def __init__(
        self,
        max_tokens: int,
        price: Callable[[int | None, int | None], Decimal | None],
        seen: FailureHistory | None = None,
    ) -> None:
        self._max_tokens, self._price = max_tokens, price
        seen = seen or FailureHistory()
        self._alike, self._strikes = seen.alike, seen.strikes
        self.end: BatchRunEnd | None = None

    def read(self, answer: BatchAnswer, old: bool = False) -> BatchOutcome:
        """What becomes of the row that this line is about.

        `old`: from a batch of an earlier run. What was wrong then may be put right by now: its row is sent again.
        """
        if answer.completion is not None:
            self._alike.succeeded()
            return self._written(answer)
        if old:
            return BatchOutcome(answer.custom_id, "pending")
        error = answer.error or Unavailable(msg("The provider's file names this row without an answer."))
        if isinstance(error, RateLimited | Unavailable):
            return self.count_failure(answer.custom_id, error.what)
        if isinstance(error, Refused | ModelNotFound):
            self.end = self.end or end_for_error(error)
            return BatchOutcome(answer.custom_id, "pending")
        if self._alike.failed(error.what):
            self.end = self.end or BatchRunEnd(
                "failed", msg("The provider refuses every request. {what}", what=storable(error.what))
            )
        return unbilled(answer.custom_id, error.what)

    def count_failure(self, key: str, words: str) -> BatchOutcome:
        """A row that came back without an answer of its own: sent again, a few times."""
        self._strikes[key] += 1
        if self._strikes[key] < _STRIKES:
            return BatchOutcome(key, "pending")
        del self._strikes[key]
        return unbilled(key, words)

    def _written(self, answer: BatchAnswer) -> BatchOutcome:
        completion = answer.completion
        assert completion is not None
        said = classify(completion, self._max_tokens)
        used = (completion.prompt_tokens, completion.completion_tokens)
        return BatchOutcome(
            key=answer.custom_id,
            state=said.state,
            reason=said.reason,
            text=said.text,
            finish_reason=said.finish_reason,
            prompt_tokens=used[0],
            completion_tokens=used[1],
            cost_usd=self._price(*used),
        )


def is_queue_full(remote: RemoteBatch) -> bool:
    """Whether a batch was refused only because too much waits at the provider already."""
    return any(fault.code == _CROWDED for fault in remote.faults)


def rejected_lines(remote: RemoteBatch) -> Mapping[int, BatchFault]:
    """Lines (from 1) for whose own sake a file was refused; none when its cause is the whole file's, or all alike."""
    named = {fault.line: fault for fault in remote.faults if fault.line is not None and fault.line > 0}
    words = {re.sub(r"\d+", "#", fault.message) for fault in named.values()}
    return {} if len(named) >= _ALIKE and len(words) == 1 else named


def rejection_reason(remote: RemoteBatch) -> str:
    """The provider's words for a file that it did not take."""
    return storable(remote.faults[0].message) if remote.faults else msg("No reason was given.")


def unbilled(key: str, words: str) -> BatchOutcome:
    """A row that failed before a model read it."""
    return BatchOutcome(key, "failed", storable(words), prompt_tokens=0, completion_tokens=0, cost_usd=Decimal(0))
