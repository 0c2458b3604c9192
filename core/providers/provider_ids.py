"""Ids of added providers. An id is never reused, because prices, runs, batches, jobs and ledger lines refer to it."""

from __future__ import annotations

import itertools
from collections.abc import Collection

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.db.tables import Evaluation, RemovedProvider, Run, SavedProvider, Spend, Story, TrainingJob

_WORK = (Run.provider, TrainingJob.provider, Evaluation.provider, Story.provider, Spend.provider)


def free_id(session: Session, preset_id: str, taken: Collection[str]) -> str:
    """Return the preset's id, or the first `<preset>-<number>` that no provider has or ever had.

    Ids used by work in the ledger are not free either: that work may belong to a provider from the environment, which
    is a different account.

    Args:
        taken: ids used by providers from the environment.
    """
    used = {*taken, *session.scalars(select(SavedProvider.id)), *session.scalars(select(RemovedProvider.id))}
    for column in _WORK:
        used.update(session.scalars(select(column).where(column.startswith(preset_id, autoescape=True)).distinct()))
    numbered = (f"{preset_id}-{number}" for number in itertools.count(2))
    return next(name for name in itertools.chain([preset_id], numbered) if name not in used)


def remember_removed(session: Session, row: SavedProvider, actor_id: str) -> None:
    """Record that this row's provider has been removed, so that `free_id` never returns its id again."""
    session.add(RemovedProvider(id=row.id, name=row.name, removed_by=actor_id))


def removed_name(session: Session, provider_id: str) -> str | None:
    """A removed provider's name; None if no provider with this id was removed."""
    row = session.get(RemovedProvider, provider_id)
    return None if row is None else row.name
