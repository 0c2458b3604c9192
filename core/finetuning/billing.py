"""The cost of a training job: reserved on submit, settled when the provider reports the trained tokens."""

from __future__ import annotations

from decimal import Decimal

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.actor import Actor
from core.db.tables import Spend, TrainingJob
from core.pricing import budget, spend
from core.pricing.price_book import PriceBook, training_cost
from core.pricing.prices import ENGINE


def reserve(session: Session, actor: Actor, job: TrainingJob) -> None:
    """Reserve the estimated cost in the spend ledger, in the caller's transaction, before the job is sent.

    Raises:
        OverBudget: it would exceed a budget, or might because its price is unknown. Nothing is written.
    """
    if job.provider == ENGINE:
        return
    budget.check(session, actor, job.estimated_usd, job.id)
    if job.estimated_usd:
        _record(session, actor, job, None, job.estimated_usd)


def settle(session: Session, book: PriceBook, job: TrainingJob) -> None:
    """Record the cost of a finished job in the job and in the ledger.

    A job is billed for the tokens that its provider reports as billable, however it ended (see `RemoteJob`). If the
    provider reports none for a job that was cancelled or failed after its training began, the cost is unknown: no
    provider but Azure documents that failed jobs are free. A job that ended before its training began costs nothing.
    """
    trained_tokens = job.trained_tokens
    reserved = _reserved(session, job.id)
    trained = job.status == "succeeded" or trained_tokens is not None
    began = job.provider != ENGINE and job.training_s is not None
    if not (trained or began):
        return release(session, job.id)
    job.cost_usd = training_cost(book, job.provider, job.base_model, trained_tokens)
    if reserved is not None:
        return spend.settle(
            session, reserved.id, prompt_tokens=trained_tokens, completion_tokens=None, cost_usd=job.cost_usd
        )
    actor = Actor(id=job.created_by, name=job.created_by, role="editor")
    _record(session, actor, job, trained_tokens, job.cost_usd)


def _record(session: Session, actor: Actor, job: TrainingJob, tokens: int | None, cost_usd: Decimal | None) -> None:
    """Add a ledger entry with the estimate. `tokens`: None until the job has ended."""
    spend.record(
        session,
        actor,
        "training",
        provider=job.provider,
        model=job.base_model,
        reference=job.id,
        prompt_tokens=tokens,
        cost_usd=cost_usd,
        estimated_usd=job.estimated_usd,
    )


def mark_unknown(session: Session, job_id: str) -> None:
    """The job is not watched any more, but its provider may bill it. The estimate counts."""
    if (reserved := _reserved(session, job_id)) is not None:
        reserved.cost_usd = None


def release(session: Session, job_id: str) -> None:
    """Release the reservation of a job that costs nothing."""
    if (reserved := _reserved(session, job_id)) is not None:
        session.delete(reserved)


def _reserved(session: Session, job_id: str) -> Spend | None:
    unsettled = select(Spend).where(Spend.reference == job_id, Spend.page == "training", Spend.prompt_tokens.is_(None))
    return session.scalar(unsettled.limit(1))
