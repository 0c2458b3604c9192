"""Price files, `data/prices.csv` and the user's own: one amount a row, with its source and the day it was checked."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation
from itertools import groupby, pairwise
from pathlib import Path

from core.errors import BadFile
from core.message import msg

ANY = "*"
"""As a model: the amount holds for every model of the provider that has none of its own."""

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
"""What an amount is for. `use` has none: its `valid_until` is the last day on which the model can be used."""

UNITS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("input", "cached_input", "output", "training", "batch_input", "batch_output"), ("mtok", "ktok")),
    "hosting_hour": ("hour",),
    "batch_factor": ("factor",),
    "speech": ("mchar",),
    "use": ("",),
}
MOST_PER_MTOK = Decimal(100_000)  # a hundred times the dearest price there has been: a slip of the unit, not a price
MOST_PER_HOUR = Decimal(10_000)

_NEEDED = ("model", "provider", "what", "amount", "currency", "unit", "source", "checked")
_NEXT_STEP = msg("Correct the line; data/prices.csv in the project shows the columns and how values are written.")


@dataclass(frozen=True, slots=True)
class PriceEntry:
    """One row of a price file: one amount for one use of one model, and from when until when it holds.

    Attributes:
        amount: per million tokens or characters, per hour, or a factor (see `what`); None for `use`.
        base_model: of a tuned model: what it was tuned from.
        where: file and line, for messages.
    """

    model: str
    provider: str
    what: str
    amount: Decimal | None
    currency: str
    source: str
    checked: date
    base_model: str | None = None
    valid_from: date | None = None
    valid_until: date | None = None
    note: str = ""
    where: str = ""

    def holds(self, day: date) -> bool:
        """Whether the amount is the one of this day."""
        return (self.valid_from is None or self.valid_from <= day) and (
            self.valid_until is None or day <= self.valid_until
        )


def read_prices(path: Path) -> list[PriceEntry]:
    """The rows of a price file, in order.

    Raises:
        BadFile: not UTF-8; a column or a needed value is missing; a value cannot be read or is absurd; two rows of one
            model say different things for the same day, or name different currencies. `what` names the line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            missing = [name for name in _NEEDED if name not in (reader.fieldnames or ())]
            if missing:
                raise BadFile(msg("{name} has no column “{missing}”.", name=path.name, missing=missing[0]), _NEXT_STEP)
            found = [_entry(row, f"{path.name}, line {reader.line_num}") for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise BadFile(msg("{name} cannot be read: {exc}.", name=path.name, exc=exc), _NEXT_STEP) from exc
    check_together(found)
    return found


def check_together(entries: Iterable[PriceEntry]) -> None:
    """See that no day has two amounts for one use of a model, and no model two currencies.

    Raises:
        BadFile: it has; `what` names both rows.
    """
    ordered = sorted(entries, key=lambda e: (e.provider, e.model, e.what, e.valid_from or date.min))
    for _, same in groupby(ordered, key=lambda e: (e.provider, e.model, e.what)):
        rows = list(same)
        for one, other in pairwise(rows):
            if one.valid_until is None or other.valid_from is None or other.valid_from <= one.valid_until:
                raise BadFile(
                    msg(
                        "{where} and {other} give two amounts of “{what}” for {model} at the same time.",
                        where=one.where,
                        other=other.where,
                        what=one.what,
                        model=one.model,
                    ),
                    _NEXT_STEP,
                )
    for _, all_of in groupby(ordered, key=lambda e: (e.provider, e.model)):
        money = [e for e in all_of if e.amount is not None and e.what != "batch_factor"]
        for entry in money:
            if entry.currency != money[0].currency:
                raise BadFile(
                    msg(
                        "{where} and {other} price {model} in {currency} and in {other_currency}.",
                        where=money[0].where,
                        other=entry.where,
                        model=entry.model,
                        currency=money[0].currency,
                        other_currency=entry.currency,
                    ),
                    _NEXT_STEP,
                )


def amount_in(text: str, what: str, unit: str, where: str) -> Decimal:
    """An amount as a person writes it, per million tokens or per hour, or as a factor.

    Raises:
        BadFile: it is not a number, negative, or too large to be meant.
    """
    try:
        amount = Decimal(text)
    except InvalidOperation as exc:
        raise BadFile(
            msg("{where}: “{text}” in “amount” is not a number.", where=where, text=text), _NEXT_STEP
        ) from exc
    if not amount.is_finite() or amount < 0:
        raise BadFile(msg("{where}: “{text}” in “amount” is not a price.", where=where, text=text), _NEXT_STEP)
    if amount > most_of(what, unit):
        raise BadFile(
            msg("{where}: “{text}” in “amount” is far above any known price; check the unit.", where=where, text=text),
            _NEXT_STEP,
        )
    return amount * 1_000 if unit == "ktok" else amount


def most_of(what: str, unit: str) -> Decimal:
    """The largest amount that is taken for a price, in `unit`."""
    most = {"hosting_hour": MOST_PER_HOUR, "batch_factor": Decimal(1)}.get(what, MOST_PER_MTOK)
    return most / 1_000 if unit == "ktok" else most


def _entry(row: dict[str, str | None], where: str) -> PriceEntry:
    text = {name: (value or "").strip() for name, value in row.items() if isinstance(name, str)}
    what, unit = text["what"], text["unit"]
    optional = ("amount", "currency", "unit") if what == "use" else ("currency",) if what == "batch_factor" else ()
    for name in _NEEDED:
        if not text[name] and name not in optional:
            raise BadFile(msg("{where}: “{name}” is empty.", where=where, name=name), _NEXT_STEP)
    if what not in USES:
        raise BadFile(
            msg("{where}: “{what}” in “what” is not one of {uses}.", where=where, what=what, uses=", ".join(USES)),
            _NEXT_STEP,
        )
    if unit not in UNITS[what]:
        raise BadFile(
            msg("{where}: “{what}” is not priced per “{unit}”.", where=where, what=what, unit=unit), _NEXT_STEP
        )
    if text["currency"] and not re.fullmatch(r"[A-Z]{3}", text["currency"]):
        raise BadFile(
            msg("{where}: “{currency}” in “currency” is not a code like USD.", where=where, currency=text["currency"]),
            _NEXT_STEP,
        )
    days = {name: _day(text, name, where) for name in ("checked", "valid_from", "valid_until")}
    assert days["checked"] is not None  # just seen that it is not empty
    if days["valid_from"] and days["valid_until"] and days["valid_from"] > days["valid_until"]:
        raise BadFile(msg("{where}: “valid_from” is after “valid_until”.", where=where), _NEXT_STEP)
    if what == "use" and (text["amount"] or days["valid_until"] is None):
        raise BadFile(msg("{where}: “use” needs a last day in “valid_until” and no amount.", where=where), _NEXT_STEP)
    return PriceEntry(
        model=text["model"],
        provider=text["provider"],
        what=what,
        amount=None if what == "use" else amount_in(text["amount"], what, unit, where),
        currency=text["currency"] or "USD",
        source=text["source"],
        checked=days["checked"],
        base_model=text.get("base_model") or None,
        valid_from=days["valid_from"],
        valid_until=days["valid_until"],
        note=text.get("note", ""),
        where=where,
    )


def _day(text: dict[str, str], name: str, where: str) -> date | None:
    if not (value := text.get(name, "")):
        return None
    try:
        return date.fromisoformat(value)
    except ValueError as exc:
        raise BadFile(
            msg("{where}: “{value}” in “{name}” is not a date like 2026-11-21.", where=where, value=value, name=name),
            _NEXT_STEP,
        ) from exc
