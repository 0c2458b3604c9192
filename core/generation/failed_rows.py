"""The failed rows of a data set by cause, and changed settings for a retry. Sends no requests."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from decimal import Decimal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core import failures
from core.datasets.recipe import Recipe
from core.db.store import Store
from core.db.tables import Row
from core.failures import Cause

_MAX_REASONS = 1_000  # distinct reasons that are read; rows with rarer ones count as "other"
_MAX_MESSAGES = 3  # provider messages shown per cause
_MIN_TOKEN_LIMIT = 256  # a lower limit cuts off any story
_TEMPERATURE_STEP = Decimal("0.3")  # how much lower the next temperature is
_MIN_TEMPERATURE = Decimal("0.1")  # at 0 a small model repeats itself


@dataclass(frozen=True, slots=True)
class FailedRows:
    """Failed rows with the same cause.

    Attributes:
        provider_messages: distinct messages of the provider, most frequent first.
        unknown_reasons: reasons that contain no known Fabula sentence, in the same order.
    """

    cause: Cause
    rows: int
    provider_messages: tuple[str, ...] = ()
    unknown_reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """Changed settings for the rows of a data set still to be written. None: unchanged."""

    max_tokens: int | None = None
    temperature: float | None = None
    provider: str | None = None
    model: str | None = None

    def apply_to(self, recipe: Recipe) -> Recipe:
        """The recipe with these settings; check it before use."""
        settings = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return replace(recipe, **{name: value for name, value in settings.items() if value is not None})


def higher_limit(max_tokens: int) -> int:
    """The next token limit to try after a cut-off at `max_tokens`: twice as much, at least 256."""
    return max(2 * max_tokens, _MIN_TOKEN_LIMIT)


def lower_temperature(temperature: float) -> float | None:
    """The next temperature to try after empty answers. None: it is already at the minimum."""
    lower = max(Decimal(str(temperature)) - _TEMPERATURE_STEP, _MIN_TEMPERATURE)
    return float(lower) if lower < Decimal(str(temperature)) else None


@dataclass
class _Group:
    rows: int = 0
    provider_messages: dict[str, str] = field(default_factory=dict)
    unknown_reasons: dict[str, str] = field(default_factory=dict)


def by_cause(session: Session, dataset_id: str, failed: int) -> tuple[FailedRows, ...]:
    """The `failed` failed rows of a data set by cause, most frequent first."""
    count = func.count()
    query = select(Row.finish_reason, Row.reason, count).where(Row.dataset_id == dataset_id, Row.state == "failed")
    query = query.group_by(Row.finish_reason, Row.reason).order_by(count.desc(), Row.reason).limit(_MAX_REASONS)
    groups: dict[Cause, _Group] = {}
    for finish_reason, reason, rows in session.execute(query):
        failure = failures.of_row(reason, finish_reason)
        group = groups.setdefault(failure.cause, _Group())
        group.rows += rows
        for messages, message in (
            (group.provider_messages, failure.provider_message),
            (group.unknown_reasons, failure.raw_text),
        ):
            if message:  # token counts and ids differ for the same cause
                messages.setdefault(re.sub(r"\d+", "#", message), message)
    if (others := failed - sum(group.rows for group in groups.values())) > 0:
        groups.setdefault("other", _Group()).rows += others
    result = [
        FailedRows(
            cause,
            group.rows,
            tuple(group.provider_messages.values())[:_MAX_MESSAGES],
            tuple(group.unknown_reasons.values())[:_MAX_MESSAGES],
        )
        for cause, group in groups.items()
    ]
    return tuple(sorted(result, key=lambda group: -group.rows))


def ids_of(store: Store, dataset_id: str, cause: Cause) -> list[int]:
    """Ids of the failed rows with this cause."""
    query = select(Row.id, Row.finish_reason, Row.reason).where(Row.dataset_id == dataset_id, Row.state == "failed")
    with store.reading() as session:
        return [
            row_id
            for row_id, finish_reason, reason in session.execute(query.order_by(Row.id))
            if failures.of_row(reason, finish_reason).cause == cause
        ]
