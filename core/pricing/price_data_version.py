"""The version of the genai-prices data in use: the packaged one, or a newer one that a user has fetched.

Fetched data is stored in the home folder, for all processes and after restarts. Nothing is fetched automatically.
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
"""The day genai-prices 0.2.3 was uploaded to PyPI, which is the minimum version required."""

URL = "https://raw.githubusercontent.com/pydantic/genai-prices/refs/heads/main/prices/new_data/v2/data.json"
"""The same as DEFAULT_UPDATE_URL of genai-prices; defined here so that tests can change it."""

FILE = "genai-prices.json"
"""The last fetched data in FABULA_HOME, unchanged; its modification time is the time of the fetch."""

_REQUIRED_PROVIDER = "openai"  # data without this provider is not valid price data
_TIMEOUT_S = 10.0
_fetch_lock = threading.Lock()


@dataclass(frozen=True)
class PriceDataVersion:
    """Price data of one day. `fetched`: when it was downloaded (UTC); None: packaged data."""

    source: str
    day: date
    providers: Mapping[str, Provider]
    fetched: datetime | None = None


def current(home: Path | None) -> PriceDataVersion:
    """The data in use: the last fetched data in this home if it is newer, otherwise the packaged data."""
    fetched = None
    if home is not None:
        path = home / FILE
        try:
            stat = path.stat()
        except OSError:
            return _packaged()
        fetched = _load_file(str(path), stat.st_mtime_ns, stat.st_size)
    return fetched if fetched is not None and fetched.day >= PACKAGED else _packaged()


def fetch(actor: Actor, now: datetime, home: Path) -> PriceDataVersion:
    """Fetch the newest data for all processes of this home. If this fails, the data in use does not change.

    Takes at most about 10 seconds.

    Raises:
        Refused: the actor is a viewer.
        FabulaError: offline, invalid data, or it can't be saved; `what` gives the reason.
    """
    _require_editor(actor)
    with _fetch_lock:
        try:
            data = _download()
            _parse(data)
            home.mkdir(parents=True, exist_ok=True)
            part = home / f"{FILE}.{os.getpid()}.part"
            part.write_bytes(data)
            os.utime(part, (now.timestamp(), now.timestamp()))
            part.replace(home / FILE)
        except Exception as exc:  # errors of httpx2 and pydantic, and any error of the library on malformed data
            reason = str(exc).strip().partition("\n")[0] or type(exc).__name__
            raise FabulaError(
                msg("Couldn't fetch newer prices: {reason}.", reason=reason),
                msg("The prices of {day} remain in use. Try again later.", day=current(home).day),
            ) from exc
    return current(home)


def use_packaged(actor: Actor, home: Path) -> None:
    """Delete the fetched data and use the packaged data again.

    Raises:
        Refused: the actor is a viewer.
    """
    _require_editor(actor)
    (home / FILE).unlink(missing_ok=True)


def _require_editor(actor: Actor) -> None:
    if actor.role == "viewer":
        raise Refused(msg("Viewers cannot fetch prices."), msg("Ask an editor to do it."))


def _download() -> bytes:
    import httpx2  # the library's own client

    response = httpx2.get(URL, timeout=_TIMEOUT_S)
    response.raise_for_status()
    return bytes(response.content)


def _parse(data: bytes) -> dict[str, Provider]:
    """Parse the data like the updater of genai-prices, which has no public function for this.

    Raises:
        ValueError: not price data; includes pydantic's errors.
    """
    from genai_prices.types import _providers_from_raw

    raw = json.loads(data)
    if not isinstance(raw, list):
        raise ValueError("it is not a list of providers")
    providers = {provider.id: provider for provider in _providers_from_raw(raw)}
    if _REQUIRED_PROVIDER not in providers:
        raise ValueError("it contains no prices")
    return providers


@lru_cache(maxsize=2)
def _load_file(path: str, time_ns: int, size: int) -> PriceDataVersion | None:
    """Load the fetched data; None: unreadable or invalid. Time and size are part of the cache key."""
    try:
        providers = _parse(Path(path).read_bytes())
    except Exception:  # a damaged file must not break the packaged prices
        return None
    fetched_at = datetime.fromtimestamp(time_ns / 1e9, UTC)
    return PriceDataVersion("genai-prices", fetched_at.date(), providers, fetched_at)


@cache
def _packaged() -> PriceDataVersion:
    from genai_prices.data import providers  # imported here: 1.6 MB of literals take a quarter of a second

    return PriceDataVersion(
        f"genai-prices {version('genai-prices')}", PACKAGED, {provider.id: provider for provider in providers}
    )
