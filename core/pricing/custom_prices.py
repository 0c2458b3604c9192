"""Custom prices set by users. They override list prices and are marked as such."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal

from sqlalchemy import select, update

from core.actor import Actor, requires
from core.db.store import Store, advisory_lock, new_id
from core.db.tables import CustomPrice, utcnow
from core.errors import BadFile, FabulaError, NotFound
from core.file_storage import FileStorage
from core.message import msg
from core.pricing.decimal_input import typed_number
from core.pricing.price_book import PriceBook
from core.pricing.price_csv import ANY, UNITS, PriceEntry, max_amount, parse_amount
from core.pricing.prices import ENGINE

USES = ("input", "cached_input", "output", "training", "hosting_hour", "batch_factor", "speech")
"""What a price can be set for."""

CURRENCIES = ("USD", "CNY")
"""Currencies that a price can be set in (those with an exchange rate)."""

MAX_MODEL_LENGTH, MAX_PROVIDER_LENGTH = 200, 50
"""Maximum characters of a model's and a provider's name (column widths in the database)."""

_SOURCE = "set in this studio"


@dataclass(frozen=True, slots=True)
class CustomPriceView:
    """A custom price. `kind`: see `USES`; `amount` is per `unit`: mtok, ktok, hour, factor or mchar."""

    id: str
    provider: str
    model: str
    kind: str
    amount: Decimal
    currency: str
    unit: str
    note: str
    created_at: datetime
    created_by: str


@requires("editor")
def set_price(
    store: Store,
    actor: Actor,
    *,
    provider: str,
    model: str,
    kind: str,
    amount: str,
    currency: str = "USD",
    unit: str = "mtok",
    note: str = "",
) -> str:
    """Set one amount, replacing an earlier one for the same model and use. Returns its id.

    Args:
        model: model id; `ft:<base>` for all models tuned from a base.
        amount: the amount as typed by the user.

    Raises:
        NotAllowed: the actor is a viewer. FabulaError: a name is missing, or the amount is invalid or ambiguous.
    """
    provider, model = provider.strip(), model.strip()
    _require_names(provider, model)
    _require_unit(kind, unit, currency)
    value = _read_amount(amount, kind, unit, model)
    _check_currency(store, provider, model, kind, currency)
    with store.session() as session:
        advisory_lock(session, "custom_prices")
        same_price = (CustomPrice.provider == provider, CustomPrice.model == model, CustomPrice.kind == kind)
        now = utcnow()
        session.execute(update(CustomPrice).where(*same_price, CustomPrice.deleted_at.is_(None)).values(deleted_at=now))
        row = CustomPrice(
            id=new_id(),
            provider=provider,
            model=model,
            kind=kind,
            amount=value,
            currency=currency,
            unit=unit,
            note=note.strip(),
            created_by=actor.id,
        )
        session.add(row)
        return row.id


@requires("editor")
def remove(store: Store, actor: Actor, price_id: str) -> None:
    """Remove a custom price, so that the list price applies again.

    Raises:
        NotFound: it does not exist.
        NotAllowed: the actor is a viewer. NotFound: it was already removed.
    """
    with store.session() as session:
        row = session.get(CustomPrice, price_id)
        if row is None or row.deleted_at is not None:
            raise NotFound(msg("This price was already removed."))
        row.deleted_at = utcnow()


def list_custom(store: Store) -> list[CustomPriceView]:
    """All custom prices, newest first, without this machine's hourly cost (see `machine_hour`)."""
    return [_view(row) for row in _rows(store) if row.provider != ENGINE]


def entries(store: Store) -> list[PriceEntry]:
    """The custom prices as rows of a price file, for `PriceBook.load(own=…)`."""
    return [_entry(row) for row in _rows(store) if row.provider != ENGINE]


def book(store: Store, files: FileStorage | None = None, now: datetime | None = None) -> PriceBook:
    """The price book with all sources: bundled prices, the shared file `prices.csv`, and custom prices.

    Raises:
        BadFile: a price file can't be read. StorageFull: the shared files can't be read.
    """
    return PriceBook.load(files, now, entries(store))


