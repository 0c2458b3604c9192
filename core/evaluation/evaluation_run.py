"""Runs an evaluation in the worker: asks the model, saves and bills each answer, and computes the metrics."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack

from sqlalchemy import select

from core.db.store import Store
from core.db.tables import Evaluation, EvaluationAnswer, utcnow
from core.errors import FabulaError
from core.evaluation import holdout
from core.evaluation.evaluation_context import EvaluationContext, EvaluationStopped
from core.evaluation.evaluation_request import MAX_BILLED_ATTEMPTS, EvaluationRequester, RowResult, endpoint_for
from core.evaluation.evaluation_types import ACTIVE, EvaluationView, HeldOutExample
from core.message import msg, sentences
from core.pricing import custom_prices, tokens
from core.providers import Client, Registry
from core.providers.schemas import Endpoint
from core.settings import Settings

UNFINISHED = select(Evaluation.id).where(Evaluation.state.in_(ACTIVE)).order_by(Evaluation.id)
"""Selects the ids of unfinished evaluations, oldest first."""

_POLL_S = 0.5  # maximum delay before a stop cancels the requests in flight
_CONCURRENCY = 4  # the number of requests that the engine answers in parallel
_MAX_INITIAL_FAILURES = 5  # consecutive failures at the start; then all rows would fail
_MAX_UNANSWERED = 2 * _CONCURRENCY  # consecutive rows without an answer, each sent several times: an outage
_MIN_ANSWER_TOKENS = 16  # enough for a label in any script
_LENGTH_FACTOR = 1.5  # times the longest expected text
_MAX_ANSWER_TOKENS = 2_048


def carry_out(store: Store, registry: Registry, evaluation_id: str, stopping: threading.Event | None = None) -> None:
    """Run an evaluation to its end. Resumes where it stopped: answered rows are not sent again.

    Raises:
        FabulaError: it can't continue. The caller records this with `give_up`.
    """
    context = EvaluationContext(store, evaluation_id, stopping or threading.Event())
    if not context.begin():
        return
    with contextlib.suppress(EvaluationStopped):
        client = context.with_retries(lambda: registry.get(context.view.provider))
        endpoint = context.with_retries(
            lambda: endpoint_for(client, context.view.model, context.view.settings.get("file_format"))
        )
        _evaluate_rows(context, client, endpoint)
    if not context.stopping.is_set():
        context.finish()


def give_up(store: Store, evaluation_id: str, error: FabulaError) -> None:
    """Mark an evaluation as failed with the reason. Its answers are kept."""
    with store.session() as session:
        evaluation = session.get(Evaluation, evaluation_id)
        if evaluation is not None and evaluation.state in ACTIVE:
            evaluation.state, evaluation.reason, evaluation.finished_at = (
                "failed",
                sentences(error.what, error.next_step),
                utcnow(),
            )


def _evaluate_rows(context: EvaluationContext, client: Client, endpoint: Endpoint) -> None:
    """Send all rows without an answer, `_CONCURRENCY` at a time.

    A stop cancels the requests in flight. After an error, the other requests in flight are completed.
    """
    view, book = context.view, custom_prices.book(context.store, Settings.from_env().home)
    rows = list(holdout.examples(context.store, view))
    with context.store.reading() as session:
        answered = set(
            session.scalars(select(EvaluationAnswer.row_key).where(EvaluationAnswer.evaluation_id == context.id))
        )
    remaining = [row for row in rows if row.key not in answered]
    max_tokens = _max_answer_tokens(view, rows)
    requester = EvaluationRequester(context, client, book, view, endpoint, max_tokens)
    failures = unanswered = 0
    with ExitStack() as stack:
        pool = ThreadPoolExecutor(_CONCURRENCY, thread_name_prefix="evaluation")
        stack.callback(pool.shutdown, wait=True, cancel_futures=True)
        pending: set[Future[RowResult]] = {pool.submit(requester.ask, row) for row in remaining}
        while pending:
            done, pending = wait(pending, timeout=_POLL_S, return_when=FIRST_COMPLETED)
            for row in done:
                failures = 0 if row.result() == "answered" else failures + 1
                unanswered = unanswered + 1 if row.result() == "unanswered" else 0
            _raise_if_hopeless(context, failures, unanswered)
            context.raise_and_cancel_requests()


def _raise_if_hopeless(context: EvaluationContext, failures: int, unanswered: int) -> None:
    """End the evaluation if other rows would fail too.

    Args:
        failures: consecutive rows without a valid answer.
        unanswered: consecutive rows that were sent several times without any answer.

    Raises:
        FabulaError: they would.
    """
    if failures >= _MAX_INITIAL_FAILURES and not context.view.answered:
        raise FabulaError(
            msg(
                "The first {failures} rows all failed: {last_reason}",
                failures=failures,
                last_reason=context.last_reason(),
            ),
            msg("Fix the problems listed, then retry the missing answers."),
        )
    if unanswered >= _MAX_UNANSWERED:
        raise FabulaError(
            msg(
                "{rows} rows in a row got no answer in {tries} tries each: {last_reason}",
                rows=unanswered,
                tries=MAX_BILLED_ATTEMPTS,
                last_reason=context.last_reason(),
            ),
            msg("Answers so far are kept. Check the provider's status page, then retry the missing answers."),
        )


def _max_answer_tokens(view: EvaluationView, rows: list[HeldOutExample]) -> int:
    """The token limit of an answer."""
    if (limit := view.settings.get("max_tokens")) is not None:
        return int(limit)
    longest = max((row.expected for row in rows), key=len, default="")
    estimate = int(tokens.count([longest], view.model).tokens * _LENGTH_FACTOR)
    return max(_MIN_ANSWER_TOKENS, min(_MAX_ANSWER_TOKENS, estimate))
