"""Measures a team's studio: `python -m bench.team`. The last line printed is JSON, the lines before it are a table.

Studios run in team mode with sign-in at a local provider. Tabs are WebSockets with the cookie of a person who has
signed in; they run the timers of their page as a browser does.

- idle: 100 open tabs of 20 people on all pages, untouched. `mb_per_idle_session` is what the web process's own memory
  grows by, after garbage collection; `idle_cpu_percent` is its CPU time, in percent of one core, with its worker and
  the tabs' timers; `revoked_tab_s` is the time from disabling a person, ending their sign-ins or changing their role
  until the last of their tabs is closed.
- viewers: 25 people watch the training page while the studio's own engine trains and a run writes rows; each clicks
  every few seconds. `p95_rerun_s_25_viewers` is the 95th percentile of their waiting times.
- processes: the reruns per second of 25 such viewers, without a run or a job, on two web processes with one PostgreSQL
  database divided by those on one. The viewers and the database run on the same cores.
- money: 50 requests at the same time from five processes, on SQLite and PostgreSQL.
- scale_out: four workers on hosts of their own and a web process write one run of 5,000 rows on PostgreSQL; a worker is
  killed, PostgreSQL crashes and restarts, and the web process ends. `lost_rows_scaleout` and `bought_twice_scaleout`
  count rows.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
from sqlalchemy import select

from bench import _idle_tabs, _loopback, _smoke, _team_studio, _team_viewers
from core.db.store import Store
from core.db.tables import Spend
from core.settings import Settings
from tests.support import parallel_spending, postgres_server, scale_out
from tests.support.oidc_server import OidcServer

LATENCY_S = 0.5  # of the run's provider
ROWS, WORKERS = 5_000, 4  # of the shared run
AIMS = {
    "mb_per_idle_session": "≤ 0.2",
    "idle_cpu_percent": "≤ 2",
    "revoked_tab_s": "≤ 5",
    "p95_rerun_s_25_viewers": "≤ 1",
    "reruns_two_processes_vs_one": "≥ 1.7",
    "overspend_usd_50_parallel": "0",
    "lost_rows_scaleout": "0",
    "bought_twice_scaleout": "0",
}

Figures = Mapping[str, Any]


def main() -> None:
    """Measure, then print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="measure only these")
    options = _smoke.parse(parser, start=_provider_answers)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, OidcServer() as oidc:
        for part in options.parts:
            found |= PARTS[part](Path(folder), oidc)
    print(f"{'figure':<32}{'aim':>8}{'measured':>12}")
    for name, aim in AIMS.items():
        if name in found:
            print(f"{name:<32}{aim:>8}{'not measured' if found[name] is None else found[name]:>12}")
    print(json.dumps(found))


def _idle(folder: Path, oidc: OidcServer) -> Figures:
    with _team_studio.running(folder / "idle", oidc) as studio:
        _team_studio.fill(studio)
        return _idle_tabs.measure(studio)


def _viewers(folder: Path, oidc: OidcServer) -> Figures:
    with _loopback.running() as provider:
        httpx2.post(f"{provider}/reset", json={"latency_s": LATENCY_S}).raise_for_status()
        environ = {"OPENAI_API_KEY": "key", "OPENAI_BASE_URL": f"{provider}/v1"}
        with _team_studio.running(folder / "viewers", oidc, engine=True, **environ) as studio:
            return {"p95_rerun_s_25_viewers": _team_viewers.p95_rerun_s(studio, _team_studio.fill(studio))}


def _processes(folder: Path, oidc: OidcServer) -> Figures:
    return {"reruns_two_processes_vs_one": _team_viewers.reruns_two_processes_vs_one(folder, oidc)}


def _money(folder: Path, _oidc: OidcServer) -> Figures:
    """The largest amount above a budget on either database."""
    with ExitStack() as stack:
        urls = [f"sqlite:///{folder}/money.db"]
        try:
            urls.append(postgres_server.new_database(stack.enter_context(postgres_server.running())))
        except postgres_server.PostgresAbsent as exc:
            print(f"only SQLite: {exc}")
        return {"overspend_usd_50_parallel": float(max(_overspent(folder / "money", url) for url in urls))}


def _overspent(home: Path, database_url: str) -> Any:
    store = Store.open(Settings.from_env({"FABULA_HOME": str(home), "DATABASE_URL": database_url}))
    try:
        parallel_spending.set_budgets(store)
        granted = parallel_spending.send_from_processes(store)
        with store.reading() as session:
            lines = session.scalars(select(Spend)).all()
        print(f"{database_url.partition(':')[0]}: {granted} reservations granted")
        return parallel_spending.overspent(lines)
    finally:
        store.close()


def _scale_out(_folder: Path, _oidc: OidcServer) -> Figures:
    try:
        found = scale_out.shared_run(ROWS, WORKERS)
    except postgres_server.PostgresAbsent as exc:
        print(f"no shared run: {exc}")
        return {"lost_rows_scaleout": None, "bought_twice_scaleout": None}
    hosts = f"one host, because {found.same_host}" if found.same_host else "hosts of their own"
    print(f"{ROWS} rows in {found.seconds:.0f} s by {WORKERS} workers on {hosts}; connections: {found.connections}")
    return {"lost_rows_scaleout": found.lost, "bought_twice_scaleout": found.bought_twice}


def _provider_answers() -> None:
    with OidcServer() as oidc:
        httpx2.get(f"{oidc.url}/.well-known/openid-configuration").raise_for_status()


PARTS: Mapping[str, Callable[[Path, OidcServer], Figures]] = {
    "idle": _idle,
    "viewers": _viewers,
    "processes": _processes,
    "money": _money,
    "scale_out": _scale_out,
}
"""What is measured, in this order."""


if __name__ == "__main__":
    main()
