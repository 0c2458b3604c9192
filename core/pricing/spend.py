"""The spend ledger: every call, its user and its cost. This module writes calls; for spending by day, person or run,
see `core.pricing.spend_history`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.actor import Actor
from core.db.store import Store
from core.db.tables import Spend, utcnow
from core.pricing import budget

Page = Literal["dataset", "training", "story", "comparison"]
"""The purpose of a call: a data set, a training job, a story, or a before/after comparison."""


@dataclass(frozen=True, slots=True)
class SpendLine:
    """Spending of one model on one page. `cost_usd`: sum of the known costs; `unknown`: calls without one."""

    provider: str
    model: str
    page: str
    calls: int
    unknown: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: Decimal


@dataclass(frozen=True, slots=True)
class Spent:
    """Total spending since a point in time (UTC), and by model, highest cost first."""

    since: datetime
    calls: int
    unknown: int
    cost_usd: Decimal
    lines: tuple[SpendLine, ...]


def record(
    session: Session,
    actor: Actor,
    page: Page,
    *,
    provider: str,
    model: str,
    reference: str,
    prompt_tokens: int | None = None,
    completion_tokens: int | None = None,
    cost_usd: Decimal | None = None,
    estimated_usd: Decimal | None = None,
    counted_prompt_tokens: int | None = None,
    counted_completion_tokens: int | None = None,
) -> int:
    """Add one call to the ledger, in the caller's transaction. Returns its id.

    To reserve, pass the worst case as `cost_usd` without token counts before sending, and call `settle` afterwards.

    Args:
        reference: the run, job or story that the call belongs to.
        prompt_tokens, completion_tokens: reported by the provider; if None, the locally counted tokens are used.
        cost_usd: the cost, or the worst case of a reservation; None: unknown, also in sums.
        estimated_usd: the estimate; for a reservation, the worst case by default.
        counted_prompt_tokens, counted_completion_tokens: counted locally, saved in addition.

    Raises:
        OverBudget: the reservation would exceed a budget; nothing is written.
    """
    tokens = (prompt_tokens, completion_tokens, counted_prompt_tokens, counted_completion_tokens)
    reserves = page != "training" and cost_usd is not None and all(count is None for count in tokens)
    if reserves:
        budget.check(session, actor, cost_usd, reference)
    row = Spend(
        actor=actor.id,
        page=page,
        provider=provider,
        model=model,
        reference=reference,
        sent_at=utcnow(),
        prompt_tokens=_reported(prompt_tokens, counted_prompt_tokens),
        completion_tokens=_reported(completion_tokens, counted_completion_tokens),
        cost_usd=cost_usd,
        estimated_usd=cost_usd if reserves and estimated_usd is None else estimated_usd,
        counted_prompt_tokens=counted_prompt_tokens,
        counted_completion_tokens=counted_completion_tokens,
    )
    session.add(row)
    session.flush()
    return row.id


def settle(
    session: Session,
    spend_id: int,
    *,
    prompt_tokens: int | None,
    completion_tokens: int | None,
    cost_usd: Decimal | None,
    counted_prompt_tokens: int | None = None,
    counted_completion_tokens: int | None = None,
) -> None:
    """Replace a reservation with the actual tokens and cost. The estimate is kept."""
    row = session.get_one(Spend, spend_id)
    row.prompt_tokens = _reported(prompt_tokens, counted_prompt_tokens)
    row.completion_tokens = _reported(completion_tokens, counted_completion_tokens)
    row.cost_usd = cost_usd
    row.counted_prompt_tokens, row.counted_completion_tokens = counted_prompt_tokens, counted_completion_tokens


def spent(store: Store, since: datetime, reference: str | None = None) -> Spent:
    """Spending since `since` (UTC), optionally of one run, job or story (`reference`)."""
    # Amounts are stored as text (SQLite has no decimal type): SQL groups equal amounts, and sums are computed here.
    query = (
        select(
            Spend.provider,
            Spend.model,
            Spend.page,
            Spend.cost_usd,
            func.count(),
            func.sum(Spend.prompt_tokens),
            func.sum(Spend.completion_tokens),
        )
        .where(Spend.at >= since)
        .group_by(Spend.provider, Spend.model, Spend.page, Spend.cost_usd)
    )
    if reference is not None:
        query = query.where(Spend.reference == reference)
    lines: dict[tuple[str, str, str], SpendLine] = {}
    with store.reading() as session:
        for provider, model, page, cost, calls, prompt, completion in session.execute(query):
            line = lines.get((provider, model, page)) or SpendLine(provider, model, page, 0, 0, 0, 0, Decimal(0))
            lines[provider, model, page] = SpendLine(
                provider=provider,
                model=model,
                page=page,
                calls=line.calls + calls,
                unknown=line.unknown + (calls if cost is None else 0),
                prompt_tokens=line.prompt_tokens + int(prompt or 0),
                completion_tokens=line.completion_tokens + int(completion or 0),
                cost_usd=line.cost_usd + (Decimal(0) if cost is None else cost * calls),
            )
    ordered = sorted(lines.values(), key=lambda line: (-line.cost_usd, line.provider, line.model, line.page))
    return Spent(
        since=since,
        calls=sum(line.calls for line in ordered),
        unknown=sum(line.unknown for line in ordered),
        cost_usd=sum((line.cost_usd for line in ordered), Decimal(0)),
        lines=tuple(ordered),
    )


def _reported(by_provider: int | None, by_us: int | None) -> int | None:
    return by_us if by_provider is None else by_provider
