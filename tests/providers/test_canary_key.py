"""A planted key: in no log, traceback, crash, export, URL or file of a process that uses it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from core.actor import LOCAL
from core.datasets import datasets
from core.datasets.recipe import Column, Recipe
from core.db.store import Store
from core.errors import FabulaError
from core.generation import executor, run_progress, runs
from core.generation.runs import Change
from core.providers import CompletionRequest, Registry, saved
from core.providers.saved import ProviderForm
from core.secret_key import SecretKey
from core.settings import Settings
from tests.support import fault_server
from tests.support.fault_server import FaultServer

_ROOT = Path(__file__).parents[2]
_CANARY = "sk-canary-crash-0123456789"
_CRASH = """
import faulthandler, logging, os, sys
from core import logs
from core.db.store import Store
from core.providers import Registry
from core.settings import Settings

logs.configure()
settings = Settings.from_env()
store = Store.open(settings)
provider = Registry.from_settings(settings, {}, lambda: store).provider("compatible")
log = logging.getLogger("fabula.test")
log.error("a provider: %s", provider)
try:
    raise RuntimeError("the header was Bearer " + provider.api_key)
except RuntimeError:
    log.exception("unexpected")
if sys.argv[1] == "abort":
    os.abort()
raise RuntimeError(f"the end of {provider}")
"""


@pytest.fixture
def added(store: Store, settings: Settings, server: FaultServer) -> str:
    form = ProviderForm("compatible", "Canary", server.url, _CANARY)
    return saved.add(store, LOCAL, SecretKey(settings), form)


def _files(home: Path) -> list[str]:
    """Files that contain the key."""
    return [path.name for path in home.rglob("*") if path.is_file() and _CANARY.encode() in path.read_bytes()]


@pytest.mark.parametrize("end", ["abort", "exception"])
def test_a_crash_does_not_show_it(added: str, store: Store, home: Path, end: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _CRASH, end], capture_output=True, timeout=120, check=False, cwd=_ROOT,
        env={**os.environ, "FABULA_HOME": str(home), "PYTHONPATH": str(_ROOT)},
    )  # fmt: skip
    said = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode != 0 and "unexpected" in said and "[key]" in said
    assert _CANARY not in said and _files(home) == []


def test_an_error_that_repeats_it_does_not_show_it(
    added: str, store: Store, settings: Settings, server: FaultServer
) -> None:
    server.default = fault_server.error(401, f"Incorrect API key provided: {_CANARY}")
    client = Registry.from_settings(settings, {}, lambda: store).get(added)
    with pytest.raises(FabulaError) as refused:
        client.complete(CompletionRequest("writer", "x"))
    assert (
        "[key]" in refused.value.what and _CANARY not in f"{refused.value!r}{refused.value.next_step}{client.provider}"
    )


def test_a_run_with_it_leaves_it_in_no_row_export_or_file(
    added: str, store: Store, settings: Settings, server: FaultServer, home: Path
) -> None:
    server.enqueue(fault_server.error(400, f"bad request with {_CANARY}"))
    recipe = Recipe("r", (Column("a", ("1", "2", "3")),), "{a}", provider=added, model="writer", seed=1)
    dataset_id = datasets.create(store, LOCAL, recipe)
    run_id = runs.enqueue(store, LOCAL, dataset_id)
    executor.execute(store, Registry.from_settings(settings, {}, lambda: store), run_id)
    summary = datasets.summary(store, dataset_id)
    assert (summary.done, summary.failed) == (2, 1)
    store.close()
    assert _files(home) == []


def test_a_provider_that_is_removed_stops_its_run_with_the_rows_kept(
    added: str, store: Store, settings: Settings, server: FaultServer
) -> None:
    answered = 0
    one_at_a_time = threading.Lock()  # no answer overtakes the removal

    def then_remove(body: object) -> fault_server.Answer:
        nonlocal answered
        with one_at_a_time:
            answered += 1
            if answered == 2:
                saved.remove(store, LOCAL, added)
                registry.refresh()
        return fault_server.text("once")

    server.judge = then_remove
    registry = Registry.from_settings(settings, {}, lambda: store)
    values = tuple(map(str, range(40)))
    recipe = Recipe("r", (Column("a", values),), "{a}", provider=added, model="writer", seed=1)
    dataset_id = datasets.create(store, LOCAL, recipe)
    run_id = runs.enqueue(store, LOCAL, dataset_id)
    executor.execute(store, registry, run_id)
    run, summary = run_progress.latest(store, dataset_id), datasets.summary(store, dataset_id)
    assert run is not None and run.state in ("failed", "stopped") and "Canary was removed" in (run.reason or "")
    assert 2 <= summary.done < 40 and summary.failed == 0
    # added again, it is another provider, which the rest can be written with
    form = ProviderForm("compatible", "Canary", server.url, _CANARY)
    again = saved.add(store, LOCAL, SecretKey(settings), form)
    assert again != added
    registry.refresh()
    executor.execute(store, registry, runs.enqueue(store, LOCAL, dataset_id, change=Change(provider=again)))
    assert datasets.summary(store, dataset_id).done == 40
