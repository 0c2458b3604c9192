"""Runs an evaluation in the worker: asks the model for each row, then computes the metrics from the saved answers."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from decimal import Decimal
from itertools import islice

from sqlalchemy import select

from core import shared_files
from core.datasets.quality.measure import report
from core.datasets.quality.report import QualityRow
from core.db import leases
from core.db.store import Store
from core.db.tables import Evaluation, EvaluationAnswer, Spend, TrainingJob, utcnow
from core.engine import message_text
from core.errors import FabulaError, ModelNotFound
from core.evaluation import evaluations, scoring
from core.evaluation.evaluation_request import (
    MAX_BILLED_ATTEMPTS,
    EvaluationContext,
    EvaluationRequester,
    EvaluationStopped,
    RowResult,
    endpoint_for,
)
from core.evaluation.evaluations import ACTIVE, EvaluationView, examples
from core.evaluation.holdout import HeldOutExample
from core.evaluation.scoring import Metrics
from core.finetuning import results
from core.finetuning.checkpoints import list_checkpoints
from core.message import msg, sentences
from core.pricing import custom_prices, machine_time, stopped_models, tokens
from core.pricing.price_book import PriceBook
from core.providers import Client, Registry
from core.providers.schemas import Endpoint
from core.settings import Settings

UNFINISHED = select(Evaluation.id).where(Evaluation.state.in_(ACTIVE)).order_by(Evaluation.id)
"""Selects the ids of unfinished evaluations, oldest first."""

_POLL_S = 0.5  # maximum delay before a stop cancels the requests in flight
# requests at a time for a provider that reports no number; an evaluation has a few hundred rows
DEFAULT_CONCURRENCY = 4
# after this many consecutive failures at the start, stop: every row would probably fail
_MAX_INITIAL_FAILURES = 5
_MAX_UNANSWERED = 2 * DEFAULT_CONCURRENCY  # consecutive rows without an answer, each sent several times: an outage
_SUPERSEDED_S = 30.0
_MIN_ANSWER_TOKENS = 16  # enough for a label in any script
_LENGTH_FACTOR = 1.5  # times the longest expected text
_MAX_ANSWER_TOKENS = 2_048

_NO_LOSS = msg(
    "This provider can't compute the loss of given texts. The loss is known only for tuned models with validation rows."
)
_MEASURED = msg("Measured by the provider during training, on the validation examples.")


def carry_out(
    store: Store, registry: Registry, evaluation_id: str, stopping: threading.Event | None = None
) -> float | None:
    """Run an evaluation to its end. Resumes where it stopped: answered rows are not sent again.

    Returns:
        None; if another executor has taken over, the seconds after which to look whether it has finished.

    Raises:
        FabulaError: it can't continue. The caller records this with `give_up`.
    """
    with leases.hold_lease() as claimant:
        context = EvaluationContext(store, evaluation_id, stopping or threading.Event(), claimant)
        try:
            _carry_out(context, registry)
        except FabulaError:
            if not context.superseded.is_set():
                raise
    return _SUPERSEDED_S if context.superseded.is_set() else None


def _carry_out(context: EvaluationContext, registry: Registry) -> None:
    with contextlib.suppress(EvaluationStopped):
        if not context.begin():
            return
        provider_id = context.view.provider
        client = context.with_retries(lambda: registry.get(provider_id))
        endpoint = context.with_retries(
            lambda: endpoint_for(client, context.view.model, context.view.settings.get("file_format"))
        )
        _evaluate_rows(context, client, endpoint, lambda: registry.get(provider_id))
    if not context.stopping.is_set() and not context.superseded.is_set():
        _finish(context)


def give_up(store: Store, evaluation_id: str, error: FabulaError) -> None:
    """Mark an evaluation as failed with the reason. Its answers are kept."""
    error = _explained(store, evaluation_id, error)
    with store.session() as session:
        evaluation = session.get(Evaluation, evaluation_id)
        if evaluation is not None and evaluation.state in ACTIVE:
            evaluation.state, evaluation.reason, evaluation.finished_at = (
                "failed",
                sentences(error.what, error.next_step),
                utcnow(),
            )


def _explained(store: Store, evaluation_id: str, error: FabulaError) -> FabulaError:
    """The error; for a model that has stopped, since when, and what to do."""
    if isinstance(error, ModelNotFound):
        with contextlib.suppress(FabulaError):  # without a price list the provider's own words are shown
            view = evaluations.get(store, evaluation_id)
            return stopped_models.explained(store, _book(store), view.provider, view.model, error)
    return error


def _book(store: Store) -> PriceBook:
    return custom_prices.book(store, shared_files.storage(Settings.from_env()))


def compute_metrics(store: Store, evaluation: EvaluationView) -> Metrics:
    """All metrics of the answers so far."""
    query = (
        select(EvaluationAnswer)
        .where(EvaluationAnswer.evaluation_id == evaluation.id, EvaluationAnswer.text.is_not(None))
        .order_by(EvaluationAnswer.id)
    )
    with store.reading() as session:
        answered = list(session.scalars(query))
        spend_rows = session.execute(
            select(Spend.prompt_tokens, Spend.completion_tokens, Spend.cost_usd).where(Spend.reference == evaluation.id)
        ).all()
        durations = machine_time.request_seconds(session, {evaluation.id: evaluation.finished_at})
    stop = str(evaluation.settings.get("stop") or "")
    pairs = [(scoring.remove_stop(one.expected, stop), message_text.calls_only(one.text or "")) for one in answered]
    labels = [(scoring.normalize_label(expected), scoring.normalize_label(text)) for expected, text in pairs]
    is_label, is_text = evaluation.kind == "label", evaluation.kind == "text"
    loss = _loss(store, evaluation)
    exact = sum(scoring.normalize_text(expected) == scoring.normalize_text(text) for expected, text in pairs)
    return Metrics(
        n=len(answered),
        accuracy=scoring.wilson(sum(bool(one.correct) for one in answered), len(answered)) if is_label else None,
        exact=scoring.wilson(exact, len(answered)) if is_label or is_text else None,
        loss=loss,
        loss_note=_MEASURED if loss is not None else _NO_LOSS,
        labels=scoring.label_scores(labels) if is_label else (),
        confusion=scoring.confusion(labels) if is_label else {},
        overlap=scoring.mean([scoring.chrf(text, expected) for expected, text in pairs]) if is_text else None,
        quality=_quality(store, evaluation, answered) if is_text else {},
        prompt_tokens=_total([line[0] for line in spend_rows]),
        completion_tokens=_total([line[1] for line in spend_rows]),
        cost_usd=_cost([line[2] for line in spend_rows]),
        writing_s=durations[evaluation.id],
    )


def _finish(context: EvaluationContext) -> None:
    """Compute the metrics from the answers so far and mark the evaluation as ended."""
    metrics = compute_metrics(context.store, context.view)
    with context.store.session() as session:
        evaluation = session.get_one(Evaluation, context.id)
        if evaluation.state in ACTIVE and context.owns(evaluation.claimed_by):
            evaluation.metrics = metrics.to_dict()
            evaluation.state = "done" if evaluation.state == "running" else "stopped"
            evaluation.reason, evaluation.finished_at = None, utcnow()


def _evaluate_rows(
    context: EvaluationContext, client: Client, endpoint: Endpoint, connect: Callable[[], Client]
) -> None:
    """Send all rows without an answer, as many at a time as the provider processes in parallel.

    A stop cancels the requests in flight. After an error, the other requests in flight are completed and no further row
    is sent.
    """
    view, book = context.view, _book(context.store)
    rows = list(evaluations.examples(context.store, view))
    with context.store.reading() as session:
        answered = set(
            session.scalars(select(EvaluationAnswer.row_key).where(EvaluationAnswer.evaluation_id == context.id))
        )
    remaining = [row for row in rows if row.key not in answered]
    limit = view.settings.get("max_tokens")
    max_tokens = max_answer_tokens(view.model, rows) if limit is None else int(limit)
    requester = EvaluationRequester(context, connect, book, view, endpoint, max_tokens)
    failures = unanswered = 0
    with ExitStack() as stack:
        stack.callback(context.drained)
        at_a_time, waiting = _requests_at_a_time(client, view.model), iter(remaining)
        pool = ThreadPoolExecutor(at_a_time, thread_name_prefix="evaluation")
        stack.callback(pool.shutdown, wait=True, cancel_futures=True)
        # No more rows than are in flight: a thread must not send the next one before the results so far were judged.
        pending: set[Future[RowResult]] = {pool.submit(requester.ask, row) for row in islice(waiting, at_a_time)}
        while pending:
            done, pending = wait(pending, timeout=_POLL_S, return_when=FIRST_COMPLETED)
            for row in done:
                failures = 0 if row.result() == "answered" else failures + 1
                unanswered = unanswered + 1 if row.result() == "unanswered" else 0
            _raise_if_hopeless(context, failures, unanswered)
            context.raise_and_cancel_requests()
            pending |= {pool.submit(requester.ask, row) for row in islice(waiting, len(done))}


def _requests_at_a_time(client: Client, model: str) -> int:
    with contextlib.suppress(FabulaError):  # the first request of a row will fail with the same error, and reports it
        return client.parallel(model) or DEFAULT_CONCURRENCY
    return DEFAULT_CONCURRENCY


def _raise_if_hopeless(context: EvaluationContext, failures: int, unanswered: int) -> None:
    """End the evaluation if other rows would fail too.

    Args:
        failures: consecutive rows without a valid answer.
        unanswered: consecutive rows that were sent several times without any answer.

    Raises:
        FabulaError: other rows would fail too.
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
                "{rows} consecutive rows got no answer after {tries} attempts each: {last_reason}",
                rows=unanswered,
                tries=MAX_BILLED_ATTEMPTS,
                last_reason=context.last_reason(),
            ),
            msg("Answers so far are kept. Check the provider's status page, then retry the missing answers."),
        )


