"""The rows of a run: claimed, settled, given back. What fills the grid is `matrix`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from sqlalchemy import bindparam, delete, func, select, update
from sqlalchemy.orm import Session

from core.actor import Actor
from core.cost import spend
from core.dataset.matrix import fill, recipe_of
from core.dataset.recipe import Recipe
from core.db.store import Store
from core.db.tables import Row, Run, Spend, utcnow
from core.errors import NotFound


@dataclass(frozen=True, slots=True)
class Order:
    """One run as its executor needs it. `spent_usd`: what earlier goes have spent or reserved, as far as known."""

    run_id: str
    dataset_id: str
    provider: str
    model: str
    actor: Actor
    recipe: Recipe
    budget_usd: Decimal | None
    spent_usd: Decimal


@dataclass(frozen=True, slots=True)
class Claim:
    """A row that is about to be sent. `spend_id` is its line in the spend ledger."""

    row_id: int
    key: str
    prompt: str
    spend_id: int
    reserved_usd: Decimal | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came back for a row. `state` is done or failed; a failed row keeps the text that it got."""

    row_id: int
    spend_id: int
    state: str
    reason: str | None
    text: str | None
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: Decimal | None
    at: datetime


def begin(store: Store, run_id: str) -> Order | None:
    """Take a run in hand; None when there is nothing (more) to do for it.

    Rows that an earlier, killed go had sent are pending again: whether they were bought nobody knows.

    Raises:
        NotFound: no such run.
        BadRecipe: its data set has no recipe, or one that cannot be run.
    """
    with store.session() as session:
        run = session.get(Run, run_id, with_for_update=True)
        if run is None:
            raise NotFound("This run is not there any more.", "Start another one.")
        if run.state == "stopping":
            finish(session, run_id, "stopped", None)
        if run.state not in ("queued", "running"):
            return None
        recipe = recipe_of(session, run.dataset_id)
        recipe.check()
        run.state, run.note = "running", None
        run.started_at = run.started_at or utcnow()
        give_back(session, run.dataset_id)
        actor = Actor(id=run.created_by, name=run.created_by, role="editor")
        return Order(
            run_id=run.id,
            dataset_id=run.dataset_id,
            provider=run.provider,
            model=run.model,
            actor=actor,
            recipe=recipe,
            budget_usd=run.budget_usd,
            spent_usd=_spent(session, run),
        )


def _spent(session: Session, run: Run) -> Decimal:
    """Amounts are text, so equal ones are grouped by SQL and summed here, exactly."""
    query = select(Spend.cost_usd, func.count()).where(Spend.at >= run.created_at, Spend.reference == run.id)
    found = session.execute(query.group_by(Spend.cost_usd))
    return sum((cost * calls for cost, calls in found if cost is not None), Decimal(0))


def claim(
    session: Session, order: Order, most: int, worst: Callable[[str], Decimal | None], left_usd: Decimal | None
) -> tuple[list[Claim], bool]:
    """Take up to `most` pending rows: they are `sent` from now on, and their worst case is reserved as spend.

    Args:
        worst: what a prompt costs at most, None where the price is unknown.
        left_usd: what may still be reserved, or None: no limit.

    Returns:
        The claims, and whether the money ended them.
    """
    pending = (
        select(Row.id, Row.key, Row.prompt)
        .where(Row.dataset_id == order.dataset_id, Row.state == "pending")
        .order_by(Row.id)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    found = session.execute(pending).all()
    if len(found) < most and fill(session, order.dataset_id, order.recipe):
        found = session.execute(pending).all()
    claims: list[Claim] = []
    for row_id, key, prompt in found:
        cost = worst(prompt)
        if left_usd is not None and cost is not None:
            if cost > left_usd:
                break
            left_usd -= cost
        spend_id = spend.record(
            session,
            order.actor,
            "dataset",
            provider=order.provider,
            model=order.model,
            reference=order.run_id,
            cost_usd=cost,
        )
        claims.append(Claim(row_id, key, prompt, spend_id, cost))
    if claims:
        taken = update(Row).where(Row.id.in_([c.row_id for c in claims]))
        session.execute(taken.values(state="sent", run_id=order.run_id, updated_at=utcnow()))
    return claims, len(claims) < len(found)


def settle(session: Session, outcomes: Sequence[Outcome]) -> None:
    """Write what came back, and what it really cost, in one transaction."""
    rows = update(Row.__table__).where(Row.__table__.c.id == bindparam("row"))  # type: ignore[arg-type]  # a Table
    fields = ("state", "reason", "text", "finish_reason", "prompt_tokens", "completion_tokens", "cost_usd")
    rows = rows.values({name: bindparam(f"new_{name}") for name in (*fields, "updated_at")})
    session.execute(
        rows,
        [{"row": o.row_id, "new_updated_at": o.at, **{f"new_{f}": getattr(o, f) for f in fields}} for o in outcomes],
    )
    for outcome in outcomes:
        spend.settle(
            session,
            outcome.spend_id,
            prompt_tokens=outcome.prompt_tokens,
            completion_tokens=outcome.completion_tokens,
            cost_usd=outcome.cost_usd,
        )


def release(session: Session, unsent: Iterable[Claim], unknown: Iterable[tuple[Claim, Decimal | None]]) -> None:
    """Give rows back. Those that never left cost nothing; those that were cut off cost what is said, None: unknown."""
    unsent, unknown = list(unsent), list(unknown)
    ids = [c.row_id for c in unsent] + [c.row_id for c, _ in unknown]
    if not ids:
        return
    session.execute(
        update(Row).where(Row.id.in_(ids), Row.state == "sent").values(state="pending", updated_at=utcnow())
    )
    session.execute(delete(Spend).where(Spend.id.in_([c.spend_id for c in unsent])))
    for claimed, cost in unknown:
        spend.settle(session, claimed.spend_id, prompt_tokens=None, completion_tokens=None, cost_usd=cost)


def give_back(session: Session, dataset_id: str) -> None:
    """Rows that were sent and got no answer are pending again."""
    session.execute(
        update(Row)
        .where(Row.dataset_id == dataset_id, Row.state == "sent")
        .values(state="pending", updated_at=utcnow())
    )


def finish(session: Session, run_id: str, state: str, reason: str | None) -> None:
    """The end of a run: its state, why, and no row left on its way."""
    run = session.get_one(Run, run_id)
    run.state, run.reason, run.note, run.finished_at = state, reason, None, utcnow()
    give_back(session, run.dataset_id)
