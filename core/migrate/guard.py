"""The models in use that stop soon: what alerts and the home page name. A day is a day in UTC.

In use are the tuned models of archived accounts that have not been compared with a replacement or switched yet, every
model that a story, run, job or evaluation has used in the last 60 days, the models of saved recipes, those whose calls
the engine relays, and those whose name is an alias of the engine: programs ask for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.datasets import recipes
from core.db.store import Store
from core.db.tables import (
    AccountArchive,
    AliasChange,
    ArchivedTune,
    Evaluation,
    ModelShadow,
    Run,
    Story,
    TrainingJob,
)
from core.migrate import tunes
from core.pricing import shutdown, stopped_models
from core.pricing.price_book import PriceBook
from core.pricing.prices import ENGINE

THRESHOLDS: Final = (30, 14, 7, 1)
"""Days before the last day on which an alert is sent."""
_LATELY = timedelta(days=60)
_ENDED = ("stopped", "flipped", "dark")  # comparisons on calls
_SETTLED = ("compared", "switched")
_ENDED_WITHOUT_MODEL = ("failed", "cancelled", "canceled")


@dataclass(frozen=True, slots=True)
class StoppingModel:
    """A model in use and its last day. `provider`: "" for an account whose key is not stored."""

    provider: str
    model: str
    day: date


def in_use(store: Store, book: PriceBook, now: datetime, within_days: int) -> list[StoppingModel]:
    """The models in use that stop today or within so many days, by day and name."""
    first, last = now.date(), now.date() + timedelta(days=within_days)
    if not any(first <= day <= last for day in _days(store, book)):
        return []
    found, settled = _of_accounts(store)
    with store.reading() as session:
        announced = stopped_models.announced(session)
        used = _used(session, now - _LATELY) | _asked_for(session)
        used |= {(provider, model, None) for provider, model in recipes.writers(session) if provider != ENGINE}
        for provider, model, base in sorted(used, key=str):
            names = {_key(provider, model), ("", model)}  # an account whose key is not stored may be of any provider
            if names & (found.keys() | settled):
                continue
            end = shutdown.of(model, base, announced, book, provider)
            if end is not None:
                found[_key(provider, model)] = StoppingModel(provider, model, end.day)
    stopping = (one for one in found.values() if first <= one.day <= last)
    return sorted(stopping, key=lambda one: (one.day, one.model, one.provider))


def by_day(found: Iterable[StoppingModel]) -> Mapping[date, list[str]]:
    """The names of the models by their last day."""
    grouped: dict[date, list[str]] = {}
    for one in found:
        names = grouped.setdefault(one.day, [])
        if one.model not in names:  # two providers may have it
            names.append(one.model)
    return grouped


def threshold(days_left: int) -> int | None:
    """The threshold that was passed last with so many days left; None before the first, and after the last day."""
    return min((days for days in THRESHOLDS if 0 <= days_left <= days), default=None)


def _key(provider: str, model: str) -> tuple[str, str]:
    """What tells models apart: two providers may have a base model of the same name, but not a tuned one."""
    return ("" if model.startswith("ft:") else provider), model


def _days(store: Store, book: PriceBook) -> set[date]:
    """Every last day that is known. Most of the year none is near, and nothing else has to be read."""
    with store.reading() as session:
        archived = session.scalars(select(ArchivedTune.dark_on).where(ArchivedTune.dark_on.is_not(None)).distinct())
        return {*book.last_days.values(), *(day for day in archived if day is not None)}


def _of_accounts(store: Store) -> tuple[dict[tuple[str, str], StoppingModel], set[tuple[str, str]]]:
    """The models of archived accounts that still have to be replaced, and those that have been, by `_key`."""
    with store.reading() as session:
        accounts = session.execute(select(AccountArchive.id, AccountArchive.provider)).all()
    found: dict[tuple[str, str], StoppingModel] = {}
    settled: set[tuple[str, str]] = set()
    for archive_id, provider in accounts:
        for one in tunes.list_tunes(store, archive_id):
            if one.model is None:
                continue
            if one.state in _SETTLED:
                settled.add(_key(provider, one.model))
            elif one.dark_on is not None:
                found[_key(provider, one.model)] = StoppingModel(provider, one.model, one.dark_on)
    return found, settled


def _used(session: Session, since: datetime) -> set[tuple[str, str, str | None]]:
    """Provider, model and base (if the model's name may not say it) of what was used since then, except the engine."""
    of_accounts = select(ArchivedTune.job_id).where(ArchivedTune.job_id.is_not(None))
    queries = (
        select(Story.provider, func.coalesce(Story.requested_model, Story.model)).where(
            Story.created_at > since, Story.provider != ENGINE
        ),
        select(Run.provider, Run.model).where(Run.created_at > since, Run.provider != ENGINE),
        select(Evaluation.provider, Evaluation.model).where(
            Evaluation.created_at > since, Evaluation.provider != ENGINE
        ),
    )
    used: set[tuple[str, str, str | None]] = set()
    for query in queries:
        used |= {(provider, model, None) for provider, model in session.execute(query.distinct())}
    jobs = select(TrainingJob.provider, TrainingJob.fine_tuned_model, TrainingJob.base_model).where(
        TrainingJob.created_at > since,
        TrainingJob.provider != ENGINE,
        TrainingJob.status.not_in(_ENDED_WITHOUT_MODEL),
        TrainingJob.id.not_in(of_accounts),
    )
    return used | {(provider, model or base, base) for provider, model, base in session.execute(jobs.distinct())}


def _asked_for(session: Session) -> set[tuple[str, str, str | None]]:
    """The same for what programs ask the engine for: models that it relays, and the names of its aliases."""
    relayed = session.execute(select(ModelShadow.provider, ModelShadow.alias).where(ModelShadow.state.not_in(_ENDED)))
    asked: set[tuple[str, str, str | None]] = {(provider, alias, None) for provider, alias in relayed}
    newest = select(func.max(AliasChange.id)).group_by(AliasChange.alias)
    query = select(AliasChange.alias).where(AliasChange.id.in_(newest), AliasChange.model.is_not(None))
    known = {alias for _provider, alias, _base in asked}
    return asked | {(shutdown.OPENAI, alias, None) for alias in session.scalars(query) if alias not in known}
