"""The spend ledger: every call that we make, for whom, and what it cost. The calls are written here; who reads how
much was spent by day, person or run asks `core.cost.spend_history`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.actor import Actor
from core.cost import budget
from core.db.store import Store
from core.db.tables import Spend, utcnow

Page = Literal["dataset", "training", "story", "comparison"]
"""What a call was for: a data set, a training job, a story, or a job's models before and after."""


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
    estimated_usd: Decimal | None = None,
    counted_prompt_tokens: int | None = None,
    counted_completion_tokens: int | None = None,
) -> int:
    """Write one call into the ledger, in the caller's transaction, and return its id.

    Before a call is sent, give the worst case as `cost_usd` and `settle` it afterwards; `reference` is the run, job
    or story that it belongs to. A None cost stays "unknown" in every sum.

    Args:
        prompt_tokens, completion_tokens: as the provider reports them. Where it does not, our count stands in.
        cost_usd: what it cost; or, without any token count, the worst case: a reservation, which budgets may refuse.
        estimated_usd: what was expected; for a reservation, that is the worst case unless something else is given.
        counted_prompt_tokens, counted_completion_tokens: by our own count; kept beside what the provider reports.

    Raises:
        OverBudget: the reservation would go over a budget; nothing is written.
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
    """Replace what was reserved for a call by what it really took; what was estimated stays beside it."""
    row = session.get_one(Spend, spend_id)
    row.prompt_tokens = _reported(prompt_tokens, counted_prompt_tokens)
    row.completion_tokens = _reported(completion_tokens, counted_completion_tokens)
    row.cost_usd = cost_usd
    row.counted_prompt_tokens, row.counted_completion_tokens = counted_prompt_tokens, counted_completion_tokens


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


def _reported(by_provider: int | None, by_us: int | None) -> int | None:
    return by_us if by_provider is None else by_provider
