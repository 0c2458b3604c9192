"""Finds the alerts about models in use that stop soon: one for each last day and threshold, naming all its models.

A threshold that has passed is not made up for: whoever starts five days before the last day gets one alert.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from datetime import date, datetime

from core import shared_files
from core.alerts.events import AlertEvent
from core.db.store import Store
from core.errors import BadFile
from core.message import listed, msg, sentences
from core.migrate import guard
from core.pricing import custom_prices
from core.pricing.price_book import PriceBook
from core.settings import Settings

_MOST_NAMES = 10


def find(store: Store, now: datetime, known: Container[str] = (), book: PriceBook | None = None) -> list[AlertEvent]:
    """The alerts that are due now. Those whose keys are in `known` are omitted.

    Args:
        now: UTC.
        book: the prices, with the last days of models; default: those of this installation.

    Raises:
        StorageFull: the database is unavailable.
    """
    stopping = guard.in_use(store, book or _prices(store, now), now, max(guard.THRESHOLDS))
    events = []
    for day, models in guard.by_day(stopping).items():
        left = (day - now.date()).days
        key = f"shutdown:{day.isoformat()}:{guard.threshold(left)}"
        if key not in known:
            events.append(_event(key, day, left, models))
    return events


def _event(key: str, day: date, days_left: int, models: Sequence[str]) -> AlertEvent:
    several = len(models) > 1
    title = (
        msg("{n} models stop on {day}", n=len(models), day=day.isoformat())
        if several
        else msg("{model} stops on {day}", model=models[0], day=day.isoformat())
    )
    text = sentences(
        msg("Days left: {days}.", days=days_left),
        msg("Models: {models}.", models=_names(models)) if several else "",
        msg("Afterwards, programs that call them get an error. Archive and replace them on the page Move.")
        if several
        else msg("Afterwards, programs that call it get an error. Archive and replace it on the page Move."),
    )
    return AlertEvent(key, title, text)


def _names(models: Sequence[str]) -> str:
    shown = listed(models[:_MOST_NAMES])
    more = len(models) - _MOST_NAMES
    return msg("{names} and {n} more", names=shown, n=more) if more > 0 else shown


def _prices(store: Store, now: datetime) -> PriceBook:
    try:
        return custom_prices.book(store, shared_files.storage(Settings.from_env()), now)
    except BadFile:  # a price file that can't be read must not stop alerts; the cost page names its fault
        return PriceBook.load(now=now)
