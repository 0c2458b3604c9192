"""One run, several workers, and three accidents: a worker is killed, PostgreSQL crashes and restarts, a web process
ends.

`shared_run(rows, workers)` returns how many rows were lost and how many were paid for twice; both must be 0. It needs
PostgreSQL (`postgres_server.PostgresAbsent` if there is none), and takes about a minute, half of which is the time
after which a silent worker on another host counts as dead.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from sqlalchemy import func, select, text

from core.actor import LOCAL
from core.datasets import datasets
from core.datasets.recipe import Column, Recipe
from core.db import rescue_files
from core.db.store import Store
from core.db.tables import Row, Spend, WorkerHeartbeat
from core.generation import run_progress, runs
from core.generation.concurrency import DEFAULT_LIMIT
from core.pricing import custom_prices
from core.settings import Settings
from tests.support import postgres_server, studio_process, worker_hosts
from tests.support.purchase_counter import PurchaseCounter
from tests.support.studio_process import RunningStudio
from tests.support.waiting import WAIT_LIMIT_S, until
from tests.support.worker_hosts import WorkerHost

_FEED_S = 20.0  # after this long without progress, some more requests are answered
_MODEL, _WEB = "writer", "web"
_NEUTRAL = {"FABULA_ENV_FILE": os.devnull, "FABULA_SECRETS_FILE": os.devnull, "FABULA_FIND_LOCAL_SERVERS": "0"}


@dataclass(frozen=True, slots=True)
class ScaleOut:
    """What became of a shared run.

    Attributes:
        lost: rows without the text that was paid for.
        bought_twice: answers beyond the first one for each row.
        seconds: from the run's start to its end.
        clients: answers per client: each worker, and the web process's own worker.
        unanswered: requests of the killed worker that the provider had not answered.
        counted_at_worst_case: requests whose cost is unknown according to the ledger.
        recorded: answers whose cost is in the ledger.
        rescue_files: rescue files that were left over.
        connections: the highest number of connections to PostgreSQL that were open, by the name of their program.
        same_host: why the workers did not run on separate hosts; "" if they did.
    """

    lost: int
    bought_twice: int
    seconds: float
    clients: Mapping[str, int]
    unanswered: int
    counted_at_worst_case: int
    recorded: int
    rescue_files: int
    connections: Mapping[str, int]
    same_host: str


def shared_run(rows: int, workers: int) -> ScaleOut:
    """Let `workers` worker processes and a web process write one run of `rows` rows, through all three accidents.

    The provider stops answering at four points of the run, so that each accident hits requests in flight; how fast
    the machine is makes no difference.
    """
    if rows < 100 * workers:
        raise ValueError(f"{rows} rows are too few: at each accident, all workers must be busy.")
    same_host = worker_hosts.absent_reason()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fabula-scale-")))
        server = stack.enter_context(postgres_server.running(worker_hosts.NETWORK))
        provider = stack.enter_context(PurchaseCounter(rows // 10))
        url = postgres_server.new_database(server)
        settings = Settings.from_env({"DATABASE_URL": url, "FABULA_HOME": str(folder / "home")})
        store = stack.enter_context(closing(Store.open(settings)))
        scene = _Scene(store, provider, folder, Path(parse_qs(urlsplit(url).query)["host"][0]), rows)
        environ = _environ(url, provider, separate=not same_host)
        hosts = stack.enter_context(worker_hosts.running(workers, environ, folder, separate=not same_host))
        web = _web_environ(url, provider)
        with studio_process.running(folder / _WEB, **web) as studio:
            until(lambda: scene.alive() == workers + 1, "all workers")
            run_id, started = scene.start(), time.monotonic()
            clients = [*(f"worker-{number}" for number in range(1, workers + 1)), _WEB]
            scene.all_busy(clients)
            victim = scene.owner(hosts)
            victim.kill()
            killed = f"worker-{hosts.index(victim) + 1}"
            clients.remove(killed)
            until(lambda: not provider.waiting[killed], "the provider sees that the connections are closed")
            provider.raise_limit(rows // 4)
            scene.all_busy(clients)
            scene.restart_postgres(studio, rows // 2)
            scene.all_busy(clients)
            studio.process.terminate()
            until(lambda: not studio.health(), "the web process's end")
            provider.raise_limit(2 * rows)  # also its requests in flight are answered
            assert studio.process.wait(WAIT_LIMIT_S) is not None
        until(lambda: run_progress.get(store, run_id).state not in run_progress.ACTIVE, "the end of the run")
        seconds = time.monotonic() - started
        until(lambda: not scene.rescue_files(), "everything in rescue files was restored")
        return scene.result(run_id, seconds, same_host)


def _environ(url: str, provider: PurchaseCounter, *, separate: bool) -> dict[str, str]:
    """A worker's variables, with places for its number, home and gateway."""
    address = urlsplit(url)
    database = f"postgresql://fabula@{{gateway}}:{parse_qs(address.query)['port'][0]}{address.path}"
    return {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        **_NEUTRAL,
        "DATABASE_URL": database if separate else url,
        "FABULA_HOME": "{home}",
        "OPENAI_API_KEY": "worker-{number}",
        "OPENAI_BASE_URL": f"http://{{gateway}}:{provider.port}/v1",
    }