def max_answer_tokens(model: str, rows: Sequence[HeldOutExample]) -> int:
    """The token limit of an answer, from the longest expected one."""
    longest = max((row.expected for row in rows), key=len, default="")
    estimate = int(tokens.count([longest], model).tokens * _LENGTH_FACTOR)
    return max(_MIN_ANSWER_TOKENS, min(_MAX_ANSWER_TOKENS, estimate))


def _loss(store: Store, evaluation: EvaluationView) -> float | None:
    """The validation loss that the training job measured for this model; None if not measured."""
    if evaluation.job_id is None:
        return None
    with store.reading() as session:
        job = session.get(TrainingJob, evaluation.job_id)
        model, text = (job.fine_tuned_model, job.results_csv) if job is not None else (None, None)
    if model == evaluation.model:
        validation = results.figure(results.parse(text or ""), "validation_loss")
        return None if validation is None else validation.value
    matching = [
        checkpoint for checkpoint in list_checkpoints(store, evaluation.job_id) if checkpoint.model == evaluation.model
    ]
    names = ("full_valid_loss", "valid_loss", "validation_loss")
    return next(
        (checkpoint.metrics[name] for checkpoint in matching for name in names if name in checkpoint.metrics), None
    )


def _quality(store: Store, evaluation: EvaluationView, answered: Sequence[EvaluationAnswer]) -> Mapping[str, float]:
    """The quality measures of the data set report, applied to the model's texts."""
    values = {one.key: one.values for one in examples(store, evaluation)}
    rows = [
        QualityRow(one.id, values.get(one.row_key, {}), one.prompt, one.text or "", "done", one.finish_reason)
        for one in answered
    ]
    if not rows:
        return {}
    columns = sorted({name for row in rows for name in row.values})
    measured = report(rows, columns)
    texts = [row.text for row in rows]
    found: dict[str, float | None] = {
        "characters": sum(len(text.strip()) for text in texts) / len(texts),
        "distinct_2": scoring.distinct(texts),
        "grave": measured.verdict.share,
        "adherence": _adherence(rows, columns),
    }
    return {name: value for name, value in found.items() if value is not None}


def _adherence(rows: Sequence[QualityRow], columns: Sequence[str]) -> float | None:
    """Share of requested column values that appear verbatim in the texts; None if there are no values."""
    wanted = [(row.values[name], row.text) for row in rows for name in columns if row.values.get(name)]
    return sum(value in text for value, text in wanted) / len(wanted) if wanted else None


def _total(counts: Sequence[int | None]) -> int | None:
    return None if not counts or any(count is None for count in counts) else sum(count or 0 for count in counts)


def _cost(costs: Sequence[Decimal | None]) -> Decimal | None:
    known = [cost for cost in costs if cost is not None]
    return sum(known, Decimal(0)) if costs and len(known) == len(costs) else None
