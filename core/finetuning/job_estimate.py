"""Estimates a job before it is submitted: tokens, cost, and time if the speed is known."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from statistics import median

from sqlalchemy import select

from core.db.store import Store
from core.db.tables import TrainingJob
from core.engine import job_rules
from core.finetuning import cpu_speed_estimate
from core.message import msg
from core.pricing.price_book import PriceBook, training_cost
from core.pricing.prices import ENGINE, tuned_base

_RECENT_JOBS = 5  # newest jobs used for the speed


@dataclass(frozen=True, slots=True)
class JobEstimate:
    """The expected effort of a job. None: not known.

    Attributes:
        epochs: as requested, or the provider's probable choice.
        trained_tokens: over all epochs; this is what is billed.
        local: runs on this machine, without a charge.
        seconds: training time, without waiting in the queue.
        basis: where the time comes from, as a sentence; rough: it can be off by a factor of two.
        train_until, callable_until: last day to train this base model, and to call the tuned model.
    """

    epochs: int
    trained_tokens: int
    cost_usd: Decimal | None
    local: bool
    seconds: float | None
    basis: str
    rough: bool
    train_until: date | None
    callable_until: date | None


def estimate(
    store: Store,
    book: PriceBook,
    provider: str,
    model: str,
    *,
    tokens: int,
    epochs: int | None,
    examples: int | None = None,
    speed: float | None = None,
    rough_speed: float | None = None,
) -> JobEstimate:
    """Estimate a job for a file with `tokens` tokens per epoch.

    Args:
        epochs: None: chosen by the provider.
        examples: number of examples, from which the engine chooses the epochs.
        speed: tokens per second of the newest steps on this base model, if the provider reports them (the engine does).
        rough_speed: tokens per second estimated from this machine (`core.finetuning.cpu_speed_estimate`).
    """
    known_examples = (examples or None) if provider == ENGINE else None  # other providers do not publish their rule
    n_epochs = epochs or job_rules.automatic(known_examples).n_epochs
    trained_tokens = tokens * n_epochs
    price = book.training_price(provider, model)
    tuned_price = book.find(provider, f"ft:{tuned_base(model) or model}")
    measured = measured_speeds(store, provider, model)
    best_speed, basis = _best_speed(speed, measured, rough_speed)
    return JobEstimate(
        epochs=n_epochs,
        trained_tokens=trained_tokens,
        cost_usd=training_cost(book, provider, model, trained_tokens),
        local=price is not None and price.local,
        seconds=None
        if best_speed is None
        else cpu_speed_estimate.training_s(trained_tokens, best_speed, _startup_s(provider)),
        basis=basis,
        rough=bool(rough_speed) and not measured and not speed,
        train_until=price.training_until if price is not None else None,
        callable_until=tuned_price.valid_until if tuned_price is not None else None,
    )


def measured_speeds(store: Store, provider: str, model: str) -> list[float]:
    """Training speeds of the newest jobs on this base model in tokens per second, newest first.

    Waiting and start-up times are excluded, as are jobs that are too short to measure.
    """
    query = select(TrainingJob.base_model, TrainingJob.trained_tokens, TrainingJob.training_s)
    query = query.where(TrainingJob.provider == provider, TrainingJob.status == "succeeded")
    base_model = tuned_base(model) or model
    with store.reading() as session:
        rows = session.execute(query.order_by(TrainingJob.created_at.desc())).all()
    jobs = [
        (trained, seconds)
        for job_model, trained, seconds in rows
        if (tuned_base(job_model) or job_model) == base_model and trained and seconds
    ]
    return cpu_speed_estimate.speeds(jobs, _startup_s(provider))[:_RECENT_JOBS]


def _best_speed(step_speed: float | None, measured: list[float], rough_speed: float | None) -> tuple[float | None, str]:
    """The best known speed in tokens per second, and its source as a sentence."""
    if step_speed:
        return step_speed, msg(
            "Based on the newest training steps on this model: {speed} tokens per second.", speed=f"{step_speed:,.0f}"
        )
    if measured:
        return median(measured), _from_jobs(len(measured))
    if rough_speed:
        return rough_speed, msg(
            "Rough estimate from this machine's speed. The first job on this model gives a better one."
        )
    return None, msg("The time will be known after the first job on this model that takes a few minutes.")


def _startup_s(provider: str) -> float:
    return cpu_speed_estimate.STARTUP_S if provider == ENGINE else cpu_speed_estimate.HOSTED_STARTUP_S


def _from_jobs(count: int) -> str:
    if count == 1:
        return msg("Based on the last job on this model.")
    return msg("Based on the last {count} jobs on this model.", count=count)
