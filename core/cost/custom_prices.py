"""Prices that people of this studio have set: they stand before the book's, and are marked wherever they show."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

from sqlalchemy import select, update

from core.actor import Actor
from core.cost.price_book import PriceBook
from core.cost.price_csv import ANY, UNITS, PriceEntry, amount_in, most_of
from core.cost.prices import ENGINE
from core.db.store import Store, advisory_lock, new_id
from core.db.tables import OwnPrice, utcnow
from core.decimal_input import typed_number
from core.errors import BadFile, FabulaError, NotFound
from core.message import msg

USES = ("input", "cached_input", "output", "training", "hosting_hour", "batch_factor", "speech")
"""What a price can be set for."""

CURRENCIES = ("USD", "CNY")
"""What a price can be set in: those between which a rate is stated."""

LONGEST_MODEL, LONGEST_PROVIDER = 200, 50
"""Characters of a model's and a provider's name, as the ledger holds them."""

_SOURCE = "set in this studio"


@dataclass(frozen=True, slots=True)
class OwnPriceView:
    """A price that was set, by whom and when. `amount` is in `unit`: mtok, ktok, hour, factor or mchar."""

    id: str
    provider: str
    model: str
    what: str
    amount: Decimal
    currency: str
    unit: str
    note: str
    created_at: datetime
    created_by: str


def set_price(
    store: Store,
    actor: Actor,
    *,
    provider: str,
    model: str,
    what: str,
    amount: str,
    currency: str = "USD",
    unit: str = "mtok",
    note: str = "",
) -> str:
    """Set one amount; an earlier one for the same use of the same model is replaced. Returns its id.

    Args:
        model: its id; `ft:<base>` for everything tuned from a base.
        amount: as typed.

    Raises:
        FabulaError: a name is missing, the amount cannot be one or can be read in two ways, or the actor may only look.
    """
    if actor.role == "viewer":
        raise FabulaError(msg("Viewers cannot set prices."), msg("Ask an editor to do it."))
    provider, model = provider.strip(), model.strip()
    if not provider or not model:
        raise FabulaError(
            msg("A price needs a provider and a model."), msg("Enter both exactly as the provider writes them.")
        )
    if (count := len(model)) > LONGEST_MODEL:
        raise FabulaError(
            msg("The model's name has {count} characters; up to {most} fit.", count=count, most=LONGEST_MODEL),
            msg("Enter it exactly as the provider writes it."),
        )
    if (count := len(provider)) > LONGEST_PROVIDER:
        raise FabulaError(
            msg("The provider's name has {count} characters; up to {most} fit.", count=count, most=LONGEST_PROVIDER),
            msg("Choose one from the list, or shorten it."),
        )
    if provider == ENGINE and model != ANY:
        raise FabulaError(
            msg("The engine's models have no price per token."), msg("Enter the cost per hour of this machine instead.")
        )
    if what not in USES or unit not in UNITS[what] or currency not in CURRENCIES:
        raise FabulaError(
            msg("“{what}” is not priced per “{unit}”.", what=what, unit=unit), msg("Choose another unit.")
        )
    allowed = msg("Enter a number from 0 to {most}.", most=f"{most_of(what, unit):,}")
    if not amount.strip():
        raise FabulaError(msg("The price has no amount."), allowed)
    number = typed_number(amount)
    try:
        amount_in(number, what, unit, model)
        parsed = Decimal(number)
    except BadFile as exc:
        raise FabulaError(msg("“{amount}” is not a price for {model}.", amount=amount, model=model), allowed) from exc
    _one_currency(store, provider, model, what, currency)
    with store.session() as session:
        advisory_lock(session, "own_prices")
        same = (OwnPrice.provider == provider, OwnPrice.model == model, OwnPrice.what == what)
        now = utcnow()
        session.execute(update(OwnPrice).where(*same, OwnPrice.deleted_at.is_(None)).values(deleted_at=now))
        row = OwnPrice(
            id=new_id(),
            provider=provider,
            model=model,
            what=what,
            amount=parsed,
            currency=currency,
            unit=unit,
            note=note.strip(),
            created_by=actor.id,
        )
        session.add(row)
        return row.id


def remove(store: Store, actor: Actor, price_id: str) -> None:
    """Take an own price away: the book's stands again.

    Raises:
        NotFound: it is not there (any more).
        FabulaError: the actor may only look.
    """
    if actor.role == "viewer":
        raise FabulaError(msg("Viewers cannot change prices."), msg("Ask an editor to do it."))
    with store.session() as session:
        row = session.get(OwnPrice, price_id)
        if row is None or row.deleted_at is not None:
            raise NotFound(msg("This price was already removed."))
        row.deleted_at = utcnow()


def list_own(store: Store) -> list[OwnPriceView]:
    """All own prices, the newest first; the hourly price of this machine is not among them (see `machine_hour`)."""
    return [_view(row) for row in _rows(store) if row.provider != ENGINE]


def entries(store: Store) -> list[PriceEntry]:
    """The own prices as rows of a price file, for `PriceBook.load(own=…)`."""
    return [_entry(row) for row in _rows(store) if row.provider != ENGINE]


def book(store: Store, home: Path | None = None, now: datetime | None = None) -> PriceBook:
    """The price book as this studio sees it: shipped prices, those of `<home>/prices.csv`, and those set in the page.

    Raises:
        BadFile: a price file cannot be read.
    """
    return PriceBook.load(home, now, entries(store))


def machine_hour(store: Store) -> tuple[Decimal, str] | None:
    """What an hour of this machine costs, and in which currency; None: no one has said."""
    rows = [row for row in _rows(store) if row.provider == ENGINE and row.what == "hosting_hour"]
    return (rows[0].amount, rows[0].currency) if rows else None


def set_machine_hour(store: Store, actor: Actor, amount: str, currency: str = "USD") -> None:
    """Say what an hour of this machine costs: electricity, or rent.

    Raises:
        FabulaError: the amount cannot be one, or the actor may only look.
    """
    set_price(
        store, actor, provider=ENGINE, model=ANY, what="hosting_hour", amount=amount, currency=currency, unit="hour"
    )


def _rows(store: Store) -> list[OwnPrice]:
    query = select(OwnPrice).where(OwnPrice.deleted_at.is_(None)).order_by(OwnPrice.created_at.desc(), OwnPrice.id)
    with store.reading() as session:
        return list(session.scalars(query))


def _one_currency(store: Store, provider: str, model: str, what: str, currency: str) -> None:
    others = (row for row in _rows(store) if (row.provider, row.model) == (provider, model) and row.what != what)
    for row in others:
        if what != "batch_factor" and row.what != "batch_factor" and row.currency != currency:
            raise FabulaError(
                msg("Your other prices for {model} are in {currency}.", model=model, currency=row.currency),
                msg("Enter all prices of a model in one currency."),
            )


def _day(moment: datetime | None) -> date | None:
    return None if moment is None else moment.astimezone(UTC).date()


def _view(row: OwnPrice) -> OwnPriceView:
    return OwnPriceView(
        row.id, row.provider, row.model, row.what, row.amount, row.currency, row.unit, row.note,
        row.created_at, row.created_by,
    )  # fmt: skip


def _entry(row: OwnPrice) -> PriceEntry:
    return PriceEntry(
        model=row.model,
        provider=row.provider,
        what=row.what,
        amount=row.amount * 1_000 if row.unit == "ktok" else row.amount,
        currency=row.currency,
        source=_SOURCE,
        checked=row.created_at.astimezone(UTC).date(),
        valid_from=_day(row.valid_from),
        valid_until=_day(row.valid_until),
        note=row.note,
        where=f"own price {row.id}",
    )
