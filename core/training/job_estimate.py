"""What a job will take, before the button: tokens, money, and minutes where jobs have shown how fast it goes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from statistics import median

from sqlalchemy import select

from core.cost.price_book import PriceBook, training_cost
from core.cost.prices import ENGINE, tuned_base
from core.db.store import Store
from core.db.tables import TrainingJob
from core.message import msg
from core.training import cpu_speed_estimate

_USUAL_EPOCHS = 3  # what OpenAI mostly takes when it is left to it (guide "Supervised fine-tuning")
_SEEN, _MOST_EPOCHS = 150, 8  # the engine's own rule: few examples are seen about 150 times together
_JOBS = 5  # the newest ones tell how fast it is now


@dataclass(frozen=True, slots=True)
class JobEstimate:
    """What to expect. None is not known.

    Attributes:
        epochs: as asked for, or as the provider will probably choose.
        trained_tokens: of all epochs together: what is billed.
        local: on one's own machine, where nobody sends a bill.
        seconds: of training; a job that waits in line is done that much later.
        basis: from what the time is known, a sentence; `rough`: it may be twice that, or half.
        train_until, callable_until: last days of training on this base, and of calling what comes out of it.
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
    rough: float | None = None,
) -> JobEstimate:
    """An estimate for a file of `tokens`.

    Args:
        epochs: None: left to the provider.
        examples: in the file; decides how many epochs the engine chooses by itself.
        speed: tokens a second of the newest steps on this base, where the provider times them (the engine does).
        rough: what it may be before any job has shown it (`core.training.cpu_speed_estimate`).
    """
    chosen = epochs or auto_epochs(provider, examples)
    trained = tokens * chosen
    price = book.training_price(provider, model)
    called = book.find(provider, f"ft:{tuned_base(model) or model}")
    rates = measured_rates(store, provider, model)
    found, basis = _speed(speed, rates, rough)
    return JobEstimate(
        epochs=chosen,
        trained_tokens=trained,
        cost_usd=training_cost(book, provider, model, trained),
        local=price is not None and price.local,
        seconds=None if found is None else cpu_speed_estimate.training_s(trained, found, _start_s(provider)),
        basis=basis,
        rough=bool(rough) and not rates and not speed,
        train_until=price.training_until if price is not None else None,
        callable_until=called.valid_until if called is not None else None,
    )


def auto_epochs(provider: str, examples: int | None) -> int:
    """How many epochs a provider will probably choose by itself."""
    if provider != ENGINE or not examples:
        return _USUAL_EPOCHS
    return min(_MOST_EPOCHS, max(_USUAL_EPOCHS, math.ceil(_SEEN / examples)))


def measured_rates(store: Store, provider: str, model: str) -> list[float]:
    """Trained tokens a second of the newest jobs on this base, the newest first, of those long enough to tell.

    Neither waiting in line nor the start-up counts.
    """
    query = select(TrainingJob.base_model, TrainingJob.trained_tokens, TrainingJob.training_s)
    query = query.where(TrainingJob.provider == provider, TrainingJob.status == "succeeded")
    root = tuned_base(model) or model
    with store.reading() as session:
        rows = session.execute(query.order_by(TrainingJob.created_at.desc())).all()
    took = [
        (trained, seconds)
        for base, trained, seconds in rows
        if (tuned_base(base) or base) == root and trained and seconds
    ]
    return cpu_speed_estimate.speeds(took, _start_s(provider))[:_JOBS]


def _speed(steps: float | None, rates: list[float], rough: float | None) -> tuple[float | None, str]:
    """The best known speed in tokens a second, and from what it is known."""
    if steps:
        return steps, msg(
            "Based on the newest training steps on this model: {steps} tokens per second.", steps=f"{steps:,.0f}"
        )
    if rates:
        return median(rates), _from_jobs(len(rates))
    if rough:
        return rough, msg("Rough estimate from this machine's speed. The first job on this model gives a better one.")
    return None, msg("The time is known after the first job on this model that takes a few minutes.")


def _start_s(provider: str) -> float:
    return cpu_speed_estimate.START_S if provider == ENGINE else cpu_speed_estimate.HOSTED_START_S


def _from_jobs(count: int) -> str:
    if count == 1:
        return msg("Based on the last job on this model.")
    return msg("Based on the last {count} jobs on this model.", count=count)
