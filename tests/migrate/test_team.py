"""Move on PostgreSQL with several processes: one works on an account at a time, and another takes over when it dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from core.db.store import Store
from core.migrate import account_views, mover
from core.providers import Registry
from core.settings import Settings
from tests.support.openai_account import KEY, Content, OpenAIAccount
from tests.support.waiting import until


def test_one_process_works_at_a_time_and_another_takes_over(on_postgres: Settings, account: OpenAIAccount) -> None:
    for number in range(6):
        account.add_tune(number)
    account.add_tune(7, training_file="file-big", method="reinforcement")
    account.add_file("file-big", Content(size=40_000_000))
    keys = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": account.url}
    environment = {**os.environ, **keys, "DATABASE_URL": on_postgres.database_url}
    registry = Registry.from_settings(on_postgres, environment)
    store = Store.open(on_postgres)
    command = [sys.executable, "-m", "core.migrate", "archive"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        until(lambda: account.count("/content") >= 4 or process.poll() is not None, "the first files")
        process.send_signal(signal.SIGSTOP)  # it still holds the account
        (shown,) = account_views.list_accounts(store)
        assert mover.carry_out(store, registry, shown.id, threading.Event()) is not None
        process.kill()
    stored = {
        path.name for path in Path(os.environ["FABULA_HOME"]).glob("archives/*/files/file-*") if path.suffix == ""
    }
    account.requests.clear()
    assert mover.carry_out(store, registry, shown.id, threading.Event()) is None
    assert not any(account.count(f"{one}/content") for one in stored)
    shown = account_views.view(store, shown.id)
    assert (shown.state, shown.stored, shown.datasets) == ("archived", 14, 6)
    store.close()
