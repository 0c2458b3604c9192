"""A server whose database was migrated by a newer version says so on every page, and shows nothing else."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from core.db.store import Store
from pages.ui import cache
from tests.support import team
from tests.support.app_pages import again, opened, trouble, visitor, words

_NEWER = "written by a newer version of Fabula"


def _migrate(store: Store, revision: str) -> str:
    """As another version does; returns the revision from before."""
    with store.session() as session:
        before = str(session.scalar(text("SELECT version_num FROM alembic_version")))
        session.execute(text("UPDATE alembic_version SET version_num = :now"), {"now": revision})
    cache.check_version.clear()
    return before


@pytest.mark.parametrize("in_team", [False, True])
@pytest.mark.parametrize("page", ["home", "dataset", "settings"])
def test_an_older_server_draws_no_page(store: Store, monkeypatch: pytest.MonkeyPatch, page: str, in_team: bool) -> None:
    at = visitor()
    if in_team:
        for name, value in team.TEAM_VARIABLES.items():
            monkeypatch.setenv(name, value)
        at.secrets["auth"] = {"google": {"client_id": "c"}}
        at.user = {"is_logged_in": True, **team.claims()}
    opened(at, page)
    assert _NEWER not in trouble(at)
    before = _migrate(store, "9999_newer")
    again(at)
    assert _NEWER in trouble(at) and "Update Fabula" in trouble(at)
    assert not at.button and "All settings" not in words(at)
    _migrate(store, before)
    again(at)
    assert _NEWER not in trouble(at)
