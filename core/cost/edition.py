"""Which edition of genai-prices' data is in use: the packaged one, or a newer one that somebody has fetched.

A fetched edition serves this process until it ends; the package is what every start begins with. Nothing is fetched
unless a person asks.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING

from core.actor import Actor
from core.errors import FabulaError, Refused

if TYPE_CHECKING:
    from genai_prices.types import Provider

PACKAGED = date(2026, 11, 10)
"""The day genai-prices 0.2.3 was uploaded to PyPI. The least version we accept, so a newer one is only fresher."""

URL = "https://raw.githubusercontent.com/pydantic/genai-prices/refs/heads/main/prices/new_data/v2/data.json"
"""genai-prices' own DEFAULT_UPDATE_URL; given here so that a test can name another."""

_NEEDED = "openai"  # an edition without it would turn most prices into "unknown": something else has answered
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Edition:
    """Price data of one day. `fetched` is when it came from the network (UTC); None: it came with the package."""

    source: str
    day: date
    providers: Mapping[str, Provider]
    fetched: datetime | None = None


_fetched: Edition | None = None


def current() -> Edition:
    """What prices are read from now."""
    return _fetched or _packaged()


def fetch(actor: Actor, now: datetime) -> Edition:
    """Fetch the newest data with the library's own updater, and use it from now on, for everybody in this process.

    Takes 10 seconds at most. When it fails, what is in use stays.

    Raises:
        Refused: the actor may only look.
        FabulaError: offline, or what came is no price data; `what` says why.
    """
    global _fetched
    if actor.role == "viewer":
        raise Refused("Visitors cannot fetch prices.", "Ask an editor.")
    from genai_prices import UpdatePrices

    with _one_at_a_time:
        try:
            found = UpdatePrices(url=URL).fetch()
            providers = {} if found is None else {one.id: one for one in found.providers}
            if _NEEDED not in providers:
                raise ValueError("there are no prices in it")
        except Exception as exc:  # httpx2's and pydantic's errors, and what malformed data makes the library raise
            reason, day = str(exc).strip().partition("\n")[0] or type(exc).__name__, current().day
            raise FabulaError(
                f"Newer prices cannot be fetched: {reason}.",
                f"The prices of {day} serve; they are kept with the studio.",
            ) from exc
        _fetched = Edition("genai-prices", now.date(), providers, now)
        return _fetched


def forget() -> None:
    """Go back to the packaged data."""
    global _fetched
    _fetched = None


@cache
def _packaged() -> Edition:
    from genai_prices.data import providers  # 1.6 MB of literals, a quarter of a second: only when asked

    return Edition(f"genai-prices {version('genai-prices')}", PACKAGED, {one.id: one for one in providers})
