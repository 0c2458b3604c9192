"""From amounts, one a row, to prices, one a model, as of one day."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal

from core.cost.price_csv import ANY, PriceEntry
from core.cost.prices import Price, tuned_base

Key = tuple[str, str]
"""(provider, model): how a row of the book is named."""

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
_SPEAKS = (
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
    """What a set of rows says on one day.

    Attributes:
        prices: one for each model, in order of first appearance.
        last_days: last day on which a model can be used, also of models whose price stands elsewhere.
        batch_factors: provider or (provider, model) → what a batch costs of the live price.
    """

    prices: tuple[Price, ...]
    last_days: dict[Key, date]
    batch_factors: dict[Key, Decimal]


def merge(entries: Iterable[PriceEntry], today: date, *, own: bool = False) -> MergedPrices:
    """The price of every model on `today`. Amounts that are no longer valid stay until newer ones follow them.

    Args:
        own: a person of this studio has set them.
    """
    models: dict[Key, list[PriceEntry]] = {}
    for entry in entries:
        models.setdefault((entry.provider, entry.model), []).append(entry)
    prices, last_days, factors = list[Price](), dict[Key, date](), dict[Key, Decimal]()
    for key, rows in models.items():
        now = _now(rows, today)
        use, factor = now.get("use"), now.get("batch_factor")
        if use is not None and use.valid_until is not None:
            last_days[key] = use.valid_until
        if factor is not None and factor.amount is not None:
            factors[key] = factor.amount
        if key[1] != ANY and any(what in now for what in _FIELDS):
            prices.append(_price(key, now, last_days.get(key), own))
    return MergedPrices(tuple(prices), last_days, factors)


def with_overrides(own: Price, known: Price | None) -> Price:
    """A price with the amounts that a person has set in place of the known ones.

    Amounts in another currency than the known ones stand alone: two currencies never meet in one price.
    """
    if known is None or known.currency != own.currency:
        return own if known is None else replace(own, valid_until=own.valid_until or known.valid_until)
    set_by_hand = {name: amount for name in _FIELDS.values() if (amount := getattr(own, name)) is not None}
    long_prompts = () if {"input_per_mtok", "output_per_mtok"} & set_by_hand.keys() else known.tiers
    return replace(
        known, **set_by_hand, own=True, tiers=long_prompts, source=own.source, note=own.note or known.note,
        price_until=own.price_until,
    )  # fmt: skip


def with_batch(price: Price, factors: Mapping[Key, Decimal]) -> Price:
    """The price with what a batch costs, where a factor is known and no amounts are.

    A factor for all models of a provider does not speak of tuned ones: they may have no batches, or at other prices.
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


def _now(rows: Sequence[PriceEntry], today: date) -> dict[str, PriceEntry]:
    """For each use the row of today; where there is none, the one that ended last. A row of the future waits."""
    found: dict[str, PriceEntry] = {}
    for row in sorted(rows, key=lambda entry: entry.valid_from or date.min):
        if row.valid_from is None or row.valid_from <= today:
            found[row.what] = row
    return found


def _price(key: Key, now: dict[str, PriceEntry], last_day: date | None, own: bool) -> Price:
    speaker = next(now[what] for what in _SPEAKS if what in now)
    amounts = {field: now[what].amount for what, field in _FIELDS.items() if what in now}
    ends = [row.valid_until for what in ("input", "output") if (row := now.get(what)) is not None]
    training = now.get("training")
    base = next((row.base_model for row in now.values() if row.base_model), None)
    notes = dict.fromkeys(row.note for row in now.values() if row.note)
    return Price(
        model=key[1],
        provider=key[0],
        input_per_mtok=amounts.get("input_per_mtok"),
        output_per_mtok=amounts.get("output_per_mtok"),
        training_per_mtok=amounts.get("training_per_mtok"),
        base_model=base or tuned_base(key[1]),
        currency=speaker.currency,
        source=speaker.source,
        checked=min(row.checked for what, row in now.items() if what in _FIELDS),
        valid_until=last_day,
        price_until=min((day for day in ends if day is not None), default=None),
        training_until=training.valid_until if training is not None else None,
        cached_input_per_mtok=amounts.get("cached_input_per_mtok"),
        batch_input_per_mtok=amounts.get("batch_input_per_mtok"),
        batch_output_per_mtok=amounts.get("batch_output_per_mtok"),
        hosting_per_hour=amounts.get("hosting_per_hour"),
        speech_per_mchar=amounts.get("speech_per_mchar"),
        own=own,
        note=" ".join(notes),
    )