def _web_environ(url: str, provider: PurchaseCounter) -> dict[str, str]:
    key = {"OPENAI_API_KEY": _WEB, "OPENAI_BASE_URL": provider.url}
    return {**_NEUTRAL, **key, "DATABASE_URL": url, "FABULA_ENGINE_URL": provider.url.removesuffix("/v1")}


@dataclass(frozen=True)
class _Scene:
    """The run's database, provider and files.

    Attributes:
        postgres: the server's folder.
    """

    store: Store
    provider: PurchaseCounter
    folder: Path
    postgres: Path
    rows: int
    connections: Counter[str] = field(default_factory=Counter)

    def alive(self) -> int:
        with self.store.reading() as session:
            return session.scalar(select(func.count()).select_from(WorkerHeartbeat)) or 0

    def start(self) -> str:
        for kind in ("input", "output"):
            custom_prices.set_price(self.store, LOCAL, provider="compatible", model=_MODEL, kind=kind, amount="1000")
        numbers = Column("number", tuple(f"n{i:05}" for i in range(self.rows)))
        recipe = Recipe("stories", (numbers,), "{number}", provider="compatible", model=_MODEL, max_tokens=99)
        return runs.enqueue(self.store, LOCAL, datasets.create(self.store, LOCAL, recipe))

    def all_busy(self, clients: list[str]) -> None:
        """Wait until the provider stops answering, and each client waits for as many answers as it may request at once.
        Then all answers that it has received are in the database, because each of them would keep a slot.
        """
        fed_at = time.monotonic()

        def busy() -> bool:
            nonlocal fed_at
            if self.provider.sold_out and time.monotonic() - fed_at > _FEED_S:
                # a worker that lost connections starts again with one request in flight, and needs answers for more
                self.provider.sell_more(len(clients) * DEFAULT_LIMIT)
                fed_at = time.monotonic()
            return self.provider.sold_out and all(self.provider.waiting[one] == DEFAULT_LIMIT for one in clients)

        until(busy, lambda: f"{DEFAULT_LIMIT} requests in flight at each of {clients}: {self._state()}")
        names = text(
            "SELECT application_name, count(*) FROM pg_stat_activity WHERE datname = current_database() GROUP BY 1"
        )
        with self.store.reading() as session:
            found = session.execute(names).all()
        for name, count in found:
            self.connections[name] = max(self.connections[name], count)

    def _state(self) -> str:
        """What the provider and the workers say, for a test that fails."""
        logs = {file.name: file.read_text(errors="replace")[-2_000:] for file in self.folder.glob("*.log")}
        sold = sum(self.provider.answers.values())
        return f"waiting {dict(self.provider.waiting)}, {sold} answered, {self.alive()} heartbeats, logs {logs}"

    def owner(self, hosts: list[WorkerHost]) -> WorkerHost:
        """The worker that runs the run's workflow; any other one if it is the web process."""
        query = text(
            "SELECT executor_id FROM dbos.workflow_status WHERE status = 'PENDING' AND workflow_uuid LIKE 'run-%'"
        )
        with self.store.reading() as session:
            beat = session.get_one(WorkerHeartbeat, session.scalar(query))
        return next((host for host in hosts if host.is_at(beat.host, beat.process)), hosts[0])

    def restart_postgres(self, studio: RunningStudio, limit: int) -> None:
        """Crash the server, let the requests in flight be answered meanwhile, and start it again."""
        self.store.close()
        postgres_server.stop(self.postgres)
        waiting = self.provider.waiting.total()
        self.provider.raise_limit(limit)
        until(lambda: self.provider.flying == 0, "all requests in flight are answered, and no new ones are sent")
        until(lambda: len(self.rescue_files()) == waiting // DEFAULT_LIMIT, "each worker has saved its answers")
        until(lambda: "database" in _reasons(studio), "the web process says what is missing")
        postgres_server.start(self.postgres)

    def rescue_files(self) -> list[Path]:
        """Rescue files of all workers."""
        return [file for home in self.folder.iterdir() if home.is_dir() for file in rescue_files.files(home)]

    def result(self, run_id: str, seconds: float, same_host: str) -> ScaleOut:
        """Compare the database with what the provider sold."""
        with self.store.reading() as session:
            texts = session.execute(select(Row.prompt, Row.text).where(Row.run_id == run_id, Row.state == "done"))
            kept = sum(story == f"A story of {prompt}." for prompt, story in texts)
            recorded = session.scalar(select(func.count()).where(Spend.prompt_tokens.is_not(None), Spend.cost_usd > 0))
            open_ = (Spend.sent_at.is_not(None), Spend.prompt_tokens.is_(None), Spend.estimated_usd > 0)
            uncertain = session.scalar(select(func.count()).where(*open_))
        return ScaleOut(
            lost=self.rows - kept,
            bought_twice=self.provider.answers.total() - len(self.provider.answers),
            seconds=seconds,
            clients=dict(self.provider.clients),
            unanswered=len(self.provider.unanswered),
            counted_at_worst_case=uncertain or 0,
            recorded=recorded or 0,
            rescue_files=len(self.rescue_files()),
            connections=dict(self.connections),
            same_host=same_host,
        )


def _reasons(studio: RunningStudio) -> dict[str, str]:
    """Why the web process is not ready."""
    try:
        with urllib.request.urlopen(f"{studio.url}/api/health/ready", timeout=10) as answer:
            found: dict[str, str] = json.load(answer)["reasons"]
    except urllib.error.HTTPError as exc:
        found = json.load(exc)["reasons"]
    return found
