"""The saved providers as a `Registry` reads them: from the ledger, at most twice a second."""

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
from core.providers.saved import provider_of
from core.providers.schemas import Provider
from core.secret_key import SecretKey
from core.settings import Settings

_MAX_AGE_S = 0.5  # so that another process sees a change within a second

Maker = Callable[[], Provider]


class SavedProviders:
    """Providers by id, as functions: each decrypts its key, or raises `Misconfigured`.

    Args:
        open_store: returns the ledger; called at the first use.
        settings: where the secret key is.
    """

    def __init__(self, open_store: Callable[[], Store], settings: Settings) -> None:
        self._open_store = open_store
        self._key = SecretKey(settings)
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._makers: dict[str, Maker] = {}
        self._revisions: dict[str, str] = {}

    def makers(self) -> Mapping[str, Maker]:
        """The current providers. While the database is unavailable, the last known ones.

        Raises:
            StorageFull: it is unavailable, and was so from the start.
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
        """Changes whenever a provider is added, edited, tested or removed."""
        self.makers()
        return tuple(self._revisions.values())

    def forget(self) -> None:
        """Read again at the next use: a change of this process shows at once."""
        with self._lock:
            self._read_at = min(self._read_at, time.monotonic() - _MAX_AGE_S)

    def removed_name(self, provider_id: str) -> str | None:
        """The name that a removed provider had; None: no provider with this id was removed.

        Raises:
            StorageFull: the database is unavailable.
        """
        with self._open_store().reading() as session:
            return provider_ids.removed_name(session, provider_id)

    def _read(self) -> None:
        with self._open_store().reading() as session:
            rows = list(session.scalars(select(SavedProvider).order_by(SavedProvider.created_at)))
        # an unchanged row keeps its maker, and with it the decrypted key
        revisions = {row.id: row.revision for row in rows}
        self._makers = {
            row.id: self._makers[row.id] if self._revisions.get(row.id) == row.revision else _Maker(row, self._key)
            for row in rows
        }
        self._revisions, self._read_at = revisions, time.monotonic()


class _Maker:
    """Decrypts the key of a row once."""

    def __init__(self, row: SavedProvider, key: SecretKey) -> None:
        self._make = partial(provider_of, row, key)
        self._provider: Provider | None = None

    def __call__(self) -> Provider:
        if self._provider is None:
            self._provider = self._make()
        return self._provider
