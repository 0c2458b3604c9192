"""The worker's part: lists an account, then archives it if that was asked for; continues where it was interrupted."""

from __future__ import annotations

import os
import threading

from core import shared_files
from core.db.store import Store
from core.db.tables import AccountArchive
from core.errors import Transient
from core.migrate import account_views, accounts, archive, inventory, sources
from core.migrate.calls import RETRIES, Calls, Stopped, wait_s
from core.migrate.workspace import InUse, Workspace
from core.pricing import custom_prices
from core.providers import Registry
from core.providers.retry import RetryPolicy
from core.settings import Settings

_LOCKED_S = 5.0  # how soon to look again whether another process has finished


def carry_out(store: Store, registry: Registry, archive_id: str, stopping: threading.Event) -> float | None:
    """Work on an account until it is listed or archived. Nothing that is stored is fetched again.

    Returns:
        Seconds until the work should be resumed, if the account cannot be reached; otherwise None.

    Raises:
        FabulaError: it can't continue. The caller records this with `accounts.give_up`.
    """
    settings = Settings.from_env(os.environ)
    try:
        with Workspace(settings, archive_id).locked():
            return move(store, registry, settings, archive_id, stopping)
    except InUse:
        return _LOCKED_S


def move(
    store: Store,
    registry: Registry,
    settings: Settings,
    archive_id: str,
    stopping: threading.Event,
    policy: RetryPolicy = RETRIES,
) -> float | None:
    """`carry_out` for a caller that holds the account's lock (`Workspace.locked`)."""
    reader, usage_reader = sources.readers(store, registry, archive_id)
    calls = Calls(store, archive_id, reader, stopping, policy)
    try:
        calls.check()
        with store.reading() as session:
            row = session.get_one(AccountArchive, archive_id)
        if row.state not in account_views.ACTIVE:  # another process has finished it
            return None
        if row.state == "listing":
            inventory.take(calls, usage_reader, custom_prices.book(store, shared_files.storage(settings)))
            if row.goal == "archive":
                accounts.begin_archive(store, archive_id)
        calls.check()
        if row.goal == "archive":
            archive.take(calls, Workspace(settings, archive_id))
        accounts.end(store, archive_id, "archived" if row.goal == "archive" else "listed")
    except Stopped:
        if not stopping.is_set():
            accounts.end(store, archive_id, "stopped")
    except Transient as exc:
        accounts.note(store, archive_id, exc.what)
        return wait_s(exc)
    finally:
        reader.close()
        if usage_reader is not None:
            usage_reader.close()
    return None
