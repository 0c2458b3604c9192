"""Tells at almost no cost whether anything was committed to a database, so that an idle loop has nothing to read.

SQLite counts the commits of all other connections, of any process, and PostgreSQL's snapshot names the transactions
that have ended. Both take microseconds, and neither misses a commit.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Hashable
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import text

from core.db.store import Store

# https://www.postgresql.org/docs/current/functions-info.html#FUNCTIONS-INFO-SNAPSHOT
_SNAPSHOT = text("SELECT pg_current_snapshot()::text")


class ChangeMarker:
    """Reads a value that changes with every commit to a ledger. For one thread; on SQLite it keeps connections open.

    Args:
        store: the ledger.
        others: further SQLite files that count.
    """

    def __init__(self, store: Store, *others: Path) -> None:
        self._store = store
        self._files = [*([store.file.path] if store.file else []), *others]
        self._connections: list[sqlite3.Connection] = []

    def read(self) -> Hashable:
        """If two values are equal, nothing was committed between them. Values of two markers cannot be compared.

        Raises:
            StorageFull: the database is unavailable.
        """
        commits = self._commits()
        if self._store.file is not None:
            self._store.check_file()
            return commits
        with self._store.reading() as session:
            return commits, session.scalar(_SNAPSHOT)

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections:
            connection.close()
        self._connections.clear()

    def _commits(self) -> Hashable:
        """The files' counters; if one cannot be read, a value that equals no other: the next access says why."""
        try:
            if not self._connections:
                self._connections.extend(map(_connected, self._files))
            # https://www.sqlite.org/pragma.html#pragma_data_version
            return tuple(one.execute("PRAGMA data_version").fetchone()[0] for one in self._connections)
        except sqlite3.Error:
            self.close()
            return object()


def _connected(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(file.absolute()))}?mode=ro", uri=True, isolation_level=None)
