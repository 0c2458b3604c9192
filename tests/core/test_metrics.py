"""Metrics: what is counted, what Prometheus gets, who may read it, and what the dashboard asks for."""

from __future__ import annotations

import http.client
import json
import re
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from core import metrics
from core.actor import LOCAL
from core.db.store import Store
from core.db.tables import Run, Spend
from core.jobs import ledger_metrics, metrics_server
from core.jobs.heartbeat import Heartbeat
from core.pricing import budget
from core.settings import Settings
from tests.support.fault_server import FaultServer, drop, rate_limit
from tests.support.ledger_rows import put_dataset, put_job
from tests.support.live_runs import execute, queue, recipe

_DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana-dashboard.json"
_WORDS = re.compile(r"\b(?:fabula|process)_[a-z_]+")


def _values(*sources: metrics.Source) -> dict[tuple[str, tuple[str, ...]], float]:
    """The numbers in the exposition, by name and values of the labels."""
    families = text_string_to_metric_families(metrics.exposition(*sources).decode())
    return {(one.name, tuple(one.labels.values())): one.value for family in families for one in family.samples}


def test_a_run_counts_its_requests_rows_and_tokens(store: Store, server: FaultServer) -> None:
    before = _values()
    server.enqueue(rate_limit(retry_after="0"), drop())
    execute(store, server, queue(store, recipe(6)))
    after = _values()

    def more(name: str, *labels: str) -> float:
        return after.get((name, labels), 0.0) - before.get((name, labels), 0.0)

    assert more("fabula_provider_requests_total", "fault", "429") == 1
    assert more("fabula_provider_requests_total", "fault", "no answer") == 1
    assert more("fabula_provider_requests_total", "fault", "200") >= 6  # and how it serves the model
    assert more("fabula_provider_response_seconds_count", "fault") >= 7
    assert more("fabula_rows_written_total", "done") == 6
    assert more("fabula_tokens_total", "prompt") == 60


def test_the_ledger_says_states_queue_spend_and_budget(store: Store) -> None:
    dataset_id = put_dataset(store, "heroes", 1, 1)
    put_job(store, status="running")
    budget.set_budget(store, LOCAL, "month", Decimal(20))
    with store.session() as session:
        for number, state in enumerate(("queued", "queued", "done")):
            session.add(
                Run(id=f"r{number}", dataset_id=dataset_id, state=state, provider="p", model="m", created_by="ann")
            )
        for actor in ("ann", "bob"):
            session.add(
                Spend(actor=actor, page="story", provider="p", model="m", reference="s", cost_usd=Decimal("1.25"))
            )
    Heartbeat(store).beat(2)
    found = _values(ledger_metrics.ledger_source(store))
    expected = {
        ("fabula_database_up", ()): 1,
        ("fabula_runs", ("queued",)): 2,
        ("fabula_runs", ("done",)): 1,
        ("fabula_runs", ("failed",)): 0,
        ("fabula_training_jobs", ("running",)): 1,
        ("fabula_queued", ("run",)): 2,
        ("fabula_running", ()): 2,
        ("fabula_workers", ()): 1,
        ("fabula_month_spend_usd", ()): 2.5,
        ("fabula_month_budget_usd", ()): 20,
    }
    assert {key: found.get(key) for key in expected} == expected


def test_a_lost_database_and_an_engine_that_is_down_are_zeros(tmp_path: Path) -> None:
    settings = Settings.from_env({"FABULA_HOME": str(tmp_path / "nowhere")})
    sources = ledger_metrics.ledger_source(Store(settings.database_url)), ledger_metrics.engine_source(settings)
    found = _values(*sources)
    assert (found["fabula_database_up", ()], found["fabula_engine_up", ()]) == (0, 0)
    assert ("fabula_runs", ("done",)) not in found


def test_the_engine_says_its_speed_and_queue(engine_server: FaultServer) -> None:
    found = _values(ledger_metrics.engine_source(Settings.from_env()))
    assert found["fabula_engine_up", ()] == 1 and found["fabula_engine_queue", ()] == 0
    assert found["fabula_engine_training_tokens_per_second", ()] == 0


def test_a_page_is_timed_also_when_it_is_interrupted() -> None:
    name = ("fabula_page_rerun_seconds_count", ("test-page",))
    with pytest.raises(KeyboardInterrupt), metrics.timed_page("test-page"):
        raise KeyboardInterrupt
    assert _values()[name] == 1


@pytest.mark.parametrize(
    ("header", "token", "allowed"),
    [
        ("Bearer right", "right", True),
        ("Bearer wrong", "right", False),
        ("right", "right", False),
        ("", "right", False),
        ("Bearer ", None, False),
        ("Bearer None", None, False),
        ("Bearer r\u00efght", "right", False),
    ],
)
def test_only_the_token_opens_the_metrics(header: str, token: str | None, allowed: bool) -> None:
    assert metrics.is_allowed(header, token) is allowed


def test_every_query_of_the_dashboard_names_metrics_that_exist() -> None:
    known = metrics.names() | set(ledger_metrics.DESCRIPTIONS)
    board = json.loads(_DASHBOARD.read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert len(queries) > 10
    asked = {word for query in queries for word in _WORDS.findall(query)}
    assert asked - known == set()
    # and everything that the ledger says is shown
    assert {name for name in ledger_metrics.DESCRIPTIONS if name not in asked} == set()


def test_a_worker_serves_its_metrics_on_its_own_port(store: Store, settings: Settings) -> None:
    with_port = replace(settings, metrics_port=0)  # the system chooses
    assert metrics_server.start(with_port) is None  # without a token
    server = metrics_server.start(replace(with_port, metrics_token="a-token-of-the-test"))
    assert server is not None
    port = server.server_address[1]
    try:
        for header, status in (("Bearer a-token-of-the-test", 200), ("Bearer another", 401)):
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request("GET", "/metrics", headers={"authorization": header})
            answer = connection.getresponse()
            assert (answer.status, b"fabula_database_up 1.0" in answer.read()) == (status, status == 200)
            connection.close()
    finally:
        server.shutdown()
        server.server_close()
