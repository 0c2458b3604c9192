"""Handles a request's rows once it has ended: they are settled, retried, sent one by one, or released.

`retry_policy` decides; this module carries the decision out, on the executor's event loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from decimal import Decimal

from core.db.tables import utcnow
from core.errors import BadRequest, FabulaError, ModelNotFound
from core.generation.claims import ClaimQueue, InFlight, PendingRequest
from core.generation.concurrency import Throughput
from core.generation.group_commit_writer import GroupCommitWriter
from core.generation.retry_policy import RequestRetryPolicy, RetryRow, RowAttempts, split_cost, split_tokens
from core.generation.row_store import Claim, RowOutcome, RowResult
from core.generation.run_budget import RequestCost
from core.providers import Completion


class ReplyHandler:
    """Handles replies to the requests of one run.

    Attributes:
        unsent: rows whose requests were refused without a bill, to be released at the end of the run.

    Args:
        notify: called when a retry has been scheduled.
    """

    def __init__(
        self,
        request_cost: RequestCost,
        retry_policy: RequestRetryPolicy,
        claim_queue: ClaimQueue,
        in_flight: InFlight,
        throughput: Throughput,
        writer: GroupCommitWriter,
        notify: Callable[[], None],
    ) -> None:
        self._request_cost, self._retry_policy, self._claim_queue = request_cost, retry_policy, claim_queue
        self._in_flight, self._throughput, self._writer, self._notify = in_flight, throughput, writer, notify
        self._attempts: dict[int, RowAttempts] = {}  # by row, for rows that are claimed a second time
        self.unsent: list[Claim] = []

    def restore_attempts(self, request: PendingRequest) -> None:
        """Restore the attempts that have already been made for a request's rows."""
        earlier = (self._attempts.pop(claim.row_id, None) for claim in request.claims)
        request.attempts = next((attempts for attempts in earlier if attempts), request.attempts)

    def answered(self, request: PendingRequest, answer: Completion) -> None:
        """Handle an answered request.

        If fewer texts arrived than requested, the endpoint does not support `n`; the rest are sent one by one.
        """
        settled = self._retry_policy.on_answer(answer, time.monotonic(), len(request.claims))
        self._throughput.record(len(settled))
        if request.split or len(settled) < len(request.claims):
            self._claim_queue.max_shared = 1
        self._send_separately(request.claims[len(settled) :])
        cost = self._request_cost.price(answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens)
        self._record(request.claims, settled, split_cost(cost, len(settled)))

    def failed(self, request: PendingRequest, error: FabulaError) -> None:
        """Handle a request that ended with an error."""
        now = time.monotonic()
        unbilled = isinstance(error, BadRequest) and not error.may_be_billed
        if len(request.claims) > 1 and unbilled and not isinstance(error, ModelNotFound):
            self._send_separately(request.claims)
            return
        decision = self._retry_policy.on_error(error, request.attempts, now)
        if isinstance(decision, RetryRow):
            if decision.lost:
                self._settle_lost(request, now + decision.wait_s)
                return
            self._claim_queue.refused(request)
            self._in_flight.wait(request, now + decision.wait_s)
            self._notify()
        elif isinstance(decision, RowResult):
            parts = len(request.claims)
            prompt, completion = (
                split_tokens(total, parts) for total in (decision.prompt_tokens, decision.completion_tokens)
            )
            settled = [
                decision._replace(prompt_tokens=used, completion_tokens=written)
                for used, written in zip(prompt, completion, strict=True)
            ]
            cost = self._request_cost.price(decision.prompt_tokens, decision.completion_tokens)
            self._record(request.claims, settled, split_cost(cost, parts))
        else:
            self.unsent += request.claims

    def _settle_lost(self, request: PendingRequest, not_before: float) -> None:
        """Settle a request that may be billed but produced no answer.

        Its cost is unknown and counts as the reserved amount. Its rows become pending again; the next claim reserves
        money for another request, if the budget allows.
        """
        request.attempts.not_before = not_before
        self._attempts.update((claim.row_id, request.attempts) for claim in request.claims)
        count, cost = len(request.claims), self._request_cost.price(None, None)
        self._record(request.claims, [RowResult("pending")] * count, [cost] * count)

    def _send_separately(self, claims: Sequence[Claim]) -> None:
        """Send these rows next, one by one.

        If that works, `n` was the problem, and rows no longer share requests in this run.
        """
        self._claim_queue.cleared.extendleft(PendingRequest((claim,), split=True) for claim in reversed(claims))

    def _record(self, claims: Sequence[Claim], results: Sequence[RowResult], costs: Sequence[Decimal | None]) -> None:
        now = utcnow()
        self._writer.add(
            RowOutcome(claim, result._replace(cost_usd=cost), now)
            for claim, result, cost in zip(claims, results, costs, strict=False)
        )
