"""Checks made before a job is submitted: whether this account may train, and how long the tuned model can be called."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta

from sqlalchemy import select

from core.db.store import Store
from core.db.tables import TrainingJob
from core.errors import FabulaError, ModelNotFound, Refused
from core.message import msg
from core.pricing.price_book import PriceBook
from core.pricing.prices import tuned_base
from core.providers import Client
from core.providers.model_lists import is_lasting

_RECENT = timedelta(days=60)  # OpenAI's deprecations page: accounts that trained in this time are not idle
_NOT_ALLOWED = "may not create fine-tuning jobs"  # from `core.providers.errors.tuning_closed`


@dataclass(frozen=True, slots=True)
class Preflight:
    """What is known before a job is sent.

    Attributes:
        may_train: whether the account may train; None if this is unknown until the job is sent.
        reason: a sentence; next_step: what to do if the provider refuses.
        train_until, callable_until: last days, if announced.
        lifetime: how long the tuned model can be called, as a sentence.
        answered: False if the provider did not answer or refused.
        lasting: it refused in a way that only the user can end, so it is not to be asked again by itself.
    """

    may_train: bool | None
    reason: str
    train_until: date | None
    callable_until: date | None
    lifetime: str
    next_step: str = ""
    answered: bool = True
    lasting: bool = False


def preflight(store: Store, client: Client, book: PriceBook, model: str, now: datetime) -> Preflight:
    """Run the checks for a job that is about to be sent. Makes one request, for the provider's list of jobs.

    Args:
        model: a base model, or a tuned model to train further.
        now: UTC.
    """
    provider = client.provider.id
    price = book.training_price(provider, model)
    tuned_price = book.find(provider, f"ft:{tuned_base(model) or model}")
    callable_until = tuned_price.valid_until if tuned_price is not None else None
    train_until = price.training_until if price is not None else None
    next_step, answered, lasting = "", True, False
    try:
        may_train, reason = _check_permission(store, client, model, now)
    except ModelNotFound:
        may_train, next_step, answered = False, msg("Choose another one."), False  # it may appear a moment later
        reason = msg("{name} has no model {model} to start from.", name=client.provider.name, model=repr(model))
    except Refused as exc:
        may_train, next_step, answered, lasting = False, exc.next_step, False, is_lasting(exc)
        reason = msg("This account is not allowed to list fine-tuning jobs: {what}", what=exc.what)
    except FabulaError as exc:
        may_train, answered, lasting = None, False, is_lasting(exc)
        reason = msg("The provider could not be reached: {what}", what=exc.what)
    if may_train is not False and train_until is not None and train_until < now.date():
        may_train, next_step = False, ""
        reason = msg(
            "Training on this model ended on {train_until}. Choose another base, or the engine.",
            train_until=train_until,
        )
    lifetime = _lifetime(client, callable_until, now)
    return Preflight(may_train, reason, train_until, callable_until, lifetime, next_step, answered, lasting)


def _check_permission(store: Store, client: Client, model: str, now: datetime) -> tuple[bool | None, str]:
    """Whether the account may train, and the reason.

    Raises:
        ModelNotFound: the engine does not have the model.
        FabulaError: the provider does not list its jobs.
    """
    provider, name = client.provider, client.provider.name
    if provider.capabilities.engine_api:
        if (reason := client.model(model).not_trainable) is not None:
            return False, msg(
                "The engine can generate text with {model} but can't train it: {reason}.", model=model, reason=reason
            )
        return True, msg("The engine trains on this machine. No account is needed.")
    closed, closed_to_idle = provider.capabilities.training_closed, provider.capabilities.training_closed_to_idle
    if closed is not None and now.date() >= closed:
        return False, msg("{name} closed fine-tuning to everyone on {day}. Train on the engine.", name=name, day=closed)
    next(iter(client.jobs()), None)
    succeeded, refused = _last_outcomes(store, provider.id)
    if refused is not None and (succeeded is None or refused > succeeded):
        return False, msg(
            "{name} refused this account's last job because the account may not train. Train on the engine.", name=name
        )
    if succeeded is not None and now - succeeded < _RECENT:
        return True, msg("This account fine-tuned a model at {name} recently, so it is allowed to train.", name=name)
    if closed_to_idle is not None and now.date() >= closed_to_idle:
        return None, msg(
            "{name} only accepts jobs from accounts that fine-tuned recently. You will find out when you submit.",
            name=name,
        )
    return None, (
        msg(
            "{name} is reachable and lists this account's jobs. You will find out whether it may "
            "train when you submit the first one.",
            name=name,
        )
    )


def _last_outcomes(store: Store, provider: str) -> tuple[datetime | None, datetime | None]:
    """When a job at this provider last succeeded, and when one was last refused (UTC)."""
    query = select(TrainingJob.status, TrainingJob.error, TrainingJob.created_at)
    query = query.where(TrainingJob.provider == provider).order_by(TrainingJob.created_at.desc())
    with store.reading() as session:
        rows = session.execute(query).all()
    succeeded = next((created_at for status, _, created_at in rows if status == "succeeded"), None)
    refused = next(
        (created_at for status, error, created_at in rows if status == "failed" and _NOT_ALLOWED in (error or "")), None
    )
    return succeeded, refused


def _lifetime(client: Client, callable_until: date | None, now: datetime) -> str:
    if client.provider.capabilities.engine_api:
        return msg("The tuned model stays on this machine for as long as you keep it.")
    if client.provider.capabilities.deploys_models:
        return msg(
            "On Azure, a tuned model must be deployed before it can be called. Deployments are billed by the hour."
        )
    if callable_until is None:
        return msg("No end date is announced for models tuned from it.")
    if callable_until < now.date():
        return msg(
            "Models tuned from it could be called until {callable_until}; they no longer work.",
            callable_until=callable_until,
        )
    days = (callable_until - now.date()).days
    return msg(
        "The tuned model can be called until {callable_until}, when its base model retires ({days} days left).",
        callable_until=callable_until,
        days=f"{days:,}",
    )
