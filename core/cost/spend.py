"""The spend ledger: every call that we make, for whom, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.actor import Actor
from core.db.store import Store
from core.db.tables import Spend

Page = Literal["dataset", "training", "story"]


@dataclass(frozen=True, slots=True)
class SpendLine:
    """What one model cost on one page. `cost_usd` sums what is known; `unknown` calls are not in it."""

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
    """What was spent since a point in time, in all and by model, dearest first."""

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
) -> int:
    """Write one call into the ledger, in the caller's transaction, and return its id.

    Before a call is sent, give the worst case as `cost_usd` and `settle` it afterwards; `reference` is the run, job
    or story that it belongs to. A None cost stays "unknown" in every sum.
    """
    row = Spend(
        actor=actor.id,
        page=page,
        provider=provider,
        model=model,
        reference=reference,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        cost_usd=cost_usd,
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
) -> None:
    """Replace what was reserved for a call by what it really took."""
    row = session.get_one(Spend, spend_id)
    row.prompt_tokens, row.completion_tokens, row.cost_usd = prompt_tokens, completion_tokens, cost_usd


def spent(store: Store, since: datetime, reference: str | None = None) -> Spent:
    """What was spent since `since` (UTC), or by one run, job or story (`reference`) since then."""
    # Amounts are text (SQLite has no decimal type), so SQL only groups equal ones and the sums are made here, exact.
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
            old = lines.get((provider, model, page)) or SpendLine(provider, model, page, 0, 0, 0, 0, Decimal(0))
            lines[provider, model, page] = SpendLine(
                provider=provider,
                model=model,
                page=page,
                calls=old.calls + calls,
                unknown=old.unknown + (calls if cost is None else 0),
                prompt_tokens=old.prompt_tokens + int(prompt or 0),
                completion_tokens=old.completion_tokens + int(completion or 0),
                cost_usd=old.cost_usd + (Decimal(0) if cost is None else cost * calls),
            )
    ordered = sorted(lines.values(), key=lambda line: (-line.cost_usd, line.provider, line.model, line.page))
    return Spent(
        since=since,
        calls=sum(line.calls for line in ordered),
        unknown=sum(line.unknown for line in ordered),
        cost_usd=sum((line.cost_usd for line in ordered), Decimal(0)),
        lines=tuple(ordered),
    )
