"""Finds the events to report in the ledger. Finding an event again gives it the same key."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from itertools import chain

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.db import spend_totals
from core.db.tables import Budget, Dataset, ModelShadow, Row, Run, Spend, TrainingEvent, TrainingJob
from core.finetuning import job_views
from core.generation import run_progress
from core.message import msg, percent, sentences
from core.pricing import budget, budget_requests, spend
from core.pricing.budget import WARNING_SHARE, in_words, month_start
from core.pricing.budget_requests import BudgetRequestView

STALL = timedelta(minutes=30)
"""A run or job in progress counts as stalled when nothing new was written for this long."""
_ENDED_RUNS = ("done", "failed", "stopped")

_Described = tuple[str, str] | None
_Candidate = tuple[str, Callable[[], _Described]]
"""A key, and a function that returns title and text, or None if a closer look finds no event."""


@dataclass(frozen=True, slots=True)
class AlertEvent:
    """One event.

    Attributes:
        key: identifies the event; it never changes.
        title: one line.
        text: what happened, one or two sentences.
    """

    key: str
    title: str
    text: str


def find(session: Session, since: datetime, now: datetime, known: Container[str] = ()) -> list[AlertEvent]:
    """Events since a time, and current stalls and budgets. Events whose keys are in `known` are omitted."""
    candidates = chain(
        _ended_runs(session, since),
        _stalled_runs(session, now),
        _ended_jobs(session, since),
        _stalled_jobs(session, now),
        _month_budgets(session, now),
        _run_budgets(session),
        _budget_requests(session, since),
        _ended_shadows(session, since),
    )
    described = ((key, describe()) for key, describe in candidates if key not in known)
    return [AlertEvent(key, *texts) for key, texts in described if texts is not None]


def _ended_runs(session: Session, since: datetime) -> Iterator[_Candidate]:
    query = select(Run, Dataset.name).join(Dataset).where(Run.finished_at > since, Run.state.in_(_ENDED_RUNS))
    for run, name in session.execute(query):
        yield f"run:{run.id}:{run.state}:{_stamp(run.finished_at)}", partial(_ended_run, session, run, name)


def _ended_run(session: Session, run: Run, name: str) -> _Described:
    counted = select(Row.state, func.count()).where(Row.dataset_id == run.dataset_id, Row.run_id == run.id)
    rows = {state: count for state, count in session.execute(counted.group_by(Row.state))}
    unknown = spend.unsettled_usd(session, Spend.reference == run.id)
    titles = {
        "done": msg("Run finished: {name}", name=name),
        "failed": msg("Run failed: {name}", name=name),
        "stopped": msg("Run stopped: {name}", name=name),
    }
    return titles[run.state], sentences(
        run.reason or "",
        msg(
            "{done} rows written, {failed} failed. Spent: ${usd}.",
            done=rows.get("done", 0),
            failed=rows.get("failed", 0),
            usd=f"{spend_totals.of_reference(session, run.id) - unknown:,.2f}",
        ),
        msg("The cost of some requests is unknown: at most ${usd} more.", usd=f"{unknown:,.2f}") if unknown else "",
    )


def _stalled_runs(session: Session, now: datetime) -> Iterator[_Candidate]:
    active = [state for state in run_progress.ACTIVE if state != "queued"]
    query = select(Run, Dataset.name).join(Dataset).where(Run.state.in_(active), Run.started_at < now - STALL)
    for run, name in session.execute(query.where(Run.mode != "batch")):  # a batch takes up to a day
        yield f"run:{run.id}:stalled:{_stamp(run.started_at)}", partial(_stalled_run, session, run, name, now)


def _stalled_run(session: Session, run: Run, name: str, now: datetime) -> _Described:
    newest = session.scalar(select(func.max(Row.updated_at)).where(Row.dataset_id == run.dataset_id))
    if newest is not None and newest >= now - STALL:
        return None
    return msg("Run stalled: {name}", name=name), sentences(
        msg("Nothing was written for {minutes} minutes.", minutes=int(STALL.total_seconds() // 60)),
        run.reason or run.note or "",
    )


def _ended_jobs(session: Session, since: datetime) -> Iterator[_Candidate]:
    query = select(TrainingJob).where(TrainingJob.finished_at > since, TrainingJob.status.in_(job_views.FINISHED))
    for job in session.scalars(query):
        yield f"job:{job.id}:{job.status}:{_stamp(job.finished_at)}", partial(_ended_job, job)


def _ended_job(job: TrainingJob) -> _Described:
    if job.status == "succeeded":
        title = msg("Training finished: {name}", name=job.name)
        return title, msg("The new model is {model}.", model=job.fine_tuned_model or "?")
    if job.status == "failed":
        return msg("Training failed: {name}", name=job.name), sentences(job.error or "", job.next_step or "")
    return msg("Training cancelled: {name}", name=job.name), ""


def _stalled_jobs(session: Session, now: datetime) -> Iterator[_Candidate]:
    newest = select(func.max(TrainingEvent.created_at)).where(TrainingEvent.job_id == TrainingJob.id).scalar_subquery()
    query = select(TrainingJob).where(
        TrainingJob.status == "running",
        TrainingJob.updated_at < now - STALL,
        newest.is_(None) | (newest < now - STALL),
    )
    for job in session.scalars(query):
        yield f"job:{job.id}:stalled:{_stamp(job.updated_at)}", partial(_stalled_job, job)


def _stalled_job(job: TrainingJob) -> _Described:
    minutes = int(STALL.total_seconds() // 60)
    return (
        msg("Training stalled: {name}", name=job.name),
        msg("Nothing was reported for {minutes} minutes.", minutes=minutes),
    )


def _month_budgets(session: Session, now: datetime) -> Iterator[_Candidate]:
    for view in budget.monthly(session, now):
        title, lines = msg("This month's budget is nearly used up"), [Spend.created_at >= month_start(now)]
        if view.scope == "person":
            title = msg("The budget of {person} is nearly used up", person=view.name)
            lines.append(Spend.actor == view.subject)
        key = f"budget:{view.scope}:{view.subject}:{spend_totals.month(now)}:{view.amount_usd}"
        unsettled = partial(spend.unsettled_usd, session, *lines)
        yield key, partial(_nearly_used_up, title, view.spent_usd or Decimal(0), view.amount_usd, unsettled)


def _run_budgets(session: Session) -> Iterator[_Candidate]:
    of_every_run = session.scalar(select(Budget.amount_usd).where(Budget.scope == "run"))
    for run, name in session.execute(select(Run, Dataset.name).join(Dataset).where(Run.state.in_(run_progress.ACTIVE))):
        limits = [limit for limit in (run.budget_usd, of_every_run) if limit is not None]
        if limits:
            title = msg("The budget of a run is nearly used up: {name}", name=name)
            total, limit = spend_totals.of_reference(session, run.id), min(limits)
            unsettled = partial(spend.unsettled_usd, session, Spend.reference == run.id)
            yield f"budget:run:{run.id}:{limit}", partial(_nearly_used_up, title, total, limit, unsettled)


def _nearly_used_up(title: str, total: Decimal, limit: Decimal, unsettled_usd: Callable[[], Decimal]) -> _Described:
    """`total` includes reservations. They do not trigger an alert, because they may be released unspent."""
    if limit <= 0 or total < WARNING_SHARE * limit:
        return None
    reserved = unsettled_usd()
    spent = total - reserved
    if spent < WARNING_SHARE * limit:
        return None
    return title, msg(
        "${spent} of ${limit} is spent ({share}), and ${reserved} is reserved. Requests that would exceed the budget "
        "are blocked.",
        spent=f"{spent:,.2f}",
        limit=f"{limit:,.2f}",
        share=percent(float(spent / limit), 0),
        reserved=f"{reserved:,.2f}",
    )


def _budget_requests(session: Session, since: datetime) -> Iterator[_Candidate]:
    for request in budget_requests.open_in(session, since):
        yield f"budget-request:{request.id}", partial(_budget_request, request)


def _budget_request(request: BudgetRequestView) -> _Described:
    limit = in_words(request.limit_usd or Decimal(0))  # an open request has a limit
    now = {
        "person": msg("Their budget is ${limit} per month now.", limit=limit),
        "month": msg("The budget for everyone is ${limit} per month now.", limit=limit),
        "run": msg("The budget of each run, job or story is ${limit} now.", limit=limit),
    }
    return msg("{person} asks for a higher budget", person=request.name), sentences(
        now[request.scope], msg("An admin can grant or decline the request on the settings page.")
    )


def _ended_shadows(session: Session, since: datetime) -> Iterator[_Candidate]:
    query = select(ModelShadow).where(ModelShadow.ended_at > since, ModelShadow.state.in_(("flipped", "dark")))
    for row in session.scalars(query):
        yield f"shadow:{row.id}:{row.state}", partial(_ended_shadow, row)


def _ended_shadow(row: ModelShadow) -> _Described:
    return msg("Programs that ask for {alias} now get {model}", alias=row.alias, model=row.model), row.reason or ""


def _stamp(at: datetime | None) -> str:
    return "" if at is None else at.isoformat(timespec="seconds")
