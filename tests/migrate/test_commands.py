"""`python -m core.migrate` as a process: its exit codes, its JSON, and kill -9 in the middle of an archive."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from core.migrate import __main__ as command_line
from tests.support.openai_account import KEY, Content, Fault, OpenAIAccount
from tests.support.waiting import until


def _environment(account: OpenAIAccount, **extra: str) -> dict[str, str]:
    return {**os.environ, "OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": account.url, **extra}


def _run(account: OpenAIAccount, *arguments: str, **extra: str) -> tuple[int, Any]:
    command = [sys.executable, "-m", "core.migrate", *arguments, "--json"]
    done = subprocess.run(command, env=_environment(account, **extra), capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def _has_sent(account: OpenAIAccount, requests: int, process: subprocess.Popen[bytes]) -> bool:
    return len(account.requests) >= requests or process.poll() is not None


def test_from_the_inventory_to_the_zip(account: OpenAIAccount, tmp_path: Path) -> None:
    for number in range(3):
        account.add_tune(number)
    assert _run(account, "status")[0] == command_line.FAILED
    code, listed = _run(account, "inventory")
    assert (code, len(listed["tunes"]), listed["account"]["state"]) == (command_line.DONE, 3, "listed")
    code, archived = _run(account, "archive")
    assert (code, archived["account"]["stored"], archived["lost"]) == (command_line.DONE, 6, [])
    account.add_tune(4)
    account.delete_file("file-train4")
    code, archived = _run(account, "archive")
    assert (code, len(archived["lost"])) == (command_line.LOST, 1)
    assert {one["state"] for one in _run(account, "status")[1]["tunes"]} == {"data", "archived"}
    code, compared = _run(account, "candidates", "ft:gpt-4o-mini-2024-07-18:acme:intents:1")
    by_model = {one["offer"]["model"]: one for one in compared["candidates"]}
    azure = by_model["gpt-4.1-mini-2025-04-14"]
    assert (code, azure["price_usd"], azure["epochs"]) == (command_line.DONE, None, 3)
    assert (azure["can_start"], azure["callable_until"]) == (False, "2027-10-14")
    assert "Settings" in azure["blocked"] and by_model["gemma-3-270m"]["blocked"]  # no key, and no engine
    code, written = _run(account, "zip", str(tmp_path / "a.zip"))
    assert (code, written["bytes"]) == (command_line.DONE, (tmp_path / "a.zip").stat().st_size)
    account.when("/models", Fault(401))
    code, failed = _run(account, "archive")
    assert (code, failed["type"]) == (command_line.FAILED, "Refused")


def test_killed_at_any_point_nothing_is_fetched_twice_or_lost(account: OpenAIAccount) -> None:
    for number in range(6):
        account.add_tune(number)
    account.add_tune(7, training_file="file-big", method="reinforcement")
    account.add_file("file-big", Content(size=40_000_000))
    command = [sys.executable, "-m", "core.migrate", "archive"]
    stored: set[str] = set()
    for requests in (3, 6, 14):  # while it lists, in the files, in the jobs' records
        account.requests.clear()
        with subprocess.Popen(command, env=_environment(account), stderr=subprocess.DEVNULL) as process:
            until(partial(_has_sent, account, requests, process), "the command's requests")
            process.send_signal(signal.SIGKILL)
        assert not any(account.count(f"{one}/content") for one in stored)
        stored = {path.name for path in Path(os.environ["FABULA_HOME"]).glob("archives/*/files/file-*[!t]")}
    account.requests.clear()
    code, archived = _run(account, "archive")
    assert (code, archived["account"]["stored"], archived["account"]["datasets"]) == (command_line.DONE, 14, 6)
    assert stored and not any(account.count(f"{one}/content") for one in stored)
    assert archived["account"]["stored_bytes"] == sum(len(one) for one in account.contents.values())
