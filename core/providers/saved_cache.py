"""A cache of the saved providers for `Registry`, which reads the ledger at most twice per second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from functools import partial

from sqlalchemy import select

from core.db.store import Store
from core.db.tables import SavedProvider
from core.errors import StorageFull
from core.providers import provider_ids
from core.providers.saved import provider_of, rules_of
from core.providers.schemas import Provider
from core.secret_key import SecretKey
from core.settings import Settings

_MAX_AGE_S = 0.5  # so that changes from another process take effect within a second

Maker = Callable[[], Provider]


class SavedProviders:
    """Providers by id, as functions; each function decrypts the provider's key, or raises `Misconfigured`.

    Args:
        open_store: returns the ledger; called on first use.
        settings: location of the secret key, and the rules for addresses.
    """

    def __init__(self, open_store: Callable[[], Store], settings: Settings) -> None:
        self._open_store = open_store
        self._key, self._rules = SecretKey(settings), rules_of(settings)
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._makers: dict[str, Maker] = {}
        self._revisions: dict[str, str] = {}

    def makers(self) -> Mapping[str, Maker]:
        """The current providers, or the last known ones while the database is unavailable.

        Raises:
            StorageFull: the database has been unavailable from the start.
        """
        with self._lock:
            if time.monotonic() - self._read_at >= _MAX_AGE_S:
                try:
                    self._read()
                except StorageFull:
                    if self._read_at == float("-inf"):
                        raise
            return self._makers

    def revisions(self) -> tuple[str, ...]:
        """A value that changes whenever a provider is added, edited, tested or removed."""
        self.makers()
        return tuple(self._revisions.values())

    def forget(self) -> None:
        """Make the next use read the ledger again, so that changes made by this process take effect immediately."""
        with self._lock:
            self._read_at = min(self._read_at, time.monotonic() - _MAX_AGE_S)

    def removed_name(self, provider_id: str) -> str | None:
        """A removed provider's name; None if no provider with this id was removed.

        Raises:
            StorageFull: the database is unavailable.
        """
        with self._open_store().reading() as session:
            return provider_ids.removed_name(session, provider_id)

    def _read(self) -> None:
        with self._open_store().reading() as session:
            rows = list(session.scalars(select(SavedProvider).order_by(SavedProvider.created_at)))
        # an unchanged row keeps its `_Maker`, and with it the decrypted key
        revisions = {row.id: row.revision for row in rows}
        self._makers = {
            row.id: self._makers[row.id]
            if self._revisions.get(row.id) == row.revision
            else _Maker(partial(provider_of, row, self._key, self._rules))
            for row in rows
        }
        self._revisions, self._read_at = revisions, time.monotonic()


class _Maker:
    """Decrypts a row's key once."""

    def __init__(self, make: Maker) -> None:
        self._make = make
        self._provider: Provider | None = None

    def __call__(self) -> Provider:
        if self._provider is None:
            self._provider = self._make()
        return self._provider
