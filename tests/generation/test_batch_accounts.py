"""A provider edited or removed while it has a batch: nothing is paid for twice, or requested from another account."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from decimal import Decimal

import pytest
from sqlalchemy import select

from core.actor import LOCAL
from core.db.store import Store
from core.db.tables import Batch, Spend
from core.failures import of_run
from core.generation import run_progress, runs
from core.generation.batch import batch_account, batch_runner
from core.generation.run_budget import TEMPLATE_TOKENS
from core.generation.runs import Change
from core.jobs import provider_use
from core.providers import Provider, Registry, saved
from core.providers.saved import ProviderForm
from core.secret_key import SecretKey
from core.settings import Settings
from tests.support.batch_runs import EACH, HALF, POST, QUICK, UPLOAD, execute, queue, recipe, rows, states
from tests.support.batch_server import KEY, BatchServer

WORST = Decimal(TEMPLATE_TOKENS + 5 + 99) / 2000  # of one request: prompt of five bytes, 99 tokens of text
OTHER_KEY = "sk-another-key"
_FILE = "GET /v1/files/file-batch_1-output/content"


@pytest.fixture
def server() -> Iterator[BatchServer]:
    """The account that gets the batch."""
    with BatchServer() as running:
        yield running


@pytest.fixture
def other() -> Iterator[BatchServer]:
    """Another account, at another address."""
    with BatchServer(keys=(OTHER_KEY,)) as running:
        yield running


@pytest.fixture
def registry(store: Store, settings: Settings, server: BatchServer) -> Registry:
    """A saved provider with the id `openai`."""
    saved.add(store, LOCAL, SecretKey(settings), _form(server.url, KEY))
    return Registry.from_settings(settings, {}, lambda: store)


def _form(url: str, key: str) -> ProviderForm:
    return ProviderForm("openai", "My account", url, key)


def _edit(store: Store, settings: Settings, registry: Registry, url: str, key: str) -> None:
    saved.edit(store, LOCAL, SecretKey(settings), "openai", _form(url, key))
    registry.refresh()


def _left(store: Store, registry: Registry, server: BatchServer, state: str) -> str:
    """A run whose worker was stopped while its batch was in `state`."""
    server.faults[POST] = ["drop"] if state == "submitting" else []
    server.faults[_FILE] = [503] if state == "collecting" else []
    stops_at = {"submitting": POST, "waiting": "GET /v1/batches/batch_1", "collecting": _FILE}[state]
    halt, run_id = threading.Event(), queue(store, recipe())
    server.on = lambda request: halt.set() if request == stops_at else None
    batch_runner.carry_out(store, registry, run_id, halt, timing=QUICK, book=HALF)
    with store.reading() as session:
        assert session.scalars(select(Batch.state)).all() == [state]
    return run_id


def _costs(store: Store) -> list[tuple[Decimal | None, Decimal | None]]:
    with store.reading() as session:
        return [(line.cost_usd, line.estimated_usd) for line in session.scalars(select(Spend).order_by(Spend.id))]


@pytest.mark.parametrize("key", [KEY, OTHER_KEY], ids=["another server", "another server and key"])
@pytest.mark.parametrize("state", ["submitting", "waiting", "collecting"])
def test_a_batch_is_not_bought_again_at_another_account(
    store: Store, settings: Settings, registry: Registry, server: BatchServer, other: BatchServer, state: str, key: str
) -> None:
    run_id = _left(store, registry, server, state)
    other.keys = (key,)
    _edit(store, settings, registry, other.url, key)
    failed = execute(store, registry, run_id, book=HALF)
    assert failed.state == "failed" and of_run(failed.reason).cause == "provider_changed"
    for words in ("12 rows", server.url, other.url, "Set the provider back"):
        assert words in (failed.reason or "")
    assert other.count(POST) == other.count(UPLOAD) == 0 and other.bought == []
    assert states(store, run_id) == {"sent": 12} and _costs(store) == [(12 * WORST, 12 * WORST)]
    _edit(store, settings, registry, server.url, KEY)
    runs.resume(store, LOCAL, run_id)
    assert execute(store, registry, run_id, book=HALF).done == 12
    assert (server.count(POST), len(server.bought)) == (1, 12) and _costs(store) == [(12 * EACH, 12 * WORST)]
    assert batch_account.stranded_rows(store, failed.dataset_id) == 0


def test_a_batch_at_an_earlier_account_is_given_up_only_on_request(
    store: Store, settings: Settings, registry: Registry, server: BatchServer, other: BatchServer
) -> None:
    run_id = _left(store, registry, server, "waiting")
    _edit(store, settings, registry, other.url, OTHER_KEY)
    for _try in range(2):
        failed = execute(store, registry, run_id, book=HALF)
        assert failed.state == "failed" and other.count(POST) == 0
        runs.resume(store, LOCAL, run_id)
    assert batch_account.stranded_rows(store, failed.dataset_id) == 12
    batch_account.give_up(store, LOCAL, run_id)
    assert states(store, run_id) == {"pending": 12} and _costs(store) == [(None, 12 * WORST)]
    assert execute(store, registry, run_id, book=HALF).done == 12
    assert (other.count(POST), server.count(POST)) == (1, 1)
    assert _costs(store) == [(None, 12 * WORST), (12 * EACH, 12 * WORST)]


@pytest.mark.parametrize("state", ["submitting", "waiting", "collecting"])
def test_a_new_key_of_the_same_account_continues_its_batch(
    store: Store, settings: Settings, registry: Registry, server: BatchServer, state: str
) -> None:
    run_id = _left(store, registry, server, state)
    server.keys = (OTHER_KEY,)
    _edit(store, settings, registry, server.url, OTHER_KEY)
    assert execute(store, registry, run_id, book=HALF).done == 12
    assert (server.count(POST), len(server.bought)) == (1, 12)


def test_another_key_without_the_batch_says_so(
    store: Store, settings: Settings, registry: Registry, server: BatchServer
) -> None:
    run_id = _left(store, registry, server, "waiting")
    batches = dict(server.batches)
    server.keys = (OTHER_KEY,)
    server.batches.clear()  # as another account at the same address
    _edit(store, settings, registry, server.url, OTHER_KEY)
    failed = execute(store, registry, run_id, book=HALF)
    assert failed.state == "failed" and "has another key now" in (failed.reason or "")
    server.batches |= batches
    runs.resume(store, LOCAL, run_id)
    assert execute(store, registry, run_id, book=HALF).done == 12 and server.count(POST) == 1


@pytest.mark.parametrize("state", ["submitting", "waiting", "collecting"])
def test_a_batch_at_a_removed_provider_ends_with_its_rows_kept_and_its_cost_counted(
    store: Store, settings: Settings, registry: Registry, server: BatchServer, other: BatchServer, state: str
) -> None:
    run_id = _left(store, registry, server, state)
    assert provider_use.of(store, "openai").batches == 1
    saved.remove(store, LOCAL, "openai")
    registry.refresh()
    failed = execute(store, registry, run_id, book=HALF)
    assert failed.state == "failed" and of_run(failed.reason).cause == "provider_removed"
    assert "My account was removed" in (failed.reason or "") and "another provider" in (failed.reason or "")
    assert states(store, run_id) == {"pending": 12} and _costs(store) == [(None, 12 * WORST)]
    assert provider_use.of(store, "openai").batches == 0
    again = saved.add(store, LOCAL, SecretKey(settings), _form(other.url, OTHER_KEY))
    registry.refresh()
    change = Change(provider=again)
    rest = runs.enqueue(store, LOCAL, failed.dataset_id, mode="batch", change=change)
    assert execute(store, registry, rest).done == 12 and other.count(POST) == 1


def test_a_run_at_another_provider_collects_an_earlier_batch_where_it_is(
    store: Store, server: BatchServer, other: BatchServer
) -> None:
    elsewhere = Provider("deepseek", "compatible", "DeepSeek", other.url, OTHER_KEY)
    both = Registry([server.provider(), elsewhere])
    first = _left(store, both, server, "waiting")
    dataset_id = run_progress.get(store, first).dataset_id
    runs.request_pause(store, LOCAL, first)
    assert execute(store, both, first, book=HALF).state == "paused"
    change = Change(provider="deepseek", model="deepseek-chat")
    live = runs.enqueue(store, LOCAL, dataset_id, mode="live", change=change)
    execute(store, both, live, book=HALF)
    assert states(store, live) == {"done": 12} and other.requests == []
    assert [row.cost_usd for row in rows(store, live)] == [EACH] * 12  # at the price of the model that wrote them
