"""The failed rows of a data set by cause, and other settings to have them written with. Nothing is sent here."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from decimal import Decimal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core import failures
from core.dataset.recipe import Recipe
from core.db.store import Store
from core.db.tables import Row
from core.failures import Cause

_MOST_REASONS = 1_000  # different sentences that are told apart; the rows of rarer ones count as "other"
_MOST_SAID = 3  # of a provider's sentences for one cause
_FEWEST_TOKENS = 256  # a limit below that cuts any story
_COOLER = Decimal("0.3")  # how much lower the next temperature is
_COLDEST = Decimal("0.1")  # at 0 a small model repeats itself


@dataclass(frozen=True, slots=True)
class FailedRows:
    """Failed rows that have one cause.

    Attributes:
        said: what the provider said, the most frequent first, each once.
        stored: whole reasons in which no sentence of Fabula's is known, in the same order.
    """

    cause: Cause
    rows: int
    said: tuple[str, ...] = ()
    stored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """Other settings for the rows of a data set that are still to be written. None: as they are."""

    max_tokens: int | None = None
    temperature: float | None = None
    provider: str | None = None
    model: str | None = None

    def of(self, recipe: Recipe) -> Recipe:
        """The recipe with these settings; check it before use."""
        given = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return replace(recipe, **{name: value for name, value in given.items() if value is not None})


def higher_limit(max_tokens: int) -> int:
    """The next limit to try for texts that were cut off at `max_tokens`: twice as much, at least 256."""
    return max(2 * max_tokens, _FEWEST_TOKENS)


def lower_temperature(temperature: float) -> float | None:
    """The next temperature to try where answers were empty; None: it cannot help to lower it."""
    lower = max(Decimal(str(temperature)) - _COOLER, _COLDEST)
    return float(lower) if lower < Decimal(str(temperature)) else None


@dataclass
class _Group:
    rows: int = 0
    said: dict[str, str] = field(default_factory=dict)
    stored: dict[str, str] = field(default_factory=dict)


def by_cause(session: Session, dataset_id: str, failed: int) -> tuple[FailedRows, ...]:
    """The `failed` failed rows of a data set by cause, the most frequent first."""
    count = func.count()
    query = select(Row.finish_reason, Row.reason, count).where(Row.dataset_id == dataset_id, Row.state == "failed")
    query = query.group_by(Row.finish_reason, Row.reason).order_by(count.desc(), Row.reason).limit(_MOST_REASONS)
    groups: dict[Cause, _Group] = {}
    for finish_reason, reason, rows in session.execute(query):
        failure = failures.of_row(reason, finish_reason)
        group = groups.setdefault(failure.cause, _Group())
        group.rows += rows
        for kept, words in ((group.said, failure.provider_message), (group.stored, failure.raw_text)):
            if words:  # token counts and ids differ where the cause is the same
                kept.setdefault(re.sub(r"\d+", "#", words), words)
    if (rest := failed - sum(group.rows for group in groups.values())) > 0:
        groups.setdefault("other", _Group()).rows += rest
    found = [
        FailedRows(cause, one.rows, tuple(one.said.values())[:_MOST_SAID], tuple(one.stored.values())[:_MOST_SAID])
        for cause, one in groups.items()
    ]
    return tuple(sorted(found, key=lambda one: -one.rows))


def ids_of(store: Store, dataset_id: str, cause: Cause) -> list[int]:
    """Ids of the failed rows that have this cause."""
    query = select(Row.id, Row.finish_reason, Row.reason).where(Row.dataset_id == dataset_id, Row.state == "failed")
    with store.reading() as session:
        return [
            row_id
            for row_id, finish_reason, reason in session.execute(query.order_by(Row.id))
            if failures.of_row(reason, finish_reason).cause == cause
        ]
