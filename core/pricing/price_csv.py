"""Price files (`data/prices.csv` and the user's): one amount per row, with source and check date.

`read_prices` reads the rows, `merge` makes one price per model of them, as of one day.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal, InvalidOperation
from itertools import groupby, pairwise
from pathlib import Path

from core.errors import BadFile
from core.message import Message, listed, msg
from core.pricing.prices import Key, Price, tuned_base

ANY = "*"
"""As a model name: the amount applies to all models of the provider without their own amount."""

USES = (
    "input",
    "cached_input",
    "output",
    "training",
    "hosting_hour",
    "batch_input",
    "batch_output",
    "batch_factor",
    "speech",
    "use",
)
"""What an amount is for. `use` has no amount; its `valid_until` is the last day on which the model can be used."""

UNITS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("input", "cached_input", "output", "training", "batch_input", "batch_output"), ("mtok", "ktok")),
    "hosting_hour": ("hour",),
    "batch_factor": ("factor",),
    "speech": ("mchar",),
    "use": ("",),
}
MAX_PER_MTOK = Decimal(100_000)  # a hundred times the highest known price; more is a wrong unit
MAX_PER_HOUR = Decimal(10_000)

_REQUIRED_COLUMNS = ("model", "provider", "kind", "amount", "currency", "unit", "source", "checked")
_DATES = ("checked", "valid_from", "valid_until")

_FIELDS = {
    "input": "input_per_mtok",
    "cached_input": "cached_input_per_mtok",
    "output": "output_per_mtok",
    "training": "training_per_mtok",
    "hosting_hour": "hosting_per_hour",
    "batch_input": "batch_input_per_mtok",
    "batch_output": "batch_output_per_mtok",
    "speech": "speech_per_mchar",
}
_PRIMARY_ORDER = (
    "output",
    "input",
    "training",
    "hosting_hour",
    "cached_input",
    "batch_input",
    "batch_output",
    "speech",
    "batch_factor",
)


@dataclass(frozen=True, slots=True)
class PriceEntry:
    """One row of a price file: one amount for one use of one model, with its validity.

    Attributes:
        amount: per million tokens or characters, per hour, or a factor (see `kind`); None for `use`.
        base_model: for a tuned model, the model it was tuned from.
        where: file and line, for error messages.
    """

    model: str
    provider: str
    kind: str
    amount: Decimal | None
    currency: str
    source: str
    checked: date
    base_model: str | None = None
    valid_from: date | None = None
    valid_until: date | None = None
    note: str = ""
    where: str = ""


def _bad_row(what: Message) -> BadFile:
    return BadFile(what, msg("Correct the line. For columns and formats, see data/prices.csv in the project."))


def read_prices(path: Path) -> list[PriceEntry]:
    """The rows of a price file on this machine; see `parse_prices`.

    Raises:
        BadFile: also if it cannot be read.
    """
    try:
        return parse_prices(path.name, path.read_bytes())
    except OSError as exc:
        raise _bad_row(msg("{name} cannot be read: {reason}.", name=path.name, reason=exc)) from exc


def parse_prices(name: str, data: bytes) -> list[PriceEntry]:
    """The rows of a price file, in order.

    Args:
        name: the file's name, for messages.
        data: its content.

    Raises:
        BadFile: not UTF-8, a required column or value is missing, a value is invalid or out of range, or two rows of a
            model overlap or have different currencies. `what` names the line.
    """
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        missing = [column for column in _REQUIRED_COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise _bad_row(msg("{name} has no column “{missing}”.", name=name, missing=missing[0]))
        entries = [_parse_row(row, f"{name}, line {reader.line_num}") for row in reader]
    except (UnicodeDecodeError, csv.Error) as exc:
        raise _bad_row(msg("{name} cannot be read: {reason}.", name=name, reason=exc)) from exc
    check_consistency(entries)
    return entries


def check_consistency(entries: Iterable[PriceEntry]) -> None:
    """Check that amounts for the same use do not overlap, and that each model has one currency.

    Raises:
        BadFile: rows contradict each other; `what` names both.
    """
    ordered = sorted(entries, key=lambda e: (e.provider, e.model, e.kind, e.valid_from or date.min))
    for _, group in groupby(ordered, key=lambda e: (e.provider, e.model, e.kind)):
        rows = list(group)
        for earlier, later in pairwise(rows):
            if earlier.valid_until is None or later.valid_from is None or later.valid_from <= earlier.valid_until:
                raise _bad_row(
                    msg(
                        "{where} and {other_where} give two amounts of “{kind}” for {model} at the same time.",
                        where=earlier.where,
                        other_where=later.where,
                        kind=earlier.kind,
                        model=earlier.model,
                    )
                )
    for _, group in groupby(ordered, key=lambda e: (e.provider, e.model)):
        priced = [e for e in group if e.amount is not None and e.kind != "batch_factor"]
        for entry in priced:
            if entry.currency != priced[0].currency:
                raise _bad_row(
                    msg(
                        "{where} and {other_where} price {model} in {currency} and in {other_currency}.",
                        where=priced[0].where,
                        other_where=entry.where,
                        model=entry.model,
                        currency=priced[0].currency,
                        other_currency=entry.currency,
                    )
                )


def parse_amount(text: str, kind: str, unit: str, where: str) -> Decimal:
    """Parse an amount: per million tokens or characters, per hour, or a factor. `ktok` is converted to `mtok`.

    Raises:
        BadFile: not a number, negative, or above `max_amount`.
    """
    try:
        amount = Decimal(text)
    except InvalidOperation as exc:
        raise _bad_row(msg("{where}: “{text}” in “amount” is not a number.", where=where, text=text)) from exc
    if not amount.is_finite() or amount < 0:
        raise _bad_row(msg("{where}: “{text}” in “amount” is not a price.", where=where, text=text))
    if amount > max_amount(kind, unit):
        raise _bad_row(
            msg("{where}: “{text}” in “amount” is far above any known price. Check the unit.", where=where, text=text)
        )
    return amount * 1_000 if unit == "ktok" else amount


def max_amount(kind: str, unit: str) -> Decimal:
    """The largest accepted amount, in `unit`."""
    limit = {"hosting_hour": MAX_PER_HOUR, "batch_factor": Decimal(1)}.get(kind, MAX_PER_MTOK)
    return limit / 1_000 if unit == "ktok" else limit


def _parse_row(row: dict[str, str | None], where: str) -> PriceEntry:
    values = {name: (value or "").strip() for name, value in row.items() if isinstance(name, str)}
    _check_values(values, where)
    kind, dates = values["kind"], {name: _parse_date(values, name, where) for name in _DATES}
    assert dates["checked"] is not None  # checked by `_check_values`
    if dates["valid_from"] and dates["valid_until"] and dates["valid_from"] > dates["valid_until"]:
        raise _bad_row(msg("{where}: “valid_from” is after “valid_until”.", where=where))
    if kind == "use" and (values["amount"] or dates["valid_until"] is None):
        raise _bad_row(msg("{where}: “use” needs a last day in “valid_until” and no amount.", where=where))
    return PriceEntry(
        model=values["model"],
        provider=values["provider"],
        kind=kind,
        amount=None if kind == "use" else parse_amount(values["amount"], kind, values["unit"], where),
        currency=values["currency"] or "USD",
        source=values["source"],
        checked=dates["checked"],
        base_model=values.get("base_model") or None,
        valid_from=dates["valid_from"],
        valid_until=dates["valid_until"],
        note=values.get("note", ""),
        where=where,
    )


def _check_values(values: dict[str, str], where: str) -> None:
    """Raise BadFile if a required value is missing, or a use, unit or currency is unknown."""
    kind, unit = values["kind"], values["unit"]
    optional = ("amount", "currency", "unit") if kind == "use" else ("currency",) if kind == "batch_factor" else ()
    for name in _REQUIRED_COLUMNS:
        if not values[name] and name not in optional:
            raise _bad_row(msg("{where}: “{name}” is empty.", where=where, name=name))
    if kind not in USES:
        raise _bad_row(
            msg("{where}: “{kind}” in “kind” is not one of {uses}.", where=where, kind=kind, uses=listed(USES))
        )
    if unit not in UNITS[kind]:
        raise _bad_row(msg("{where}: “{kind}” is not priced per “{unit}”.", where=where, kind=kind, unit=unit))
    if values["currency"] and not re.fullmatch(r"[A-Z]{3}", values["currency"]):
        raise _bad_row(
            msg("{where}: “{currency}” in “currency” is not a code like USD.", where=where, currency=values["currency"])
        )


def _parse_date(values: dict[str, str], name: str, where: str) -> date | None:
    if not (text_value := values.get(name, "")):
        return None
    try:
        return date.fromisoformat(text_value)
    except ValueError as exc:
        raise _bad_row(
            msg("{where}: “{text}” in “{name}” is not a date like 2026-11-21.", where=where, text=text_value, name=name)
        ) from exc


@dataclass(frozen=True, slots=True)
class MergedPrices:
    """The prices from a set of rows on one day.

    Attributes:
        prices: one per model, in order of first appearance.
        last_days: last day on which a model can be used, also for models without a price here.
        batch_factors: (provider, model or `*`) → batch price / live price.
    """

    prices: tuple[Price, ...]
    last_days: dict[Key, date]
    batch_factors: dict[Key, Decimal]


def merge(entries: Iterable[PriceEntry], today: date, *, own: bool = False) -> MergedPrices:
    """The price of every model on `today`. Expired amounts are used until a newer one is valid.

    Args:
        own: whether these are custom prices.
    """
    models: dict[Key, list[PriceEntry]] = {}
    for entry in entries:
        models.setdefault((entry.provider, entry.model), []).append(entry)
    prices, last_days, factors = list[Price](), dict[Key, date](), dict[Key, Decimal]()
    for key, rows in models.items():
        current = _rows_on(rows, today)
        use, factor = current.get("use"), current.get("batch_factor")
        if use is not None and use.valid_until is not None:
            last_days[key] = use.valid_until
        if factor is not None and factor.amount is not None:
            factors[key] = factor.amount
        if key[1] != ANY and any(kind in current for kind in _FIELDS):
            prices.append(_price(key, current, last_days.get(key), own))
    return MergedPrices(tuple(prices), last_days, factors)


def with_overrides(own: Price, listed: Price | None) -> Price:
    """The listed price with custom amounts instead of the listed ones.

    If the currencies differ, only the custom amounts are used, because a price has one currency.
    """
    if listed is None or listed.currency != own.currency:
        return own if listed is None else replace(own, valid_until=own.valid_until or listed.valid_until)
    overrides = {name: amount for name in _FIELDS.values() if (amount := getattr(own, name)) is not None}
    tiers = () if {"input_per_mtok", "output_per_mtok"} & overrides.keys() else listed.tiers
    return replace(
        listed, **overrides, own=True, tiers=tiers, source=own.source, note=own.note or listed.note,
        price_until=own.price_until,
    )  # fmt: skip


def with_batch(price: Price, factors: Mapping[Key, Decimal]) -> Price:
    """The price with batch amounts computed from a factor, if no batch amounts are known.

    A provider-wide factor does not apply to tuned models, which may have no batches or other prices.
    """
    if price.batch_input_per_mtok is not None or price.batch_output_per_mtok is not None:
        return price
    factor = factors.get(price.key)
    if factor is None and price.base_model is None:
        factor = factors.get((price.provider, ANY))
    if factor is None:
        return price
    return replace(
        price,
        batch_input_per_mtok=None if price.input_per_mtok is None else price.input_per_mtok * factor,
        batch_output_per_mtok=None if price.output_per_mtok is None else price.output_per_mtok * factor,
    )


def _rows_on(rows: Sequence[PriceEntry], day: date) -> dict[str, PriceEntry]:
    """The row valid on `day` for each use, otherwise the one that expired last. Future rows are ignored."""
    by_use: dict[str, PriceEntry] = {}
    for row in sorted(rows, key=lambda entry: entry.valid_from or date.min):
        if row.valid_from is None or row.valid_from <= day:
            by_use[row.kind] = row
    return by_use


def _price(key: Key, current: dict[str, PriceEntry], last_day: date | None, own: bool) -> Price:
    primary = next(current[kind] for kind in _PRIMARY_ORDER if kind in current)
    amounts = {field: current[kind].amount for kind, field in _FIELDS.items() if kind in current}
    last_price_days = [row.valid_until for kind in ("input", "output") if (row := current.get(kind)) is not None]
    training = current.get("training")
    base = next((row.base_model for row in current.values() if row.base_model), None)
    notes = dict.fromkeys(row.note for row in current.values() if row.note)
    return Price(
        model=key[1],
        provider=key[0],
        input_per_mtok=amounts.get("input_per_mtok"),
        output_per_mtok=amounts.get("output_per_mtok"),
        training_per_mtok=amounts.get("training_per_mtok"),
        base_model=base or tuned_base(key[1]),
        currency=primary.currency,
        source=primary.source,
        checked=min(row.checked for kind, row in current.items() if kind in _FIELDS),
        valid_until=last_day,
        price_until=min((day for day in last_price_days if day is not None), default=None),
        training_until=training.valid_until if training is not None else None,
        cached_input_per_mtok=amounts.get("cached_input_per_mtok"),
        batch_input_per_mtok=amounts.get("batch_input_per_mtok"),
        batch_output_per_mtok=amounts.get("batch_output_per_mtok"),
        hosting_per_hour=amounts.get("hosting_per_hour"),
        speech_per_mchar=amounts.get("speech_per_mchar"),
        own=own,
        note=" ".join(notes),
    )
