"""The cost and time of a job: estimated before it is submitted, reserved on submit, settled at its end.

Speeds are in tokens per second, without the start-up time, which dominates short jobs. The best source is the engine's
timed steps, otherwise finished jobs. Before the first job, a quick measurement of this machine gives a rough estimate
for the engine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from statistics import median

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from core.actor import Actor, on_behalf_of
from core.db.store import Store
from core.db.tables import Spend, TrainingJob
from core.engine import job_rules
from core.message import msg
from core.pricing import budget, spend
from core.pricing.price_book import PriceBook, training_cost
from core.pricing.prices import ENGINE, TOGETHER, price_list, tuned_base

_RECENT_JOBS = 5  # newest jobs used for the speed

_MATRIX_SIZE = 64  # the largest size that OpenBLAS multiplies in the calling thread
_PRODUCTS_PER_TIMING = 80  # about half a millisecond in total
_MEASURE_S = 0.25
_FLOP_PER_TOKEN = 1.4e9  # equivalent matrix FLOP per trained token: see docs/training.md, "The estimate"
STARTUP_S = 20.0
"""Engine: seconds from submit to the first step (check, upload, new process, loading weights)."""
HOSTED_STARTUP_S = 60.0
"""Hosted providers: seconds from `running` to the first step. Assumed, because no provider reports it."""
_MIN_STARTUP_MULTIPLE = 3.0  # shorter jobs measure the start-up time, not the speed


@dataclass(frozen=True, slots=True)
class JobEstimate:
    """The expected effort of a job. None means unknown.

    Attributes:
        epochs: the requested number, or the provider's probable choice.
        trained_tokens: over all epochs; this is what is billed.
        local: whether it runs on this machine, without a charge.
        seconds: training time, without waiting in the queue.
        basis: where the time comes from, as a sentence; rough: whether it can be off by a factor of two.
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
    validation_tokens: int = 0,
) -> JobEstimate:
    """Estimate a job for a file with `tokens` tokens per epoch.

    Together trains one epoch unless the job says otherwise (its API reference, `n_epochs` of `/fine-tunes`), and bills
    the validation file once per evaluation (https://docs.together.ai/docs/fine-tuning/pricing). Fabula asks for one
    evaluation per epoch (`core.providers.together`).

    Args:
        epochs: number of epochs; None if the provider chooses it.
        validation_tokens: of the validation file.
        examples: number of examples, from which the engine chooses the epochs.
        speed: tokens per second of the newest training steps on this base model, if the provider reports it (the engine
            does).
        rough_speed: tokens per second estimated from this machine (`measure_rough_speed`).
    """
    known_examples = (examples or None) if provider == ENGINE else None  # other providers do not publish their rule
    together = price_list(provider) == TOGETHER
    n_epochs = epochs or (1 if together else job_rules.automatic(known_examples).n_epochs)
    trained_tokens = (tokens + (validation_tokens if together else 0)) * n_epochs
    price = book.training_price(provider, model)
    tuned_price = book.find(provider, f"ft:{tuned_base(model) or model}")
    measured = measured_speeds(store, provider, model)
    best_speed, basis = _best_speed(speed, measured, rough_speed)
    return JobEstimate(
        epochs=n_epochs,
        trained_tokens=trained_tokens,
        cost_usd=training_cost(book, provider, model, trained_tokens),
        local=price is not None and price.local,
        seconds=None if best_speed is None else training_s(trained_tokens, best_speed, _startup_s(provider)),
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
    return speeds(jobs, _startup_s(provider))[:_RECENT_JOBS]


def speeds(jobs: Sequence[tuple[int, float]], startup_s: float) -> list[float]:
    """Tokens per second of each job, given as (trained tokens, training seconds). Short jobs are left out."""
    return [
        tokens / (seconds - startup_s)
        for tokens, seconds in jobs
        if tokens > 0 and seconds >= _MIN_STARTUP_MULTIPLE * startup_s
    ]


def training_s(tokens: int, speed: float, startup_s: float) -> float:
    """Seconds that a job takes: its start-up, plus its tokens at `speed` tokens per second.

    >>> training_s(tokens=12_000, speed=100.0, startup_s=20.0)
    140.0
    """
    return startup_s + tokens / speed


def measure_rough_speed() -> float:
    """Estimated training speed of the engine on this machine, in tokens per second, from NumPy's matrix product.

    Takes a quarter of a second. It measures the CPU time of one thread and assumes that all cores are as fast, so other
    load on the machine does not affect the result. CPUs with fast bfloat16 train faster than this.
    """
    matrix = np.ones((_MATRIX_SIZE, _MATRIX_SIZE), dtype=np.float32)
    product = np.empty_like(matrix)
    deadline, fastest_s = time.perf_counter() + _MEASURE_S, float("inf")
    while fastest_s == float("inf") or time.perf_counter() < deadline:
        start = time.thread_time()
        for _ in range(_PRODUCTS_PER_TIMING):
            np.matmul(matrix, matrix, out=product)
        if (elapsed_s := time.thread_time() - start) > 0:  # 0 if the system's clock is too coarse
            fastest_s = min(fastest_s, elapsed_s / _PRODUCTS_PER_TIMING)
    return (os.cpu_count() or 1) * 2.0 * _MATRIX_SIZE**3 / fastest_s / _FLOP_PER_TOKEN


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
    return STARTUP_S if provider == ENGINE else HOSTED_STARTUP_S


def _from_jobs(count: int) -> str:
    if count == 1:
        return msg("Based on the last job on this model.")
    return msg("Based on the last {count} jobs on this model.", count=count)


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
    actor = on_behalf_of(job.created_by)
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
    """Mark the cost as unknown, for a job that is no longer watched but may still be billed.

    The estimated cost still counts.
    """
    if (reserved := _reserved(session, job_id)) is not None:
        reserved.cost_usd = None


def release(session: Session, job_id: str) -> None:
    """Release the reservation of a job that costs nothing."""
    if (reserved := _reserved(session, job_id)) is not None:
        session.delete(reserved)


def _reserved(session: Session, job_id: str) -> Spend | None:
    unsettled = select(Spend).where(Spend.reference == job_id, Spend.page == "training", Spend.prompt_tokens.is_(None))
    return session.scalar(unsettled.limit(1))
