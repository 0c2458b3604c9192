"""A team's open tabs: a tab is closed within seconds when its person is disabled, signed out or gets another role.

An idle tab runs no script, so one task per server checks all of them, with one small query every two seconds regardless
of their number. It reruns those that have changed; `pages.ui.sign_in.let_in` then shows the sign-in page.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import anyio
import anyio.to_thread
from streamlit import runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx

from core.actor import Role
from core.db.store import Store
from core.people.sign_in import current_roles
from core.settings import Settings

CHECK_S = 2.0  # tabs must be closed within five seconds, and a busy machine needs some of that time

_log = logging.getLogger("fabula.sessions")
_tabs: dict[str, tuple[str, Role]] = {}  # Streamlit's session → sign-in, role when the tab was rendered


def remember(sign_in_id: str, role: Role) -> None:
    """Record that this tab shows pages to a person. Call it in the script run."""
    context = get_script_run_ctx()
    if context is not None:
        _tabs[context.session_id] = (sign_in_id, role)


async def close_ended(settings: Settings) -> None:
    """Until cancelled, rerun tabs whose person may no longer see what they show."""
    store = _LazyStore(settings)
    try:
        while True:
            await anyio.sleep(CHECK_S)
            _forget_closed()
            tabs = dict(_tabs)
            try:
                for session_id in await anyio.to_thread.run_sync(_changed, store, tabs) if tabs else ():
                    _rerun(session_id)
            except Exception as exc:  # the database is unreachable; every run and action needs it too, and is refused
                _log.warning("Open tabs could not be checked: %s", exc)
    finally:
        store.close()


class _LazyStore:
    """The ledger, opened by the first check."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store: Store | None = None

    def __call__(self) -> Store:
        if self._store is None:
            self._store = Store.open(self._settings)
        return self._store

    def close(self) -> None:
        if self._store is not None:
            self._store.close()


def _forget_closed() -> None:
    """Drop disconnected tabs. They are checked when they reconnect, because their script runs then."""
    manager = runtime.get_instance()._session_mgr
    for session_id in list(_tabs):
        if manager.get_active_session_info(session_id) is None:
            _tabs.pop(session_id, None)


def _changed(open_store: Callable[[], Store], tabs: Mapping[str, tuple[str, Role]]) -> list[str]:
    roles = current_roles(open_store(), {sign_in_id for sign_in_id, _role in tabs.values()})
    return [session_id for session_id, (sign_in_id, role) in tabs.items() if roles.get(sign_in_id) != role]


def _rerun(session_id: str) -> None:
    """Stop the tab's script, and run it again."""
    _tabs.pop(session_id, None)
    info = runtime.get_instance()._session_mgr.get_active_session_info(session_id)
    if info is not None:
        info.session.request_rerun(info.session._client_state)
