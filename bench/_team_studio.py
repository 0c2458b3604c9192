"""A team's studio for measurements: web processes with sign-in, people with cookies, and something on every page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx2

from bench import _training
from bench._page_server import served
from bench._tabs import XSRF_COOKIE
from core.actor import Actor
from core.datasets import datasets
from core.db.store import Store
from core.db.tables import utcnow
from core.settings import Settings
from tests.support import oidc_server, team
from tests.support.oidc_server import OidcServer
from tests.support.waiting import until

ROOT = Path(__file__).parents[1]
DOMAIN = "corp.example"  # everyone with an address there is a viewer
JOBS, STEPS = 20, 300
ROWS = 48


@dataclass(frozen=True)
class TeamStudio:
    """One web process of a team, and the team's ledger.

    Attributes:
        admin: the first admin, in no browser.
    """

    url: str
    pid: int
    oidc: OidcServer
    store: Store
    admin: Actor

    def cookies(self, name: str) -> dict[str, str]:
        """Sign a person in through the provider; the cookies of their browser afterwards."""
        self.oidc.says(f"{name}@{DOMAIN}", name=name.capitalize())
        cookies = oidc_server.sign_in(self.url)
        answer = httpx2.get(f"{self.url}/_stcore/health", cookies=cookies, timeout=60)
        return {**cookies, XSRF_COOKIE: answer.cookies[XSRF_COOKIE]}


@contextmanager
def running(home: Path, oidc: OidcServer, *, engine: bool = False, **environ: str) -> Iterator[TeamStudio]:
    """Run one web process with its worker until the block ends.

    Args:
        home: it must not exist yet.
        oidc: the sign-in provider.
        engine: whether it has an engine.
        environ: more variables; several processes share a `DATABASE_URL`.
    """
    variables = team.studio_variables(home, oidc_server.SECRETS.format(url=oidc.url))
    if engine:
        del variables["FABULA_ENGINE_URL"]
    variables |= {"FABULA_HOME": str(home), **environ}
    with served(ROOT / "app.py", **variables) as (url, pid):
        until(lambda: _works(url), "the worker's start")
        settings = Settings.from_env(variables)
        store = Store.open(settings)
        try:
            yield TeamStudio(url, pid, oidc, store, team.arrive(store, settings).actor(store))
        finally:
            store.close()


def fill(studio: TeamStudio) -> str:
    """Put a data set and finished jobs with their curves into the ledger; return the data set's id."""
    dataset_id = datasets.load_sample(studio.store, studio.admin, "ultraman_stories", ROWS)
    curve, now = _training.results_csv(STEPS), utcnow()
    with studio.store.session() as session:
        for number in range(JOBS):
            made_at = now - timedelta(hours=1 + number)
            session.add(_training.finished_job(f"bench{number:05}", curve, made_at, studio.admin.id))
    return dataset_id


def _works(url: str) -> bool:
    return bool(httpx2.get(f"{url}/api/health", timeout=60).json()["worker"] == "up")