def machine_hour(store: Store) -> tuple[Decimal, str] | None:
    """This machine's hourly cost and its currency; None if not set."""
    rows = [row for row in _rows(store) if row.provider == ENGINE and row.kind == "hosting_hour"]
    return (rows[0].amount, rows[0].currency) if rows else None


@requires("editor")
def set_machine_hour(store: Store, actor: Actor, amount: str, currency: str = "USD") -> None:
    """Set this machine's hourly cost: electricity or rent.

    Raises:
        NotAllowed: the actor is a viewer. FabulaError: the amount is invalid.
    """
    set_price(
        store, actor, provider=ENGINE, model=ANY, kind="hosting_hour", amount=amount, currency=currency, unit="hour"
    )


def _require_names(provider: str, model: str) -> None:
    """Raise FabulaError unless a price can be set for this model of this provider."""
    if not provider or not model:
        raise FabulaError(
            msg("A price needs a provider and a model."), msg("Enter both exactly as the provider writes them.")
        )
    if (count := len(model)) > MAX_MODEL_LENGTH:
        raise FabulaError(
            msg("The model's name has {count} characters; the limit is {limit}.", count=count, limit=MAX_MODEL_LENGTH),
            msg("Enter it exactly as the provider writes it."),
        )
    if (count := len(provider)) > MAX_PROVIDER_LENGTH:
        raise FabulaError(
            msg(
                "The provider's name has {count} characters; the limit is {limit}.",
                count=count,
                limit=MAX_PROVIDER_LENGTH,
            ),
            msg("Choose one from the list, or shorten it."),
        )
    if provider == ENGINE and model != ANY:
        raise FabulaError(
            msg("The engine's models have no price per token."), msg("Enter the cost per hour of this machine instead.")
        )


def _require_unit(kind: str, unit: str, currency: str) -> None:
    if kind not in USES or unit not in UNITS[kind] or currency not in CURRENCIES:
        raise FabulaError(
            msg("“{kind}” is not priced per “{unit}”.", kind=kind, unit=unit), msg("Choose another unit.")
        )


def _read_amount(amount: str, kind: str, unit: str, model: str) -> Decimal:
    """The amount that the user typed. Raises FabulaError if it is not a price."""
    allowed_range = msg("Enter a number from 0 to {limit}.", limit=f"{max_amount(kind, unit):,}")
    if not amount.strip():
        raise FabulaError(msg("The price has no amount."), allowed_range)
    normalized = typed_number(amount)
    try:
        parse_amount(normalized, kind, unit, model)
        return Decimal(normalized)
    except BadFile as exc:
        raise FabulaError(
            msg("“{amount}” is not a price for {model}.", amount=amount, model=model), allowed_range
        ) from exc


def _rows(store: Store) -> list[CustomPrice]:
    query = (
        select(CustomPrice)
        .where(CustomPrice.deleted_at.is_(None))
        .order_by(CustomPrice.created_at.desc(), CustomPrice.id)
    )
    with store.reading() as session:
        return list(session.scalars(query))


def _check_currency(store: Store, provider: str, model: str, kind: str, currency: str) -> None:
    others = (row for row in _rows(store) if (row.provider, row.model) == (provider, model) and row.kind != kind)
    for row in others:
        if kind != "batch_factor" and row.kind != "batch_factor" and row.currency != currency:
            raise FabulaError(
                msg("Your other prices for {model} are in {currency}.", model=model, currency=row.currency),
                msg("Enter all prices of a model in one currency."),
            )


def _day(moment: datetime | None) -> date | None:
    return None if moment is None else moment.astimezone(UTC).date()


def _view(row: CustomPrice) -> CustomPriceView:
    return CustomPriceView(
        row.id, row.provider, row.model, row.kind, row.amount, row.currency, row.unit, row.note,
        row.created_at, row.created_by,
    )  # fmt: skip


def _entry(row: CustomPrice) -> PriceEntry:
    return PriceEntry(
        model=row.model,
        provider=row.provider,
        kind=row.kind,
        amount=row.amount * 1_000 if row.unit == "ktok" else row.amount,
        currency=row.currency,
        source=_SOURCE,
        checked=row.created_at.astimezone(UTC).date(),
        valid_from=_day(row.valid_from),
        valid_until=_day(row.valid_until),
        note=row.note,
        where=f"own price {row.id}",
    )
