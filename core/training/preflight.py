"""Before the button: may this account train here, and until when can be called what comes out of it?"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta

from sqlalchemy import select

from core.cost.price_book import PriceBook
from core.cost.prices import tuned_base
from core.db.store import Store
from core.db.tables import TrainingJob
from core.errors import FabulaError, ModelNotFound, Refused
from core.message import msg
from core.providers import Client

# OpenAI's deprecations page, 2026-05-07: closed to organisations that have trained nothing in the 60 days before
# 2026-07-02, and to everyone on 2027-01-06.
_CLOSED_TO_IDLE = date(2026, 7, 2)
_CLOSED_TO_ALL = date(2027, 1, 6)
_RECENT = timedelta(days=60)
_MAY_NOT = "may not create fine-tuning jobs"  # as `core.providers.errors.tuning_closed` puts it


@dataclass(frozen=True, slots=True)
class Preflight:
    """What is known before a job is sent.

    Attributes:
        may_train: None: nobody can know before the job is sent.
        why: a sentence; next_step: what to do about it, where the provider refuses.
        train_until, callable_until: last days, where they are announced.
        lifetime: until when the tuned model can be called, a sentence.
        answered: False: the provider did not answer, or refused; it may a moment later.
    """

    may_train: bool | None
    why: str
    train_until: date | None
    callable_until: date | None
    lifetime: str
    next_step: str = ""
    answered: bool = True


def preflight(store: Store, client: Client, book: PriceBook, model: str, now: datetime) -> Preflight:
    """Look before a job is sent; asks the provider for its list of jobs, once.

    Args:
        model: the base, or a tuned model that is trained further.
        now: UTC.
    """
    provider = client.provider.id
    price = book.training_price(provider, model)
    tuned = book.find(provider, f"ft:{tuned_base(model) or model}")
    until = tuned.valid_until if tuned is not None else None
    last = price.training_until if price is not None else None
    next_step, answered = "", True
    try:
        may, why = _may_train(store, client, model, now)
    except ModelNotFound:
        may, next_step, answered = False, msg("Choose another one."), False  # it may be there a moment later
        why = msg("{name} has no model {model} to start from.", name=client.provider.name, model=repr(model))
    except Refused as exc:
        may, next_step, answered = False, exc.next_step, False
        why = msg("This account may not list fine-tuning jobs there: {what}", what=exc.what)
    except FabulaError as exc:
        may, answered = None, False
        why = msg("The provider could not be reached: {what}", what=exc.what)
    if may is not False and last is not None and last < now.date():
        may, next_step = False, ""
        why = msg("Training on this model ended on {last}. Choose another base, or the engine.", last=last)
    return Preflight(may, why, last, until, _lifetime(client, until, now), next_step, answered)


def _may_train(store: Store, client: Client, model: str, now: datetime) -> tuple[bool | None, str]:
    """Whether it may, and why.

    Raises:
        ModelNotFound: the engine does not have the model.
        FabulaError: the provider does not show its list of jobs.
    """
    provider, name = client.provider, client.provider.name
    if provider.kind == "engine":
        if (reason := client.model(model).not_trainable) is not None:
            return False, msg(
                "The engine can write with {model}, but not train it: {reason}.", model=model, reason=reason
            )
        return True, msg("The engine trains on this machine: no account is needed.")
    if provider.kind == "openai" and now.date() >= _CLOSED_TO_ALL:
        return False, msg("OpenAI has closed fine-tuning to everyone on 2027-01-06. Train on the engine.")
    next(iter(client.jobs()), None)
    succeeded, refused = _past(store, provider.id)
    if refused is not None and (succeeded is None or refused > succeeded):
        return False, msg("{name} refused the last job of this account: it may not train. The engine can.", name=name)
    if succeeded is not None and now - succeeded < _RECENT:
        return True, msg("This account has fine-tuned at {name} recently, so it may do so again.", name=name)
    if provider.kind == "openai" and now.date() >= _CLOSED_TO_IDLE:
        return None, msg(
            "OpenAI only accepts jobs from accounts that fine-tuned recently. You find out when you submit."
        )
    return None, (
        msg(
            "{name} answers, and lists the jobs of this account. "
            "You find out if it may train when you submit the first one.",
            name=name,
        )
    )


def _past(store: Store, provider: str) -> tuple[datetime | None, datetime | None]:
    """When a job of this provider last succeeded, and when one was last refused."""
    query = select(TrainingJob.status, TrainingJob.error, TrainingJob.created_at)
    query = query.where(TrainingJob.provider == provider).order_by(TrainingJob.created_at.desc())
    with store.reading() as session:
        rows = session.execute(query).all()
    succeeded = next((at for status, _, at in rows if status == "succeeded"), None)
    refused = next((at for status, error, at in rows if status == "failed" and _MAY_NOT in (error or "")), None)
    return succeeded, refused


def _lifetime(client: Client, until: date | None, now: datetime) -> str:
    if client.provider.kind == "engine":
        return msg("The tuned model stays on this machine for as long as you keep it.")
    if client.provider.kind == "azure":
        return msg(
            "On Azure the tuned model must be deployed before it can be called, and costs by the hour while it is."
        )
    if until is None:
        return msg("No end date is announced for models that are tuned from it.")
    if until < now.date():
        return msg("Models tuned from it could be called until {until} and no longer answer.", until=until)
    days = (until - now.date()).days
    return msg(
        "The tuned model can be called until {until}, when its base retires: {days} days from now.",
        until=until,
        days=f"{days:,}",
    )
