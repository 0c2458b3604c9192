"""What a training job costs: reserved with the button, settled when its provider says how many tokens it took."""

from __future__ import annotations

from decimal import Decimal

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.actor import Actor
from core.cost import budget, spend
from core.cost.price_book import PriceBook, training_cost
from core.cost.prices import ENGINE
from core.db.tables import Spend, TrainingJob


def reserve(session: Session, actor: Actor, job: TrainingJob) -> None:
    """Put what the job is expected to cost into the spend ledger, in the caller's transaction, before it is sent.

    Raises:
        OverBudget: it would go over a budget, or may: its price is unknown. Nothing is written.
    """
    if job.provider == ENGINE:
        return
    budget.check(session, actor, job.estimated_usd, job.id)
    if job.estimated_usd:
        _record(session, actor, job, None, job.estimated_usd)


def settle(session: Session, book: PriceBook, job: TrainingJob) -> None:
    """Write down what a job that has ended cost, in the job and in the ledger; a failed job is billed by nobody."""
    tokens = job.trained_tokens
    reserved = _reserved(session, job.id)
    if job.status == "failed" or (tokens is None and job.status != "succeeded"):
        return release(session, job.id)
    job.cost_usd = training_cost(book, job.provider, job.base_model, tokens)
    if reserved is not None:
        return spend.settle(session, reserved.id, prompt_tokens=tokens, completion_tokens=None, cost_usd=job.cost_usd)
    actor = Actor(id=job.created_by, name=job.created_by, role="editor")
    _record(session, actor, job, tokens, job.cost_usd)


def _record(session: Session, actor: Actor, job: TrainingJob, tokens: int | None, cost_usd: Decimal | None) -> None:
    """A line of the spend ledger, beside what was expected; `tokens` are not known before the end."""
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


def release(session: Session, job_id: str) -> None:
    """Give back what was reserved for a job that costs nothing."""
    if (reserved := _reserved(session, job_id)) is not None:
        session.delete(reserved)


def _reserved(session: Session, job_id: str) -> Spend | None:
    waiting = select(Spend).where(Spend.reference == job_id, Spend.page == "training", Spend.prompt_tokens.is_(None))
    return session.scalar(waiting.limit(1))
