"""Price files: `data/prices.csv` and the user's own. One row, one price, with its source and the day it was checked."""

from __future__ import annotations

import csv
from datetime import date
from decimal import Decimal, InvalidOperation
from pathlib import Path

from core.cost.prices import Price
from core.errors import BadFile

_NEEDED = ("model", "provider", "currency", "source", "checked")
_NEXT_STEP = "Correct the line; data/prices.csv in the project shows the columns and how values are written."


def read_prices(path: Path) -> list[Price]:
    """The rows of a price file, in order.

    Raises:
        BadFile: not UTF-8, a column or a needed value is missing, or a value cannot be read; `what` names the line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            missing = [name for name in _NEEDED if name not in (reader.fieldnames or ())]
            if missing:
                raise BadFile(f"{path.name} has no column “{missing[0]}”.", _NEXT_STEP)
            return [_price(row, f"{path.name}, line {reader.line_num}") for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise BadFile(f"{path.name} cannot be read: {exc}.", _NEXT_STEP) from exc


def _price(row: dict[str, str | None], where: str) -> Price:
    text = {name: (value or "").strip() for name, value in row.items() if isinstance(name, str)}
    for name in _NEEDED:
        if not text[name]:
            raise BadFile(f"{where}: “{name}” is empty.", _NEXT_STEP)
    checked = _day(text, "checked", where)
    assert checked is not None  # just seen that it is not empty
    return Price(
        model=text["model"],
        provider=text["provider"],
        input_per_mtok=_amount(text, "input_per_mtok", where),
        output_per_mtok=_amount(text, "output_per_mtok", where),
        training_per_mtok=_amount(text, "training_per_mtok", where),
        base_model=text.get("base_model") or None,
        currency=text["currency"],
        source=text["source"],
        checked=checked,
        valid_until=_day(text, "valid_until", where),
        training_until=_day(text, "training_until", where),
    )


def _amount(text: dict[str, str], name: str, where: str) -> Decimal | None:
    if not (value := text.get(name, "")):
        return None
    try:
        amount = Decimal(value)
    except InvalidOperation as exc:
        raise BadFile(f"{where}: “{value}” in “{name}” is not a number.", _NEXT_STEP) from exc
    if not amount.is_finite() or amount < 0:
        raise BadFile(f"{where}: “{value}” in “{name}” is not a price.", _NEXT_STEP)
    return amount


def _day(text: dict[str, str], name: str, where: str) -> date | None:
    if not (value := text.get(name, "")):
        return None
    try:
        return date.fromisoformat(value)
    except ValueError as exc:
        raise BadFile(f"{where}: “{value}” in “{name}” is not a date like 2026-11-21.", _NEXT_STEP) from exc
