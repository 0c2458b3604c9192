"""Merges amounts (one per row) into prices (one per model), as of one day."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal

from core.pricing.price_csv import ANY, PriceEntry
from core.pricing.prices import Price, tuned_base

Key = tuple[str, str]
"""(provider, model)."""

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
        own: these are custom prices.
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
        if key[1] != ANY and any(what in current for what in _FIELDS):
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
            by_use[row.what] = row
    return by_use


def _price(key: Key, current: dict[str, PriceEntry], last_day: date | None, own: bool) -> Price:
    primary = next(current[what] for what in _PRIMARY_ORDER if what in current)
    amounts = {field: current[what].amount for what, field in _FIELDS.items() if what in current}
    last_price_days = [row.valid_until for what in ("input", "output") if (row := current.get(what)) is not None]
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
        checked=min(row.checked for what, row in current.items() if what in _FIELDS),
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
