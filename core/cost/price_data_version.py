"""Which edition of genai-prices' data is in use: the packaged one, or a newer one that somebody has fetched.

What was fetched lies in the home folder, so that every process of the studio reads it, after a restart too. Nothing is
fetched unless a person asks.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from core.actor import Actor
from core.errors import FabulaError, Refused
from core.message import msg

if TYPE_CHECKING:
    from genai_prices.types import Provider

PACKAGED = date(2026, 11, 10)
"""The day genai-prices 0.2.3 was uploaded to PyPI. The least version we accept, so a newer one is only fresher."""

URL = "https://raw.githubusercontent.com/pydantic/genai-prices/refs/heads/main/prices/new_data/v2/data.json"
"""genai-prices' own DEFAULT_UPDATE_URL; given here so that a test can name another."""

FILE = "genai-prices.json"
"""In FABULA_HOME: what was fetched last, as it came; the file's time is when."""

_NEEDED = "openai"  # an edition without it would turn most prices into "unknown": something else has answered
_TIMEOUT_S = 10.0
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class PriceDataVersion:
    """Price data of one day. `fetched` is when it came from the network (UTC); None: it came with the package."""

    source: str
    day: date
    providers: Mapping[str, Provider]
    fetched: datetime | None = None


def current(home: Path | None) -> PriceDataVersion:
    """What prices are read from now: what any process of this home has fetched last, else the package."""
    found = None
    if home is not None:
        path = home / FILE
        try:
            seen = path.stat()
        except OSError:
            return _packaged()
        found = _kept(str(path), seen.st_mtime_ns, seen.st_size)
    return found if found is not None and found.day >= PACKAGED else _packaged()


def fetch(actor: Actor, now: datetime, home: Path) -> PriceDataVersion:
    """Fetch the newest data, and have every process of this home use it from now on.

    Takes 10 seconds at most. When it fails, what is in use stays.

    Raises:
        Refused: the actor may only look.
        FabulaError: offline, what came is no price data, or it cannot be kept; `what` says why.
    """
    _may(actor)
    with _one_at_a_time:
        try:
            data = _asked_for()
            _read(data)
            home.mkdir(parents=True, exist_ok=True)
            part = home / f"{FILE}.{os.getpid()}.part"
            part.write_bytes(data)
            os.utime(part, (now.timestamp(), now.timestamp()))
            part.replace(home / FILE)
        except Exception as exc:  # httpx2's and pydantic's errors, and what malformed data makes the library raise
            reason = str(exc).strip().partition("\n")[0] or type(exc).__name__
            raise FabulaError(
                msg("Couldn't fetch newer prices: {reason}.", reason=reason),
                msg("The prices of {day} stay in use. Try again later.", day=current(home).day),
            ) from exc
    return current(home)


def forget(actor: Actor, home: Path) -> None:
    """Go back to the packaged data.

    Raises:
        Refused: the actor may only look.
    """
    _may(actor)
    (home / FILE).unlink(missing_ok=True)


def _may(actor: Actor) -> None:
    if actor.role == "viewer":
        raise Refused(msg("Viewers cannot fetch prices."), msg("Ask an editor to do it."))


def _asked_for() -> bytes:
    import httpx2  # the library's own client

    answer = httpx2.get(URL, timeout=_TIMEOUT_S)
    answer.raise_for_status()
    return bytes(answer.content)


def _read(data: bytes) -> dict[str, Provider]:
    """The data by provider, as genai-prices' own updater reads it (it has no public way to read a file).

    Raises:
        ValueError: it is something else; also as pydantic's own error.
    """
    from genai_prices.types import _providers_from_raw

    raw = json.loads(data)
    if not isinstance(raw, list):
        raise ValueError("it is no list of providers")
    providers = {one.id: one for one in _providers_from_raw(raw)}
    if _NEEDED not in providers:
        raise ValueError("there are no prices in it")
    return providers


@lru_cache(maxsize=2)
def _kept(path: str, time_ns: int, size: int) -> PriceDataVersion | None:
    """What lies in the file, of that time and size; None when it is not to be read, or no price data."""
    try:
        providers = _read(Path(path).read_bytes())
    except Exception:  # a file that somebody has changed by hand must not take the packaged prices away
        return None
    at = datetime.fromtimestamp(time_ns / 1e9, UTC)
    return PriceDataVersion("genai-prices", at.date(), providers, at)


@cache
def _packaged() -> PriceDataVersion:
    from genai_prices.data import providers  # 1.6 MB of literals, a quarter of a second: only when asked

    return PriceDataVersion(f"genai-prices {version('genai-prices')}", PACKAGED, {one.id: one for one in providers})
