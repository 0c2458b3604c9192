"""Measures moving an account: `python -m bench.move`.

A scripted account has 60 tuned models, 12 of which have lost a file. `python -m core.migrate archive` is killed 30
times at random points, then runs to its end. Counted: what arrived (`archived_share`), whether every byte is equal
(`bytes_equal`), how often a file that was stored already was fetched again (`fetched_twice`), and the minutes of a run
without kills (`minutes_to_archive`). The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import _smoke
from core.db.store import Store
from core.migrate import account_views, tunes
from core.settings import Settings
from tests.support.openai_account import KEY, OpenAIAccount, training_lines

_TUNES, _LOST, _KILLS, _ROWS = 60, 12, 30, 200
_COMMAND = [sys.executable, "-m", "core.migrate", "archive"]
_SEED = 17
_POLL_S = 0.005


def main() -> None:
    """Measure, then print one line of JSON."""
    _smoke.parse(argparse.ArgumentParser(description=__doc__), start=_start)
    print(json.dumps(measure(_TUNES, _LOST, _KILLS)))


def _start() -> None:
    with OpenAIAccount() as account:
        _fill(account, 2, 1)


def measure(number_of_tunes: int, lost: int, kills: int) -> dict[str, Any]:
    """Archive an account of this size twice: at once, and with kills."""
    with tempfile.TemporaryDirectory() as folder, OpenAIAccount() as account:
        _fill(account, number_of_tunes, lost)
        started = time.monotonic()
        _run_to_end(account, Path(folder) / "once")
        minutes = (time.monotonic() - started) / 60
        fetched_twice = _run_with_kills(account, Path(folder) / "killed", kills)
        return {
            "tunes": number_of_tunes,
            "lost_files": lost,
            "kills": kills,
            **_compare(account, Path(folder) / "killed", lost),
            "fetched_twice": fetched_twice,
            "minutes_to_archive": round(minutes, 2),
        }


def _fill(account: OpenAIAccount, number_of_tunes: int, lost: int) -> None:
    account.add_file("file-shared-validation", training_lines(10_000, _ROWS // 4))
    for number in range(number_of_tunes):
        account.add_tune(number, rows=_ROWS, validation_file="file-shared-validation" if number % 3 == 0 else None)
    for number in range(lost):
        account.delete_file(f"file-train{number}" if number % 2 else f"file-results{number}", listed=number % 4 == 0)


def _environment(account: OpenAIAccount, home: Path) -> dict[str, str]:
    return {**os.environ, "FABULA_HOME": str(home), "OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": account.url}


def _run_to_end(account: OpenAIAccount, home: Path) -> None:
    done = subprocess.run(_COMMAND, env=_environment(account, home), capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3):
        raise SystemExit(done.stderr)


def _run_with_kills(account: OpenAIAccount, home: Path, kills: int) -> int:
    """Kill the command after a random number of requests, then let it finish. Returns files that were fetched again
    although they were stored.
    """
    rng, twice, stored = random.Random(_SEED), 0, set[str]()
    for _ in range(kills):
        account.requests.clear()
        most = 3 + rng.randrange(max(1, 6 * len(account.jobs) // max(1, kills)))
        with subprocess.Popen(_COMMAND, env=_environment(account, home), stderr=subprocess.DEVNULL) as process:
            while len(account.requests) < most and process.poll() is None:
                time.sleep(_POLL_S)
            process.send_signal(signal.SIGKILL)
        twice += sum(account.count(f"/{one}/content") for one in stored)
        stored = {path.name for path in home.glob("archives/*/files/*") if path.suffix != ".part"}
    account.requests.clear()
    _run_to_end(account, home)
    return twice + sum(account.count(f"/{one}/content") for one in stored)


def _compare(account: OpenAIAccount, home: Path, lost: int) -> dict[str, Any]:
    """What arrived: tunes that are settled, and files whose bytes are those of the account."""
    store = Store.open(Settings.from_env({"FABULA_HOME": str(home)}))
    try:
        shown = account_views.list_accounts(store)[0]
        listed = tunes.list_tunes(store, shown.id)
        named = {one.id for one in tunes.lost_files(store, shown.id)}
    finally:
        store.close()
    equal = sum(
        path.is_file() and hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(content.data).digest()
        for file_id, content in account.contents.items()
        for path in home.glob(f"archives/*/files/{file_id}")
    )
    return {
        "archived_share": sum(one.state != "found" and one.job_id is not None for one in listed) / len(listed),
        "bytes_equal": equal / len(account.contents),
        "lost_files_named": len(named) / lost if lost else 1.0,
        "data_sets": shown.datasets,
    }


if __name__ == "__main__":
    main()
