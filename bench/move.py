"""Measures moving an account: `python -m bench.move`.

A scripted account has 60 tuned models, 12 of which have lost a file. `python -m core.migrate archive` is killed 30
times at random points, then runs to its end. Counted: what arrived (`archived_share`), whether every byte is equal
(`bytes_equal`), how often a file that was stored already was fetched again (`bought_twice`), and the minutes of a run
without kills (`minutes_to_archive`).

Then every model that has a data set is trained again by the studio's engine, with a tiny base, and compared with the
old model, which answers at the scripted account: `retrained` is the share of them that has a new model.

Last, comparisons whose truth is known are judged: `parity_verdicts_right` is the share of right verdicts
(`bench._parity_cases`). The last line printed is JSON.
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

from bench import _parity_cases, _retraining, _smoke
from core.db.store import Store
from core.migrate import account_views, tunes
from core.settings import Settings
from tests.support.openai_account import KEY, OpenAIAccount, training_lines

_TUNES, _LOST, _KILLS, _ROWS = 60, 12, 30, 200
_COMMAND = [sys.executable, "-m", "core.migrate", "archive"]
_LABELS = ("refund", "order", "other")
_WRONG_EVERY = 20  # an old model is wrong in one of so many rows
_SEED = 17
_POLL_S = 0.005


def main() -> None:
    """Measure, then print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--retrain", type=int, help="train only so many models again (default: all)")
    parser.add_argument(
        "--kills", type=int, default=_KILLS, help=f"how often the command is killed (default: {_KILLS})"
    )
    options = _smoke.parse(parser, start=_start)
    print(json.dumps(measure(_TUNES, _LOST, options.kills, options.retrain)))


def _start() -> None:
    with OpenAIAccount() as account:
        _fill(account, 2, 1)


def measure(number_of_tunes: int, lost: int, kills: int, retrain: int | None = None) -> dict[str, Any]:
    """Archive an account of this size twice, at once and with kills; then train them again (at most `retrain`)."""
    with tempfile.TemporaryDirectory() as folder, OpenAIAccount() as account:
        once, killed = Path(folder) / "once", Path(folder) / "killed"
        _fill(account, number_of_tunes, lost)
        started = time.monotonic()
        _run_to_end(account, once)
        minutes = (time.monotonic() - started) / 60
        bought_twice = _run_with_kills(account, killed, kills)
        store = Store.open(Settings.from_env({"FABULA_HOME": str(killed)}))
        try:
            return {
                "tunes": number_of_tunes,
                "lost_files": lost,
                "kills": kills,
                **_compare(store, account, killed, lost),
                "bought_twice": bought_twice,
                "minutes_to_archive": round(minutes, 2),
                **_retrain(store, account, killed, retrain),
                **_parity_cases.parity_verdicts_right(),
            }
        finally:
            store.close()


def _fill(account: OpenAIAccount, number_of_tunes: int, lost: int) -> None:
    account.add_file("file-shared-validation", training_lines(10_000, _ROWS // 4))
    for number in range(number_of_tunes):
        validation_file = "file-shared-validation" if number % 3 == 0 else None
        job = account.add_tune(number, rows=_ROWS, validation_file=validation_file)
        account.serve(job["fine_tuned_model"], _old_answer)
    for number in range(lost):
        account.delete_file(f"file-train{number}" if number % 2 else f"file-results{number}", listed=number % 4 == 0)


def _old_answer(question: str) -> str:
    """The label of "Question 7 of 3" as a good old model would answer it."""
    number = int(question.split()[1])
    return _LABELS[(number + (number % _WRONG_EVERY == 0)) % len(_LABELS)]


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


def _compare(store: Store, account: OpenAIAccount, home: Path, lost: int) -> dict[str, Any]:
    """What arrived: tunes that are settled, and files whose bytes are those of the account."""
    shown = account_views.list_accounts(store)[0]
    listed = tunes.list_tunes(store, shown.id)
    named = {one.id for one in tunes.lost_files(store, shown.id)}
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


def _retrain(store: Store, account: OpenAIAccount, home: Path, most: int | None) -> dict[str, Any]:
    """Train the models again that have a data set, and compare each with the old one."""
    shown = account_views.list_accounts(store)[0]
    ready = [one for one in tunes.list_tunes(store, shown.id) if one.dataset_id is not None]
    tried = ready[:most]
    made = _retraining.retrain(store, home, shown.provider, tried, _environment(account, home))
    print(f"verdicts: {made.outcomes}")
    return {
        "can_be_retrained": len(ready),
        "tried": len(tried),
        "retrained": made.share,
        "compared": made.compared,
        "minutes_to_retrain": round(made.minutes, 1),
    }


if __name__ == "__main__":
    main()
