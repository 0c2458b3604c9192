"""A team's PostgreSQL goes away: pages say so, no one is signed in or out by it, and work resumes automatically."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from core.actor import LOCAL
from core.datasets import datasets
from core.db.store import Store
from core.settings import Settings
from tests.support import bare_tab, live_runs, oidc_server, postgres_server, studio_process, team
from tests.support.waiting import until

_LOST, _KEPT = "The database cannot be reached", "Kept set 7"


def test_pages_say_that_the_database_is_away_and_go_on_when_it_is_back(tmp_path: Path) -> None:
    try:
        with postgres_server.running() as server:
            _lose_and_restore(server, tmp_path / "home")
    except postgres_server.PostgresAbsent as exc:
        pytest.skip(f"PostgreSQL tests skipped: {exc}")


def _lose_and_restore(server: str, home: Path) -> None:
    secrets = oidc_server.SECRETS.format(url="http://127.0.0.1:9")
    environ = {**team.studio_variables(home, secrets), "DATABASE_URL": postgres_server.new_database(server)}
    folder = Path(parse_qs(urlsplit(server).query)["host"][0])
    with studio_process.running(home, **environ) as studio:
        url = studio.url.replace("127.0.0.1", "localhost")
        cookies = oidc_server.cookie(url)
        with closing(Store(Settings.from_env(environ).database_url)) as store:
            datasets.create(store, LOCAL, live_runs.recipe(3, name=_KEPT))
        with bare_tab.joined(url, cookies) as tab:
            assert "sign_in_menu" in bare_tab.drawn(tab)
            postgres_server.stop(folder)
            for seen in (bare_tab.drawn(tab), bare_tab.drawn(tab, "dataset"), bare_tab.visited(url, cookies)):
                assert _LOST in seen and "sign_in_menu" not in seen and "Traceback" not in seen
            stranger = bare_tab.visited(url)  # the sign-in page needs no database
            assert "This studio is for the members of a team." in stranger
            assert studio.health()["status"] == "ok"
            postgres_server.start(folder)
            until(lambda: "sign_in_menu" in bare_tab.drawn(tab), "the same tab is served again")
            with closing(Store(Settings.from_env(environ).database_url)) as store:
                assert [one.name for one in datasets.list_datasets(store)] == [_KEPT]
        assert "sign_in_menu" in bare_tab.visited(url, cookies)
        until(lambda: studio.health().get("worker") == "up", "the worker is back")
